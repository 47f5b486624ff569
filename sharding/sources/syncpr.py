"""SynCPR: a JSON list of triplets (reference image, edit caption, target image) over generated images.

An image occurs in many rows but is stored once, with the distinct captions it was given. The corpus names no people:
an image's person is the caption it was generated from, so images of one caption share an identity and the two sides
of a pair differ. That identity is `syncpr:<cpr_id>-<reference|target>`, the smallest place where the caption stands.
All images are split `train`: the corpus has no other.

Which captions an image has is known only after the last row, so all rows are held: numbers in arrays, and every
distinct path and caption once: 31 MB per 100,000 triplets of the corpus's make, 360 MB for all of it.
"""

from array import array
from collections.abc import Iterator
from typing import Any

from sharding.record import Extent, RawDataset, Record, Reject, Triplet
from sharding.sources.annotation import BadField, image_path, integer, kind, one_caption, printable_path
from sharding.sources.inputs import find_annotation, plain_path
from sharding.sources.json_rows import json_rows
from sharding.store import Store

SIDES = ("reference", "target")


def open_syncpr(store: Store) -> RawDataset:
    """The dataset of `SynCPR.json`, whose image paths are relative to the input itself."""
    annotation = find_annotation(store, "SynCPR.json")
    return RawDataset(
        annotations=(annotation,),
        rows=_rows(json_rows(store, annotation)),
        has_triplets=True,
    )


def _rows(rows: Iterator[Any]) -> Iterator[Record | Reject | Triplet]:
    collected = _Collected()
    for number, row in enumerate(rows):
        try:
            collected.add(number, row)
        except BadField as error:
            yield Reject(number, printable_path(row, "reference_image_path"), str(error))
    yield from collected.records()
    yield from collected.triplets()


class _Numbered(dict[str, int]):
    """Distinct strings in the order they came, each with its number."""

    def number(self, value: str) -> int:
        return self.setdefault(value, len(self))


class _Collected:
    """What one pass over the rows gathers. Images and captions go by number; arrays are indexed by it."""

    def __init__(self) -> None:
        self.images, self.captions, self.edits = _Numbered(), _Numbered(), _Numbered()
        self.image_row, self.image_caption = array("i"), array("i")  # the first row and the first caption
        self.more_captions: dict[int, list[int]] = {}  # of the few images that were given others too
        self.place_id, self.place_side = array("q"), array("b")  # of captions: the smallest (cpr_id, side)
        self.pairs = tuple(array(code) for code in "iiiiq")  # row, reference, target, edit caption, cpr_id

    def add(self, number: int, row: Any) -> None:
        """Take in one row; BadField if it cannot be used, and then nothing of it is kept."""
        if not isinstance(row, dict):
            raise BadField(f"row: an object was expected, found {kind(row)}")
        paths = [image_path(row, f"{side}_image_path") for side in SIDES]
        captions = [one_caption(row, f"{side}_caption") for side in SIDES]
        edit_caption, cpr_id = one_caption(row, "edit_caption"), integer(row, "cpr_id")
        images = [
            self._image(number, path, self._caption(caption, cpr_id, side))
            for side, (path, caption) in enumerate(zip(paths, captions, strict=True))
        ]
        pair = (number, *images, self.edits.number(edit_caption), cpr_id)
        for column, value in zip(self.pairs, pair, strict=True):
            column.append(value)

    def _image(self, row: int, path: str, caption: int) -> int:
        image = self.images.number(plain_path(path))
        if image == len(self.image_row):
            self.image_row.append(row)
            self.image_caption.append(caption)
        elif caption != self.image_caption[image]:
            others = self.more_captions.setdefault(image, [])
            if caption not in others:
                others.append(caption)
        return image

    def _caption(self, caption: str, cpr_id: int, side: int) -> int:
        number = self.captions.number(caption)
        if number == len(self.place_id):
            self.place_id.append(cpr_id)
            self.place_side.append(side)
        elif (cpr_id, side) < (self.place_id[number], self.place_side[number]):
            self.place_id[number], self.place_side[number] = cpr_id, side
        return number

    def records(self) -> Iterator[Record]:
        """Every image once, in the order of their first rows."""
        captions = list(self.captions)
        for path, image in self.images.items():
            first = self.image_caption[image]
            yield Record(
                row=self.image_row[image],
                image=Extent(path),
                captions=tuple(captions[number] for number in (first, *self.more_captions.get(image, ()))),
                identity=f"syncpr:{self.place_id[first]}-{SIDES[self.place_side[first]]}",
                source="syncpr",
                split="train",
                file_path=path,
            )

    def triplets(self) -> Iterator[Triplet]:
        """Every usable row as a triplet, in order."""
        edits = list(self.edits)
        for row, reference, target, edit, cpr_id in zip(*self.pairs, strict=True):
            yield Triplet(row, reference, target, edits[edit], cpr_id)
