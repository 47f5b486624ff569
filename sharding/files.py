"""Writing files of this machine so that a killed process or a power cut leaves them whole or not there at all."""

import hashlib
import os
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

TEMPORARY = ".tmp-"  # how the names of files in the making begin; a killed process leaves them


def write_durably(path: Path, data: bytes) -> None:
    """Write under a temporary name, sync, rename, sync the directory: the file is there whole or not at all."""
    temporary = path.with_name(f"{TEMPORARY}{uuid4().hex}-{path.name}")  # no other writer's, alive or killed
    with temporary.open("wb") as file:
        file.write(data)
        sync(file)
    rename_durably(temporary, path)


def make_directory(path: Path) -> None:
    """Make a folder and those above it, so that a power cut does not take it away with what is in it."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_directory(folder.parent)


def sync(file: BinaryIO) -> None:
    """Have the file's bytes on the disk before anything depends on them."""
    file.flush()
    os.fsync(file.fileno())


def rename_durably(temporary: Path, path: Path) -> None:
    """Rename, then sync the directory, without which a power cut may undo the rename."""
    temporary.replace(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Have the names of the files in a directory on the disk."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def fingerprint(path: Path) -> str:
    """The sha256 (hex) of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
