"""LUPerson-T: Arrow files `LUPerson_{train,val,restval,test}.arrow` that hold the image bytes, or one JSON list.

The corpus names no people: every image is its own identity, `luperson_t:<image_id>` (a string or an integer), so a
repeated image_id is refused. `restval` is training data kept apart from the split it is named after, and is packed as
`train`. Rows are numbered through all files in the order above. Images stay where they are: a record names the bytes
of its image inside the Arrow file (`arrow.py`), and only the text columns are read, a batch at a time.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, BinaryIO

from sharding.errors import UserError
from sharding.record import Extent, RawDataset, Record, Reject
from sharding.sources.annotation import (
    BadField,
    captions_of,
    each_row,
    image_path,
    printable_path,
    split_of,
    text_or_integer,
)
from sharding.sources.arrow import Batch, DamagedArrow, ImageColumn, batches, is_file_form
from sharding.sources.inputs import only_file, plain_path, refuse_repeated, require_place
from sharding.sources.json_rows import json_rows, unreadable
from sharding.store import Store

if TYPE_CHECKING:
    import pyarrow

ARROW_FILES = tuple(f"LUPerson_{split}.arrow" for split in ("train", "val", "restval", "test"))
CAPTION_COLUMNS = ("captions", "caption")
SLICE = 1000  # rows turned into Python objects at a time


def open_luperson_t(store: Store) -> RawDataset:
    """The Arrow files of the input, or, where there are none, its only JSON file with images below `imgs/`."""
    require_place(store)
    annotations = tuple(name for name in ARROW_FILES if store.exists(name))
    if not annotations:
        return _open_json(store)
    files = [_open_arrow(store, name) for name in annotations]
    expected = sum(batch.rows for file in files for batch in file.batches)
    return RawDataset(annotations=annotations, expected=expected, rows=_arrow_rows(files))


def _open_json(store: Store) -> RawDataset:
    annotation = only_file(store, ".json", "LUPerson-T.json", f"{', '.join(ARROW_FILES)} or one JSON list")
    seen: set[str] = set()

    def parse(number: int, row: dict[str, Any]) -> Record:
        file_path = image_path(row)
        path = plain_path(f"imgs/{file_path}")
        record = _record(number, file_path, row, Extent(path))
        refuse_repeated(path, "file_path", seen)
        return record

    return RawDataset(annotations=(annotation,), rows=each_row(json_rows(store, annotation), parse))


@dataclass(frozen=True, kw_only=True)
class ArrowFile:
    """An opened Arrow file of the corpus: the columns of its texts, the places of its images, its batches."""

    store: Store
    name: str
    columns: tuple[str, ...]
    images: ImageColumn
    batches: tuple[Batch, ...]

    def __str__(self) -> str:
        return f"{self.store}/{self.name}"

    def texts(self) -> "Iterator[pyarrow.RecordBatch]":
        """The text columns, a batch at a time. Of the file form nothing else is read; the stream form has no index."""
        import pyarrow as pa

        with self.store.open(self.name) as file:
            reader = _reader(self.store, self.name, file)
            fields = [reader.schema.get_field_index(column) for column in self.columns]
            file.seek(0)
            reader = _reader(self.store, self.name, file, fields)
            if isinstance(reader, pa.RecordBatchFileReader):
                yield from map(reader.get_batch, range(reader.num_record_batches))
            else:
                yield from reader


def _open_arrow(store: Store, name: str) -> ArrowFile:
    """UserError in one line for a file that is damaged or compressed, or lacks a column."""
    place = f"{store}/{name}"
    with _errors(place):
        with store.open(name) as file:
            schema = _reader(store, name, file).schema
        captions = _check_columns(schema.names, place)
        listed = tuple(batches(store, name))
    if any(batch.compressed for batch in listed):
        raise UserError(
            f"{place} is compressed, so that its images have no bytes of their own in it; write it again with "
            "pyarrow.ipc.IpcWriteOptions(compression=None)"
        )
    return ArrowFile(
        store=store,
        name=name,
        columns=(captions, "image_id", "split"),
        images=ImageColumn.of(schema, place),
        batches=listed,
    )


def _reader(
    store: Store, name: str, file: BinaryIO, fields: list[int] | None = None
) -> "pyarrow.RecordBatchFileReader | pyarrow.RecordBatchStreamReader":
    import pyarrow as pa

    opened = pa.ipc.open_file if is_file_form(store, name) else pa.ipc.open_stream
    options = pa.ipc.IpcReadOptions(included_fields=fields, use_threads=False)  # as in index.read_parquet
    return opened(pa.PythonFile(file, mode="r"), options=options)


@contextmanager
def _errors(place: str) -> Iterator[None]:
    """What pyarrow and the metadata say of a damaged file, as one UserError."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, DamagedArrow, UnicodeDecodeError) as error:
        raise UserError(f"{place} is not an Arrow IPC file: {error}") from None
    except OSError as error:
        raise unreadable(place, error) from None


