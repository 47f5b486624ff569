"""Packing is deterministic, loses nothing silently, and survives being killed anywhere."""

import io
import json
import signal
import subprocess
import sys
import zlib

import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from sharding.errors import UserError
from sharding.images import BadImage, check_image, read_image
from sharding.index import open_dataset, read_index, tar_path
from sharding.pack import pack
from sharding.shard import find_done, noted_job


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
    assert rows == [{"row": row, "key": f"pretrain_110k-{n:09d}"} for n, row in enumerate((0, 7, 8))]
    assert packed.dataset.counts == {
        "images": 3,
        "captions": 6,
        "identities": 3,
        "splits": {"train": {"images": 3, "captions": 6, "identities": 3}},
        "dropped_captions": 0,
        "rejects": 6,
    }


def test_webdataset_reads_the_samples(pretrain, tmp_path):
    dataset = pack("pretrain_110k", pretrain(6), tmp_path / "out").dataset
    urls = [str(tar_path(dataset.directory, shard.name)) for shard in dataset.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
    assert sorted(sample["__key__"] for sample in samples) == [f"pretrain_110k-{n:09d}" for n in range(6)]
    assert samples[0]["jpg"].size == (8, 16)
    assert samples[0]["txt"] == samples[0]["json"]["captions"][0] == "A man in coat 0."
    assert samples[0]["json"]["captions"][1].endswith("café.")


def test_images_go_by_content_and_only_bmp_is_converted(picture):
    jpeg, png, bmp = picture(1), picture(1, "PNG"), picture(1, "BMP")
    assert [(check_image(data).ext, check_image(data).data) for data in (jpeg, png)] == [("jpg", jpeg), ("png", png)]
    converted = check_image(bmp)
    assert (converted.ext, converted.width, converted.height) == ("png", 8, 16)
    assert Image.open(io.BytesIO(converted.data)).tobytes() == Image.open(io.BytesIO(bmp)).tobytes()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP"])
def test_every_truncated_image_is_found(picture, form):
    data = picture(3, form)
    for length in range(len(data) - (3 if form == "JPEG" else 1)):
        with pytest.raises(BadImage, match=r"empty|truncated|decoded|not a JPEG"):
            check_image(read_image(data[:length]))


@pytest.mark.parametrize(("width", "height"), [(8000, 6251), (60_000, 60_000)])
def test_a_huge_image_is_refused_by_its_header_alone(picture, width, height):
    png = bytearray(picture(1, "PNG"))
    png[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, "big")
    with pytest.raises(BadImage, match="more than 50,000,000 pixels"):
        check_image(bytes(png))


def test_cmyk_is_refused(picture):
    with pytest.raises(BadImage, match="CMYK"):
        check_image(picture(1, mode="CMYK"))


def test_sixteen_bit_grey_is_refused_because_it_would_be_read_as_white(picture):
    with pytest.raises(BadImage, match="more than 8 bits per channel"):
        check_image(picture(1, "PNG", "I;16"))
    assert check_image(picture(1, "PNG", "L")).ext == "png"


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
    keys = [(0, 1, 0), (3, 4, 2)]
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


KILLED_AT_RENAME = """
import os, pathlib, signal, sys
from sharding.pack import pack
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started with it ignored
left, rename = int(sys.argv[3]), pathlib.Path.replace
def replace(self, target):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), getattr(signal, sys.argv[4]))
    return rename(self, target)
pathlib.Path.replace = replace
pack(sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[2]).with_name("out"), shard_samples=3)
"""


def pack_and_die(source, folder, renames, signal_name="SIGKILL"):
    command = [sys.executable, "-c", KILLED_AT_RENAME, source, str(folder), str(renames), signal_name]
    return subprocess.run(command, capture_output=True, check=False).returncode


@pytest.mark.parametrize("renames", [0, 1, 3, 6, 9, 10], ids=lambda n: f"before rename {n}")
def test_after_sigkill_packing_again_gives_the_same_dataset(pretrain, tmp_path, renames):
    folder, out = pretrain(14, {6: {"captions": []}}), tmp_path / "out"
    (folder / "imgs/IUSTPersonReID/1_1_0_3.jpg").unlink()
    assert pack_and_die("pretrain_110k", folder, renames) == -signal.SIGKILL
    with pytest.raises(UserError, match="not finished"):
        open_dataset(out)
    done = {path: path.stat().st_ino for path in out.glob("pretrain_110k-*.parquet")}
    again = pack("pretrain_110k", folder, out, shard_samples=3)
    whole = pack("pretrain_110k", folder, tmp_path / "whole", shard_samples=3)
    assert again.dataset.root_hash == whole.dataset.root_hash
    assert contents(out) == contents(tmp_path / "whole")
    assert {path: path.stat().st_ino for path in done} == done  # finished shards were not rewritten


def test_resuming_keeps_the_triplets_right(write_json, picture, tmp_path):
    rows = [
        {
            "reference_caption": "A.",
            "target_caption": "B.",
            "reference_image_path": f"{n}.png",
            "target_image_path": f"{n + 1}.png",
            "edit_caption": "x",
            "cpr_id": n,
        }
        for n in range(8)
    ]
    folder = write_json("SynCPR.json", rows, {f"{n}.png": picture(n, "PNG") for n in range(9) if n != 4})
    assert pack_and_die("syncpr", folder, 3) == -signal.SIGKILL
    again = pack("syncpr", folder, tmp_path / "out", shard_samples=3)
    whole = pack("syncpr", folder, tmp_path / "whole", shard_samples=3)
    assert again.images_written < whole.images_written
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_shard_damaged_before_the_end_is_written_anew(pretrain, tmp_path):
    folder, out = pretrain(14), tmp_path / "out"
    assert pack_and_die("pretrain_110k", folder, 10) == -signal.SIGKILL
    with (out / "pretrain_110k-train-000001.tar").open("r+b") as file:
        file.seek(600)
        file.write(b"?")
    assert pack("pretrain_110k", folder, out, shard_samples=3).images_written == 3
    pack("pretrain_110k", folder, tmp_path / "whole", shard_samples=3)
    assert contents(out) == contents(tmp_path / "whole")


def test_any_flipped_bit_in_an_index_makes_its_shard_be_written_anew(pretrain, tmp_path):
    folder, out = pretrain(5), tmp_path / "out"
    pack("pretrain_110k", folder, out, shard_samples=4)
    path = out / "pretrain_110k-train-000000.parquet"
    whole = path.read_bytes()
    job = noted_job(path)
    assert path.stem in find_done(out, job)
    for position in range(0, len(whole), 53):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        assert path.stem not in find_done(out, job)


@pytest.mark.parametrize("marker", [b"", b"[]", b'{"schema_ver', b"\xff"])
def test_a_lost_marker_lets_the_same_job_resume_and_no_other(pretrain, tmp_path, marker):
    folder, out = pretrain(14), tmp_path / "out"
    assert pack_and_die("pretrain_110k", folder, 5) == -signal.SIGKILL
    pretrain(14, {0: {"captions": ["Another caption."]}})
    (out / ".packing.json").write_bytes(marker)
    with pytest.raises(UserError, match="different input"):
        pack("pretrain_110k", folder, out, shard_samples=3)
    pretrain(14)
    assert pack("pretrain_110k", folder, out, shard_samples=3).images_written < 14


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("pretrain_110k-train-000001.tar", None),
        ("pretrain_110k-train-000001.tar", b"short"),
        ("pretrain_110k-train-000000.parquet", None),
        ("rejects.parquet", None),
        ("rejects.parquet", b"junk"),
        ("dataset.json", b"{"),
    ],
)
def test_a_damaged_dataset_is_mended_by_doing_what_the_message_says(pretrain, tmp_path, name, content):
    folder, out = pretrain(14, {2: {"captions": []}}), tmp_path / "out"
    first = pack("pretrain_110k", folder, out, shard_samples=3)
    before = contents(out)
    (out / name).unlink()
    if content is not None:
        (out / name).write_bytes(content)
    with pytest.raises(UserError, match=r"remove .*dataset\.json|remove it and pack again") as error:
        pack("pretrain_110k", folder, out, shard_samples=3)
    assert "\n" not in str(error.value)
    (out / "dataset.json").unlink()
    again = pack("pretrain_110k", folder, out, shard_samples=3)
    assert contents(out) == before
    assert again.images_written == (3 if name.startswith("pretrain") else 0)
    assert again.dataset == first.dataset


