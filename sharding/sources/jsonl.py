"""One's own data as JSON lines: `data.jsonl`, or the only *.jsonl file of the input, one record a line in UTF-8.

    {"image": "imgs/1.jpg", "captions": ["A man in red."], "identity": "12", "split": "val", "source": "lobby"}

| field             |                                                                         | if left out     |
| image             | path of the image, relative to the input                                | row is refused  |
| captions, caption | a list of strings, or one string                                        | a bare image    |
| identity          | string or integer; the packed one is `<source>:<identity>`              | the image's own |
| split             | train, val, test, query, gallery or all                                 | train           |
| source            | where identities are unique; no colon                                   | the name given  |
| score             | image quality, a number                                                 | none            |
| instance_id       | what composed retrieval is judged by: an integer, −1 for a distractor   | none            |

null counts as left out, other fields are passed over, and so are empty lines. Rows are lines, numbered from 0.
"""

import codecs
import json
from collections.abc import Iterator
from functools import partial
from typing import Any

from sharding.errors import UserError
from sharding.record import Extent, RawDataset, Record, Reject
from sharding.sources.annotation import (
    BadField,
    captions_of,
    corpus_of,
    image_path,
    integer,
    kind,
    optional_score,
    optional_split,
    printable_path,
    text_or_integer,
)
from sharding.sources.inputs import only_file, plain_path, refuse_repeated
from sharding.sources.json_rows import LARGEST_ROW, unreadable
from sharding.store import Store

_decode = json.JSONDecoder().raw_decode


def open_jsonl(store: Store, name: str) -> RawDataset:
    """The records of the input; `name` is the source of those that give none.

    UserError if there is no such file, or if its first line is no JSON object.
    """
    annotation = only_file(store, ".jsonl", "data.jsonl", "data.jsonl, or one of any name")
    place = f"{store}/{annotation}"
    for number, line in _lines(store, annotation):
        try:
            _object(line)
        except BadField as error:
            raise UserError(f"{place} holds no JSON object in line {number + 1} ({error}); one record a line") from None
        break
    return RawDataset(annotations=(annotation,), rows=_rows(_lines(store, annotation), name))


def _lines(store: Store, annotation: str) -> Iterator[tuple[int, bytes]]:
    """(number from 0, line) of every line that is not empty."""
    place = f"{store}/{annotation}"
    try:
        with store.open(annotation) as file:
            for number, line in enumerate(iter(partial(file.readline, LARGEST_ROW), b"")):
                if len(line) == LARGEST_ROW:
                    raise UserError(f"{place} has a line {number + 1:,} of more than {LARGEST_ROW >> 20} MiB")
                if not number:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if line := line.strip():
                    yield number, line
    except OSError as error:
        raise unreadable(place, error) from None


def _object(line: bytes) -> dict[str, Any]:
    try:
        text = line.decode()
        row, end = _decode(text)
    except UnicodeDecodeError:
        raise BadField("row: not valid UTF-8") from None
    except (ValueError, RecursionError):
        raise BadField("row: not valid JSON") from None
    if end != len(text):
        raise BadField("row: not valid JSON")
    if type(row) is not dict:
        raise BadField(f"row: an object was expected, found {kind(row)}")
    return row


def _rows(lines: Iterator[tuple[int, bytes]], name: str) -> Iterator[Record | Reject]:
    seen: set[str] = set()
    for number, line in lines:
        outcome: Record | Reject
        row: dict[str, Any] = {}
        try:
            row = _object(line)
            outcome = _record(number, row, name)
            refuse_repeated(outcome.image.path, "image", seen)
        except BadField as error:
            outcome = Reject(number, printable_path(row, "image"), str(error))
        yield outcome


def _record(number: int, row: dict[str, Any], name: str) -> Record:
    file_path = image_path(row, "image")
    path = plain_path(file_path)
    captions, dropped = _captions(row)
    given = row.get
    source = name if given("source") is None else corpus_of(row)
    identity = path if given("identity") is None else text_or_integer(row, "identity")
    if not identity.startswith(f"{source}:"):  # the identity of a packed dataset has its source already
        identity = f"{source}:{identity}"
    instance_id = None if given("instance_id") is None else integer(row, "instance_id")
    split, score = optional_split(row), optional_score(row)
    image = tuple.__new__(Extent, (path, 0, -1))  # what a named tuple's own constructor does, in a quarter of the time
    values = (number, image, captions, identity, source, split, file_path, score, instance_id, dropped)
    return tuple.__new__(Record, values)


def _captions(row: dict[str, Any]) -> tuple[tuple[str, ...], int]:
    """The usable captions and the number dropped; an empty list is a bare image, an empty caption one that was lost."""
    many, one = row.get("captions"), row.get("caption")
    if many is not None and one is not None:
        raise BadField("caption: given beside captions")
    if one is not None:
        return captions_of(row, "caption")
    return captions_of(row) if many is not None and many != [] else ((), 0)
