"""CUHK-PEDES: `reid_raw.json` (or the original `caption_all.json`) with the images below `imgs/`.

`caption_all.json` names no splits and the standard ones cannot be derived from it: its images are packed as split
`all`, which no run trains on unless told to, rather than as `train`, which would leak the test people.
"""

from pathlib import Path
from typing import Any

from sharding.record import RawDataset, Record
from sharding.sources.annotation import (
    captions_of,
    each_row,
    find_annotation,
    image_path,
    integer,
    load_rows,
    refuse_repeated,
    split_of,
)


def open_cuhk_pedes(input_dir: Path) -> RawDataset:
    """The dataset in `input_dir`; `reid_raw.json` wins where both annotation files lie there."""
    annotation = find_annotation(input_dir, "reid_raw.json", "caption_all.json")
    has_splits = annotation.name == "reid_raw.json"
    images = input_dir / "imgs"
    rows = load_rows(annotation)
    seen: set[str] = set()

    def parse(number: int, row: dict[str, Any]) -> Record:
        file_path = image_path(row)
        captions, dropped = captions_of(row)
        record = Record(
            row=number,
            image=images / file_path,
            captions=captions,
            dropped_captions=dropped,
            identity=f"cuhk_pedes:{integer(row, 'id')}",
            source="cuhk_pedes",
            split=split_of(row) if has_splits else "all",
            file_path=file_path,
        )
        refuse_repeated(file_path, "file_path", seen)
        return record

    return RawDataset(annotations=(annotation,), expected=len(rows), rows=each_row(rows, parse))
