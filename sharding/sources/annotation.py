"""The checks every source makes on a raw row: one small function per kind of field, so that all sources judge alike.

A field that is missing or of the wrong type raises BadField; `each_row` turns that into a Reject with the row number.
Millions of rows pass through, so each check first looks whether the value is of the ordinary kind, and only then what
else it may be.
"""

import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

from sharding.record import Record, Reject

SPLITS = ("train", "val", "test")
OTHER_SPLITS = ("query", "gallery", "all")  # of composed retrieval, and of a benchmark whose annotation tells no splits
LARGEST_INTEGER = 2**63 - 1
INVISIBLE = {"Cc", "Cf", "Zl", "Zp", "Zs"}  # Unicode categories: controls, formats such as U+200B, separators
PRINTABLE = bytes(range(ord(" "), ord("~") + 1))
_ABSENT = object()


class BadField(Exception):
    """A row cannot be used; the message names the field and what was found in it."""


def each_row(
    rows: Iterable[Any],
    parse: Callable[[int, dict[str, Any]], Record],
    path_field: str = "file_path",
    *,
    begin: int = 0,
) -> Iterator[Record | Reject]:
    """`parse(row number, row)` of every row, with a Reject in place of each row it refuses.

    `path_field` is where a refused row gives its image, `begin` the number of the first row.
    """
    for number, row in enumerate(rows, begin):
        outcome: Record | Reject
        try:
            if type(row) is not dict:
                raise BadField(f"row: an object was expected, found {kind(row)}")
            outcome = parse(number, row)
        except BadField as error:
            outcome = Reject(number, printable_path(row, path_field), str(error))
        yield outcome


def kind(value: Any) -> str:
    """What a JSON value is, in JSON's words."""
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "list", dict: "object"}
    return names.get(type(value), "null" if value is None else type(value).__name__)


def text(row: dict[str, Any], field: str) -> str:
    """A non-empty string that UTF-8 can hold."""
    value = row.get(field)
    if type(value) is str and value.isascii() and value.isprintable() and value and not value.isspace():
        return value
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


def text_or_integer(row: dict[str, Any], field: str) -> str:
    """A name that corpora give as a string or as an integer."""
    value = row.get(field)
    return str(integer(row, field)) if type(value) is int else text(row, field)


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
    value = row.get("split")
    if type(value) is not str or value not in SPLITS:
        text(row, "split")
        raise BadField(f"split: none of {', '.join(SPLITS)}")
    return value


def optional_split(row: dict[str, Any]) -> str:
    """The split of a row of one's own data: any that packed datasets have, `train` where the row gives none."""
    value = row.get("split")
    if value is None:
        return "train"
    if type(value) is not str or value not in (*SPLITS, *OTHER_SPLITS):
        text(row, "split")
        raise BadField(f"split: none of {', '.join((*SPLITS, *OTHER_SPLITS))}")
    return value


def corpus_of(row: dict[str, Any], field: str = "source") -> str:
    """The row's `source`, the older corpus its image was taken from: ids of people are unique only within one."""
    value = text(row, field)
    if ":" in value:
        raise BadField(f"{field}: a colon would make its identities ambiguous")
    return value


def captions_of(row: dict[str, Any], field: str = "captions") -> tuple[tuple[str, ...], int]:
    """The usable captions of a row, cleaned, and the number dropped. A bare string counts as one caption."""
    value = row.get(field, _ABSENT)
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list):
        found = "missing" if value is _ABSENT else f"a list of strings was expected, found {kind(value)}"
        raise BadField(f"{field}: {found}")
    kept = []
    for caption in listed:
        if not isinstance(caption, str):
            raise BadField(f"{field}: strings were expected, found {kind(caption)}")
        if cleaned := clean_caption(caption):
            kept.append(cleaned)
    if not kept:
        raise BadField(f"{field}: empty" if all(map(is_utf8, listed)) else f"{field}: not valid Unicode text")
    return tuple(kept), len(listed) - len(kept)


def one_caption(row: dict[str, Any], field: str) -> str:
    """The caption, cleaned, of a field that must hold a plain string."""
    _string(row, field)
    (caption,), _ = captions_of(row, field)
    return caption


def clean_caption(caption: str) -> str:
    """The caption in Unicode NFC with white space made single; '' if nothing is visible or UTF-8 cannot hold it."""
    if caption.isascii():
        # Nearly every caption is clean already; these tell in 0.7 µs for 70 words, splitting and joining takes 2.7.
        odd = "  " in caption or caption[:1] in " " or caption[-1] == " " or caption.encode().translate(None, PRINTABLE)
        if not odd:
            return caption
    elif not is_utf8(caption):
        return ""
    cleaned = " ".join(unicodedata.normalize("NFC", caption.replace("\0", " ")).split())
    return "" if all(unicodedata.category(character) in INVISIBLE for character in cleaned) else cleaned


def is_utf8(value: str) -> bool:
    """Whether UTF-8 can hold the string: JSON may smuggle in lone surrogates, which cannot be written anywhere."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def image_path(row: dict[str, Any], field: str = "file_path") -> str:
    """The relative path of the row's image; one that leaves the dataset's folder is refused."""
    value = text(row, field)
    if value[0] == "/" or (".." in value and ".." in PurePosixPath(value).parts):
        raise BadField(f"{field}: leads out of the input folder")
    return value


def printable_path(row: Any, field: str = "file_path") -> str:
    """The path a refused row gives, made fit for the table of rejects; '' where it gives none."""
    value = row.get(field) if isinstance(row, dict) else None
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else ""
