"""Ways to damage a packed dataset, and to say which of its samples that hits; for the tests of `verify`."""

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from sharding.dataset import Dataset, manifest_bytes, read_index
from sharding.index import Shard, canonical_json, index_name, rows_hash, table_bytes, tar_name
from sharding.tar import BLOCK, TarWriter
from sharding.verify import Report
from sharding.verify.shard import Finding, ShardTask, check_shard


class Memory:
    """As much of a Store as a shard's check needs; opening a file is faster than on a disk."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def read(self, name: str) -> bytes:
        return self.files[name]

    def open(self, name: str) -> io.BytesIO:
        return io.BytesIO(self.files[name])


def path_of(dataset: Dataset, name: str) -> Path:
    return dataset.directory / name


def extents(table: pa.Table) -> list[tuple[str, str, int, int]]:
    """(key, member, first byte of the header, byte after the padding) of every member."""
    found = []
    for row in table.to_pylist():
        for member, extension in (("image", row["ext"]), ("text", "txt"), ("json", "json")):
            offset, size = row[f"{member}_offset"], row[f"{member}_size"]
            end = offset + size + -size % BLOCK
            found.append((row["key"], f"{row['key']}.{extension}", offset - BLOCK, end))
    return found


def hit(table: pa.Table, places: set[int]) -> set[str]:
    """The members that some of these bytes of the tar belong to."""
    return {member for _, member, start, end in extents(table) if not places.isdisjoint(range(start, end))}


def named(findings: tuple[Finding, ...]) -> set[str]:
    return {sample.member for finding in findings for sample in finding.affected}


def keys(report: Report) -> set[str]:
    return {sample.key for finding in report.findings for sample in finding.affected}


def files(report: Report) -> set[str]:
    return {finding.file for finding in report.findings}


def checked(dataset: Dataset, shard: Shard, tar: bytes) -> tuple[Finding, ...]:
    """What is found if `tar` stands in for the shard's."""
    names = (tar_name(shard.name), index_name(shard.name), f"{shard.name}.tar.idx")
    memory = Memory({name: path_of(dataset, name).read_bytes() for name in names} | {tar_name(shard.name): tar})
    task = ShardTask(store=memory, name=dataset.name, shard=shard, files=frozenset(names), fast=False)
    return check_shard(task).findings


def republish(dataset: Dataset, renewed: str, **changes: Any) -> Dataset:
    """Rewrite dataset.json, root hash and all, as if a shard had always been so."""
    [generation] = dataset.generations
    shards = tuple(replace(shard, **changes) if shard.name == renewed else shard for shard in generation.shards)
    forged = replace(dataset, generations=(replace(generation, shards=shards),))
    path_of(dataset, "dataset.json").write_bytes(manifest_bytes(forged))
    return forged


def reindex(dataset: Dataset, shard: Shard, table: pa.Table) -> Dataset:
    """Rewrite a shard's index, and its sha256 in dataset.json."""
    index = table_bytes(table)
    path_of(dataset, index_name(shard.name)).write_bytes(index)
    return republish(dataset, shard.name, index_sha256=hashlib.sha256(index).hexdigest())


def with_value(table: pa.Table, column: str, row: int, value: Any) -> pa.Table:
    values = table[column].to_pylist()
    values[row] = value
    place = table.schema.names.index(column)
    return table.set_column(place, table.schema.field(column), pa.array(values, table.schema.field(column).type))


def recaption(dataset: Dataset, shard: Shard, row: int, caption: str, text: bool) -> tuple[bytes, pa.Table]:
    """The shard as packing would have written it with another first caption; in the text too, or in the JSON alone."""
    table = read_index(dataset, shard)
    tar = path_of(dataset, tar_name(shard.name)).read_bytes()
    buffer, rows = io.BytesIO(), table.to_pylist()
    writer = TarWriter(buffer)
    for number, sample in enumerate(rows):
        for member, extension in (("image", sample["ext"]), ("text", "txt"), ("json", "json")):
            data = tar[sample[f"{member}_offset"] :][: sample[f"{member}_size"]]
            if number == row and member == "text" and text:
                data = caption.encode()
            if number == row and member == "json":
                metadata = json.loads(data)
                metadata["captions"][0] = caption
                data = canonical_json(metadata)
                sample["caption_words"] = [len(one.split()) for one in metadata["captions"]]
            [offset] = writer.add((f"{sample['key']}.{extension}", data))
            changed = (offset, len(data), hashlib.sha256(data).digest())
            sample |= {
                f"{member}_{what}": value for what, value in zip(("offset", "size", "sha256"), changed, strict=True)
            }
    writer.finish()
    return buffer.getvalue(), pa.Table.from_pylist(rows, schema=table.schema)


def retable(dataset: Dataset, name: str, table: pa.Table) -> None:
    """Rewrite a table and all that dataset.json says of it."""
    data = table_bytes(table)
    path_of(dataset, name).write_bytes(data)
    [generation] = dataset.generations
    hashed = {"triplets_hash": rows_hash(table)} if name.startswith("triplets") else {}
    tables = {**generation.tables, name: hashlib.sha256(data).hexdigest()}
    forged = replace(dataset, generations=(replace(generation, tables=tables, **hashed),))
    path_of(dataset, "dataset.json").write_bytes(manifest_bytes(forged))
