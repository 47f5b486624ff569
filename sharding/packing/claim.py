"""One packing per place: a marker says which job a half-written dataset belongs to, a lock who is at it.

The marker is there before anything else and goes after `dataset.json` is published; a killed process leaves it, and
with it the right to resume, but not the lock. Where it is missing, the job noted in each shard decides. Buckets have no
locks: whoever writes a shard there looks at the marker first, and only one packing publishes.
"""

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sharding.companions import SIZES, TOKENS, WIDS
from sharding.dataset import MANIFEST, Dataset
from sharding.errors import Conflict, UserError
from sharding.files import TEMPORARY, make_directory
from sharding.index import SHARD_NAME, canonical_json, content_hash, index_name
from sharding.packing.shard import noted_job
from sharding.packing.spool import FOLDER, MARKER
from sharding.store import LocalStore, Store

LOCK = ".packing.lock"
TABLE = re.compile(r"(rejects|triplets)(-\d{6})?\.parquet")
SHARD_ENDINGS = (".tar.idx", ".tar", ".parquet")
ADVICE = "name a new folder, or replace it with --overwrite"


@contextmanager
def claimed(out: Store, job: dict[str, Any], published: Dataset | None, *, overwrite: bool) -> Iterator[None]:
    """Hold `out`, created if need be, for `job`: {schema_version, settings, annotations: {file: sha256}, base}.

    `published` is the dataset that is there already. Raises UserError if `out` holds anything but that and an
    unfinished packing of the same job (with `overwrite`, of any), or if another process is at it. Temporary files, a
    killed process's or our own after a failure, are removed. If nothing was packed, nothing is left.
    """
    created = _make_directory(out)
    with _locked(out):
        unfinished = out.exists(MARKER)
        _match(out, job, published, overwrite)
        _remove_temporaries(out)
        try:
            yield
        except BaseException as error:
            _remove_temporaries(out)
            unfinished = unfinished or _has_new_shards(out, published)
            # In a bucket, another packer of the same job may work by the plan; a UserError is what it meets as well.
            if not unfinished and (isinstance(out, LocalStore) or isinstance(error, UserError)):
                _remove_traces(out)
            raise
        else:
            _remove_traces(out)
        finally:
            if created and isinstance(out, LocalStore) and [path.name for path in out.directory.iterdir()] == [LOCK]:
                (out.directory / LOCK).unlink()
                with suppress(OSError):
                    out.directory.rmdir()


def _has_new_shards(out: Store, published: Dataset | None) -> bool:
    """Whether there is a shard, or a part of one, that no manifest lists: what can be resumed."""
    listed = {shard.name for shard in published.shards} if published and out.exists(MANIFEST) else set()
    return any(shard not in listed for name, _ in out.names() if (shard := shard_of(name)))


def read_marker(out: Store) -> dict[str, Any] | None:
    """The job of a packing that was not finished, if its marker is there and whole."""
    try:
        found = json.loads(out.read(MARKER))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def shard_of(name: str) -> str | None:
    """The shard whose tar, offsets or index has that name; None for any other file."""
    stem = next((name.removesuffix(end) for end in SHARD_ENDINGS if name.endswith(end)), "")
    return stem if SHARD_NAME.fullmatch(stem) else None


def refuse_another_job(out: Store, found: dict[str, Any], job: dict[str, Any]) -> None:
    """UserError if the job that `out` was packed for is not this one, naming the first thing that differs."""
    settings = found.get("settings")
    if found.get("schema_version") != job["schema_version"] or not isinstance(settings, dict):
        raise UserError(f"{out} was packed by another version of person-pretrain; {ADVICE}")
    for name in {**job["settings"], **settings}:
        before, now = settings.get(name), job["settings"].get(name)
        if before != now:
            raise UserError(f"{out} was packed with {name} {_told(before)}, not {_told(now)}; {ADVICE}")
    if found.get("annotations") != job["annotations"]:
        names = ", ".join(list(job["annotations"])[:3]) or "other files"
        raise UserError(f"{out} was packed from a different input ({names}); {ADVICE}, or add it with --append")


def _told(value: Any) -> str:
    return "none" if value is None else str(value)


