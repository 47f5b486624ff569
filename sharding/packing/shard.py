"""One shard, from its plan: a pure function of (records, the images they name, settings), run here, there or again.

Images are read and checked, the samples go into a temporary tar, then the tar, its offsets for Energon, and last its
index take their names. A shard is done when its index exists and the tar matches the sha256 noted in it.
"""

import hashlib
import json
import platform
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sharding.companions import offsets_name, tar_offsets
from sharding.errors import UserError
from sharding.index import Shard, canonical_json, content_hash, index_name, read_parquet, table_bytes, tar_name
from sharding.packing.images import BadImage, ImagePolicy, prepare_image
from sharding.packing.shard_plan import ShardPlan, records_hash, records_name
from sharding.packing.shard_writer import PlannedRecord, ShardWriter
from sharding.packing.spool import MARKER, read_spool
from sharding.packing.tables import Refused
from sharding.store import LocalStore, Store, hash_of
from sharding.tar import BLOCK, END

if TYPE_CHECKING:
    import pyarrow

PRELOAD = (__name__, "pyarrow.parquet", "simplejpeg")  # what writing a shard needs
REQUESTS = 16  # images asked for at a time where each takes a round trip


class Changed(UserError):
    """An image is not as it was when packing was planned: a new plan is needed."""


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """What writing one shard needs; small, so that it can be sent to another process or machine."""

    plan: ShardPlan
    source: Store
    out: Store
    name: str
    images: ImagePolicy
    job_hash: str

    @property
    def hash(self) -> str:
        """What the finished shard is for: the job and the very records."""
        return content_hash([self.job_hash, self.plan.records_hash])


@dataclass(frozen=True, kw_only=True)
class ShardDone:
    """What came of a task of so many `records`. `shard` is None where no image could be packed.

    `refused` lists (number, row, file_path, reason) of the records whose image was refused, `source_bytes` counts the
    bytes of the packed images before any re-encoding; `kept` says that an earlier run had left the shard finished; the
    last two tell how long it took, and on which machine.
    """

    name: str
    records: int
    shard: Shard | None
    refused: tuple[Refused, ...]
    source_bytes: int
    kept: bool
    seconds: float = 0.0
    host: str = ""


def write_shard(task: ShardTask) -> ShardDone:
    """Write the shard of a task, or find it done. OSError where the system refuses; a bad image stops nothing."""
    began = time.perf_counter()
    done = find_done(task)
    if done is None:
        require_claim(task.out, task.job_hash)
        done = _write(task)
    return replace(done, seconds=time.perf_counter() - began, host=platform.node())


def _write(task: ShardTask) -> ShardDone:
    table = _read_records(task)
    columns = [table[name].to_pylist() for name in PlannedRecord._fields]
    records = [PlannedRecord._make(row) for row in zip(*columns, strict=True)]
    refused: list[Refused] = []
    source_bytes = 0
    with ExitStack() as stack:
        folder = stack.enter_context(task.out.scratch())
        writer = stack.enter_context(ShardWriter(folder, task.name, task.plan.split))
        for place, (record, data) in enumerate(zip(records, _images(task.source, records), strict=True)):
            try:
                writer.add(place, record, prepare_image(data, task.images))
                source_bytes += len(data)
            except BadImage as error:
                refused.append((record.number, record.row, record.file_path, str(error)))
        return _publish(task, writer, table, tuple(refused), source_bytes)


def _read_records(task: ShardTask) -> "pyarrow.Table":
    """The records of the plan; Changed where they are not those that were planned."""
    import pyarrow as pa

    name = records_name(task.plan.name)
    try:
        table = read_spool(task.out, name)
        (batch,) = table.to_batches()
    except (pa.ArrowException, ValueError):
        batch = None
    if batch is None or records_hash(batch) != task.plan.records_hash:
        raise Changed(f"{task.out}/{name} is damaged; pack again")
    return table


def _publish(
    task: ShardTask, writer: ShardWriter, records: "pyarrow.Table", refused: tuple[Refused, ...], source_bytes: int
) -> ShardDone:
    """Give the tar its name, then the index, which notes the task; only the second makes the shard count as done.

    Without a sample there is an index only, so that the refused images need not be looked at again.
    """
    out, name = task.out, task.plan.name
    size, sha256 = writer.finish()
    noted = {
        "job": task.job_hash,
        "task": task.hash,
        "shard": {"samples": writer.samples, "bytes": size, "sha256": sha256},
        "refused": refused,
        "source_bytes": source_bytes,
    }
    table = writer.index(records).replace_schema_metadata({"noted": canonical_json(noted)})
    index = table_bytes(table)
    require_claim(out, task.job_hash)
    if writer.samples:
        out.upload(writer.path, tar_name(name))
        out.write(offsets_name(name), _offsets(table, size))
    out.write(index_name(name), index)
    return _done(task, noted, index, kept=False)


