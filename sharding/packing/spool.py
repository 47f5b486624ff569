"""Tables that planning writes and packing reads, as Arrow files: the records of each shard, rejects, triplets."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

from sharding.files import TEMPORARY, sync
from sharding.store import Store

if TYPE_CHECKING:
    import pyarrow

MARKER = ".packing.json"  # the job of a packing that is not finished, see claim.py
FOLDER = ".plan/"
REJECTS, TRIPLETS = f"{FOLDER}rejects.arrow", f"{FOLDER}triplets.arrow"
KEPT = 10_000  # rows of a growing table kept before they are written down


@cache
def record_schema() -> "pyarrow.Schema":
    """A shard's records: `number` makes the key, (`path`, `offset`, `size`) say where the image's bytes lie."""
    import pyarrow as pa

    return pa.schema([
        ("number", pa.int64()), ("row", pa.int64()),
        ("path", pa.string()), ("offset", pa.int64()), ("size", pa.int64()),
        ("captions", pa.list_(pa.string())), ("identity", pa.string()), ("source", pa.string()),
        ("file_path", pa.string()), ("score", pa.float64()), ("instance_id", pa.int64()),
    ])  # fmt: skip


@cache
def reject_schema() -> "pyarrow.Schema":
    """Rows that are refused, or, where `dropped_captions` is not 0, packed without that many captions."""
    import pyarrow as pa

    return pa.schema([
        ("row", pa.int64()), ("file_path", pa.string()), ("reason", pa.string()), ("dropped_captions", pa.int64()),
    ])  # fmt: skip


@cache
def triplet_schema() -> "pyarrow.Schema":
    """Triplets whose images, told by number, both go into shards."""
    import pyarrow as pa

    return pa.schema([
        ("row", pa.int64()), ("reference", pa.int64()), ("target", pa.int64()), ("edit_caption", pa.string()),
        ("cpr_id", pa.int64()),
    ])  # fmt: skip


def read_spool(out: Store, name: str) -> "pyarrow.Table":
    """A table that planning wrote; its columns are those of the schemas above."""
    import pyarrow as pa

    options = pa.ipc.IpcReadOptions(use_threads=False)  # as in index.read_parquet
    return pa.ipc.open_file(pa.BufferReader(out.read(name)), options=options).read_all()


def _write_options() -> "pyarrow.ipc.IpcWriteOptions":
    import pyarrow as pa

    return pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)


def record_batch(rows: list[tuple[Any, ...]], schema: "pyarrow.Schema") -> "pyarrow.RecordBatch":
    """The rows, each in the order of the schema, as columns."""
    import pyarrow as pa

    columns = zip(zip(*rows, strict=True), schema.types, strict=True)
    return pa.record_batch([pa.array(column, kind) for column, kind in columns], schema=schema)


def table_file(batch: "pyarrow.RecordBatch") -> bytes:
    """The batch as an Arrow file."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema, options=_write_options()) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


class Spool:
    """Rows of a table that is written as it grows, in a file of the scratch folder."""

    def __init__(self, folder: Path, schema: "pyarrow.Schema") -> None:
        self.rows = 0
        self.first: dict[str, Any] = {}
        self._schema = schema
        self._path = folder / f"{TEMPORARY}{uuid4().hex}.arrow"
        self._kept: list[tuple[Any, ...]] = []

    def __enter__(self) -> Self:
        import pyarrow as pa

        self._file = self._path.open("wb")
        self._writer = pa.ipc.new_file(self._file, self._schema, options=_write_options())
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    def add(self, row: tuple[Any, ...]) -> None:
        """Take one row, in the order of the schema."""
        if not self.rows:
            self.first = dict(zip(self._schema.names, row, strict=True))
        self.rows += 1
        self._kept.append(row)
        if len(self._kept) >= KEPT:
            self._flush()

    def close(self) -> Path:
        """Write what is left; returns the file, synced."""
        self._flush()
        self._writer.close()
        sync(self._file)
        self._file.close()
        return self._path

    def _flush(self) -> None:
        if self._kept:
            self._writer.write_batch(record_batch(self._kept, self._schema))
            self._kept.clear()
