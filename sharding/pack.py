"""Packs a raw dataset: rows → checked samples → shards with their indexes → `dataset.json`, which publishes it all.

The bytes written follow from the input and the settings alone. An interrupted packing is resumed by running it again:
finished shards are kept, everything else is written anew, and the root hash comes out the same if the input is
unchanged. Annotations are compared by hash; images that lie in a finished shard already are not read again.
"""

import hashlib
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharding.claim import MARKER, claimed, refuse_another_job
from sharding.errors import UserError
from sharding.images import BadImage, check_image, read_image
from sharding.index import (
    SCHEMA_VERSION,
    Dataset,
    Shard,
    canonical_json,
    content_hash,
    fingerprint,
    index_path,
    open_dataset,
    publish,
    read_dataset_json,
    read_rejects,
    table_bytes,
    write_durably,
)
from sharding.record import RawDataset, Record, Reject, Triplet
from sharding.shard import ShardWriter, find_done, sample_members
from sharding.sources import SOURCES

if TYPE_CHECKING:
    import pyarrow

SHARD_BYTES = 64 << 20
SHARD_SAMPLES = 10_000


@dataclass(frozen=True, kw_only=True)
class Packed:
    """What `pack` did: the dataset, the rows in `rejects.parquet` per reason, the images this call wrote in `seconds`.

    `already_complete` is True where an earlier call had left nothing to do.
    """

    dataset: Dataset
    reject_reasons: dict[str, int]
    images_written: int
    seconds: float
    already_complete: bool


def pack(
    source: str,
    input_dir: Path,
    out: Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    shard_samples: int = SHARD_SAMPLES,
    progress: Callable[[int, int], None] | None = None,
) -> Packed:
    """Pack the raw dataset `source` in `input_dir` into the folder `out`, or finish an interrupted packing there.

    A shard is closed before it would pass `shard_bytes` or hold more than `shard_samples`. Rows that cannot be packed
    go to `rejects.parquet`, as do images that lost captions. `progress(rows done, rows expected)` is called after every
    row. Finishing an interrupted packing gives the same dataset if the input is unchanged: an annotation that changed
    is refused, but an image replaced after its shard was finished stays as it was packed. Raises UserError, before
    anything is written, if the input is not such a dataset or `out` holds something else.
    """
    raw = SOURCES[source](input_dir)
    settings = {"source": source, "shard_bytes": shard_bytes, "shard_samples": shard_samples}
    annotations = {path.name: fingerprint(path) for path in raw.annotations}
    job = {"schema_version": SCHEMA_VERSION, "settings": settings, "annotations": annotations}
    if (out / "dataset.json").exists():
        return _complete(out, job)
    start = time.perf_counter()
    with claimed(out, job):
        packing = _Packing(out, settings, content_hash(job))
        packing.run(raw, progress)
        dataset = packing.publish(annotations)
    return Packed(
        dataset=dataset,
        reject_reasons=_reason_counts([reject.reason for reject in packing.rejects]),
        images_written=packing.written,
        seconds=time.perf_counter() - start,
        already_complete=False,
    )


def _complete(out: Path, job: dict[str, Any]) -> Packed:
    """The outcome where `out` is published already, by the same job."""
    dataset = open_dataset(out)
    refuse_another_job(out, read_dataset_json(out), job)
    reasons = read_rejects(dataset)["reason"].to_pylist()
    if (out / MARKER).exists():  # killed between the last two steps
        (out / MARKER).unlink()
    return Packed(
        dataset=dataset,
        reject_reasons=_reason_counts(reasons),
        images_written=0,
        seconds=0.0,
        already_complete=True,
    )


def _reason_counts(reasons: list[str]) -> dict[str, int]:
    """The number of rejects per reason, the commonest first, ties by name."""
    return dict(sorted(Counter(reasons).items(), key=lambda item: (-item[1], item[0])))


@dataclass
class _Lane:
    """The shards of one split in the making: the open one, or the samples still to come of a kept one.

    `number` is that of the shard at hand, or of the next where none is.
    """

    number: int = 0
    writer: ShardWriter | None = None
    kept: deque[tuple[int, str, str]] = field(default_factory=deque)


