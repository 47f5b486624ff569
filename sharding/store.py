"""One small interface over the two places datasets are read from and written to: a folder, a prefix of an S3 bucket.

    open_store("data/raw")  →  LocalStore         open_store("s3://bucket/prefix")  →  S3Store (sharding/s3.py)

Files are named relative to the place, with `/`. A file that is written appears whole or not at all.
"""

import errno
import fcntl
import hashlib
import io
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol
from uuid import uuid4

from sharding.errors import Conflict, UserError
from sharding.files import TEMPORARY, make_directory, rename_durably, sync, sync_directory, write_durably


class Store(Protocol):
    """What packing and reading need of a place. `str(store)` is the place as users name it.

    A missing file raises FileNotFoundError, any other failure of the system OSError; both name the file. Stores can be
    pickled, and are equal where they mean the same place.
    """

    def names(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """(name, size in bytes) of every file whose name begins with `prefix`, in every folder, sorted by name.

        Nothing where the place does not exist.
        """

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""

    def size(self, name: str) -> int:
        """The size of a file in bytes."""

    def read(self, name: str, offset: int = 0, size: int = -1) -> bytes:
        """`size` bytes of a file from `offset` on, or all that follow (−1); OSError where there are fewer."""

    def open(self, name: str) -> BinaryIO:
        """A file to read from its start, buffered and seekable."""

    def write(self, name: str, data: bytes) -> None:
        """Write a small file, whole or not at all, over an earlier one."""

    def publish(self, name: str, data: bytes, replacing: str | None) -> None:
        """Write a file only if nobody else has: if there is none (`replacing` is None), or if its tag is `replacing`.

        Raises Conflict otherwise.
        """

    def tag(self, name: str) -> str | None:
        """What `publish` compares: another content has another tag. None where there is no such file."""

    def scratch(self) -> AbstractContextManager[Path]:
        """A folder of this machine to write a large file in; what is left there goes when the context is left."""

    def upload(self, path: Path, name: str) -> None:
        """Move a finished and synced file out of the scratch folder to its place, durably."""

    def remove(self, name: str) -> None:
        """Remove a file; no error where there is none."""


def open_store(place: "str | Path | Store", *, endpoint: str | None = None) -> Store:
    """The store at a path or at `s3://bucket/prefix`; a store is returned as it is.

    `endpoint` is the URL of an S3 service other than Amazon's; the environment's AWS_ENDPOINT_URL is heeded too.
    """
    if not isinstance(place, str | Path):
        return place
    if str(place).startswith("s3://"):
        from sharding.s3 import S3Store  # late: boto3 takes 0.3 s to import

        return S3Store.at(str(place), endpoint=endpoint)
    if "://" in str(place):
        raise UserError(f"{place} is neither a path nor s3://bucket/prefix")
    return LocalStore(Path(place))


def place_below(place: str | Path, name: str) -> str:
    """The place called `name` below another; `name` itself where it is an absolute path or a place in a bucket.

    >>> place_below("s3://bucket/data", "cuhk_pedes")
    's3://bucket/data/cuhk_pedes'
    """
    return name if name.startswith(("/", "s3://")) else f"{str(place).rstrip('/')}/{name}"


@dataclass(frozen=True)
class LocalStore:
    """A folder of this machine, or one that all machines of a cluster share; it is made by the first write."""

    directory: Path

    def __str__(self) -> str:
        return str(self.directory)

    def names(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """See Store; temporary files are left out, links to files are followed, links to folders are not."""
        folder, _, begin = prefix.rpartition("/")
        yield from self._walk(f"{folder}/" if folder else "", begin)

    def _walk(self, folder: str, begin: str) -> Iterator[tuple[str, int]]:
        try:
            entries = list(os.scandir(self.directory / folder))
        except (FileNotFoundError, NotADirectoryError):
            return
        # A folder sorts by the names of its files: `a.b` comes before `a/b`, and both before `ab`.
        folders = {entry.name for entry in entries if entry.is_dir(follow_symlinks=False)}
        for entry in sorted(entries, key=lambda entry: f"{entry.name}/" if entry.name in folders else entry.name):
            if not entry.name.startswith(begin) or entry.name.startswith(TEMPORARY):
                continue
            if entry.name in folders:
                yield from self._walk(f"{folder}{entry.name}/", "")
            elif entry.is_file():
                yield folder + entry.name, entry.stat().st_size

    def exists(self, name: str) -> bool:
        """See Store."""
        return os.path.isfile(f"{self.directory}/{name}")  # noqa: PTH113 - a Path forgets a slash at the end

    def size(self, name: str) -> int:
        """See Store."""
        descriptor, size = self._opened(name)
        os.close(descriptor)
        return size

    def read(self, name: str, offset: int = 0, size: int = -1) -> bytes:
        """See Store. Without a file object, which costs as much as the reading of an image."""
        descriptor, end = self._opened(name)
        try:
            if size > 0 and offset + size > end:  # before memory is taken for them
                raise OSError(f"{self.directory / name} ends before byte {offset + size}")
            wanted = max(end - offset, 0) if size < 0 else size
            data = os.pread(descriptor, wanted, offset)
            while len(data) < wanted:  # Linux reads at most 2 GiB at once
                more = os.pread(descriptor, wanted - len(data), offset + len(data))
                if not more:
                    raise OSError(f"{self.directory / name} ends before byte {offset + wanted}")
                data += more
        finally:
            os.close(descriptor)
        return data

    def open(self, name: str) -> BinaryIO:
        """See Store."""
        return io.BufferedReader(io.FileIO(self._opened(name)[0]))

    def _opened(self, name: str) -> tuple[int, int]:
        """The file's descriptor and size. A named pipe or a device is refused rather than waited for."""
        path = f"{self.directory}/{name}"
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (NotADirectoryError, ValueError):  # a file where `name` has a folder; a NUL or half a surrogate in it
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from None
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            return descriptor, status.st_size
        os.close(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        raise OSError(errno.EINVAL, "Not an ordinary file", path)

    def write(self, name: str, data: bytes) -> None:
        """See Store."""
        target = self.directory / name
        make_directory(target.parent)
        write_durably(target, data)

    def publish(self, name: str, data: bytes, replacing: str | None) -> None:
        """See Store; the system sees to it that one wins, as far as the file system has hard links and locks."""
        target = self.directory / name
        make_directory(target.parent)
        try:
            if replacing is None:
                _create_durably(target, data)
                return
            with target.open("rb") as earlier:
                with suppress(OSError):
                    fcntl.flock(earlier, fcntl.LOCK_EX)  # whoever waits here finds another tag afterwards
                if self.tag(name) == replacing:
                    write_durably(target, data)
                    return
        except (FileExistsError, FileNotFoundError):
            pass
        raise Conflict(f"{target} was published by somebody else")

    def tag(self, name: str) -> str | None:
        """See Store."""
        return hash_of(self, name) if self.exists(name) else None

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """See Store: the folder itself, so that a finished file has only to be renamed.

        Files in the making begin with TEMPORARY; those of a failed packing are removed by whoever holds the claim.
        """
        make_directory(self.directory)
        yield self.directory

    def upload(self, path: Path, name: str) -> None:
        """See Store."""
        target = self.directory / name
        make_directory(target.parent)
        rename_durably(path, target)

    def remove(self, name: str) -> None:
        """See Store."""
        (self.directory / name).unlink(missing_ok=True)


def hash_of(store: Store, name: str) -> str:
    """The sha256 (hex) of a file, read in pieces."""
    digest = hashlib.sha256()
    with store.open(name) as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _create_durably(path: Path, data: bytes) -> None:
    """Write a file that is not there yet, whole or not at all; FileExistsError if it is there."""
    temporary = path.with_name(f"{TEMPORARY}{uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            sync(file)
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            if path.exists():
                raise FileExistsError(path) from None
            temporary.replace(path)
        sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
