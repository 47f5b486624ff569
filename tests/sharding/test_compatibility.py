"""Our shards are read by the tools of the field, and theirs by us: the same bytes and the same texts, both ways."""

import hashlib
import io
import json
import shutil
import subprocess
from importlib import import_module

import numpy as np
import pyarrow as pa
import pytest
import webdataset
from PIL import Image

from sharding.dataset import open_dataset, read_index
from sharding.errors import UserError
from sharding.members import read_members
from sharding.pack import pack
from sharding.store import open_store
from tests.compat.environment import ENERGON, WEBDATASET, WIDS, installed, run

KEPT = [
    "image_sha256",
    "json_sha256",
    "text_sha256",
    "identity",
    "source",
    "split",
    "score",
    "instance_id",
    "file_path",
]


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    """Where throw-away environments lie, once for all tests of this file."""
    return tmp_path_factory.mktemp("environments")


@pytest.fixture
def packed(pretrain, tmp_path):
    """Twelve people packed by fours: three shards of train and one of val."""
    return pack("pretrain_110k", pretrain(12), tmp_path / "packed", shard_samples=4).dataset


def tars(dataset):
    return [dataset.directory / f"{shard.name}.tar" for shard in dataset.shards]


def contents(dataset):
    """[key, sha256 of the image, text, JSON] of every sample by our own index, in packing order."""
    found = []
    for shard in dataset.shards:
        index = read_index(dataset, shard)
        members = read_members(dataset, shard, index, ("image", "text", "json"))
        for key, (image, text, told) in zip(index["key"].to_pylist(), members, strict=True):
            found.append([key, hashlib.sha256(image).hexdigest(), text.decode(), json.loads(told)])
    return found


def rows(dataset):
    """What a sample is, but for its key and place, sorted."""
    table = pa.concat_tables([read_index(dataset, shard, KEPT) for shard in dataset.shards])
    return sorted(table.to_pylist(), key=lambda row: (row["image_sha256"], row["identity"]))


def test_webdataset_reads_our_shards(packed):
    found = []
    for sample in webdataset.WebDataset([str(tar) for tar in tars(packed)], shardshuffle=False):
        image = hashlib.sha256(sample["jpg"]).hexdigest()
        found.append([sample["__key__"], image, sample["txt"].decode(), json.loads(sample["json"])])
    assert found == contents(packed)
    assert len(found) == 12


def test_gnu_tar_lists_and_extracts_our_members(packed, tmp_path):
    for tar, shard in zip(tars(packed), packed.shards, strict=True):
        index = read_index(packed, shard)
        expected = dict(
            zip(
                [f"{key}.{ext}" for key in index["key"].to_pylist() for ext in ("jpg", "txt", "json")],
                [data for members in read_members(packed, shard, index, ("image", "text", "json")) for data in members],
                strict=True,
            )
        )
        listed = subprocess.run(["tar", "tf", tar], capture_output=True, text=True, check=True)
        assert (listed.stdout.split(), listed.stderr) == (list(expected), "")
        folder = tmp_path / shard.name
        folder.mkdir()
        subprocess.run(["tar", "xf", tar, "-C", folder], check=True)
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == expected


def test_companions_lie_beside_the_shards(packed):
    assert json.loads((packed.directory / "sizes.json").read_bytes()) == {
        tar.name: shard.samples for tar, shard in zip(tars(packed), packed.shards, strict=True)
    }
    assert len(json.loads((packed.directory / "wids.json").read_bytes())["shardlist"]) == 4
    for tar, shard in zip(tars(packed), packed.shards, strict=True):
        offsets = np.fromfile(f"{tar}.idx", "<u8")
        assert offsets[:-1].tolist() == [at - 512 for at in read_index(packed, shard)["image_offset"].to_pylist()]
        assert offsets[-1] == shard.bytes - 1024


@pytest.mark.slow
def test_webdataset_0_2_86_reads_our_shards(packed, targets, tmp_path):
    version, found = run("read_webdataset.py", *tars(packed), target=installed(WEBDATASET, targets), home=tmp_path)
    assert version == "0.2.86"
    assert found == contents(packed)


@pytest.mark.slow
@pytest.mark.parametrize("requirements", [WEBDATASET, WIDS], ids=["with webdataset 0.2.86", "by itself"])
def test_wids_finds_every_sample_by_its_number(packed, targets, tmp_path, requirements):
    index = packed.directory / "wids.json"
    assert run("read_wids.py", index, target=installed(requirements, targets), home=tmp_path) == contents(packed)


@pytest.mark.slow
def test_open_clips_own_training_loader_reads_our_shards(packed, targets, tmp_path):
    shards = f"{packed.directory}/pretrain_110k-train-{{000000..000002}}.tar"
    size, found = run("read_open_clip.py", shards, "5", target=installed(WEBDATASET, targets), home=tmp_path)
    tokenize = import_module("open_clip").get_tokenizer("ViT-B-32")  # late: with torch it takes seconds
    expected = []
    for shard in packed.shards[:3]:
        for image, text in read_members(packed, shard, read_index(packed, shard), ("image", "text")):
            pixels = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))
            expected.append([hashlib.sha256(pixels.tobytes()).hexdigest(), tokenize(text.decode())[0].tolist()])
    assert size == 10  # from sizes.json
    assert sorted(found) == sorted(expected)