class _Packing:
    """One pass over the rows. Shards close in the order they fill, one open shard per split."""

    def __init__(self, out: Path, settings: dict[str, Any], job_hash: str) -> None:
        self.out = out
        self.settings = settings
        self.job_hash = job_hash
        self.lanes: dict[str, _Lane] = {}
        self.done = find_done(out, job_hash)
        self.heads: dict[str, deque[tuple[int, str, str]]] = {}
        self.shards: list[Shard] = []
        self.numbers = array("q")  # per record, in the order of the source: its sample number, or −1 if refused
        self.accepted = 0
        self.written = 0
        self.rejects: list[Reject] = []
        self.triplets: list[Triplet] = []

    def run(self, raw: RawDataset, progress: Callable[[int, int], None] | None) -> None:
        """Write every shard."""
        done = 0
        for row in raw.rows:
            if isinstance(row, Triplet):
                self._take_triplet(row)
                continue
            if isinstance(row, Record):
                self._take_record(row)
            else:
                self.rejects.append(row)
            done += 1
            if progress:
                progress(done, raw.expected)
        for lane in self.lanes.values():
            self._close(lane)
        if self.done or any(lane.kept for lane in self.lanes.values()):
            raise self._changed()
        if not self.accepted:
            commonest = next(iter(_reason_counts([reject.reason for reject in self.rejects])), "there are no rows")
            raise UserError(f"no image could be packed ({len(self.rejects)} rows rejected; mostly {commonest})")

    def _take_record(self, record: Record) -> None:
        lane = self.lanes.setdefault(record.split, _Lane())
        if not self._is_kept(lane, record):
            try:
                self._write(lane, record)
            except BadImage as error:
                self.numbers.append(-1)
                self.rejects.append(Reject(row=record.row, file_path=record.file_path, reason=str(error)))
                return
        self.numbers.append(self.accepted)
        self.accepted += 1
        if dropped := record.dropped_captions:
            reason = f"captions: {dropped} of {dropped + len(record.captions)} unusable (image kept)"
            kept = Reject(row=record.row, file_path=record.file_path, reason=reason, dropped_captions=dropped)
            self.rejects.append(kept)

    def _is_kept(self, lane: _Lane, record: Record) -> bool:
        """Whether a shard kept from an earlier call holds the record; if so, its turn is taken."""
        if not lane.kept:
            number = lane.number + (lane.writer is not None)
            name = self._shard_name(record.split, number)
            if name not in self.done or self._head(name)[0][:2] != (record.row, record.file_path):
                return False
            self._close(lane)
            self.shards.append(self.done.pop(name)[0])
            lane.kept = self.heads.pop(name)
        row, file_path, key = lane.kept[0]
        if (row, file_path) != (record.row, record.file_path):
            return False
        if key != self._key(self.accepted):
            raise self._changed()
        lane.kept.popleft()
        lane.number += not lane.kept
        return True

    def _head(self, name: str) -> deque[tuple[int, str, str]]:
        if name not in self.heads:
            columns = self.done[name][1].to_pydict()
            self.heads[name] = deque(zip(columns["row"], columns["file_path"], columns["key"], strict=True))
        return self.heads[name]

    def _write(self, lane: _Lane, record: Record) -> None:
        image = check_image(read_image(record.image))
        members = sample_members(record, image)
        writer = lane.writer
        limits = self.settings["shard_bytes"], self.settings["shard_samples"]
        if writer and (writer.bytes_with(members) > limits[0] or writer.samples >= limits[1]):
            self._close(lane)
        name = self._shard_name(record.split, lane.number)
        if lane.kept or name in self.done:
            raise self._changed()  # an image that was refused before is accepted now, or the reverse
        lane.writer = lane.writer or ShardWriter(self.out, name, record.split)
        lane.writer.add(self._key(self.accepted), record, image, members)
        self.written += 1

    def _close(self, lane: _Lane) -> None:
        if lane.writer:
            self.shards.append(lane.writer.publish(self.job_hash))
            lane.writer = None
            lane.number += 1

    def _take_triplet(self, triplet: Triplet) -> None:
        for side in ("reference", "target"):
            if self.numbers[getattr(triplet, side)] < 0:
                reason = f"triplet: its {side} image was rejected"
                self.rejects.append(Reject(row=triplet.row, file_path="", reason=reason))
                return
        self.triplets.append(triplet)

    def _shard_name(self, split: str, number: int) -> str:
        return f"{self.settings['source']}-{split}-{number:06d}"

    def _key(self, number: int) -> str:
        return f"{self.settings['source']}-{number:09d}"

    def _changed(self) -> UserError:
        return UserError(f"the images have changed since packing into {self.out} began; pack into an empty folder")

    def publish(self, annotations: dict[str, str]) -> Dataset:
        """Write the tables and `dataset.json`, which must come last."""
        shards = sorted(self.shards, key=lambda shard: shard.name)
        counts = count_samples(self.out, shards)
        counts["dropped_captions"] = sum(reject.dropped_captions for reject in self.rejects)
        counts["rejects"] = sum(not reject.dropped_captions for reject in self.rejects)
        tables = {"rejects.parquet": table_bytes(self._rejects_table())}
        triplets_hash = None
        if self.triplets:
            table = self._triplets_table()
            tables["triplets.parquet"] = table_bytes(table)
            counts["triplets"] = table.num_rows
            triplets_hash = rows_hash(table)
        for name, data in tables.items():
            write_durably(self.out / name, data)
        return publish(
            self.out,
            name=self.settings["source"],
            settings=self.settings,
            annotations=annotations,
            counts=counts,
            shards=shards,
            tables={name: hashlib.sha256(data).hexdigest() for name, data in tables.items()},
            triplets_hash=triplets_hash,
        )

    def _rejects_table(self) -> "pyarrow.Table":
        import pyarrow as pa

        rejects = sorted(self.rejects, key=lambda reject: reject.row)
        columns = {name: [getattr(reject, name) for reject in rejects] for name in ("row", "file_path", "reason")}
        types = {"row": pa.int64(), "file_path": pa.string(), "reason": pa.string()}
        return pa.table(columns, schema=pa.schema(types))

    def _triplets_table(self) -> "pyarrow.Table":
        import pyarrow as pa

        columns = {
            "reference_key": [self._key(self.numbers[triplet.reference]) for triplet in self.triplets],
            "target_key": [self._key(self.numbers[triplet.target]) for triplet in self.triplets],
            "edit_caption": [triplet.edit_caption for triplet in self.triplets],
            "cpr_id": [triplet.cpr_id for triplet in self.triplets],
        }
        types = {name: pa.int64() if name == "cpr_id" else pa.string() for name in columns}
        return pa.table(columns, schema=pa.schema(types))


