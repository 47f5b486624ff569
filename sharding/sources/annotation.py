"""The checks every source makes on a raw row: one small function per kind of field, so that all sources judge alike.

A field that is missing or of the wrong type raises BadField; `each_row` turns that into a Reject with the row number.
"""

import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from sharding.errors import UserError
from sharding.record import Record, Reject

SPLITS = ("train", "val", "test")
LARGEST_INTEGER = 2**63 - 1
INVISIBLE = {"Cc", "Cf", "Zl", "Zp", "Zs"}  # Unicode categories: controls, formats such as U+200B, separators
_ABSENT = object()


class BadField(Exception):
    """A row cannot be used; the message names the field and what was found in it."""


def find_annotation(input_dir: Path, *names: str) -> Path:
    """The first of `names` that is a file in `input_dir`; UserError naming what was looked for."""
    require_directory(input_dir)
    for name in names:
        if (input_dir / name).is_file():
            return input_dir / name
    raise UserError(f"{input_dir} holds no {' or '.join(names)}")


def only_json(input_dir: Path, expected: str = "one, the annotation") -> Path:
    """The only JSON file in `input_dir`, whatever its name; UserError that lists them where there is not just one."""
    require_directory(input_dir)
    found = sorted(path for path in input_dir.glob("*.json") if path.is_file())
    if len(found) != 1:
        names = f" ({', '.join(path.name for path in found[:4])}{', …' if len(found) > 4 else ''})" if found else ""
        raise UserError(f"{input_dir} holds {len(found)} *.json files{names}; expected {expected}")
    return found[0]


def require_directory(input_dir: Path) -> None:
    """UserError unless the folder of the raw dataset is one."""
    if not input_dir.is_dir():
        raise UserError(f"{input_dir} is not a directory; --input names the folder of the raw dataset")


def load_rows(path: Path) -> list[Any]:
    """The list in a JSON annotation file; UserError if it cannot be read, is not valid JSON or not a list."""
    try:
        rows = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(rows, list):
        raise UserError(f"{path} holds a JSON {kind(rows)}; a list of rows was expected")
    return rows


def each_row(
    rows: Iterable[Any], parse: Callable[[int, dict[str, Any]], Record], path_field: str = "file_path"
) -> Iterator[Record | Reject]:
    """`parse(row number, row)` of every row, with a Reject in place of each row it refuses.

    `path_field` is where a refused row gives its image.
    """
    for number, row in enumerate(rows):
        try:
            if not isinstance(row, dict):
                raise BadField(f"row: an object was expected, found {kind(row)}")
            yield parse(number, row)
        except BadField as error:
            yield Reject(row=number, file_path=printable_path(row, path_field), reason=str(error))


def kind(value: Any) -> str:
    """What a JSON value is, in JSON's words."""
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "list", dict: "object"}
    return names.get(type(value), "null" if value is None else type(value).__name__)


def text(row: dict[str, Any], field: str) -> str:
    """A non-empty string that UTF-8 can hold."""
    value = _string(row, field)
    if not value.strip():
        raise BadField(f"{field}: empty")
    if not is_utf8(value):
        raise BadField(f"{field}: not valid Unicode text")
    if "\0" in value:
        raise BadField(f"{field}: holds a control character")
    return value


def _string(row: dict[str, Any], field: str) -> str:
    value = row.get(field, _ABSENT)
    if value is _ABSENT:
        raise BadField(f"{field}: missing")
    if not isinstance(value, str):
        raise BadField(f"{field}: a string was expected, found {kind(value)}")
    return value


def integer(row: dict[str, Any], field: str) -> int:
    """An integer of at most 64 bits; true and false are none."""
    value = row.get(field, _ABSENT)
    if value is _ABSENT:
        raise BadField(f"{field}: missing")
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadField(f"{field}: an integer was expected, found {kind(value)}")
    if abs(value) > LARGEST_INTEGER:
        raise BadField(f"{field}: beyond 64 bits")
    return value


def optional_score(row: dict[str, Any]) -> float | None:
    """The image quality `score`: a finite number, or None where the row gives none."""
    value = row.get("score")
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise BadField(f"score: a number was expected, found {kind(value)}")
    if not abs(value) < 1e30:  # false for NaN too
        raise BadField("score: not a finite number")
    return float(value)


def split_of(row: dict[str, Any]) -> str:
    """The row's split, one of train, val, test: a misspelt split would be packed where no run ever reads it."""
    value = text(row, "split")
    if value not in SPLITS:
        raise BadField(f"split: none of {', '.join(SPLITS)}")
    return value


def corpus_of(row: dict[str, Any]) -> str:
    """The row's `source`, the older corpus its image was taken from: ids of people are unique only within one."""
    value = text(row, "source")
    if ":" in value:
        raise BadField("source: a colon would make its identities ambiguous")
    return value


def captions_of(row: dict[str, Any], field: str = "captions") -> tuple[tuple[str, ...], int]:
    """The usable captions of a row, cleaned, and the number dropped. A bare string counts as one caption."""
    value = row.get(field, _ABSENT)
    if value is _ABSENT:
        raise BadField(f"{field}: missing")
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list):
        raise BadField(f"{field}: a list of strings was expected, found {kind(value)}")
    for item in listed:
        if not isinstance(item, str):
            raise BadField(f"{field}: strings were expected, found {kind(item)}")
    kept = tuple(caption for caption in map(clean_caption, listed) if caption)
    if not kept:
        raise BadField(f"{field}: empty" if all(map(is_utf8, listed)) else f"{field}: not valid Unicode text")
    return kept, len(listed) - len(kept)


def one_caption(row: dict[str, Any], field: str) -> str:
    """The caption, cleaned, of a field that must hold a plain string."""
    _string(row, field)
    (caption,), _ = captions_of(row, field)
    return caption


def clean_caption(caption: str) -> str:
    """The caption in Unicode NFC with white space made single; '' if nothing is visible or UTF-8 cannot hold it."""
    if not is_utf8(caption):
        return ""
    cleaned = " ".join(unicodedata.normalize("NFC", caption.replace("\0", " ")).split())
    return "" if all(unicodedata.category(character) in INVISIBLE for character in cleaned) else cleaned


def refuse_repeated(value: str, field: str, seen: set[str]) -> None:
    """BadField if an earlier row gave the value too; otherwise it is added to `seen`."""
    if value in seen:
        raise BadField(f"{field}: already given by an earlier row")
    seen.add(value)


def is_utf8(value: str) -> bool:
    """Whether UTF-8 can hold the string: JSON may smuggle in lone surrogates, which cannot be written anywhere."""
    return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)


def image_path(row: dict[str, Any], field: str = "file_path") -> str:
    """The relative path of the row's image; one that leaves the dataset's folder is refused."""
    value = text(row, field)
    if value.startswith("/") or ".." in PurePosixPath(value).parts:
        raise BadField(f"{field}: leads out of the input folder")
    return value


def printable_path(row: Any, field: str = "file_path") -> str:
    """The path a refused row gives, made fit for the table of rejects; '' where it gives none."""
    value = row.get(field) if isinstance(row, dict) else None
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else ""