@pytest.mark.slow
def test_energon_indexes_our_shards_as_we_do_and_reads_them_by_our_offsets(packed, targets, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(packed.directory, copy)
    found = run("read_energon.py", copy, target=installed(ENERGON, targets), home=tmp_path)
    assert len(found["indexes"]) == 4
    for name, (ours, theirs) in found["indexes"].items():
        assert ours == theirs, name
    expected = contents(packed)
    assert found["members"] == [[f"{key}.{ext}" for ext in ("jpg", "txt", "json")] for key, *_ in expected]
    assert sorted(text for _, text in found["samples"]) == sorted(text for _, _, text, _ in expected)


def write_img2dataset(folder, picture):
    """Two shards as img2dataset writes them: webdataset's own writer, keys of digits, a statistics file beside each."""
    folder.mkdir()
    for shard in range(2):
        with webdataset.ShardWriter(f"{folder}/%05d.tar", start_shard=shard, verbose=0) as writer:
            for number in range(5):
                key = f"{shard:05d}{number:04d}"
                told = {"caption": f"Person  {key} in a café.", "url": f"https://example.org/{key}.jpg", "key": key}
                told |= {"status": "success", "error_message": None, "width": 8, "height": 16, "exif": "{}"}
                sample = {"__key__": key, "jpg": picture(5 * shard + number), "txt": told["caption"], "json": told}
                writer.write(sample)
        (folder / f"{shard:05d}_stats.json").write_text("{}")
        (folder / f"{shard:05d}.parquet").write_bytes(b"")


def test_img2datasets_shards_are_packed_with_the_same_images_and_captions(tmp_path, picture):
    write_img2dataset(tmp_path / "laion", picture)
    dataset = pack("webdataset", tmp_path / "laion", tmp_path / "out", name="laion").dataset
    found = contents(dataset)
    assert [image for _, image, _, _ in found] == [hashlib.sha256(picture(number)).hexdigest() for number in range(10)]
    keys = [f"{shard:05d}{number:04d}" for shard in range(2) for number in range(5)]
    assert [text for _, _, text, _ in found] == [f"Person {key} in a café." for key in keys]
    assert [told["identity"] for *_, told in found] == [f"laion:{key[:5]}/{key}" for key in keys]
    assert dataset.counts["rejects"] == 0


def test_samples_that_cannot_be_used_are_listed_and_the_rest_is_packed(tmp_path, picture):
    (tmp_path / "in").mkdir()
    with webdataset.ShardWriter(f"{tmp_path}/in/%05d.tar", verbose=0) as writer:
        writer.write({"__key__": "0", "jpg": b"GIF89a", "txt": "No JPEG."})
        writer.write({"__key__": "1", "jpg": picture(1), "txt": "Sound."})
        writer.write({"__key__": "2", "txt": "No image."})
    packed = pack("webdataset", tmp_path / "in", tmp_path / "out")
    missing, unfit = "image: one of jpg, jpeg, png, bmp was expected", "image: not a JPEG, PNG or BMP"
    assert packed.reject_reasons == {missing: 1, unfit: 1}
    assert [text for _, _, text, _ in contents(packed.dataset)] == ["Sound."]


def test_our_own_shards_are_packed_again_without_loss(packed, tmp_path):
    again = pack("webdataset", packed.directory, tmp_path / "again", name="pretrain_110k").dataset
    assert rows(again) == rows(packed)
    assert again.counts == packed.counts


def test_bare_images_stay_bare(tmp_path, picture):
    (tmp_path / "in").mkdir()
    with webdataset.ShardWriter(f"{tmp_path}/in/%05d.tar", verbose=0) as writer:
        writer.write({"__key__": "0", "png": picture(0, "PNG")})
    once = pack("webdataset", tmp_path / "in", tmp_path / "once", name="bare").dataset
    twice = pack("webdataset", once.directory, tmp_path / "twice", name="bare").dataset
    assert [told["captions"] for *_, told in contents(twice)] == [[]]
    assert rows(twice) == rows(once)


def test_a_damaged_foreign_tar_stops_the_packing_before_anything_is_published(tmp_path, picture):
    write_img2dataset(tmp_path / "laion", picture)
    tar = tmp_path / "laion/00001.tar"
    tar.write_bytes(tar.read_bytes()[:-12_000])
    with pytest.raises(UserError, match=r"00001\.tar .*truncated"):
        pack("webdataset", tmp_path / "laion", tmp_path / "out")
    assert not open_store(tmp_path / "out").exists("dataset.json")
    with pytest.raises(UserError, match=r"not a packed dataset|not a directory"):
        open_dataset(tmp_path / "out")
