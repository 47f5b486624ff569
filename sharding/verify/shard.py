"""One shard re-read against its index and hashes: `check_shard`, a pure function that `verify` runs for every shard.

The tar is read once, from its start, in pieces of whole samples; the same bytes go into the hash of the tar and into
those of the members. Where members lie comes from the index and never from the tar, so a damaged header hides nothing
that follows it.
"""

import errno
import hashlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sharding.companions import offsets_name, tar_offsets
from sharding.dataset import MANIFEST
from sharding.index import Shard, index_name, sample_schema, tar_name
from sharding.store import Store
from sharding.tar import BLOCK, END
from sharding.verify.samples import PIECE, Affected, SampleChecker

if TYPE_CHECKING:
    import pyarrow

EXTENSIONS = ("jpg", "png")
UNTOLD = "nothing tells which samples are damaged"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What is wrong with one file of a dataset, and which samples that damages.

    `samples` says how many; `affected` lists their members, except where `whole` says that it may be any of the shard.
    """

    file: str
    problem: str
    samples: int = 0
    whole: bool = False
    affected: tuple[Affected, ...] = ()


class ShardTask(NamedTuple):
    """What is to be checked: `name` is the dataset's, `files` are those of the shard that exist."""

    store: Store
    name: str
    shard: Shard
    files: frozenset[str]
    fast: bool


class Contents(NamedTuple):
    """What an index says, for checks over all shards: numbers of the keys, distinct identities as 8-byte hashes."""

    captions: int
    image_bytes: int
    numbers: NDArray[np.int64]
    identities: NDArray[np.uint64]


class ShardOutcome(NamedTuple):
    """What was found; a hash is None where there is no such file, `contents` where the index is none."""

    shard: Shard
    findings: tuple[Finding, ...]
    tar_sha256: str | None = None
    index_sha256: str | None = None
    contents: Contents | None = None


def check_shard(task: ShardTask) -> ShardOutcome:
    """Read a shard and its index and compare them. OSError where the store fails; a sector gone bad is a finding."""
    index = _read_index(task)
    try:
        tar = _read_tar(task, index.table)
    except OSError as error:
        tar = _Tar(unreadable=_bad_sector(error))
    findings = [*_tar_findings(task, tar, index), *_index_findings(task.shard, index, tar)]
    if problem := _offsets_problem(task, None if index.problem else index.table):
        findings.append(Finding(file=offsets_name(task.shard.name), problem=problem))
    contents = None if index.table is None else _contents(index.table, task.name)
    return ShardOutcome(task.shard, tuple(findings), tar.sha256, index.sha256, contents)


def _bad_sector(error: OSError) -> str:
    """What is wrong with a file that the disk does not give back; any other error is raised again."""
    if error.errno != errno.EIO:
        raise error
    return f"cannot be read ({error.strerror})"


class _Index(NamedTuple):
    """What was found of an index; there is no table where it cannot be read as one, or with `fast`."""

    sha256: str | None
    table: "pyarrow.Table | None"
    problem: str


def _read_index(task: ShardTask) -> _Index:
    name = index_name(task.shard.name)
    if name not in task.files:
        return _Index(None, None, "is missing")
    try:
        data = task.store.read(name)
    except OSError as error:
        return _Index(None, None, _bad_sector(error))
    sha256 = hashlib.sha256(data).hexdigest()
    table, problem = (None, "") if task.fast else _parse(data, task)
    if sha256 != task.shard.index_sha256:
        problem = f"does not match its sha256 in {MANIFEST}" + (f" and {problem}" if problem else "")
    return _Index(sha256, table, problem)


