"""Packing is deterministic, loses nothing silently, and never touches what is not its own."""

import json

import pyarrow.parquet as pq
import pytest
import webdataset

from sharding.dataset import open_dataset, read_index
from sharding.errors import UserError
from sharding.index import tar_name
from sharding.pack import pack
from sharding.packing.images import ImagePolicy
from sharding.packing.selection import Selection
from sharding.record import Extent, RawDataset, Record


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def rejects(folder):
    return [(row["row"], row["reason"]) for row in pq.read_table(folder / "rejects.parquet").to_pylist()]


def test_two_packings_of_the_same_input_are_equal_to_the_byte(pretrain, tmp_path):
    folder = pretrain(12, {3: {"captions": []}})
    for out in ("a", "b"):
        pack("pretrain_110k", folder, tmp_path / out, shard_samples=4)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(list((tmp_path / "a").glob("*.tar"))) == 4  # 9 of train by fours, 2 of val


def test_bad_rows_and_images_are_rejected_with_number_and_reason_and_the_rest_is_packed(pretrain, picture, tmp_path):
    folder = pretrain(9, {1: {"file_path": "none.jpg"}, 2: {"captions": [""]}, 3: {"file_path": "IUSTPersonReID"}})
    image = folder / "imgs/IUSTPersonReID"
    (image / "2_1_0_4.jpg").write_bytes(picture(4)[:-40])
    (image / "2_1_0_5.jpg").write_bytes(b"GIF89a not an image")
    (image / "3_1_0_6.jpg").write_bytes(b"")
    packed = pack("pretrain_110k", folder, tmp_path / "out")
    assert rejects(tmp_path / "out") == [
        (1, "image: missing file"),
        (2, "captions: empty"),
        (3, "image: cannot be read (Is a directory)"),
        (4, "image: truncated"),
        (5, "image: not a JPEG, PNG or BMP"),
        (6, "image: empty file"),
    ]
    rows = read_index(packed.dataset, packed.dataset.shards[0], ["row", "key"]).to_pylist()
    assert rows == [
        {"row": row, "key": f"pretrain_110k-{n:09d}"} for row, n in ((0, 0), (7, 3), (8, 4))
    ]  # 4, 5 had taken 1 and 2
    size = sum(read_index(packed.dataset, packed.dataset.shards[0])["image_size"].to_pylist())
    assert packed.dataset.counts == {
        "image_bytes": size,
        "source_image_bytes": size,
        "left_out": 0,
        "images": 3,
        "captions": 6,
        "identities": 3,
        "splits": {"train": {"images": 3, "captions": 6, "identities": 3}},
        "dropped_captions": 0,
        "rejects": 6,
    }