def clear(out: Store) -> None:
    """Remove the dataset that the holder of the claim replaces: the manifest first, so that nothing takes it for whole.

    What the new packing needs, its marker and plan, stays; so does what packing did not write.
    """
    out.remove(MANIFEST)
    for name, _ in list(out.names()):
        if shard_of(name) or TABLE.fullmatch(name) or TOKENS.fullmatch(name) or name in (SIZES, WIDS):
            out.remove(name)


def finish(out: Store, dataset: Dataset) -> None:
    """Remove what a packing that was killed right after publishing left; one that goes on is left alone."""
    marked = read_marker(out)
    if marked and any(
        (generation.settings, generation.annotations) == (marked.get("settings"), marked.get("annotations"))
        for generation in dataset.generations
    ):
        with suppress(UserError), _locked(out):
            _remove_temporaries(out)
            _remove_traces(out)


def _remove_traces(out: Store) -> None:
    """The plan and, last, the marker."""
    for name, _ in list(out.names(FOLDER)):
        out.remove(name)
    if isinstance(out, LocalStore) and (out.directory / FOLDER).is_dir():
        with suppress(OSError):
            (out.directory / FOLDER).rmdir()
    out.remove(MARKER)


def _make_directory(out: Store) -> bool:
    if not isinstance(out, LocalStore):
        return False
    created = not out.directory.exists()
    try:
        make_directory(out.directory)
    except OSError as error:
        raise UserError(f"{out} cannot be made a folder: {error.strerror}") from None
    return created


def _remove_temporaries(out: Store) -> None:
    if isinstance(out, LocalStore):
        for folder in (out.directory, out.directory / FOLDER):
            for temporary in folder.glob(f"{TEMPORARY}*"):
                temporary.unlink(missing_ok=True)


@contextmanager
def _locked(out: Store) -> Iterator[None]:
    """Hold the folder's lock; it goes with the process that holds it.

    The file is open for writing, without which NFS locks nothing, and still in its place once it is locked: whoever had
    it before may have removed it.
    """
    if not isinstance(out, LocalStore):
        yield
        return
    path = out.directory / LOCK
    busy = UserError(f"another process is packing into {out}")
    with path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        except OSError:
            pass  # a file system without locks: two packings at once are then the user's to avoid
        if not path.exists() or path.stat().st_ino != os.fstat(file.fileno()).st_ino:
            raise busy
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _match(out: Store, job: dict[str, Any], published: Dataset | None, overwrite: bool) -> None:
    """Check the marker against the job, or write it where it is new, was cut short, or is to be overwritten."""
    found = read_marker(out)
    if found == job:
        return
    _refuse_foreign_files(out, published)
    if found is not None and not overwrite:
        refuse_another_job(out, found, job)
        raise UserError(f"{out} holds an unfinished packing that was added to another dataset; {ADVICE}")
    if not overwrite:
        _refuse_other_shards(out, job, published)
    elif published is None and not out.exists(MANIFEST):
        clear(out)  # what another job left half-done
    try:
        out.publish(MARKER, canonical_json(job), out.tag(MARKER))
    except Conflict:  # another process began at the same moment, in a bucket
        refuse_another_job(out, read_marker(out) or {}, job)


def _refuse_foreign_files(out: Store, published: Dataset | None) -> None:
    """UserError if there is anything that packing did not write: a tar is packing's only if an index says so.

    Where there is a marker, packing was at work, and may have left a tar whose index was not written yet.
    """
    listed = {shard.name for shard in published.shards} if published else set()
    known = {MARKER, MANIFEST, LOCK, SIZES, WIDS}
    names = {name for name, _ in out.names()}
    for name in sorted(names):
        shard = shard_of(name)
        if name in known or TABLE.fullmatch(name) or TOKENS.fullmatch(name):
            continue
        if name.startswith(FOLDER) or shard in listed:
            continue
        ours = shard and (MARKER in names or (index_name(shard) in names and noted_job(out.read(index_name(shard)))))
        if not ours:
            raise UserError(f"{out} holds {name}, which no packing there has written; name a new folder")


def _refuse_other_shards(out: Store, job: dict[str, Any], published: Dataset | None) -> None:
    """UserError if a shard that is not published notes another job."""
    listed = {shard.name for shard in published.shards} if published else set()
    for name, _ in out.names():
        shard = shard_of(name)
        if not shard or shard in listed or name != index_name(shard):
            continue
        if noted_job(out.read(name)) not in (None, content_hash(job)):
            raise UserError(f"{out}/{name} was packed with other settings or from a different input; {ADVICE}")