@pytest.mark.parametrize(("renames", "written"), [(4, 8), (5, 8)], ids=["before a tar", "before an index"])
def test_ctrl_c_leaves_no_temporary_file_and_can_be_resumed(pretrain, tmp_path, renames, written):
    folder, out = pretrain(14), tmp_path / "out"
    assert pack_and_die("pretrain_110k", folder, renames, "SIGINT") != 0
    assert not list(out.glob(".tmp-*"))
    again = pack("pretrain_110k", folder, out, shard_samples=3)
    assert again.dataset == open_dataset(out)
    assert again.images_written == written


def test_packing_a_finished_dataset_again_changes_nothing(pretrain, tmp_path):
    folder, out = pretrain(5, {0: {"captions": []}}), tmp_path / "out"
    first = pack("pretrain_110k", folder, out)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    again = pack("pretrain_110k", folder, out)
    assert (again.already_complete, again.dataset, again.reject_reasons) == (True, first.dataset, first.reject_reasons)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_or_another_input_are_refused(pretrain, tmp_path, finished):
    folder, out = pretrain(14), tmp_path / "out"
    if finished:
        pack("pretrain_110k", folder, out, shard_samples=3)
    else:
        pack_and_die("pretrain_110k", folder, 5)
    with pytest.raises(UserError, match="was packed with shard_samples 3, not 2"):
        pack("pretrain_110k", folder, out, shard_samples=2)
    pretrain(14, {0: {"captions": ["Another caption."]}})
    with pytest.raises(UserError, match="different input"):
        pack("pretrain_110k", folder, out, shard_samples=3)


def test_images_that_changed_between_kill_and_resumption_are_noticed(pretrain, picture, tmp_path):
    folder, out = pretrain(14), tmp_path / "out"
    image = folder / "imgs/IUSTPersonReID/0_1_0_1.jpg"
    image.unlink()
    assert pack_and_die("pretrain_110k", folder, 5) == -signal.SIGKILL
    image.write_bytes(picture(1))
    with pytest.raises(UserError, match="images have changed"):
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
    with pytest.raises(UserError, match="not empty"):
        pack("pretrain_110k", pretrain(2), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_dataset_json_records_settings_and_annotation_hashes(pretrain, tmp_path):
    pack("pretrain_110k", pretrain(2), tmp_path / "out")
    content = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert content["settings"] == {"source": "pretrain_110k", "shard_bytes": 64 << 20, "shard_samples": 10_000}
    assert list(content["annotations"]) == ["PRETRAIN_110K.json"]
    assert (content["schema_version"], content["name"], content["source"]) == (1, "pretrain_110k", "pretrain_110k")
