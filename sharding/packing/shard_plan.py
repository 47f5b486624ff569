"""Decides, once, which record goes into which shard, and writes that down: the plan of a packing, below `.plan/`.

    rows of the source → selection → sizes → `.plan/NAME.arrow`, a table of records for every shard
                                           → `.plan/rejects.arrow`, `.plan/triplets.arrow`, and last `.plan/plan.json`

Rows stream through: what is held in memory is one open shard per split. Boundaries follow from the sizes of the input's
images, not from what becomes of them, so every shard can be written by itself, anywhere.
"""

import hashlib
import json
from array import array
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from sharding.errors import UserError
from sharding.index import canonical_json
from sharding.packing.input_sizes import InputSizes
from sharding.packing.selection import Selection, Selector
from sharding.packing.spool import (
    FOLDER,
    REJECTS,
    TRIPLETS,
    Spool,
    record_batch,
    record_schema,
    reject_schema,
    table_file,
    triplet_schema,
)
from sharding.record import RawDataset, Record, Reject, Triplet
from sharding.store import Store

if TYPE_CHECKING:
    import pyarrow

PLAN = f"{FOLDER}plan.json"
SAMPLE_OVERHEAD = 3072  # bytes of a sample besides image and captions: headers, padding, metadata
REFUSED, LEFT_OUT = -1, -2  # in place of a record's number


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """One shard to be written. `records_hash` is the sha256 of what the table of its records holds."""

    name: str
    split: str
    records: int
    records_hash: str


