"""Blocks, in which tars of a bucket are fetched and kept, and which of them a cache can best do without. Pure."""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from sharding.index import Shard, tar_name

BLOCK_BYTES = 4 << 20
BLOCK_NAME = re.compile(r"[0-9a-f]{64}-\d{6,}-\d+")
RECENT_SECONDS = 600.0  # a block used since then by another run is needed there


class Block(NamedTuple):
    """Number `number` of a tar with that `sha256`, called `tar` in its dataset: `size` bytes from `begin` on."""

    sha256: str
    tar: str
    number: int
    begin: int
    size: int

    @property
    def name(self) -> str:
        """The block's file, the same for equal bytes whatever dataset they are of."""
        return f"{self.sha256}-{self.number:06d}-{self.size}"


def blocks_of(shard: Shard, offset: int, size: int) -> list[Block]:
    """The blocks that hold these bytes of a shard: BLOCK_BYTES each, and the last up to twice as many.

    So no request is for less, unless the whole tar is.
    """
    last = max(shard.bytes // BLOCK_BYTES - 1, 0)
    first, final = min(offset // BLOCK_BYTES, last), min((offset + size - 1) // BLOCK_BYTES, last)
    return [
        Block(
            shard.sha256,
            tar_name(shard.name),
            number,
            number * BLOCK_BYTES,
            (shard.bytes if number == last else (number + 1) * BLOCK_BYTES) - number * BLOCK_BYTES,
        )
        for number in range(first, final + 1)
    ]


class Kept(NamedTuple):
    """A block in the folder: its file's name, its size in bytes, and when it was last used, in seconds since 1970."""

    name: str
    size: int
    used: float


def eviction_order(
    blocks: Iterable[Kept], next_uses: Mapping[str, int], now: float, later_than: int | None = None
) -> list[Kept]:
    """Which blocks go first, given the position at which each shard (by sha256) is needed next.

    First those that no run needs: not of these shards and not used for 10 minutes, the oldest first. Then those of
    these shards, the block whose next use is farthest first, which costs the fewest downloads (Belady, 1966). Last what
    another run uses. With `later_than`, only blocks that nobody needs up to that position.
    """

    def rank(block: Kept) -> tuple[int, float, float]:
        position = next_uses.get(block.name[:64])
        if position is not None:
            return 1, -position, block.used
        return (0 if now - block.used > RECENT_SECONDS else 2), 0, block.used

    order = sorted(blocks, key=rank)
    if later_than is None:
        return order
    return [block for block in order if (r := rank(block))[0] == 0 or (r[0] == 1 and -r[1] > later_than)]
