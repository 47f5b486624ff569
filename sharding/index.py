"""The index of a packed dataset: one Parquet table beside each shard and one `dataset.json` over all of them.

Packing writes a shard's table after its tar and `dataset.json` last of all, so a directory that opens is complete.
The plan and the loader read only this file's functions: they never need to walk a tar.
"""

import hashlib
import io
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from sharding.errors import UserError

if TYPE_CHECKING:
    import pyarrow

SCHEMA_VERSION = 1
_CANONICAL = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"))
SHARD_NAME = re.compile(r"[a-z0-9_]+-[a-z]+-\d{6}")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar of samples of one split; `name` is the file name without `.tar`, `bytes` and `sha256` are the tar's."""

    name: str
    split: str
    samples: int
    bytes: int
    sha256: str
    index_sha256: str


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A complete packed dataset. `counts` holds images, captions, identities … in total and below `splits`.

    `source` names the raw layout, which the root hash covers. `tables` maps the Parquet tables besides the indexes to
    their sha256.
    """

    directory: Path
    name: str
    source: str
    root_hash: str
    counts: dict[str, Any]
    shards: tuple[Shard, ...]
    tables: dict[str, str]


@cache
def sample_schema() -> "pyarrow.Schema":
    """The columns of a shard's index, one row per sample in the order of the tar.

    Offsets are bytes from the start of the tar to the member's data, sizes are bytes, hashes are raw sha256;
    `caption_words` is the number of whitespace-separated words of each caption; `row` is the row number in the raw
    annotation.
    """
    import pyarrow as pa

    fields: list[tuple[str, Any]] = [("key", pa.string()), ("ext", pa.string())]
    for member in ("image", "text", "json"):
        fields += [
            (f"{member}_offset", pa.int64()),
            (f"{member}_size", pa.int64()),
            (f"{member}_sha256", pa.binary(32)),
        ]
    fields += [(name, pa.string()) for name in ("identity", "source", "split")]
    words = pa.list_(pa.field("element", pa.int32()))  # Parquet's own name: a table read back is the table written
    fields += [("score", pa.float64()), ("caption_words", words)]
    fields += [("width", pa.int32()), ("height", pa.int32()), ("row", pa.int64()), ("file_path", pa.string())]
    return pa.schema(fields)


def table_bytes(table: "pyarrow.Table") -> bytes:
    """The table as a Parquet file with checksums; one table gives the same bytes under one version of pyarrow."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", version="2.6", row_group_size=1 << 20, write_page_checksum=True)
    return buffer.getvalue()


def canonical_json(value: Any) -> bytes:
    """One JSON text per value: sorted keys, no spaces, UTF-8."""
    return _CANONICAL.encode(value).encode()


