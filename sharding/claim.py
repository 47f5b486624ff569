"""One packing per folder: a locked marker file says which job a half-written folder belongs to.

The marker is on the disk before anything else and is removed after `dataset.json` is published; a killed process
leaves it, and with it the right to resume, but not the lock. Where it is missing, the job noted in each shard decides.
"""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from sharding.errors import UserError
from sharding.index import SHARD_NAME, canonical_json, content_hash, sync, sync_directory
from sharding.shard import noted_job

MARKER = ".packing.json"
TABLES = ("rejects.parquet", "triplets.parquet")


@contextmanager
def claimed(out: Path, job: dict[str, Any]) -> Iterator[None]:
    """Hold the folder `out`, created if need be, for `job`: {schema_version, settings, annotations: {file: sha256}}.

    Raises UserError if it holds anything but an unfinished packing of the same job, or if another process is at it.
    Temporary files, a killed process's or our own after a failure, are removed. If nothing was packed, nothing is left.
    """
    created = _make_directory(out)
    marker = out / MARKER
    if not marker.exists():
        _refuse_foreign_files(out, job)
    with marker.open("a+b") as file:
        _lock(file, out)
        _match(file, out, job)
        _remove_temporaries(out)
        try:
            yield
        except BaseException:
            _remove_temporaries(out)
            if [path.name for path in out.iterdir()] == [MARKER]:
                marker.unlink()
                if created:
                    out.rmdir()
            raise
        marker.unlink()


def refuse_another_job(out: Path, found: dict[str, Any], job: dict[str, Any]) -> None:
    """UserError if the job that `out` was packed for is not this one, naming the first thing that differs."""
    settings = found.get("settings")
    if found.get("schema_version") != job["schema_version"] or not isinstance(settings, dict):
        raise UserError(f"{out} was packed by another version of person-pretrain; name a new folder")
    for name, value in job["settings"].items():
        if settings.get(name) != value:
            raise UserError(f"{out} was packed with {name} {settings.get(name)}, not {value}; name a new folder")
    if found.get("annotations") != job["annotations"]:
        names = ", ".join(job["annotations"])
        raise UserError(f"{out} was packed from a different input ({names}); name a new folder")


def _make_directory(out: Path) -> bool:
    created = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out} cannot be made a folder: {error.strerror}") from None
    return created


def _remove_temporaries(out: Path) -> None:
    for temporary in out.glob(".tmp-*"):
        temporary.unlink()


def _refuse_foreign_files(out: Path, job: dict[str, Any]) -> None:
    """UserError unless every file in `out` is one that packing `job` may have left there."""
    for path in out.iterdir():
        is_shard = SHARD_NAME.fullmatch(path.stem) and path.suffix in (".tar", ".parquet")
        if not is_shard and path.name not in (MARKER, *TABLES) and not path.name.startswith(".tmp-"):
            raise UserError(f"{out} is not empty and holds no packing to resume; name a new folder")
        if is_shard and path.suffix == ".parquet" and noted_job(path) not in (None, content_hash(job)):
            raise UserError(f"{path} was packed with other settings or from a different input; name a new folder")


def _lock(file: BinaryIO, out: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"another process is packing into {out}") from None
    except OSError:
        pass  # a file system without locks: two packings at once are then the user's to avoid


def _match(file: BinaryIO, out: Path, job: dict[str, Any]) -> None:
    """Check the marker against the job, or write it where it is new or was cut short."""
    file.seek(0)
    try:
        found = json.loads(file.read())
    except ValueError:
        found = None
    if isinstance(found, dict):
        refuse_another_job(out, found, job)
        return
    _refuse_foreign_files(out, job)
    file.truncate(0)
    file.write(canonical_json(job))
    sync(file)
    sync_directory(out)