def _offsets(index: "pyarrow.Table", size: int) -> bytes:
    """The offsets that go with an index, and with a tar of `size` bytes."""
    return tar_offsets([offset - BLOCK for offset in index["image_offset"].to_pylist()], size - len(END))


def _images(source: Store, records: list[PlannedRecord]) -> Iterator[bytes]:
    """The bytes of each record's image; from afar, some are read ahead."""
    if isinstance(source, LocalStore):
        for record in records:
            yield _image(source, record)
        return
    with ThreadPoolExecutor(REQUESTS) as pool:
        waiting: deque[Future[bytes]] = deque()
        for record in records:
            waiting.append(pool.submit(_image, source, record))
            if len(waiting) > 2 * REQUESTS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _image(source: Store, record: PlannedRecord) -> bytes:
    """Changed where the image is no longer the one that packing was planned with, OSError where the system fails."""
    path, offset, size = record.path, record.offset, record.size
    try:
        data = source.read(path, offset, size) if offset else source.read(path)  # at 0 begin whole files alone
    except FileNotFoundError:
        if isinstance(source, LocalStore) and not source.directory.is_dir():
            raise OSError(f"{source} is not there on {platform.node()}") from None
        data = b""
    if len(data) != size:
        raise Changed(
            f"{source}/{path} has changed since packing began; run the same command again to pack it as it is"
        )
    return data


def require_claim(out: Store, job_hash: str) -> None:
    """OSError unless the place is still claimed by this job: in a bucket, another packing may have taken over."""
    try:
        mine = hashlib.sha256(out.read(MARKER)).hexdigest() == job_hash
    except FileNotFoundError:
        mine = False
    if not mine:
        raise OSError(f"{out} is not being packed by this job any more, or is not the same folder on {platform.node()}")


def _done(task: ShardTask, noted: dict[str, Any], index: bytes, *, kept: bool) -> ShardDone:
    shard = None
    if noted["shard"]["samples"]:
        index_sha256 = hashlib.sha256(index).hexdigest()
        shard = Shard(name=task.plan.name, split=task.plan.split, index_sha256=index_sha256, **noted["shard"])
    refused = tuple((number, row, path, reason) for number, row, path, reason in noted["refused"])
    return ShardDone(
        name=task.plan.name,
        records=task.plan.records,
        shard=shard,
        refused=refused,
        source_bytes=noted["source_bytes"],
        kept=kept,
    )


def noted_job(index: bytes) -> str | None:
    """The hash of the job that a shard's index was written for; None if this is no such index."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return str(json.loads((pq.read_schema(pa.BufferReader(index)).metadata or {})[b"noted"])["job"])
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
        return None


def is_of_another_plan(task: ShardTask, shard: Shard) -> bool:
    """Whether a published shard, by its index, holds other records than the task of its name would write."""
    try:
        index = task.out.read(index_name(shard.name))
    except FileNotFoundError:
        return False
    return hashlib.sha256(index).hexdigest() == shard.index_sha256 and _read_index(task, index) is None


def find_done(task: ShardTask) -> ShardDone | None:
    """What an earlier run of the same task finished, unless a bit of index or tar differs from what it wrote."""
    out, name = task.out, task.plan.name
    try:
        index = out.read(index_name(name))
        found = _read_index(task, index)
        if found is None:
            return None
        done, offsets = found
        whole = done.shard is None or (
            out.read(offsets_name(name)) == offsets and hash_of(out, tar_name(name)) == done.shard.sha256
        )
    except FileNotFoundError:
        return None
    return done if whole else None


def _read_index(task: ShardTask, index: bytes) -> tuple[ShardDone, bytes] | None:
    """What an index says of its shard, and the offsets that go with it; None if it is damaged or of another task.

    Page checksums find damage to the columns, writing the table again finds damage to everything around them.
    """
    import pyarrow as pa

    try:
        table = read_parquet(index, page_checksums=True)
        if table_bytes(table) != index:
            return None
        noted = json.loads((table.schema.metadata or {})[b"noted"])
        if noted["task"] != task.hash or noted["shard"]["samples"] != table.num_rows:
            return None
        return _done(task, noted, index, kept=True), _offsets(table, noted["shard"]["bytes"])
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
        return None
