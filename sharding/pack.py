"""Packs a raw dataset: rows → plan → shards with their indexes → `dataset.json`, which publishes it all.

The bytes written follow from the input and the settings alone, whether one process writes the shards, several, or the
machines of a Ray cluster. An interrupted packing is resumed by running it again: the plan and finished shards are kept,
everything else is written anew, and the root hash comes out the same.
"""

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharding.counts import count_samples
from sharding.dataset import (
    MANIFEST,
    NAME,
    SCHEMA_VERSION,
    Dataset,
    Generation,
    manifest_bytes,
    open_dataset,
    read_rejects,
)
from sharding.errors import Conflict, UserError
from sharding.index import Shard, content_hash, index_name, rows_hash, table_bytes
from sharding.packing.claim import claimed, clear
from sharding.packing.existing import Existing, find_existing, is_published, remove_stale_shards, write_companions
from sharding.packing.images import ImagePolicy
from sharding.packing.input_sizes import stamp
from sharding.packing.selection import Selection
from sharding.packing.shard import (
    PRELOAD,
    Changed,
    ShardDone,
    ShardTask,
    is_of_another_plan,
    require_claim,
    write_shard,
)
from sharding.packing.shard_plan import PLAN, PackPlan, make_plan, read_plan
from sharding.packing.tables import Refused, rejects_table, triplets_table
from sharding.pool import Run, started
from sharding.record import RawDataset
from sharding.sources import OWN_DATA, SOURCES
from sharding.store import LocalStore, Store, hash_of, open_store

if TYPE_CHECKING:
    import pyarrow

