"""The layout that most corpora share: one JSON list of images, each with its captions, its person and its split.

A reader says where the images lie and how a row tells person, corpus and split; what is read and checked is the same.
"""

from collections.abc import Callable
from typing import Any

from sharding.record import Extent, RawDataset, Record
from sharding.sources.annotation import captions_of, each_row, image_path, optional_score, split_of
from sharding.sources.inputs import plain_path, refuse_repeated
from sharding.sources.json_rows import json_rows
from sharding.store import Store

Field = Callable[[dict[str, Any]], str]  # one value taken from a row; raises BadField


def open_rows(
    store: Store,
    annotation: str,
    images: str,
    *,
    person: Field,
    corpus: Field,
    split: Field = split_of,
    path_field: str = "file_path",
) -> RawDataset:
    """The dataset of a JSON list: one record per row, its image below `images`, its identity `<corpus>:<person>`.

    `images` is a folder of the input, with a `/` at its end. An image given twice is refused the second time. Raises
    UserError if the annotation cannot be read or is no list.
    """
    seen: set[str] = set()

    def parse(number: int, row: dict[str, Any]) -> Record:
        file_path = image_path(row, path_field)
        path = plain_path(images + file_path)
        captions, dropped = captions_of(row)
        source = corpus(row)
        identity = f"{source}:{person(row)}"
        chosen, score = split(row), optional_score(row)
        refuse_repeated(path, path_field, seen)
        image = tuple.__new__(Extent, (path, 0, -1))  # a named tuple's own constructor takes four times as long
        values = (number, image, captions, identity, source, chosen, file_path, score, None, dropped)
        return tuple.__new__(Record, values)

    rows = each_row(json_rows(store, annotation), parse, path_field)
    return RawDataset(annotations=(annotation,), rows=rows)
