"""The layout that most corpora share: one JSON list of images, each with its captions, its person and its split.

A reader says where the images lie and how a row tells person, corpus and split; what is read and checked is the same.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sharding.record import RawDataset, Record
from sharding.sources.annotation import (
    captions_of,
    each_row,
    image_path,
    load_rows,
    optional_score,
    refuse_repeated,
    split_of,
)

Field = Callable[[dict[str, Any]], str]  # one value taken from a row; raises BadField


def open_rows(
    annotation: Path,
    images: Path,
    *,
    person: Field,
    corpus: Field,
    split: Field = split_of,
    path_field: str = "file_path",
) -> RawDataset:
    """The dataset of a JSON list: one record per row, its image below `images`, its identity `<corpus>:<person>`.

    An image given twice is refused the second time. Raises UserError if the annotation cannot be read or is no list.
    """
    rows = load_rows(annotation)
    seen: set[str] = set()

    def parse(number: int, row: dict[str, Any]) -> Record:
        file_path = image_path(row, path_field)
        captions, dropped = captions_of(row)
        source = corpus(row)
        record = Record(
            row=number,
            image=images / file_path,
            captions=captions,
            dropped_captions=dropped,
            identity=f"{source}:{person(row)}",
            source=source,
            split=split(row),
            score=optional_score(row),
            file_path=file_path,
        )
        refuse_repeated(file_path, path_field, seen)
        return record

    return RawDataset(annotations=(annotation,), expected=len(rows), rows=each_row(rows, parse, path_field))
