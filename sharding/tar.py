"""Shards as plain ustar, whose bytes depend on names and contents alone.

Every header is the one `header(name, size)` gives (mtime, uid and gid 0, mode 0644), so whoever checks a shard compares
headers byte for byte: a flipped bit is found where lenient readers end early and say nothing.
"""

import hashlib
import re
from typing import BinaryIO

BLOCK = 512
END = b"\0" * (2 * BLOCK)
LARGEST_MEMBER = 8**11 - 1
MEMBER_NAME = re.compile(r"[a-z0-9_-]{1,90}\.[a-z0-9]{1,8}")


def header(name: str, size: int) -> bytes:
    """The 512-byte ustar header of an ordinary file; ValueError for a name or size that no shard may hold."""
    if not MEMBER_NAME.fullmatch(name) or not 0 <= size <= LARGEST_MEMBER:
        raise ValueError(f"a shard cannot hold {name!r} of {size} bytes")
    encoded = name.encode("ascii")
    digits = b"%011o" % size
    checksum = _BARE_SUM + sum(encoded) + sum(digits)
    return b"%b%b%b%b%06o\0 %b" % (encoded.ljust(100, b"\0"), _OWNER, digits, _TIME, checksum, _TAIL)


_OWNER = b"0000644\0" + b"0000000\0" * 2
_TIME = b"\0" + b"00000000000\0"
_TAIL = (b"0" + b"\0" * 100 + b"ustar\0" + b"00" + b"\0" * 64 + b"0000000\0" * 2).ljust(BLOCK - 156, b"\0")
_BARE_SUM = sum(_OWNER) + sum(_TIME) + 8 * ord(" ") + sum(_TAIL)
_ZEROS = bytes(BLOCK)


class TarWriter:
    """Appends members to an unbuffered binary file, in large pieces, keeping count and hash of all bytes."""

    PIECE = 1 << 20

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._parts: list[bytes] = []  # not written yet
        self._written = 0
        self.bytes = 0

    def add(self, *members: tuple[str, bytes]) -> list[int]:
        """Append members (name, data); returns the offset of each one's data."""
        offsets = []
        for name, data in members:
            size = len(data)
            rest = -size % BLOCK
            self._parts += (header(name, size), data, _ZEROS[:rest])
            offsets.append(self.bytes + BLOCK)
            self.bytes += BLOCK + size + rest
        if self.bytes - self._written >= self.PIECE:
            self._flush()
        return offsets

    def finish(self) -> str:
        """Append the two zero blocks that end the archive, write all; returns the sha256 (hex) of the whole."""
        self._parts.append(END)
        self.bytes += len(END)
        self._flush()
        return self._hash.hexdigest()

    def _flush(self) -> None:
        piece = memoryview(b"".join(self._parts))
        self._hash.update(piece)
        while piece:
            piece = piece[self._file.write(piece) :]
        self._parts.clear()
        self._written = self.bytes