def _parse(data: bytes, task: ShardTask) -> "tuple[pyarrow.Table | None, str]":
    """The index as a table, if it is one, and what is wrong with it."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(data), page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        return None, f"cannot be read as Parquet ({str(error).splitlines()[0]})"
    table = table.replace_schema_metadata(None).combine_chunks()
    needed = [name for name in table.schema.names if name not in ("score", "instance_id")]
    if table.schema != sample_schema() or any(table[name].null_count for name in needed):
        return None, "is not the index of a shard"
    known = pc.all(pc.is_in(table["ext"], pa.array(EXTENSIONS)), min_count=0).as_py()
    if not known or len(_numbers(table, task.name)) != table.num_rows:
        return None, "holds names that no packing gives"
    if table.num_rows != task.shard.samples:
        return table, f"lists {table.num_rows:,} samples where {MANIFEST} says {task.shard.samples:,}"
    if not pc.all(pc.equal(table["split"], task.shard.split), min_count=0).as_py():
        return table, f"holds samples of another split than {task.shard.split}"
    return table, ""


def _numbers(table: "pyarrow.Table", name: str) -> NDArray[np.int64]:
    """The numbers in the keys NAME-000000000 of an index; other keys are left out."""
    import pyarrow as pa
    import pyarrow.compute as pc

    keys = table["key"].filter(pc.match_substring_regex(table["key"], f"^{name}-[0-9]{{9,18}}$"))
    return np.asarray(pc.cast(pc.utf8_slice_codeunits(keys, len(name) + 1), pa.int64()).to_numpy())


def _contents(table: "pyarrow.Table", name: str) -> Contents:
    import pyarrow.compute as pc

    # 64 bits: among 10 million people, two share one in one dataset of 370,000.
    people = [hashlib.blake2b(who.encode(), digest_size=8).digest() for who in pc.unique(table["identity"]).to_pylist()]
    captions = pc.sum(pc.list_value_length(table["caption_words"]), min_count=0).as_py()
    image_bytes = pc.sum(table["image_size"], min_count=0).as_py()
    return Contents(captions, image_bytes, _numbers(table, name), np.frombuffer(b"".join(people), np.uint64))


class _Tar(NamedTuple):
    """What was found of a tar. `ended` says that its end mark is in place, `gaps` that the index
    does not list it from end to end, in its order.

    `unreadable` says why there is nothing else.
    """

    size: int = 0
    sha256: str | None = None
    affected: tuple[Affected, ...] = ()
    ended: bool = True
    gaps: bool = False
    unreadable: str = ""


def _read_tar(task: ShardTask, table: "pyarrow.Table | None") -> _Tar:
    name = tar_name(task.shard.name)
    if name not in task.files:
        return _Tar(unreadable="is missing")
    with task.store.open(name) as file:
        stream = _Stream(file)
        if table is None:
            stream.read_up_to(None)
            return _Tar(stream.position, stream.hash.hexdigest())
        checker = SampleChecker(table, task.shard)
        affected, strays = _stream_samples(stream, checker)
        stream.read_up_to(task.shard.bytes - len(END))
        ended = stream.take(len(END)) == END
        stream.read_up_to(None)
        for row in strays:
            affected += _check_stray(file, stream.position, checker, row)
    return _Tar(stream.position, stream.hash.hexdigest(), tuple(affected), ended, bool(strays))


class _Stream:
    """A file read once from its start; `hash` covers all that was read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._buffer = bytearray(PIECE)
        self.hash = hashlib.sha256()
        self.position = 0

    def take(self, size: int) -> memoryview:
        """The next bytes, until the next are taken; fewer only where the file ends.

        They lie in one buffer: with fresh memory for every piece the whole takes 6 % longer.
        """
        if size > len(self._buffer):
            self._buffer = bytearray(size)
        data = memoryview(self._buffer)[:size]
        data = data[: _fill(self._file, data)]
        self.hash.update(data)
        self.position += len(data)
        return data

    def read_up_to(self, end: int | None) -> None:
        """Read on to byte `end`, or to the end of the file."""
        while end is None or self.position < end:
            if not self.take(PIECE if end is None else min(PIECE, end - self.position)):
                return


def _fill(file: BinaryIO, data: memoryview) -> int:
    """Read into `data`; returns how many bytes there were, fewer only where the file ends."""
    done = 0
    while done < len(data) and (count := file.readinto(data[done:])):  # type: ignore[attr-defined]
        done += count
    return done


