"""ITCPR, the benchmark of composed person retrieval: `query.json` and `gallery.json`, images below the input itself.

A query is a reference image with a relative caption; it asks for the gallery images of its `instance_id`. People are
`<datasets>:<person_id>`, for ids repeat between the three corpora the images come from. Splits are `query` and
`gallery`; gallery images have no captions. Rows are numbered through both files, queries first. An image repeated with
nothing new is refused the second time, as is a distractor that another row makes a target; one that is the target of
two instances is packed for each, for a sample has one instance_id. So no right answer is lost and none counts twice.
"""

from collections.abc import Iterator
from typing import Any

from sharding.record import Extent, RawDataset, Record, Reject
from sharding.sources.annotation import BadField, captions_of, corpus_of, each_row, image_path, integer, text_or_integer
from sharding.sources.inputs import find_annotation, plain_path
from sharding.sources.json_rows import json_rows
from sharding.store import Store

QUERY, GALLERY = "query.json", "gallery.json"
DISTRACTOR = -1  # the instance_id of gallery images that no query asks for


def open_itcpr(store: Store) -> RawDataset:
    """The benchmark, from both of its files."""
    annotations = (find_annotation(store, QUERY), find_annotation(store, GALLERY))
    queries, gallery = (json_rows(store, name) for name in annotations)
    return RawDataset(annotations=annotations, rows=_rows(queries, gallery))


def _rows(queries: Iterator[Any], gallery: Iterator[Any]) -> Iterator[Record | Reject]:
    listed = list(queries)  # 2,202 of them, and 20,510 in the gallery
    yield from each_row(listed, _Queries().parse)
    images = list(gallery)
    yield from each_row(images, _Gallery(images).parse, begin=len(listed))


class _Queries:
    """The rows of query.json; a reference image may come with several captions or for several instances."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, tuple[str, ...], int]] = set()

    def parse(self, number: int, row: dict[str, Any]) -> Record:
        """One query; BadField if it cannot be used."""
        captions, dropped = captions_of(row, "caption")
        instance_id = instance_of(row)
        if instance_id == DISTRACTOR:
            raise BadField("instance_id: a query asks for one, -1 is none")
        record = _record(number, row, "query", instance_id)._replace(captions=captions, dropped_captions=dropped)
        query = (record.image.path, captions, instance_id)
        if query in self.seen:
            raise BadField("file_path: already given by an earlier row")
        self.seen.add(query)
        return record


class _Gallery:
    """The rows of gallery.json."""

    def __init__(self, rows: list[Any]) -> None:
        self.targets = {row.get("file_path") for row in rows if isinstance(row, dict) and _is_target(row)}
        self.seen: set[tuple[str, int]] = set()

    def parse(self, number: int, row: dict[str, Any]) -> Record:
        """One gallery image; BadField if it cannot be used."""
        instance_id = instance_of(row)
        record = _record(number, row, "gallery", instance_id)
        if instance_id == DISTRACTOR and record.file_path in self.targets:
            raise BadField("file_path: a distractor here, but a target in another row")
        if (record.image.path, instance_id) in self.seen:
            raise BadField("file_path: already given by an earlier row")
        self.seen.add((record.image.path, instance_id))
        return record


def _is_target(row: dict[str, Any]) -> bool:
    """Whether the row makes a target of its image, and can be packed."""
    try:
        return _record(0, row, "gallery", instance_of(row)).instance_id != DISTRACTOR
    except BadField:
        return False


def instance_of(row: dict[str, Any]) -> int:
    """The row's `instance_id`: 0 or more, or that of a distractor."""
    value = integer(row, "instance_id")
    if value < DISTRACTOR:
        raise BadField("instance_id: below -1")
    return value


def _record(number: int, row: dict[str, Any], split: str, instance_id: int) -> Record:
    file_path, source = image_path(row), corpus_of(row, "datasets")
    return Record(
        row=number,
        image=Extent(plain_path(file_path)),
        captions=(),
        identity=f"{source}:{text_or_integer(row, 'person_id')}",
        source=source,
        split=split,
        file_path=file_path,
        instance_id=instance_id,
    )
