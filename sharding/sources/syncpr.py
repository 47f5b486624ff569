"""SynCPR: a JSON list of triplets (reference image, edit caption, target image) over generated images.

An image occurs in many rows but is stored once, with the distinct captions it was given. The corpus names no people:
an image's person is the caption it was generated from, so images of one caption share an identity and the two sides
of a pair differ. That identity is `syncpr:<cpr_id>-<reference|target>`, the smallest place where the caption stands.
All images are split `train`: the corpus has no other.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharding.record import RawDataset, Record, Reject, Triplet
from sharding.sources.annotation import (
    BadField,
    find_annotation,
    image_path,
    integer,
    kind,
    load_rows,
    one_caption,
    printable_path,
)

SIDES = ("reference", "target")


@dataclass
class _Collected:
    """What one pass over the rows gathers: captions by image, first row by image, the place of each caption."""

    captions: dict[str, list[str]] = field(default_factory=dict)
    first_row: dict[str, int] = field(default_factory=dict)
    place: dict[str, tuple[int, str]] = field(default_factory=dict)
    pairs: list[tuple[int, str, str, str, int]] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)


def open_syncpr(input_dir: Path) -> RawDataset:
    """The dataset in `input_dir`: `SynCPR.json`, whose image paths are relative to the folder itself."""
    annotation = find_annotation(input_dir, "SynCPR.json")
    collected = _Collected()
    for number, row in enumerate(load_rows(annotation)):
        try:
            _collect(collected, number, row)
        except BadField as error:
            path = printable_path(row, "reference_image_path")
            collected.rejects.append(Reject(row=number, file_path=path, reason=str(error)))
    expected = len(collected.captions) + len(collected.rejects)
    return RawDataset(annotations=(annotation,), expected=expected, rows=_rows(input_dir, collected))


def _collect(collected: _Collected, number: int, row: Any) -> None:
    if not isinstance(row, dict):
        raise BadField(f"row: an object was expected, found {kind(row)}")
    reference, target = (image_path(row, f"{side}_image_path") for side in SIDES)
    captions = [one_caption(row, f"{side}_caption") for side in SIDES]
    edit_caption = one_caption(row, "edit_caption")
    cpr_id = integer(row, "cpr_id")
    for side, path, caption in zip(SIDES, (reference, target), captions, strict=True):
        collected.first_row.setdefault(path, number)
        known = collected.captions.setdefault(path, [])
        if caption not in known:
            known.append(caption)
        collected.place[caption] = min(collected.place.get(caption, (cpr_id, side)), (cpr_id, side))
    collected.pairs.append((number, reference, target, edit_caption, cpr_id))


def _rows(input_dir: Path, collected: _Collected) -> Iterator[Record | Reject | Triplet]:
    yield from collected.rejects
    position: dict[str, int] = {}
    for path, captions in collected.captions.items():
        cpr_id, side = collected.place[captions[0]]
        position[path] = len(position)
        yield Record(
            row=collected.first_row[path],
            image=input_dir / path,
            captions=tuple(captions),
            identity=f"syncpr:{cpr_id}-{side}",
            source="syncpr",
            split="train",
            file_path=path,
        )
    for number, reference, target, edit_caption, cpr_id in collected.pairs:
        yield Triplet(
            row=number,
            reference=position[reference],
            target=position[target],
            edit_caption=edit_caption,
            cpr_id=cpr_id,
        )