def _stream_samples(stream: _Stream, checker: SampleChecker) -> tuple[list[Affected], list[int]]:
    """Check the samples in the order of the tar; returns the damage, and the rows that are to be read one by one."""
    affected, strays = [], checker.strays
    for rows, start, end in checker.pieces():
        if start < stream.position:  # an index that names the same bytes twice
            strays = [*strays, *rows]
            continue
        stream.read_up_to(start)
        affected += checker.check(rows, stream.take(end - start), start)
    return affected, strays


def _check_stray(file: BinaryIO, size: int, checker: SampleChecker, row: int) -> list[Affected]:
    """Check a sample that lies where the index says, whatever lies around it; `size` is the tar's."""
    start, end = (max(0, min(bound, size)) for bound in checker.extent(row))
    file.seek(start)
    return checker.check(range(row, row + 1), memoryview(file.read(max(0, end - start))), start)


def _tar_findings(task: ShardTask, tar: _Tar, index: _Index) -> list[Finding]:
    """What is to be said of a tar, with the damaged samples."""
    shard, file = task.shard, tar_name(task.shard.name)
    if tar.unreadable:
        return [Finding(file=file, problem=tar.unreadable, samples=shard.samples, whole=True)]
    if tar.sha256 == shard.sha256:
        return _whole_tar_findings(shard, tar, index)
    problem = f"does not match its sha256 in {MANIFEST}"
    if tar.size != shard.bytes:
        problem = f"has {tar.size:,} bytes where {shard.bytes:,} were packed"
    if tar.affected:
        return [_with_samples(file, problem, tar.affected)]
    if task.fast:
        return [Finding(file=file, problem=f"{problem}; without --fast, verify says which samples are damaged")]
    if index.table is None:
        problem += f"; without its index, {UNTOLD}"
        return [Finding(file=file, problem=problem, samples=shard.samples, whole=True)]
    behind = not index.problem and not tar.gaps and (tar.size != shard.bytes or not tar.ended)
    if behind:
        return [Finding(file=file, problem=f"{problem}; the samples are whole, the damage lies behind them")]
    problem += f"; yet every sample agrees with the index, so both were changed: {UNTOLD}"
    return [Finding(file=file, problem=problem, samples=shard.samples, whole=True)]


def _whole_tar_findings(shard: Shard, tar: _Tar, index: _Index) -> list[Finding]:
    """What is wrong where the tar is, byte for byte, the one that `dataset.json` names."""
    findings = []
    if tar.size != shard.bytes:
        problem = f"says {shard.bytes:,} bytes of {tar_name(shard.name)}, which is whole and has {tar.size:,}"
        findings.append(Finding(file=MANIFEST, problem=problem))
    if tar.affected:
        problem = f"does not describe {tar_name(shard.name)}, which is as packed"
        findings.append(_with_samples(index_name(shard.name), problem, tar.affected))
    elif tar.gaps and tar.size == shard.bytes:
        problem = f"does not list {tar_name(shard.name)} from end to end, in its order"
        findings.append(Finding(file=index_name(shard.name), problem=problem))
    return findings


def _with_samples(file: str, problem: str, affected: tuple[Affected, ...]) -> Finding:
    samples = len({key for key, *_ in affected})
    return Finding(file=file, problem=problem, samples=samples, affected=affected)


def _index_findings(shard: Shard, index: _Index, tar: _Tar) -> list[Finding]:
    if not index.problem:
        return []
    whole = f"; {tar_name(shard.name)} is as packed" if tar.sha256 == shard.sha256 else ""
    return [Finding(file=index_name(shard.name), problem=index.problem + whole)]


def _offsets_problem(task: ShardTask, table: "pyarrow.Table | None") -> str | None:
    """What is wrong with Energon's index of the shard, which follows from the shard's own, if there is that."""
    name = offsets_name(task.shard.name)
    if name not in task.files:
        return "is missing"
    if table is None:
        return None
    starts = (table["image_offset"].to_numpy() - BLOCK).tolist()
    if min(starts, default=0) >= 0 and task.store.read(name) != tar_offsets(starts, task.shard.bytes - len(END)):
        return "does not give the offsets in the index"
    return None
