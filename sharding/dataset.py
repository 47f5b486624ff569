"""A packed dataset: shards, their indexes, a few tables, and `dataset.json` over all of them.

`dataset.json` is written last of all, so a place that opens is complete. It lists one or more generations: a first
packing, and what `sharding pack --append` added to it later without touching a published file.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharding.companions import offsets_name
from sharding.errors import UserError
from sharding.index import SHARD_NAME, Shard, content_hash, index_name, read_parquet, tar_name
from sharding.store import LocalStore, Store, open_store

if TYPE_CHECKING:
    import pyarrow

SCHEMA_VERSION = 2
MANIFEST = "dataset.json"
NAME = re.compile(r"[a-z0-9_]{1,40}")  # of a dataset: its keys and shards begin with it


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What one packing published.

    `settings` are those that decide the bytes; `annotations` and `tables` map file names to sha256: the raw files
    read, and the Parquet tables besides the indexes; `triplets_hash` is that of the triplets' rows, if there are any;
    `next_number` is the first that no sample has so far.
    """

    settings: dict[str, Any]
    annotations: dict[str, str]
    shards: tuple[Shard, ...]
    tables: dict[str, str]
    triplets_hash: str | None = None
    next_number: int

    @cached_property
    def root_hash(self) -> str:
        """sha256 over the settings' hash, name and tar hash of every shard in order, and the triplets' hash, if any.

        It follows from what was packed alone: Parquet files, whose bytes change with pyarrow's version, have no part.
        """
        parts = [content_hash(self.settings), *(f"{shard.name} {shard.sha256}" for shard in self.shards)]
        if self.triplets_hash:
            parts.append(f"triplets {self.triplets_hash}")
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A complete packed dataset. `counts` holds images, captions, identities … in total and below `splits`."""

    store: Store
    name: str
    counts: dict[str, Any]
    generations: tuple[Generation, ...]

    @property
    def source(self) -> str:
        """The raw layout that it was packed from."""
        return str(self.generations[0].settings["source"])

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        """The shards of all generations, in packing order."""
        return tuple(shard for generation in self.generations for shard in generation.shards)

    @cached_property
    def tables(self) -> dict[str, str]:
        """The Parquet tables besides the indexes, each with its sha256."""
        return {name: sha256 for generation in self.generations for name, sha256 in generation.tables.items()}

    @cached_property
    def root_hash(self) -> str:
        """The generation's root hash, or the sha256 over those of all generations in order where there are several."""
        hashes = [generation.root_hash for generation in self.generations]
        return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()

    @property
    def directory(self) -> Path:
        """The folder it lies in; UserError where that is a bucket."""
        if isinstance(self.store, LocalStore):
            return self.store.directory
        raise UserError(f"{self.store} is not a folder of this machine")