SHARD_BYTES = 64 << 20
SHARD_SAMPLES = 10_000
ADDED = ("rejects", "dropped_captions", "triplets", "left_out", "source_image_bytes")  # counts that generations add to
Reader = Callable[[Store], RawDataset]
Progress = Callable[[int, int], None]
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be packed and how; all of it decides the bytes. `settings` are those of a reader of its own."""

    source: str
    name: str
    selection: Selection = field(default_factory=Selection)
    images: ImagePolicy = field(default_factory=ImagePolicy)
    shard_bytes: int = SHARD_BYTES
    shard_samples: int = SHARD_SAMPLES
    settings: dict[str, Any] = field(default_factory=dict)

    def described(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return {
            "source": self.source,
            "name": self.name,
            "shard_bytes": self.shard_bytes,
            "shard_samples": self.shard_samples,
            **_plain(asdict(self.selection)),
            **_plain(asdict(self.images)),
            **self.settings,
        }


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


@dataclass(frozen=True, kw_only=True)
class Packed:
    """What `pack` did: the dataset, the rows in the tables of rejects per reason, the images this call wrote.

    `already_complete` is True where an earlier call had left nothing to do.
    """

    dataset: Dataset
    reject_reasons: dict[str, int]
    images_written: int
    seconds: float
    already_complete: bool


def pack(
    source: str,
    input: Path | str | Store,
    out: Path | str | Store,
    *,
    name: str | None = None,
    selection: Selection | None = None,
    images: ImagePolicy | None = None,
    shard_bytes: int = SHARD_BYTES,
    shard_samples: int = SHARD_SAMPLES,
    reader: Reader | None = None,
    reader_settings: dict[str, Any] | None = None,
    workers: int = 1,
    ray_address: str | None = None,
    append: bool = False,
    overwrite: bool = False,
    planning: Progress | None = None,
    progress: Progress | None = None,
) -> Packed:
    """Pack the raw dataset `source` at `input` into `out`, or finish an interrupted packing there.

    `name` begins keys and shards' names (the source's, if not given). `reader` stands in for that of `source`, and
    `reader_settings` are what decides its rows. A shard is closed before it would pass about `shard_bytes` or hold more
    than `shard_samples`. Rows that cannot be packed go to `rejects.parquet`, as do images that lost captions.
    `append` adds a generation to a complete dataset, `overwrite` replaces all that is there, as soon as
    it is known that something can be packed.
    `planning` is called with (rows read, rows expected or 0), `progress` with (records done, records). Finishing an
    interrupted packing gives the same dataset if the input is unchanged: an annotation that changed is refused, but an
    image replaced after its shard was finished stays as it was packed. Raises UserError, before anything is written, if
    the input is not such a dataset or `out` holds something else.
    """
    began = time.perf_counter()
    job = Job(
        source=source,
        name=name or source,
        selection=selection or Selection(),
        images=images or ImagePolicy(),
        shard_bytes=shard_bytes,
        shard_samples=shard_samples,
        settings=reader_settings or {},
    )
    assert NAME.fullmatch(job.name), job.name
    store, target = _places(input, out, absolute=ray_address is not None)
    raw = (reader or _reader(source, job.name))(store)
    stamps = {name: stamp(store, name) for name in raw.annotations}
    noted = _note(job, raw, store)
    existing = find_existing(target, noted, append=append, overwrite=overwrite)
    if existing.dataset and existing.is_complete:
        write_companions(existing.dataset)
        return _packed(existing.dataset, 0, 0.0, already_complete=True)
    noted["base"] = existing.before.root_hash if existing.before else None
    try:
        with (
            claimed(target, noted, existing.dataset, overwrite=overwrite),
            started(workers=workers, ray_address=ray_address, preload=PRELOAD) as go,
        ):
            packing = _Packing(job, noted, store, target, existing)
            packing.plan(raw, planning)
            if any(stamp(store, name) != before for name, before in stamps.items()):
                target.remove(PLAN)
                raise Changed(f"the annotations in {store} changed while they were read; pack again")
            packing.make_room()
            packing.write(go, progress)
            dataset = packing.publish()
    except OSError:
        # A bucket has no locks: who packs the same there and is faster takes away the plan that both work by.
        if not is_published(target, noted):
            raise
        return _packed(open_dataset(target), 0, 0.0, already_complete=True)
    return _packed(dataset, packing.written, time.perf_counter() - began, already_complete=False)


def _note(job: Job, raw: RawDataset, store: Store) -> dict[str, Any]:
    """What a packing is resumed, added to or refused by."""
    return {
        "schema_version": SCHEMA_VERSION,
        "settings": job.described(),
        "annotations": {name: hash_of(store, name) for name in raw.annotations} | dict(raw.listing),
    }


def _places(input: Path | str | Store, out: Path | str | Store, *, absolute: bool) -> tuple[Store, Store]:
    """Both stores, with paths that mean the same wherever a task runs; UserError where they are one place."""
    stores = [open_store(place) for place in (input, out)]
    resolved = [LocalStore(store.directory.resolve()) if isinstance(store, LocalStore) else store for store in stores]
    if resolved[0] == resolved[1]:
        raise UserError(f"{stores[1]} is the input; name another place to write to")
    source, target = resolved if absolute else stores
    return source, target


def _reader(source: str, name: str) -> Reader:
    return SOURCES[source] if source in SOURCES else lambda store: OWN_DATA[source](store, name)


def _packed(dataset: Dataset, written: int, seconds: float, *, already_complete: bool) -> Packed:
    counted = read_rejects(dataset)["reason"].value_counts().to_pylist()
    reasons = sorted((-reason["counts"], reason["values"]) for reason in counted)
    return Packed(
        dataset=dataset,
        reject_reasons={reason: -number for number, reason in reasons},
        images_written=written,
        seconds=seconds,
        already_complete=already_complete,
    )


class _Packing:
    """One packing, from plan to publication."""

    def __init__(self, job: Job, noted: dict[str, Any], source: Store, out: Store, existing: Existing) -> None:
        self.job, self.noted, self.hash = job, noted, content_hash(noted)
        self.source, self.out, self.existing = source, out, existing
        self.made: PackPlan
        self.shards: list[Shard] = []
        self.refused: list[Refused] = []
        self.lost: dict[str, int] = {}
        self.empty: list[str] = []  # shards none of whose images could be packed
        self.source_bytes = self.written = 0

    def plan(self, raw: RawDataset, progress: Progress | None) -> None:
        """Make the plan, unless an interrupted run has left it."""
        resize = self.job.images.resize
        self.made = read_plan(self.out, self.hash) or make_plan(
            raw,
            self.source,
            self.out,
            name=self.job.name,
            job_hash=self.hash,
            selection=self.job.selection,
            shard_bytes=self.job.shard_bytes,
            shard_samples=self.job.shard_samples,
            image_bytes=resize and resize[0] * resize[1] // 2,  # about what a JPEG of quality 95 takes
            start=self.existing.start,
            progress=progress,
        )

    def make_room(self) -> None:
        """Remove what is to be replaced, now that something can be packed; UserError where mending would do harm."""
        if self.existing.replaces:
            clear(self.out)
        packed = self.existing.packed
        if packed is None:
            return
        tasks = {task.plan.name: task for task in self._tasks()}
        for shard in packed.shards:
            task = tasks.get(shard.name)
            if task is None or is_of_another_plan(task, shard):
                raise UserError(
                    f"{self.out} cannot be mended: the input has changed; --overwrite packs it as it is now"
                )

    def _tasks(self) -> Iterator[ShardTask]:
        for shard in self.made.shards:
            yield ShardTask(
                plan=shard,
                source=self.source,
                out=self.out,
                name=self.job.name,
                images=self.job.images,
                job_hash=self.hash,
            )

    def write(self, go: Run, progress: Progress | None) -> None:
        """Write every shard that is not finished yet."""
        records = 0
        try:
            for done in go(write_shard, self._tasks()):
                self._take(done)
                records += done.records
                logger.info("%s", _told(done))
                if progress:
                    progress(records, self.made.records)
        except Changed:
            self.out.remove(PLAN)
            raise
        if not self.shards:
            self._remove_empty()
            reason = Counter(reason for *_, reason in self.refused).most_common(1)[0][0]
            raise UserError(f"no image could be packed ({len(self.refused):,} images refused; mostly {reason})")

    def _take(self, done: ShardDone) -> None:
        self.refused += done.refused
        self.source_bytes += done.source_bytes
        if done.shard is None:
            self.empty.append(done.name)
            return
        self.shards.append(done.shard)
        if not done.kept:
            self.written += done.shard.samples

    def _remove_empty(self) -> None:
        """Remove the indexes of shards that hold nothing: they only told a resumed packing so."""
        for name in self.empty:
            self.out.remove(index_name(name))

    def publish(self) -> Dataset:
        """Write the tables, `dataset.json`, and last what follows from it.

        UserError if somebody else has published something else in the meantime.
        """
        out, existing = self.out, self.existing
        tables = self._tables()
        generation = Generation(
            settings=self.noted["settings"],
            annotations=self.noted["annotations"],
            shards=tuple(sorted(self.shards, key=lambda shard: shard.name)),
            tables={name: hashlib.sha256(table_bytes(table)).hexdigest() for name, table in tables.items()},
            triplets_hash=next((rows_hash(table) for name, table in tables.items() if "triplets" in name), None),
            next_number=self.made.next_number,
        )
        if existing.packed and existing.packed.root_hash != generation.root_hash:
            raise UserError(f"{out} was not mended: the input has changed; --overwrite packs it as it is")
        for name, table in tables.items():
            out.write(name, table_bytes(table))
        before = existing.before.generations if existing.before else ()
        generations = (*before, generation, *existing.later)
        dataset = Dataset(store=out, name=self.job.name, counts=self._counts(generations), generations=generations)
        self._remove_empty()
        remove_stale_shards(out, {shard.name for shard in dataset.shards})
        require_claim(out, self.hash)
        try:
            out.publish(MANIFEST, manifest_bytes(dataset), None if existing.replaces else existing.tag)
        except Conflict:
            if open_dataset(out).root_hash != dataset.root_hash:
                raise UserError(f"{out} was published by somebody else in the meantime") from None
        write_companions(dataset)
        return dataset

    def _tables(self) -> "dict[str, pyarrow.Table]":
        """The tables besides the indexes, by file name: rejects, and triplets where the source has any."""
        number = self.existing.place
        ending = f"-{number:06d}.parquet" if number else ".parquet"
        rejects = rejects_table(self.out, self.refused)
        dropped = rejects["dropped_captions"].to_numpy()
        self.lost = {"rejects": int((dropped == 0).sum()), "dropped_captions": int(dropped.sum())}
        tables = {f"rejects{ending}": rejects.drop_columns("dropped_captions")}
        triplets = triplets_table(self.out, self.refused, self.job.name)
        if triplets is not None:
            tables[f"triplets{ending}"] = triplets
            self.lost["triplets"] = triplets.num_rows
        return tables

    def _counts(self, generations: tuple[Generation, ...]) -> dict[str, Any]:
        """Counts of the whole dataset: of samples from all indexes, of the rest as sums over the generations."""
        shards = [shard for generation in generations for shard in generation.shards]
        added = {
            **self.lost,
            "left_out": sum(self.made.left_out.values()),
            "source_image_bytes": self.source_bytes,
        }
        if self.existing.packed and self.existing.dataset:  # mended: it was counted before
            return self.existing.dataset.counts
        before = self.existing.before.counts if self.existing.before else {}
        totals = {name: before.get(name, 0) + added.get(name, 0) for name in {**before, **added} if name in ADDED}
        return {**count_samples(self.out, shards), **dict(sorted(totals.items()))}


def _told(done: ShardDone) -> str:
    """The line of a shard in the log."""
    if done.kept:
        return f"{done.name}: kept"
    packed = done.shard.samples if done.shard else 0
    return f"{done.name}: {packed} of {done.records} images in {done.seconds:.1f} s on {done.host}"
