"""A generation is added without touching what is published."""

import json

import pytest

from sharding.dataset import open_dataset, read_index, read_rejects
from sharding.errors import UserError
from sharding.pack import pack
from sharding.packing.selection import Selection


@pytest.fixture
def two_inputs(pretrain):
    """Functions that write the first and the second delivery into the same raw folder."""
    return lambda: pretrain(6), lambda: pretrain(
        4, {n: {"captions": [f"Second {n}."], "ID": str(90 + n)} for n in range(3)} | {3: {"captions": []}}
    )


def files(folder):
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_appending_keeps_every_published_shard_and_gives_new_keys(two_inputs, tmp_path):
    first, second = two_inputs
    out = tmp_path / "out"
    before = pack("pretrain_110k", first(), out, shard_samples=2).dataset
    kept = {name: file for name, file in files(out).items() if "-" in name or name == "rejects.parquet"}
    after = pack("pretrain_110k", second(), out, shard_samples=2, append=True).dataset
    assert {name: file for name, file in files(out).items() if name in kept} == kept
    assert after.shards[: len(before.shards)] == before.shards
    assert [shard.name for shard in after.shards[len(before.shards) :]] == [
        f"pretrain_110k-train-{n:06d}" for n in (3, 4)
    ]
    keys = [key for shard in after.shards for key in read_index(after, shard)["key"].to_pylist()]
    assert len(set(keys)) == len(keys) == 9
    assert after.counts["images"] == 9
    assert after.counts["rejects"] == 1
    assert read_rejects(after)["row"].to_pylist() == [3]
    assert after.root_hash != before.root_hash
    assert (open_dataset(out), len(after.generations)) == (after, 2)
    assert sum(json.loads((out / "sizes.json").read_text()).values()) == 9


def test_appending_the_same_again_changes_nothing(two_inputs, tmp_path):
    first, second = two_inputs
    out = tmp_path / "out"
    pack("pretrain_110k", first(), out)
    folder = second()
    added = pack("pretrain_110k", folder, out, append=True).dataset
    before = files(out)
    again = pack("pretrain_110k", folder, out, append=True)
    assert (again.already_complete, again.dataset, files(out)) == (True, added, before)


def test_the_same_images_are_not_added_twice_but_another_part_of_the_input_is(pretrain, tmp_path):
    folder, out = pretrain(10), tmp_path / "out"
    pack("pretrain_110k", folder, out, selection=Selection(splits=("val",)))
    with pytest.raises(UserError, match="holds this input already"):
        pack("pretrain_110k", folder, out, selection=Selection(splits=("val",)), shard_samples=3, append=True)
    added = pack("pretrain_110k", folder, out, selection=Selection(splits=("train",)), append=True)
    assert added.dataset.counts["images"] == 10


def test_only_the_same_source_can_be_appended_and_only_to_a_complete_dataset(two_inputs, tmp_path):
    first, second = two_inputs
    folder = first()
    with pytest.raises(UserError, match="no complete dataset to append to"):
        pack("pretrain_110k", folder, tmp_path / "out", append=True)
    pack("pretrain_110k", folder, tmp_path / "out")
    with pytest.raises(UserError, match="only the same can be appended"):
        pack("pretrain_110k", second(), tmp_path / "out", append=True, name="other")
    with pytest.raises(UserError, match="or add it with --append"):
        pack("pretrain_110k", folder, tmp_path / "out")


@pytest.mark.parametrize("generation", [0, 1])
def test_a_generation_that_lost_a_shard_is_mended_by_its_own_command(two_inputs, tmp_path, generation):
    first, second = two_inputs
    out = tmp_path / "out"
    pack("pretrain_110k", first(), out, shard_samples=2)
    added = pack("pretrain_110k", second(), out, shard_samples=2, append=True).dataset
    before = files(out).keys(), {path.name: path.read_bytes() for path in out.iterdir()}
    (out / f"{added.generations[generation].shards[0].name}.tar").unlink()
    mended = pack("pretrain_110k", second() if generation else first(), out, shard_samples=2, append=bool(generation))
    assert (mended.dataset, mended.images_written) == (added, 2)
    assert (files(out).keys(), {path.name: path.read_bytes() for path in out.iterdir()}) == before


def test_an_append_that_was_interrupted_is_finished_before_another_begins(two_inputs, pretrain, tmp_path, monkeypatch):
    out = tmp_path / "out"
    pack("pretrain_110k", two_inputs[0](), out, shard_samples=2)
    monkeypatch.setattr("sharding.pack.write_shard", lambda task: (_ for _ in ()).throw(KeyboardInterrupt))
    folder = two_inputs[1]()
    before = open_dataset(out)
    with pytest.raises(KeyboardInterrupt):
        pack("pretrain_110k", folder, out, shard_samples=2, append=True)
    assert open_dataset(out) == before


def test_what_fails_to_be_appended_leaves_the_dataset_as_it_was(two_inputs, pretrain, tmp_path):
    out = tmp_path / "out"
    before = pack("pretrain_110k", two_inputs[0](), out).dataset
    names = files(out)
    with pytest.raises(UserError, match="no image could be packed"):
        pack("pretrain_110k", pretrain(1, {0: {"captions": []}}), out, append=True)
    assert (open_dataset(out), files(out)) == (before, names)