def content_hash(value: Any) -> str:
    """The sha256 (hex) of a JSON value, whatever way it was written."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def fingerprint(path: Path) -> str:
    """The sha256 (hex) of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def root_hash(settings_hash: str, shards: Sequence[Shard], triplets_hash: str | None) -> str:
    """sha256 over the settings hash, then name and tar hash of every shard in order, then the triplets' hash, if any.

    It follows from what was packed alone: Parquet files, whose bytes change with pyarrow's version, have no part in it.
    """
    parts = [settings_hash, *(f"{shard.name} {shard.sha256}" for shard in shards)]
    if triplets_hash:
        parts.append(f"triplets {triplets_hash}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def write_durably(path: Path, data: bytes) -> None:
    """Write under a temporary name, sync, rename, sync the directory: the file is there whole or not at all."""
    temporary = path.with_name(f".tmp-{path.name}")
    with temporary.open("wb") as file:
        file.write(data)
        sync(file)
    rename_durably(temporary, path)


def sync(file: BinaryIO) -> None:
    """Have the file's bytes on the disk before anything depends on them."""
    file.flush()
    os.fsync(file.fileno())


def rename_durably(temporary: Path, path: Path) -> None:
    """Rename, then sync the directory, without which a power cut may undo the rename."""
    temporary.replace(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Have the names of the files in a directory on the disk."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def publish(
    directory: Path,
    *,
    name: str,
    settings: dict[str, Any],
    annotations: dict[str, str],
    counts: dict[str, Any],
    shards: Sequence[Shard],
    tables: dict[str, str],
    triplets_hash: str | None,
) -> Dataset:
    """Write `dataset.json`, which makes the dataset visible to `open_dataset`.

    `annotations` and `tables` map file names to sha256: the raw files read, and the Parquet tables besides the indexes.
    `triplets_hash` stands for the rows of the triplets, where the source has any.
    """
    settings_hash = content_hash(settings)
    digest = root_hash(settings_hash, shards, triplets_hash)
    content = {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "source": settings["source"],
        "counts": counts,
        "settings": settings,
        "settings_hash": settings_hash,
        "annotations": annotations,
        "shards": [asdict(shard) for shard in shards],
        "tables": tables,
        "triplets_hash": triplets_hash,
        "root_hash": digest,
    }
    write_durably(directory / "dataset.json", (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
    return Dataset(
        directory=directory,
        name=name,
        source=settings["source"],
        root_hash=digest,
        counts=counts,
        shards=tuple(shards),
        tables=tables,
    )


def read_dataset_json(directory: Path) -> dict[str, Any]:
    """The content of `dataset.json`; UserError if it is missing, unreadable or of a newer schema."""
    path = directory / "dataset.json"
    if not directory.is_dir():
        raise UserError(f"{directory} is not a directory; name the folder that `sharding pack` wrote")
    if not path.is_file():
        raise UserError(f"{directory} holds no dataset.json: not a packed dataset, or packing was not finished")
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}; restore it, or {pack_again(directory)}") from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(version, int):
        raise UserError(f"{path} names no schema_version; it was not written by `sharding pack`")
    if version > SCHEMA_VERSION:
        raise UserError(f"{path} has schema version {version}, newer than {SCHEMA_VERSION}: upgrade person-pretrain")
    return content


def open_dataset(directory: Path) -> Dataset:
    """Open a packed dataset and check that its files are all there and of the right size.

    Raises UserError, in one line, for a directory that is missing, half-written, damaged or of a newer schema.
    """
    content = read_dataset_json(directory)
    try:
        dataset = Dataset(
            directory=directory,
            name=content["name"],
            source=dict(content["settings"]).get("source", ""),  # packing always names it; the root hash tells the rest
            root_hash=content["root_hash"],
            counts=content["counts"],
            shards=tuple(Shard(**shard) for shard in content["shards"]),
            tables=content["tables"],
        )
        sound = _is_sound(dataset)
        expected = root_hash(content_hash(content["settings"]), dataset.shards, content["triplets_hash"])
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{directory / 'dataset.json'} is damaged ({error!r}); {pack_again(directory)}") from None
    if not sound or expected != dataset.root_hash:
        what = "does not match its own root hash" if sound else "is damaged"
        raise UserError(f"{directory / 'dataset.json'} {what}; {pack_again(directory)}")
    check_files(dataset)
    return dataset


def pack_again(directory: Path) -> str:
    """What to do about a damaged dataset: the same `sharding pack` then keeps what is whole and writes the rest."""
    return f"remove {directory / 'dataset.json'} and pack again"


def _is_sound(dataset: Dataset) -> bool:
    """Whether what the root hash does not cover has the form that `publish` writes (or raises KeyError …)."""
    counts = dataset.counts
    numbers = [counts["rejects"], counts["dropped_captions"], counts.get("triplets", 0)]
    for block in (counts, *counts["splits"].values()):
        numbers += [block["images"], block["captions"], block["identities"]]
    return (
        isinstance(dataset.name, str)
        and all(isinstance(number, int) for number in numbers)
        and all(type(getattr(shard, field.name)) is field.type for shard in dataset.shards for field in fields(shard))
        and all(isinstance(digest, str) for digest in dataset.tables.values())
        and "rejects.parquet" in dataset.tables
    )


def check_files(dataset: Dataset) -> None:
    """UserError unless all files are there and tars have their sizes; hashes are left to the readers of bytes."""
    directory = dataset.directory
    for shard in dataset.shards:
        if not SHARD_NAME.fullmatch(shard.name):
            raise UserError(f"{directory / 'dataset.json'} names a shard {shard.name!r}, which no packing writes")
    paths = [place(directory, shard.name) for shard in dataset.shards for place in (tar_path, index_path)]
    for path in (*paths, *(directory / name for name in dataset.tables)):
        if not path.is_file():
            raise UserError(f"{path} is missing; restore it, or {pack_again(directory)}")
    for shard in dataset.shards:
        path = tar_path(directory, shard.name)
        size = path.stat().st_size
        if size != shard.bytes:
            raise UserError(f"{path} has {size} bytes where {shard.bytes} were packed; {pack_again(directory)}")


def tar_path(directory: Path, name: str) -> Path:
    """Where the tar of the shard called `name` lies."""
    return directory / f"{name}.tar"


def index_path(directory: Path, name: str) -> Path:
    """Where the index of the shard called `name` lies."""
    return directory / f"{name}.parquet"


def shards_of(dataset: Dataset, split: str) -> tuple[Shard, ...]:
    """The shards of one split, in packing order; UserError, naming the splits there are, if it has none."""
    shards = tuple(shard for shard in dataset.shards if shard.split == split)
    if not shards:
        splits = ", ".join(sorted({shard.split for shard in dataset.shards}))
        raise UserError(f"{dataset.directory} has no split {split!r}; it has: {splits}")
    return shards


def read_index(dataset: Dataset, shard: Shard, columns: list[str] | None = None) -> "pyarrow.Table":
    """The index of one shard (all columns of `sample_schema`, or those named), checked against its sha256."""
    return _read(dataset, index_path(dataset.directory, shard.name), shard.index_sha256, columns)


def read_rejects(dataset: Dataset) -> "pyarrow.Table":
    """The rows that were refused, or that lost captions: row, file_path, reason; checked against its sha256."""
    return _read(dataset, dataset.directory / "rejects.parquet", dataset.tables["rejects.parquet"], None)


def _read(dataset: Dataset, path: Path, sha256: str, columns: list[str] | None) -> "pyarrow.Table":
    import pyarrow.parquet as pq

    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        again = pack_again(dataset.directory)
        raise UserError(f"{path} does not match the sha256 in dataset.json; restore it, or {again}")
    return pq.read_table(io.BytesIO(data), columns=columns)