def manifest_bytes(dataset: Dataset) -> bytes:
    """The content of `dataset.json`."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "name": dataset.name,
        "source": dataset.source,
        "root_hash": dataset.root_hash,
        "counts": dataset.counts,
        "generations": [
            {**asdict(generation), "root_hash": generation.root_hash} for generation in dataset.generations
        ],
    }
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def read_manifest(store: Store) -> dict[str, Any]:
    """The content of `dataset.json`; UserError if it is missing, unreadable or of another schema."""
    if isinstance(store, LocalStore) and not store.directory.is_dir():
        raise UserError(f"{store} is not a directory; name the folder that `sharding pack` wrote")
    try:
        content = json.loads(store.read(MANIFEST))
    except FileNotFoundError:
        raise UserError(f"{store} holds no {MANIFEST}: not a packed dataset, or packing was not finished") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{store}/{MANIFEST} cannot be read: {error}; {pack_again(MANIFEST)}") from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(version, int):
        raise UserError(f"{store}/{MANIFEST} names no schema_version; it was not written by `sharding pack`")
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{store}/{MANIFEST} has schema version {version}, newer than {SCHEMA_VERSION}: upgrade person-pretrain"
        )
    if version < SCHEMA_VERSION:
        raise UserError(f"{store} was packed by an older version (schema {version}); pack it again with --overwrite")
    return content


def open_dataset(place: Path | str | Store) -> Dataset:
    """Open a packed dataset and check that its files are all there and of the right size.

    Raises UserError, in one line, for a place that is missing, half-written, damaged or of another schema.
    """
    store = open_store(place)
    dataset = parse_manifest(store, read_manifest(store))
    check_files(dataset)
    return dataset


def parse_manifest(store: Store, content: dict[str, Any]) -> Dataset:
    """The dataset that `read_manifest` gave the content of; UserError if it does not match its own root hash."""
    try:
        dataset = Dataset(
            store=store,
            name=content["name"],
            counts=content["counts"],
            generations=tuple(_generation(dict(listed)) for listed in content["generations"]),
        )
        sound, expected = _is_sound(dataset), content["root_hash"]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{store}/{MANIFEST} is damaged ({error!r}); {pack_again(MANIFEST)}") from None
    if not sound or dataset.root_hash != expected:
        what = "does not match its own root hash" if sound else "is damaged"
        raise UserError(f"{store}/{MANIFEST} {what}; {pack_again(MANIFEST)}")
    return dataset


def _generation(listed: dict[str, Any]) -> Generation:
    """One generation as listed; a root hash of its own that does not fit is an error like any other."""
    expected = listed.pop("root_hash")
    generation = Generation(**{**listed, "shards": tuple(Shard(**shard) for shard in listed["shards"])})
    if generation.root_hash != expected:
        raise ValueError("a generation's root hash")
    return generation


def pack_again(name: str) -> str:
    """What to do about a damaged file: the same `sharding pack` then keeps what is whole and writes the rest."""
    return f"restore {name}, or remove it and pack again"


def _is_sound(dataset: Dataset) -> bool:
    """Whether what the root hash does not cover has the form that packing writes (or raises KeyError …)."""
    counts = dataset.counts
    numbers = [counts[name] for name in ("rejects", "dropped_captions", "left_out", "image_bytes")]
    numbers += [counts.get("triplets", 0), counts["source_image_bytes"]]
    numbers += [generation.next_number for generation in dataset.generations]
    for block in (counts, *counts["splits"].values()):
        numbers += [block["images"], block["captions"], block["identities"]]
    return (
        isinstance(dataset.name, str)
        and bool(dataset.generations)
        and all(isinstance(number, int) for number in numbers)
        and all(type(getattr(shard, field.name)) is field.type for shard in dataset.shards for field in fields(shard))
        and all(isinstance(digest, str) for digest in dataset.tables.values())
        and "rejects.parquet" in dataset.tables
    )


def check_files(dataset: Dataset) -> None:
    """UserError unless all files are there and tars have their sizes; hashes are left to the readers of bytes."""
    for shard in dataset.shards:
        if not SHARD_NAME.fullmatch(shard.name):
            raise UserError(f"{dataset.store}/{MANIFEST} names a shard {shard.name!r}, which no packing writes")
    missing = missing_files(dataset)
    for name, problem in missing.items():
        others = f" (and {len(missing) - 1} more files)" if len(missing) > 1 else ""
        raise UserError(f"{dataset.store}/{name} {problem}{others}; restore it, or pack again")


def missing_files(dataset: Dataset) -> dict[str, str]:
    """The files that are not there, or not of the right size, each with what is the matter."""
    found = dict(dataset.store.names())
    names = [name(shard.name) for shard in dataset.shards for name in (tar_name, offsets_name, index_name)]
    missing = {name: "is missing" for name in (*names, *dataset.tables) if name not in found}
    for shard in dataset.shards:
        size = found.get(tar_name(shard.name), shard.bytes)
        if size != shard.bytes:
            missing[tar_name(shard.name)] = f"has {size} bytes where {shard.bytes} were packed"
    return missing


def shards_of(dataset: Dataset, split: str) -> tuple[Shard, ...]:
    """The shards of one split, in packing order; UserError, naming the splits there are, if it has none."""
    shards = tuple(shard for shard in dataset.shards if shard.split == split)
    if not shards:
        splits = ", ".join(sorted({shard.split for shard in dataset.shards}))
        raise UserError(f"{dataset.store} has no split {split!r}; it has: {splits}")
    return shards


def read_index(dataset: Dataset, shard: Shard, columns: list[str] | None = None) -> "pyarrow.Table":
    """The index of one shard (all columns of `sample_schema`, or those named), checked against its sha256."""
    return read_table(dataset, index_name(shard.name), shard.index_sha256, columns)


def read_rejects(dataset: Dataset) -> "pyarrow.Table":
    """The rows of all generations that were refused, or that lost captions: row, file_path, reason; hashes checked."""
    import pyarrow as pa

    tables = [name for name in dataset.tables if name.startswith("rejects")]
    return pa.concat_tables([read_table(dataset, name, dataset.tables[name]) for name in tables])


def read_table(dataset: Dataset, name: str, sha256: str, columns: Sequence[str] | None = None) -> "pyarrow.Table":
    """A Parquet table of the dataset; UserError unless its bytes have that sha256."""
    data = dataset.store.read(name)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(f"{dataset.store}/{name} does not match the sha256 in {MANIFEST}; {pack_again(name)}")
    return read_parquet(data, columns)
