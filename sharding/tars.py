"""Stretches of the tars of a split: many at once, and what is not there as a value. Here from a folder.

A file that is missing, too short or on a failing disk loses the samples in question; a store that does not answer is an
error of the run, and raised.
"""

import errno
import os
import weakref
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

from sharding.blocks import Block
from sharding.index import Shard, tar_name

OPEN_FILES = 64  # tars of a split: those of two windows of the plan, and some
LOST = (errno.ENOENT, errno.EIO)


class Extent(NamedTuple):
    """`size` bytes from `offset` on in the tar of shard number `shard`."""

    shard: int
    offset: int
    size: int


class Tars(Protocol):
    """The tars of some shards. Threads may share it."""

    def read(self, extents: Sequence[Extent]) -> list[bytes | OSError]:
        """The bytes of each extent in the order asked for, or why they are not there."""

    def read_anew(self, extent: Extent) -> bytes | OSError:
        """The same from the source itself, where what `read` gave proved damaged."""

    def blocks(self, extents: Sequence[Extent]) -> list[Block]:
        """The blocks of a cache that hold the extents, each once, in the order of first use."""

    def load_ahead(self, block: Block) -> bool:
        """Have a block in the cache; False where there is no room but that of what is needed earlier."""


class LocalTars:
    """Files of this machine.

    Read with pread and not mapped: a mapped file that is cut short kills the process with SIGBUS, and a failing disk
    too. It costs 2.9 µs for 19 KB where a slice of a map costs 1.9, and leaves the interpreter to other threads.
    """

    def __init__(self, directory: Path, shards: Sequence[Shard]) -> None:
        self._paths = [directory / tar_name(shard.name) for shard in shards]
        self._file = lru_cache(OPEN_FILES)(lambda shard: _File(self._paths[shard]))

    def read(self, extents: Sequence[Extent]) -> list[bytes | OSError]:
        """See Tars."""
        return [self.read_anew(extent) for extent in extents]

    def read_anew(self, extent: Extent) -> bytes | OSError:
        """See Tars."""
        shard, offset, size = extent
        try:
            file = self._file(shard)  # held while it is read from: two threads may have opened it, and one copy goes
            data = os.pread(file.descriptor, size, offset)
        except OSError as error:
            if error.errno in LOST:
                return error
            raise
        return data if len(data) == size else ends_early(str(self._paths[shard]), offset + size)

    def blocks(self, extents: Sequence[Extent]) -> list[Block]:
        """See Tars: none."""
        return []

    def load_ahead(self, block: Block) -> bool:
        """See Tars."""
        return True


class _File:
    """An open file, closed when the last thread that reads from it lets go of it."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self.descriptor)


def ends_early(place: str, byte: int) -> OSError:
    """Why an extent is not there where the file is shorter than its index says."""
    return OSError(f"{place} ends before byte {byte}")
