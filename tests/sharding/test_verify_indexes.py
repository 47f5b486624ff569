"""An index that is damaged, or that tells of another tar than it should, is found out."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from sharding.dataset import Dataset, read_index
from sharding.index import index_name, tar_name
from sharding.pack import pack
from sharding.verify import verify
from sharding.verify.samples import SAID_TWICE
from sharding.verify.shard import ShardTask, check_shard
from tests.sharding.damage import keys, named, path_of, reindex, republish, with_value


@pytest.fixture
def dataset(pretrain: Callable[..., Path], tmp_path: Path) -> Dataset:
    """Ten images of five people: train in two shards of four, val in one of two."""
    return pack("pretrain_110k", pretrain(10), tmp_path / "shards", shard_samples=4).dataset


CHANGES = {
    "identity": "pretrain_110k:9", "source": "other", "score": 1.0, "instance_id": 4, "width": 9, "height": 9,
    "file_path": "b.jpg", "caption_words": [5, 7], "image_offset": 1024, "text_size": 1, "json_sha256": bytes(32),
    "image_size": -1, "json_offset": -512, "text_offset": 2**62, "ext": "png",
}  # fmt: skip


@pytest.mark.parametrize("column", CHANGES)
def test_an_index_that_says_otherwise_than_the_tar_names_the_sample(dataset, column):
    shard = dataset.shards[0]
    table = read_index(dataset, shard)
    reindex(dataset, shard, with_value(table, column, 1, CHANGES[column]))
    report = verify(dataset.store)
    assert keys(report) == {table["key"][1].as_py()}
    index = next(finding for finding in report.findings if finding.affected)
    assert index.file == index_name(shard.name)
    assert "which is as packed" in index.problem
    if column in SAID_TWICE:
        assert index.affected[0].problem == f"the index says otherwise: {column}"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda table: table.slice(0, 3), "lists 3 samples where dataset.json says 4"),
        (lambda table: table.slice(1), "lists 3 samples where dataset.json says 4"),
        (lambda table: with_value(table, "split", 0, "val"), "another split"),
        (lambda table: with_value(table, "key", 0, "../../etc/passwd"), "names that no packing gives"),
        (lambda table: with_value(table, "ext", 0, "tar/x"), "names that no packing gives"),
        (lambda table: with_value(table, "key", 0, None), "not the index of a shard"),
        (lambda table: table.drop_columns("row"), "not the index of a shard"),
    ],
)
def test_an_index_of_another_form_is_found_though_its_sha256_is_right(dataset, change, problem):
    shard = dataset.shards[0]
    reindex(dataset, shard, change(read_index(dataset, shard)))
    report = verify(dataset.store)
    assert any(problem in finding.problem for finding in report.findings if finding.file == index_name(shard.name))


def test_an_index_in_another_order_than_the_tar_is_found_and_names_no_sample(pretrain, tmp_path):
    dataset = pack("pretrain_110k", pretrain(10), tmp_path / "shards").dataset
    table = read_index(dataset, dataset.shards[0])
    reindex(dataset, dataset.shards[0], pa.concat_tables([table.slice(4), table.slice(0, 4)]))
    finding = next(finding for finding in verify(dataset.store).findings if finding.file.endswith("parquet"))
    assert "from end to end, in its order" in finding.problem
    assert finding.affected == ()


def test_bytes_that_an_index_leaves_out_are_found(dataset):
    shard = dataset.shards[0]
    forged = reindex(dataset, shard, read_index(dataset, shard).slice(0, 3))
    republish(forged, shard.name, samples=3)
    assert any("from end to end" in finding.problem for finding in verify(dataset.store).findings)


def test_every_flipped_byte_of_an_index_is_found_and_blames_no_sample(dataset):
    shard = dataset.shards[0]
    index = path_of(dataset, index_name(shard.name))
    whole = index.read_bytes()
    for place in range(0, len(whole), 97):
        index.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        names = (tar_name(shard.name), index_name(shard.name), f"{shard.name}.tar.idx")
        task = ShardTask(store=dataset.store, name=dataset.name, shard=shard, files=frozenset(names), fast=False)
        findings = check_shard(task).findings
        assert {finding.file for finding in findings} == {index_name(shard.name)}
        assert any("does not match its sha256" in finding.problem for finding in findings)
        assert named(findings) == set()


def test_a_key_given_twice_is_named(dataset):
    shards = dataset.shards[:2]
    tables = [read_index(dataset, shard) for shard in shards]
    first = tables[0]["key"][0].as_py()
    reindex(dataset, shards[1], with_value(tables[1], "key", 0, first))
    findings = [finding for finding in verify(dataset.store).findings if "other samples have too" in finding.problem]
    assert {finding.file for finding in findings} == {index_name(shard.name) for shard in shards}
    assert {sample.key for finding in findings for sample in finding.affected} == {first}
