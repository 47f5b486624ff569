"""PRETRAIN_41K and PRETRAIN_110K: one JSON list over images of two re-identification corpora, two long captions each.

`ID` (a string) is unique only within its `source`, and `id` (an integer) may not be contiguous, so an identity is
`<source>:<ID>`: a person keeps it when both versions of the dataset are mixed.
"""

from functools import partial
from pathlib import Path
from typing import Any

from sharding.record import RawDataset, Record
from sharding.sources.annotation import (
    BadField,
    captions_of,
    each_row,
    find_annotation,
    image_path,
    load_rows,
    optional_score,
    refuse_repeated,
    split_of,
    text,
)


def open_pretrain(name: str, input_dir: Path) -> RawDataset:
    """The dataset whose annotation is called `name`, with the images below `imgs/`."""
    annotation = find_annotation(input_dir, name)
    images = input_dir / "imgs"
    rows = load_rows(annotation)
    seen: set[str] = set()

    def parse(number: int, row: dict[str, Any]) -> Record:
        file_path = image_path(row)
        captions, dropped = captions_of(row)
        source = text(row, "source")
        if ":" in source:
            raise BadField("source: a colon would make its identities ambiguous")
        record = Record(
            row=number,
            image=images / file_path,
            captions=captions,
            dropped_captions=dropped,
            identity=f"{source}:{text(row, 'ID')}",
            source=source,
            split=split_of(row),
            score=optional_score(row),
            file_path=file_path,
        )
        refuse_repeated(file_path, "file_path", seen)
        return record

    return RawDataset(annotations=(annotation,), expected=len(rows), rows=each_row(rows, parse))


open_41k = partial(open_pretrain, "PRETRAIN_41K.json")
open_110k = partial(open_pretrain, "PRETRAIN_110K.json")
