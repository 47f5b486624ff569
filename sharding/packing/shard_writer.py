"""Writes the tar of one shard, sample by sample, and keeps what its index will say of them."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from sharding.files import TEMPORARY, sync
from sharding.index import MEMBERS, canonical_json, sample_schema
from sharding.packing.images import CheckedImage
from sharding.tar import TarWriter

if TYPE_CHECKING:
    import pyarrow

FROM_RECORD = ("identity", "source", "score", "instance_id", "row", "file_path")  # columns that planning made


class PlannedRecord(NamedTuple):
    """A row of the table of records, `spool.record_schema`."""

    number: int
    row: int
    path: str
    offset: int
    size: int
    captions: list[str]
    identity: str
    source: str
    file_path: str
    score: float | None
    instance_id: int | None


class ShardWriter:
    """Collects samples in a file of the scratch folder, which goes when the context is left."""

    def __init__(self, folder: Path, name: str, split: str) -> None:
        self._name, self._split = name, split
        # Not the shard's own name: a task that is tried again must not write into the file of one that lives on.
        self.path = folder / f"{TEMPORARY}{uuid4().hex}.tar"
        self._rows: list[tuple[Any, ...]] = []  # in the order of `_written_columns`
        self._taken: list[int] = []  # which records these are of

    def __enter__(self) -> "ShardWriter":
        self._file = self.path.open("wb", buffering=0)
        self._tar = TarWriter(self._file)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)

    @property
    def samples(self) -> int:
        """How many there are."""
        return len(self._rows)

    def add(self, place: int, record: PlannedRecord, image: CheckedImage) -> None:
        """Append the sample of a record, which is the one at `place` of its table."""
        captions = record.captions
        key = f"{self._name}-{record.number:09d}"
        metadata = {
            "captions": captions,
            "identity": record.identity,
            "source": record.source,
            "split": self._split,
            "score": record.score,
            "instance_id": record.instance_id,
            "width": image.width,
            "height": image.height,
            "file_path": record.file_path,
        }
        text = captions[0].encode() if captions else b""
        data, described = image.data, canonical_json(metadata)
        offsets = self._tar.add((f"{key}.{image.ext}", data), (f"{key}.txt", text), (f"{key}.json", described))
        hashes = [hashlib.sha256(content).digest() for content in (data, text, described)]
        sizes = (len(data), len(text), len(described))
        words = [len(caption.split()) for caption in captions]
        self._rows.append((key, image.ext, *offsets, *sizes, *hashes, words, image.width, image.height))
        self._taken.append(place)

    def finish(self) -> tuple[int, str]:
        """End the tar and have it on the disk; returns (bytes, sha256)."""
        sha256 = self._tar.finish()
        sync(self._file)
        self._file.close()
        return self._tar.bytes, sha256

    def index(self, records: "pyarrow.Table") -> "pyarrow.Table":
        """The index of what was added, from that and the records' own columns."""
        import pyarrow as pa

        schema = sample_schema()
        written = zip(*self._rows, strict=True) if self._rows else [()] * len(_written_columns())
        columns: dict[str, Any] = dict(zip(_written_columns(), map(list, written), strict=True))
        kept = records.take(pa.array(self._taken, pa.int64())) if len(self._taken) < records.num_rows else records
        columns |= {name: kept[name] for name in FROM_RECORD} | {"split": [self._split] * self.samples}
        return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def _written_columns() -> list[str]:
    parts = [f"{member}_{what}" for what in ("offset", "size", "sha256") for member in MEMBERS]
    return ["key", "ext", *parts, "caption_words", "width", "height"]
