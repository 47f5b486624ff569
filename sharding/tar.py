"""Shards as plain ustar: a writer whose bytes depend on names and contents alone, and a strict reader for them.

Every header is the one `header(name, size)` gives (mtime, uid and gid 0, mode 0644), so the reader accepts a member
only if its header equals that, byte for byte: a flipped bit is found where lenient readers end early and say nothing.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sharding.errors import UserError

BLOCK = 512
END = b"\0" * (2 * BLOCK)
LARGEST_MEMBER = 8**11 - 1
MEMBER_NAME = re.compile(r"[a-z0-9_-]{1,90}\.[a-z0-9]{1,8}")


@dataclass(frozen=True, kw_only=True)
class Member:
    """One file in a tar: its name, the offset of its data from the start of the tar, and its size, in bytes."""

    name: str
    offset: int
    size: int


def header(name: str, size: int) -> bytes:
    """The 512-byte ustar header of an ordinary file; ValueError for a name or size that no shard may hold."""
    if not MEMBER_NAME.fullmatch(name) or not 0 <= size <= LARGEST_MEMBER:
        raise ValueError(f"a shard cannot hold {name!r} of {size} bytes")
    encoded = name.encode("ascii")
    digits = b"%011o" % size
    checksum = _BARE_SUM + sum(encoded) + sum(digits)
    return b"".join((encoded.ljust(100, b"\0"), _OWNER, digits, _TIME, b"%06o\0 " % checksum, _TAIL))


_OWNER = b"0000644\0" + b"0000000\0" * 2
_TIME = b"\0" + b"00000000000\0"
_TAIL = (b"0" + b"\0" * 100 + b"ustar\0" + b"00" + b"\0" * 64 + b"0000000\0" * 2).ljust(BLOCK - 156, b"\0")
_BARE_SUM = sum(_OWNER) + sum(_TIME) + 8 * ord(" ") + sum(_TAIL)


def padding(size: int) -> int:
    """The number of zero bytes that follow `size` bytes of data, up to the next block."""
    return -size % BLOCK


class TarWriter:
    """Appends members to a binary file, keeping count and hash of all bytes written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.bytes = 0

    def add(self, name: str, data: bytes) -> int:
        """Write one member; returns the offset of its data."""
        offset = self.bytes + BLOCK
        self._write(b"".join((header(name, len(data)), data, b"\0" * padding(len(data)))))
        return offset

    def finish(self) -> str:
        """Write the two zero blocks that end the archive; returns the sha256 (hex) of the whole."""
        self._write(END)
        return self._hash.hexdigest()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.bytes += len(data)


def sample_bytes(sizes: tuple[int, ...]) -> int:
    """How much members of these sizes add to a tar, headers and padding included."""
    return sum(BLOCK + size + padding(size) for size in sizes)


def read_members(path: Path) -> Iterator[Member]:
    """The members of one of our shards, in order, without their data; UserError at the first byte out of place."""
    end = path.stat().st_size
    with path.open("rb") as file:
        position = 0
        while True:
            block = file.read(BLOCK)
            if len(block) < BLOCK:
                raise UserError(f"{path} ends at byte {position} without an end mark: truncated")
            if block == END[:BLOCK]:
                break
            member = _parse(path, block, position)
            after = member.offset + member.size
            if after + padding(member.size) > end:
                raise UserError(f"{path} is truncated within {member.name}")
            file.seek(after)
            if file.read(padding(member.size)).strip(b"\0"):
                raise UserError(f"{path} is damaged after {member.name}, at byte {after}")
            yield member
            position = after + padding(member.size)
        if file.read() != END[BLOCK:]:
            raise UserError(f"{path} is damaged after byte {position + BLOCK}: one more zero block should end it")


def _parse(path: Path, block: bytes, position: int) -> Member:
    """The member whose header `block` is; it must be the header our writer gives that name and size."""
    try:
        name = block[:100].rstrip(b"\0").decode("ascii")
        size = int(block[124:135], 8)
        whole = block == header(name, size)
    except ValueError:
        whole = False
    if not whole:
        raise UserError(f"{path} has a damaged header at byte {position}")
    return Member(name=name, offset=position + BLOCK, size=size)
