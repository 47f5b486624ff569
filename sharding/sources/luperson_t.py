"""LUPerson-T: Arrow files `LUPerson_{train,val,restval,test}.arrow` that hold the image bytes, or one JSON list.

The corpus names no people: every image is its own identity, `luperson_t:<image_id>` (a string or an integer), so a
repeated image_id is refused. `restval` is training data kept apart from the split it is named after, and is packed as
`train`. Rows are numbered through all files in the order above.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharding.errors import UserError
from sharding.record import RawDataset, Record, Reject
from sharding.sources.annotation import (
    BadField,
    captions_of,
    each_row,
    image_path,
    integer,
    kind,
    load_rows,
    only_json,
    printable_path,
    refuse_repeated,
    require_directory,
    split_of,
    text,
)

if TYPE_CHECKING:
    import pyarrow

ARROW_FILES = tuple(f"LUPerson_{split}.arrow" for split in ("train", "val", "restval", "test"))
CAPTION_COLUMNS = ("captions", "caption")


def open_luperson_t(input_dir: Path) -> RawDataset:
    """The Arrow files in `input_dir`, or, where there are none, its only JSON file with images below `imgs/`."""
    require_directory(input_dir)
    annotations = tuple(input_dir / name for name in ARROW_FILES if (input_dir / name).is_file())
    if not annotations:
        return _open_json(input_dir)
    tables = [_open_arrow(path) for path in annotations]
    rows = _arrow_rows(zip(annotations, tables, strict=True))
    return RawDataset(annotations=annotations, expected=sum(table.num_rows for table in tables), rows=rows)


def _open_json(input_dir: Path) -> RawDataset:
    annotation = only_json(input_dir, expected=f"{', '.join(ARROW_FILES)} or one JSON list")
    images = input_dir / "imgs"
    rows = load_rows(annotation)
    seen: set[str] = set()

    def parse(number: int, row: dict[str, Any]) -> Record:
        file_path = image_path(row)
        record = _record(number, file_path, row, images / file_path)
        refuse_repeated(file_path, "file_path", seen)
        return record

    return RawDataset(annotations=(annotation,), expected=len(rows), rows=each_row(rows, parse))


def _open_arrow(path: Path) -> "pyarrow.Table":
    """The memory-mapped table of an Arrow IPC file; its bytes are read as the rows are."""
    import pyarrow as pa

    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except PermissionError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is not an Arrow IPC file: {error}") from None
    repeated = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if repeated:
        raise UserError(f"{path} has more than one column {', '.join(repeated)}")
    missing = [name for name in ("image", "image_id", "split") if name not in table.column_names]
    if not any(name in table.column_names for name in CAPTION_COLUMNS):
        missing.append("caption")
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)}; it has {', '.join(table.column_names)}")
    return table


def _arrow_rows(files: "Iterator[tuple[Path, pyarrow.Table]]") -> Iterator[Record | Reject]:
    seen: set[str] = set()
    number = 0
    for path, table in files:
        captions = next(name for name in CAPTION_COLUMNS if name in table.column_names)
        table = table.select(["image", captions, "image_id", "split"])
        table = table.rename_columns(["image", "captions", "image_id", "split"])
        for batch in table.to_batches(max_chunksize=64):
            for row in _python_rows(batch):
                try:
                    yield _parse_arrow_row(number, row, seen)
                except BadField as error:
                    shown = printable_path(row, "image_id") or path.name
                    yield Reject(row=number, file_path=shown, reason=str(error))
                number += 1


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


def _parse_arrow_row(number: int, row: dict[str, Any] | None, seen: set[str]) -> Record:
    if row is None:
        raise BadField("row: not valid Unicode text")
    image = row["image"]
    if not isinstance(image, bytes):
        raise BadField(f"image: bytes were expected, found {kind(image)}")
    image_id = row["image_id"]
    image_id = str(integer(row, "image_id")) if isinstance(image_id, int) else text(row, "image_id")
    record = _record(number, image_id, row, image)
    refuse_repeated(image_id, "image_id", seen)
    return record


def _record(number: int, image_id: str, row: dict[str, Any], image: Path | bytes) -> Record:
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