def rows_hash(table: "pyarrow.Table") -> str:
    """sha256 over the rows as canonical JSON, a line each: whatever way Parquet encodes them."""
    digest = hashlib.sha256()
    for batch in table.to_batches(max_chunksize=10_000):
        digest.update(b"".join(canonical_json(row) + b"\n" for row in batch.to_pylist()))
    return digest.hexdigest()


def count_samples(directory: Path, shards: list[Shard]) -> dict[str, Any]:
    """Images, captions and distinct identities, in total and per split, counted from the shards' indexes."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    splits: dict[str, dict[str, int]] = {}
    identities: dict[str, set[str]] = {}
    for shard in shards:
        table = pq.read_table(index_path(directory, shard.name), columns=["identity", "caption_words"])
        split = splits.setdefault(shard.split, {"images": 0, "captions": 0, "identities": 0})
        split["images"] += table.num_rows
        split["captions"] += pc.sum(pc.list_value_length(table["caption_words"])).as_py()
        known = identities.setdefault(shard.split, set())
        known.update(pc.unique(table["identity"]).to_pylist())
        split["identities"] = len(known)
    return {
        "images": sum(split["images"] for split in splits.values()),
        "captions": sum(split["captions"] for split in splits.values()),
        "identities": len(set().union(*identities.values())),
        "splits": splits,
    }