@dataclass(frozen=True, kw_only=True)
class PackPlan:
    """A complete plan: the shards in the order of their names, and what does not go into them.

    `next_number` is the first number no record has; `left_out` counts what the selection left out, by reason.
    """

    shards: tuple[ShardPlan, ...]
    next_number: int
    left_out: dict[str, int]

    @property
    def records(self) -> int:
        """How many records are to be packed."""
        return sum(shard.records for shard in self.shards)


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where numbering begins: behind what earlier generations of the dataset used."""

    number: int = 0
    shards: dict[str, int] = field(default_factory=dict)  # by split


def read_plan(out: Store, job_hash: str) -> PackPlan | None:
    """The plan that an interrupted packing of the same job left complete."""
    try:
        content = json.loads(out.read(PLAN))
        if content.pop("job_hash") != job_hash:
            return None
        return PackPlan(**{**content, "shards": tuple(ShardPlan(**shard) for shard in content["shards"])})
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None


def records_name(shard: str) -> str:
    """The file with the records of a shard."""
    return f"{FOLDER}{shard}.arrow"


def records_hash(records: "pyarrow.RecordBatch") -> str:
    """sha256 over the columns as they lie in memory: the same whatever compresses the file."""
    return hashlib.sha256(records.serialize()).hexdigest()


def make_plan(
    raw: RawDataset,
    source: Store,
    out: Store,
    *,
    name: str,
    job_hash: str,
    selection: Selection,
    shard_bytes: int,
    shard_samples: int,
    image_bytes: int | None = None,
    start: Start | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PackPlan:
    """Read all rows and write the plan of packing them below `.plan/` of `out`.

    A shard is closed before it would hold more than `shard_samples` records or, by the sizes of images and captions,
    more than about `shard_bytes`; `image_bytes` stands for an image's size where images are to be re-encoded.
    `progress(rows read, rows expected or 0)` is called now and then. UserError if nothing is left to be packed.
    """
    limits = _Limits(bytes=shard_bytes, samples=shard_samples, image_bytes=image_bytes)
    with ExitStack() as stack:
        folder = stack.enter_context(out.scratch())
        spools = [stack.enter_context(Spool(folder, schema())) for schema in (reject_schema, triplet_schema)]
        planner = _Planner(source, out, name, Selector(selection), limits, start or Start(), *spools)
        planner.run(raw, progress)
        plan = planner.finish()
        for spool, target in zip(spools, (REJECTS, TRIPLETS), strict=True):
            out.upload(spool.close(), target)
    listed = {**asdict(plan), "job_hash": job_hash}
    out.write(PLAN, canonical_json(listed))
    return plan


@dataclass(frozen=True, kw_only=True)
class _Limits:
    bytes: int
    samples: int
    image_bytes: int | None


class _OpenShard:
    """The records of a shard that is still being filled; `bytes` is what they are expected to take."""

    def __init__(self, name: str, split: str) -> None:
        self.name, self.split, self.bytes = name, split, 0
        self.rows: list[tuple[Any, ...]] = []

    def write(self, out: Store) -> ShardPlan:
        """Write the table of records."""
        batch = record_batch(self.rows, record_schema())
        out.write(records_name(self.name), table_file(batch))
        digest = records_hash(batch)
        return ShardPlan(name=self.name, split=self.split, records=len(self.rows), records_hash=digest)


class _Planner:
    """One pass over the rows."""

    def __init__(
        self,
        source: Store,
        out: Store,
        name: str,
        selector: Selector,
        limits: _Limits,
        start: Start,
        rejects: Spool,
        triplets: Spool,
    ) -> None:
        self.sizes = InputSizes(source)
        self.out, self.name, self.selector, self.limits = out, name, selector, limits
        self.open: dict[str, _OpenShard] = {}
        self.done: list[ShardPlan] = []
        self.number, self.shard_numbers = start.number, dict(start.shards)
        self.numbers = array("q")  # of every record of a source with triplets: its number, REFUSED or LEFT_OUT
        self.rejects, self.triplets = rejects, triplets

    def run(self, raw: RawDataset, progress: Callable[[int, int], None] | None) -> None:
        """Take every row."""
        keep_numbers, done = raw.has_triplets, 0
        for done, row in enumerate(raw.rows, 1):
            if isinstance(row, Record):
                if self.selector.full and not keep_numbers:
                    break
                number = self._take_record(row)
                if keep_numbers:
                    self.numbers.append(number)
            elif isinstance(row, Reject):
                self._reject(row)
            else:
                self._take_triplet(row)
            if progress and not done % 1000:
                progress(done, raw.expected)
        if progress:
            progress(done, done)

    def finish(self) -> PackPlan:
        """Close what is open; UserError if there is nothing to pack."""
        self.selector.require_known()
        self.done += [shard.write(self.out) for shard in self.open.values()]
        if not self.done:
            reasons = [self.selector.explain(), self._first_reject()]
            raise UserError(f"no image could be packed ({'; '.join(filter(None, reasons)) or 'there are no rows'})")
        return PackPlan(
            shards=tuple(sorted(self.done, key=lambda shard: shard.name)),
            next_number=self.number,
            left_out=dict(sorted(self.selector.left_out.items())),
        )

    def _first_reject(self) -> str:
        rejects = self.rejects
        return f"{rejects.rows:,} rows rejected; the first: {rejects.first['reason']}" if rejects.rows else ""

    def _take_record(self, record: Record) -> int:
        """The number given to the record, or REFUSED or LEFT_OUT."""
        selected = self.selector.select(record)
        if selected is None:
            return LEFT_OUT
        row, image, captions, identity, source, split, file_path, score, instance_id, dropped = selected
        (path, offset, size), reason = self.sizes.resolve(image)
        if reason:
            self._reject(Reject(row, file_path, reason))
            return REFUSED
        if dropped:
            reason = f"captions: {dropped} of {dropped + len(record.captions)} unusable (image kept)"
            self._reject(Reject(row, file_path, reason, dropped))
        number = self.number
        self.number += 1
        self._shard(split, captions, size).rows.append((
            number, row, path, offset, size, captions, identity, source, file_path, score, instance_id,
        ))  # fmt: skip
        return number

    def _shard(self, split: str, captions: tuple[str, ...], size: int) -> _OpenShard:
        """The open shard of a record's split, with room made for the record."""
        expected = (self.limits.image_bytes or size) + SAMPLE_OVERHEAD + 2 * sum(map(len, captions))
        shard = self.open.get(split)
        full = shard and (
            len(shard.rows) >= self.limits.samples or (shard.rows and shard.bytes + expected > self.limits.bytes)
        )
        if shard is None or full:
            if shard is not None:
                self.done.append(shard.write(self.out))
            number = self.shard_numbers.get(split, 0)
            self.shard_numbers[split] = number + 1
            shard = self.open[split] = _OpenShard(f"{self.name}-{split}-{number:06d}", split)
        shard.bytes += expected
        return shard

    def _take_triplet(self, triplet: Triplet) -> None:
        numbers = [self.numbers[triplet.reference], self.numbers[triplet.target]]
        if LEFT_OUT in numbers:
            self.selector.left_out["triplet of an image left out"] += 1
        elif REFUSED in numbers:
            side = "reference" if numbers[0] == REFUSED else "target"
            self._reject(Reject(triplet.row, "", f"triplet: its {side} image was rejected"))
        else:
            self.triplets.add((triplet.row, *numbers, triplet.edit_caption, triplet.cpr_id))

    def _reject(self, reject: Reject) -> None:
        self.rejects.add(reject)
