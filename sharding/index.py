"""The index of a shard: a Parquet table beside its tar, with offset, size and sha256 of every member.

Readers of samples find their bytes by it and never walk a tar. `sharding/dataset.py` binds the shards of a dataset.
"""

import hashlib
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow

_CANONICAL = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"))
SHARD_NAME = re.compile(r"[a-z0-9_]+-[a-z]+-\d{6}")
MEMBERS = ("image", "text", "json")  # of every sample, in the order of the tar


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar of samples of one split; `name` is the file name without `.tar`, `bytes` and `sha256` are the tar's."""

    name: str
    split: str
    samples: int
    bytes: int
    sha256: str
    index_sha256: str


@cache
def sample_schema() -> "pyarrow.Schema":
    """The columns of a shard's index, one row per sample in the order of the tar.

    Offsets are bytes from the start of the tar to the member's data, sizes are bytes, hashes are raw sha256;
    `caption_words` is the number of whitespace-separated words of each caption; `row` is the row number in the raw
    annotation.
    """
    import pyarrow as pa

    fields: list[tuple[str, Any]] = [("key", pa.string()), ("ext", pa.string())]
    for member in MEMBERS:
        fields += [
            (f"{member}_offset", pa.int64()),
            (f"{member}_size", pa.int64()),
            (f"{member}_sha256", pa.binary(32)),
        ]
    fields += [(name, pa.string()) for name in ("identity", "source", "split")]
    words = pa.list_(pa.field("element", pa.int32()))  # Parquet's own name: a table read back is the table written
    fields += [("score", pa.float64()), ("instance_id", pa.int64()), ("caption_words", words)]
    fields += [("width", pa.int32()), ("height", pa.int32()), ("row", pa.int64()), ("file_path", pa.string())]
    return pa.schema(fields)


def table_bytes(table: "pyarrow.Table") -> bytes:
    """The table as a Parquet file with checksums; one table gives the same bytes under one version of pyarrow."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", version="2.6", row_group_size=1 << 20, write_page_checksum=True)
    return buffer.getvalue()


def read_parquet(data: bytes, columns: Sequence[str] | None = None, *, page_checksums: bool = False) -> "pyarrow.Table":
    """The table in the bytes of a Parquet file, or some of its columns; pyarrow's errors where it is damaged.

    Without threads: those that pyarrow starts to read from memory abort the interpreter at its exit, once in 50 runs
    (apache/arrow#34314, #50482), after all work is done.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = None if columns is None else list(columns)
    file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False, page_checksum_verification=page_checksums)
    return file.read(columns=wanted, use_threads=False)


def canonical_json(value: Any) -> bytes:
    """One JSON text per value: sorted keys, no spaces, UTF-8."""
    return _CANONICAL.encode(value).encode()


def content_hash(value: Any) -> str:
    """The sha256 (hex) of a JSON value, whatever way it was written."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def rows_hash(table: "pyarrow.Table") -> str:
    """sha256 over the rows as canonical JSON, a line each: whatever way Parquet encodes them."""
    digest = hashlib.sha256()
    for batch in table.to_batches(max_chunksize=10_000):
        digest.update(b"".join(canonical_json(row) + b"\n" for row in batch.to_pylist()))
    return digest.hexdigest()


def tar_name(shard: str) -> str:
    """The file that holds the samples of the shard called `shard`."""
    return f"{shard}.tar"


def index_name(shard: str) -> str:
    """The file that holds the index of the shard called `shard`."""
    return f"{shard}.parquet"