def _check_columns(names: list[str], place: str) -> str:
    """The column of the captions; UserError where the file lacks a column or has one twice."""
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(f"{place} has more than one column {', '.join(repeated)}")
    captions = [name for name in CAPTION_COLUMNS if name in names]
    missing = [name for name in ("image", "image_id", "split") if name not in names]
    if missing or not captions:
        missing += [] if captions else ["caption"]
        raise UserError(f"{place} has no column {', '.join(missing)}; it has {', '.join(names)}")
    return captions[0]


def _arrow_rows(files: list[ArrowFile]) -> Iterator[Record | Reject]:
    seen: set[str] = set()
    number = 0
    for file in files:
        with _errors(str(file)):
            for row, image in _rows_of(file):
                try:
                    yield _parse_arrow_row(number, row, image, seen)
                except BadField as error:
                    yield Reject(number, printable_path(row, "image_id") or file.name, str(error))
                number += 1


def _rows_of(file: ArrowFile) -> Iterator[tuple[dict[str, Any] | None, Extent | None]]:
    """Every row's texts, None where they are not UTF-8, and the place of its image, None where it has none."""
    for batch, texts in zip_longest(file.batches, file.texts()):
        if batch is None or texts is None or texts.num_rows != batch.rows:
            raise DamagedArrow("its metadata and its texts do not agree on the number of rows")
        begins, sizes, present = file.images.extents(file.store, file.name, batch)
        texts = texts.select(file.columns).rename_columns(["captions", "image_id", "split"])
        for column in texts.columns:  # pyarrow trusts offsets: a damaged one would end the process, not raise
            column.view(_as_bytes(column.type)).validate(full=True)
        for start in range(0, batch.rows, SLICE):
            part = slice(start, start + SLICE)
            places = zip(begins[part].tolist(), sizes[part].tolist(), present[part].tolist(), strict=True)
            for row, (begin, size, there) in zip(_python_rows(texts.slice(start, SLICE)), places, strict=True):
                yield row, Extent(file.name, begin, size) if there else None


def _as_bytes(kind: "pyarrow.DataType") -> "pyarrow.DataType":
    """The type with its strings taken for bytes: what is not UTF-8 is to refuse its row, not the whole file."""
    import pyarrow as pa

    if pa.types.is_string(kind):
        return pa.binary()
    if pa.types.is_large_string(kind):
        return pa.large_binary()
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_as_bytes(kind.value_type)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_as_bytes(kind.value_type)))
    return kind


def _python_rows(batch: "pyarrow.RecordBatch") -> Iterator[Any]:
    """The batch's rows as dicts. Arrow does not check its strings: a row that is not UTF-8 comes as None."""
    try:
        yield from batch.to_pylist()
        return
    except UnicodeDecodeError:
        pass
    for start in range(batch.num_rows):
        try:
            yield from batch.slice(start, 1).to_pylist()
        except UnicodeDecodeError:
            yield None


def _parse_arrow_row(number: int, row: dict[str, Any] | None, image: Extent | None, seen: set[str]) -> Record:
    if row is None:
        raise BadField("row: not valid Unicode text")
    if image is None:
        raise BadField("image: bytes were expected, found null")
    image_id = text_or_integer(row, "image_id")
    record = _record(number, image_id, row, image)
    refuse_repeated(image_id, "image_id", seen)
    return record


def _record(number: int, image_id: str, row: dict[str, Any], image: Extent) -> Record:
    captions, dropped = captions_of(row)
    return Record(
        row=number,
        image=image,
        captions=captions,
        dropped_captions=dropped,
        identity=f"luperson_t:{image_id}",
        source="luperson_t",
        split=_split(row),
        file_path=image_id,
    )


def _split(row: dict[str, Any]) -> str:
    """`restval` is training data; a JSON row may leave the split out, which an Arrow row cannot."""
    return "train" if row.get("split", "restval") == "restval" else split_of(row)