def test_webdataset_reads_the_samples(pretrain, tmp_path):
    dataset = pack("pretrain_110k", pretrain(6), tmp_path / "out").dataset
    urls = [str(dataset.directory / tar_name(shard.name)) for shard in dataset.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
    assert sorted(sample["__key__"] for sample in samples) == [f"pretrain_110k-{n:09d}" for n in range(6)]
    assert samples[0]["jpg"].size == (8, 16)
    assert samples[0]["txt"] == samples[0]["json"]["captions"][0] == "A man in coat 0."
    assert samples[0]["json"]["captions"][1].endswith("café.")


def test_a_caption_dropped_from_a_kept_image_is_listed(pretrain, tmp_path):
    dataset = pack("pretrain_110k", pretrain(4, {1: {"captions": ["", "Fine."]}}), tmp_path / "out").dataset
    assert rejects(tmp_path / "out") == [(1, "captions: 1 of 2 unusable (image kept)")]
    assert [dataset.counts[name] for name in ("images", "captions", "rejects", "dropped_captions")] == [4, 7, 0, 1]


def test_syncpr_triplets_name_the_keys_of_their_images(write_json, picture, tmp_path):
    rows = [
        {
            "reference_caption": f"Coat {n}.",
            "target_caption": f"Hat {n}.",
            "reference_image_path": f"l{n}.png",
            "target_image_path": f"r{n}.png",
            "edit_caption": "With a hat.",
            "cpr_id": n,
        }
        for n in range(3)
    ]
    images = {f"{side}{n}.png": picture(n, "PNG") for n in range(3) for side in "lr"} | {"r1.png": b"junk"}
    out = tmp_path / "out"
    packed = pack("syncpr", write_json("SynCPR.json", rows, images), out, shard_samples=2)
    keys = [(0, 1, 0), (4, 5, 2)]  # number 3 was the image that is rejected
    assert pq.read_table(out / "triplets.parquet").to_pylist() == [
        {
            "reference_key": f"syncpr-{reference:09d}",
            "target_key": f"syncpr-{target:09d}",
            "edit_caption": "With a hat.",
            "cpr_id": cpr_id,
        }
        for reference, target, cpr_id in keys
    ]
    assert rejects(out) == [(1, "image: not a JPEG, PNG or BMP"), (1, "triplet: its target image was rejected")]
    assert (packed.dataset.counts["images"], packed.dataset.counts["triplets"]) == (5, 2)


def test_packing_a_finished_dataset_again_changes_nothing(pretrain, tmp_path):
    folder, out = pretrain(5, {0: {"captions": []}}), tmp_path / "out"
    first = pack("pretrain_110k", folder, out)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    again = pack("pretrain_110k", folder, out)
    assert (again.already_complete, again.dataset, again.reject_reasons) == (True, first.dataset, first.reject_reasons)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_other_settings_or_another_input_are_refused(pretrain, tmp_path):
    folder, out = pretrain(14), tmp_path / "out"
    pack("pretrain_110k", folder, out, shard_samples=3)
    with pytest.raises(UserError, match="was packed with shard_samples 3, not 2; name a new folder, or replace it"):
        pack("pretrain_110k", folder, out, shard_samples=2)
    with pytest.raises(UserError, match="was packed with resize none, not"):
        pack("pretrain_110k", folder, out, shard_samples=3, images=ImagePolicy(resize=(32, 16)))
    pretrain(14, {0: {"captions": ["Another caption."]}})
    with pytest.raises(UserError, match=r"different input \(PRETRAIN_110K\.json\)"):
        pack("pretrain_110k", folder, out, shard_samples=3)


def test_a_shard_closes_before_it_would_pass_its_size(pretrain, tmp_path):
    dataset = pack("pretrain_110k", pretrain(12), tmp_path / "out", shard_bytes=12_000).dataset
    assert len(dataset.shards) > 3
    assert all(shard.bytes <= 12_000 for shard in dataset.shards)
    assert sum(shard.samples for shard in dataset.shards) == 12


def test_nothing_is_left_behind_when_nothing_can_be_packed(pretrain, tmp_path):
    folder = pretrain(2, {0: {"captions": []}, 1: {"captions": 3}})
    with pytest.raises(UserError, match="no image could be packed"):
        pack("pretrain_110k", folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_else_in_it_is_refused_and_left_alone(pretrain, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match=r"holds thesis\.txt, which no packing"):
        pack("pretrain_110k", pretrain(2), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_dataset_json_records_settings_and_annotation_hashes(pretrain, tmp_path):
    selection = Selection(splits=("train",), limit=2)
    pack("pretrain_110k", pretrain(4), tmp_path / "out", selection=selection)
    content = json.loads((tmp_path / "out" / "dataset.json").read_text())
    (generation,) = content["generations"]
    assert (content["schema_version"], content["name"], content["source"]) == (2, "pretrain_110k", "pretrain_110k")
    assert list(generation["annotations"]) == ["PRETRAIN_110K.json"]
    assert generation["settings"] == {
        "source": "pretrain_110k",
        "name": "pretrain_110k",
        "shard_bytes": 64 << 20,
        "shard_samples": 10_000,
        "min_score": None,
        "splits": ["train"],
        "sources": [],
        "limit": 2,
        "captions": "all",
        "resize": None,
        "quality": 95,
        "most_pixels": 50_000_000,
        "decode": False,
    }


def test_overwrite_replaces_what_other_settings_left_and_nothing_else(pretrain, tmp_path):
    folder, out = pretrain(14), tmp_path / "out"
    pack("pretrain_110k", folder, out, shard_samples=3)
    pack("pretrain_110k", folder, out, shard_samples=5, overwrite=True)
    pack("pretrain_110k", folder, tmp_path / "whole", shard_samples=5)
    assert contents(out) == contents(tmp_path / "whole")
    assert pack("pretrain_110k", folder, out, shard_samples=5, overwrite=True).images_written == 14
    assert contents(out) == contents(tmp_path / "whole")
    (out / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match=r"holds thesis\.txt, which no packing there has written"):
        pack("pretrain_110k", folder, out, shard_samples=2, overwrite=True)
    assert open_dataset(out).counts["images"] == 14


def test_what_cannot_be_packed_does_not_overwrite_anything(pretrain, tmp_path):
    folder, out = pretrain(14), tmp_path / "out"
    pack("pretrain_110k", folder, out, shard_samples=3)
    before = contents(out)
    with pytest.raises(UserError, match="no image is of split tset"):
        pack("pretrain_110k", folder, out, overwrite=True, selection=Selection(splits=("tset",)))
    (folder / "PRETRAIN_110K.json").write_text("[{")
    with pytest.raises(UserError):
        pack("pretrain_110k", folder, out, overwrite=True)
    assert contents(out) == before


def test_replacing_that_was_interrupted_can_be_resumed(pretrain, tmp_path, monkeypatch):
    folder, out = pretrain(14), tmp_path / "out"
    pack("pretrain_110k", folder, out, shard_samples=3)

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack("pretrain_110k", folder, out, shard_samples=5, overwrite=True, progress=interrupt)
    again = pack("pretrain_110k", folder, out, shard_samples=5, overwrite=True)
    assert again.images_written == 14 - 5
    pack("pretrain_110k", folder, tmp_path / "whole", shard_samples=5)
    assert contents(out) == contents(tmp_path / "whole")


def test_an_annotation_that_changes_while_it_is_read_is_noticed(pretrain, tmp_path):
    folder, out = pretrain(14), tmp_path / "out"

    def change(done, total):
        with (folder / "PRETRAIN_110K.json").open("a") as file:
            file.write(" ")

    with pytest.raises(UserError, match="changed while they were read"):
        pack("pretrain_110k", folder, out, planning=change)
    assert not out.exists()


def test_what_is_packed_is_never_written_over_itself(pretrain, tmp_path):
    packed = pack("pretrain_110k", pretrain(6), tmp_path / "out").dataset
    with pytest.raises(UserError, match="is the input"):
        pack("webdataset", tmp_path / "out", tmp_path / "raw" / ".." / "out", name="x", overwrite=True)
    assert open_dataset(tmp_path / "out") == packed


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_tar_that_packing_has_not_written_is_refused_and_left_alone(pretrain, tmp_path, overwrite):
    out = tmp_path / "out"
    out.mkdir()
    (out / "pretrain_110k-train-000000.tar").write_bytes(b"another's")
    with pytest.raises(UserError, match=r"holds pretrain_110k-train-000000\.tar, which no packing there has written"):
        pack("pretrain_110k", pretrain(2), out, overwrite=overwrite)
    assert [path.name for path in out.iterdir()] == ["pretrain_110k-train-000000.tar"]


def test_resized_images_are_packed_with_both_sizes_told(pretrain, tmp_path):
    folder = pretrain(4)
    dataset = pack("pretrain_110k", folder, tmp_path / "out", images=ImagePolicy(resize=(96, 32))).dataset
    rows = read_index(dataset, dataset.shards[0]).to_pylist()
    assert {(row["ext"], row["height"], row["width"]) for row in rows} == {("jpg", 96, 32)}
    assert dataset.counts["image_bytes"] == sum(row["image_size"] for row in rows)
    raw = sum(path.stat().st_size for path in folder.rglob("*.jpg"))
    assert dataset.counts["source_image_bytes"] == raw != dataset.counts["image_bytes"]


def test_an_image_given_by_its_place_in_a_file_is_packed_from_there(picture, tmp_path):
    first, second = picture(1), picture(2, "PNG")
    (tmp_path / "blob").write_bytes(b"head" + first + second)
    places = [Extent("blob", 4, len(first)), Extent("blob", 4 + len(first), len(second))]

    def reader(store):
        rows = (Record(n, place, (), f"x:{n}", "x", "train", str(n)) for n, place in enumerate(places))
        return RawDataset(annotations=("blob",), rows=rows)

    dataset = pack("folder", tmp_path, tmp_path / "out", reader=reader).dataset
    shard = (dataset.directory / tar_name(dataset.shards[0].name)).read_bytes()
    rows = read_index(dataset, dataset.shards[0]).to_pylist()
    packed = [shard[row["image_offset"] : row["image_offset"] + row["image_size"]] for row in rows]
    assert packed == [first, second]
    assert [(row["ext"], row["text_size"], row["caption_words"]) for row in rows] == [("jpg", 0, []), ("png", 0, [])]


def test_a_folder_that_has_changed_since_it_was_packed_is_not_taken_for_packed(picture, tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.jpg").write_bytes(picture(1))
    pack("folder", tmp_path / "raw", tmp_path / "out")
    assert pack("folder", tmp_path / "raw", tmp_path / "out").already_complete
    (tmp_path / "raw" / "b.jpg").write_bytes(picture(2))
    with pytest.raises(UserError, match=r"different input \(files\)"):
        pack("folder", tmp_path / "raw", tmp_path / "out")


def test_a_dataset_of_nothing_but_bad_images_leaves_nothing(pretrain, tmp_path):
    folder = pretrain(2)
    for path in folder.rglob("*.jpg"):
        path.write_bytes(b"GIF89a")
    with pytest.raises(UserError, match=r"2 images refused; mostly image: not a JPEG, PNG or BMP"):
        pack("pretrain_110k", folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_shard_without_a_good_image_is_left_out(pretrain, tmp_path):
    folder = pretrain(4)
    for number in (0, 1):
        (folder / f"imgs/IUSTPersonReID/0_1_0_{number}.jpg").write_bytes(b"GIF89a")
    packed = pack("pretrain_110k", folder, tmp_path / "out", shard_samples=2)
    assert [shard.name for shard in packed.dataset.shards] == ["pretrain_110k-train-000001"]
    assert not list((tmp_path / "out").glob("*000000*"))
    assert packed.reject_reasons == {"image: not a JPEG, PNG or BMP": 2}
    assert json.loads((tmp_path / "out" / "sizes.json").read_text()) == {"pretrain_110k-train-000001.tar": 2}


def test_an_image_whose_name_is_spelt_in_another_unicode_form_is_found(pretrain, tmp_path):
    folder = pretrain(2, {0: {"file_path": "Caf\u00e9/a.jpg"}, 1: {"file_path": "Cafe\u0301/b.jpg"}})
    images = folder / "imgs"
    for composed, spelt in (("Cafe\u0301/a.jpg", 0), ("Caf\u00e9/b.jpg", 1)):
        (images / composed).parent.mkdir()
        (images / f"IUSTPersonReID/0_1_0_{spelt}.jpg").rename(images / composed)
    assert pack("pretrain_110k", folder, tmp_path / "out").dataset.counts["images"] == 2
