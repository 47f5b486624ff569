"""The index tells the truth about the tar, and only a complete, undamaged dataset opens."""

import hashlib
import json
import tarfile
from dataclasses import asdict, replace

import pyarrow.parquet as pq
import pytest

from sharding.dataset import open_dataset, read_index, shards_of
from sharding.errors import UserError
from sharding.index import sample_schema, tar_name
from sharding.pack import pack


@pytest.fixture
def packed(pretrain, tmp_path):
    return pack("pretrain_110k", pretrain(12), tmp_path / "out", shard_samples=4).dataset


def test_offsets_sizes_and_hashes_are_those_an_independent_reader_finds(packed):
    for shard in packed.shards:
        path = packed.directory / tar_name(shard.name)
        assert (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()) == (shard.bytes, shard.sha256)
        with tarfile.open(path) as tar:
            members = {m.name: (m.offset_data, m.size, tar.extractfile(m).read()) for m in tar.getmembers()}
        rows = read_index(packed, shard).to_pylist()
        order = [f"{row['key']}.{ext}" for row in rows for ext in (row["ext"], "txt", "json")]
        assert list(members) == order
        for row in rows:
            for kind, ext in (("image", row["ext"]), ("text", "txt"), ("json", "json")):
                offset, size, data = members[f"{row['key']}.{ext}"]
                assert (row[f"{kind}_offset"], row[f"{kind}_size"]) == (offset, size)
                assert row[f"{kind}_sha256"] == hashlib.sha256(data).digest()
            metadata = json.loads(members[f"{row['key']}.json"][2])
            assert row["caption_words"] == [len(caption.split()) for caption in metadata["captions"]]
            assert {name: row[name] for name in ("identity", "source", "split", "width", "height", "file_path")} == {
                name: metadata[name] for name in ("identity", "source", "split", "width", "height", "file_path")
            }
            assert members[f"{row['key']}.txt"][2].decode() == metadata["captions"][0]


def test_an_opened_dataset_equals_the_one_just_packed(packed):
    assert open_dataset(packed.directory) == packed
    assert [s.name for s in shards_of(packed, "train")] == [f"pretrain_110k-train-{n:06d}" for n in range(3)]
    assert read_index(packed, packed.shards[0], ["key", "row"]).column_names == ["key", "row"]
    assert read_index(packed, packed.shards[0]).schema.equals(sample_schema())
    with pytest.raises(UserError, match="no split 'test'; it has: train, val"):
        shards_of(packed, "test")


def edit(dataset, generation=None, **changes):
    """Change fields of `dataset.json`, and of its only generation."""
    path = dataset.directory / "dataset.json"
    content = json.loads(path.read_text()) | changes
    if generation:
        content["generations"][0] |= generation
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d.directory / "dataset.json").unlink(), "not finished"),
        (lambda d: (d.directory / "dataset.json").write_text("{"), "cannot be read"),
        (lambda d: (d.directory / "dataset.json").write_text("[]"), "schema_version"),
        (lambda d: edit(d, schema_version=3), "newer than 2"),
        (lambda d: edit(d, schema_version=1), "older version"),
        (lambda d: edit(d, root_hash="0" * 64), "root hash"),
        (lambda d: edit(d, {"shards": [{"name": "x"}]}), "damaged"),
        (lambda d: edit(d, {"shards": 3}), "damaged"),
        (lambda d: edit(d, {"settings": {"source": "syncpr"}}), "damaged"),
        (lambda d: edit(d, {"settings": []}), "damaged"),
        (lambda d: edit(d, generations=[]), "damaged"),
        (lambda d: edit(d, counts={}), "damaged"),
        (lambda d: edit(d, counts=d.counts | {"splits": {"train": {"images": "4"}}}), "damaged"),
        (lambda d: edit(d, {"shards": [asdict(s) | {"samples": "4"} for s in d.shards]}), "damaged"),
        (lambda d: edit(d, {"tables": {}}), "damaged"),
        (lambda d: (d.directory / "rejects.parquet").unlink(), r"rejects\.parquet is missing"),
        (lambda d: (d.directory / tar_name(d.shards[0].name)).unlink(), "missing"),
        (lambda d: (d.directory / f"{d.shards[0].name}.parquet").unlink(), "missing"),
        (lambda d: (d.directory / tar_name(d.shards[0].name)).write_bytes(b"short"), "5 bytes"),
    ],
)
def test_a_half_written_or_damaged_dataset_does_not_open(packed, damage, message):
    damage(packed)
    with pytest.raises(UserError, match=message) as error:
        open_dataset(packed.directory)
    assert "\n" not in str(error.value)


def test_a_changed_index_is_not_read(packed):
    shard = packed.shards[0]
    path = packed.directory / f"{shard.name}.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(UserError, match="sha256"):
        read_index(packed, shard)


def test_the_root_hash_follows_from_what_was_packed_and_not_from_how_parquet_was_written(packed):
    (generation,) = packed.generations
    assert packed.root_hash == generation.root_hash

    def root_hash(**changes):
        return replace(generation, **changes).root_hash

    assert root_hash(shards=[replace(s, index_sha256="0" * 64) for s in packed.shards]) == packed.root_hash
    assert root_hash(annotations={}, tables={}) == packed.root_hash
    changed = {
        root_hash(shards=[replace(s, sha256="0" * 64) for s in packed.shards]),
        root_hash(triplets_hash="0" * 64),
        root_hash(settings={}),
        replace(packed, generations=(generation, generation)).root_hash,
    }
    assert len(changed - {packed.root_hash}) == 4


def test_a_missing_folder_is_one_line(tmp_path):
    with pytest.raises(UserError, match="is not a directory"):
        open_dataset(tmp_path / "none")
