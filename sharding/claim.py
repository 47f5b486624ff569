"""One packing per folder: a locked marker file says which job a half-written folder belongs to.

The marker is written before anything else and removed after `dataset.json` is published; a killed process leaves it,
and with it the right to resume, but not the lock.
"""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from sharding.errors import UserError

MARKER = ".packing.json"


@contextmanager
def claimed(out: Path, job: dict[str, Any]) -> Iterator[None]:
    """Hold the folder `out`, created if need be, for `job`: {"settings": …, "annotations": {file: sha256}}.

    Raises UserError if it holds anything but an unfinished packing of the same job, or if another process is at it.
    Temporary files of a killed process are removed. If nothing was packed, nothing is left behind.
    """
    created = _make_directory(out)
    marker = out / MARKER
    if not marker.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty and holds no packing to resume; name a new folder")
    with marker.open("a+", encoding="utf-8") as file:
        _lock(file, out)
        _match(file, out, job)
        for temporary in out.glob(".tmp-*"):
            temporary.unlink()
        try:
            yield
        except BaseException:
            if [path.name for path in out.iterdir()] == [MARKER]:
                marker.unlink()
                if created:
                    out.rmdir()
            raise
        marker.unlink()


def refuse_another_job(out: Path, found: dict[str, Any], job: dict[str, Any]) -> None:
    """UserError if the job that `out` was packed for is not this one, naming the first thing that differs."""
    settings = found.get("settings", {})
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


def _lock(file: TextIO, out: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"another process is packing into {out}") from None
    except OSError:
        pass  # a file system without locks: two packings at once are then the user's to avoid


def _match(file: TextIO, out: Path, job: dict[str, Any]) -> None:
    """Check the marker against the job, or write it where it is new."""
    file.seek(0)
    text = file.read()
    if not text:
        json.dump(job, file)
        file.flush()
        return
    try:
        found = json.loads(text)
    except ValueError:
        raise UserError(f"{out / MARKER} is damaged; remove the folder and pack again") from None
    refuse_another_job(out, found, job)
