"""Stretches of tars in a bucket: neighbours in one request, requests side by side; with a cache, block by block."""

from collections.abc import Callable, Sequence
from itertools import chain, groupby

import numpy as np

from sharding.blocks import Block, blocks_of
from sharding.cache import BlockCache
from sharding.index import Shard, tar_name
from sharding.io_pool import map_in_order
from sharding.members import windows
from sharding.store import Store
from sharding.tars import Extent, ends_early


class RemoteTars:
    """See Tars."""

    def __init__(self, store: Store, shards: Sequence[Shard], cache: BlockCache | None) -> None:
        self._store, self._shards, self._cache = store, shards, cache

    def read(self, extents: Sequence[Extent]) -> list[bytes | OSError]:
        """See Tars."""
        return self._read_directly(extents) if self._cache is None else self._read_cached(self._cache, extents)

    def read_anew(self, extent: Extent) -> bytes | OSError:
        """See Tars: a block may have been damaged on the disk of the cache."""
        if self._cache is not None:
            for block in self.blocks([extent]):
                self._cache.drop(block)
        return self.read([extent])[0]

    def blocks(self, extents: Sequence[Extent]) -> list[Block]:
        """See Tars."""
        if self._cache is None:
            return []
        return list(dict.fromkeys(block for extent in extents for block in self._blocks(extent)))

    def load_ahead(self, block: Block) -> bool:
        """See Tars."""
        return self._cache is None or self._cache.load_ahead(block, lambda: self._download(block))

    def _read_directly(self, extents: Sequence[Extent]) -> list[bytes | OSError]:
        order = sorted(range(len(extents)), key=extents.__getitem__)
        groups: list[list[int]] = []  # of places in `extents`, each read with one request
        for _, places in groupby(order, key=lambda i: extents[i].shard):
            of_shard = list(places)
            begin = np.array([extents[i].offset for i in of_shard])
            end = begin + [extents[i].size for i in of_shard]
            groups += [of_shard[first:last] for first, last in windows(begin, end)]
        fetched = map_in_order(self._fetch, [[extents[i] for i in group] for group in groups])
        found = dict(zip(chain(*groups), chain.from_iterable(fetched), strict=True))
        return [found[i] for i in range(len(extents))]

    def _fetch(self, extents: Sequence[Extent]) -> list[bytes | OSError]:
        """Neighbouring extents of one shard, in ascending order, with one request."""
        shard, start, _ = extents[0]
        try:
            data = self._available(
                tar_name(self._shards[shard].name), start, max(offset + size for _, offset, size in extents)
            )
        except FileNotFoundError as error:
            return [error] * len(extents)
        return [self._cut(data, start, extent) for extent in extents]

    def _cut(self, data: bytes, start: int, extent: Extent) -> bytes | OSError:
        """An extent out of `data`, which begin at byte `start` of its tar."""
        content = data[extent.offset - start : extent.offset - start + extent.size]
        return content if len(content) == extent.size else self._ends_early(extent)

    def _ends_early(self, extent: Extent) -> OSError:
        place = f"{self._store}/{tar_name(self._shards[extent.shard].name)}"
        return ends_early(place, extent.offset + extent.size)

    def _read_cached(self, cache: BlockCache, extents: Sequence[Extent]) -> list[bytes | OSError]:
        found = [self._gather(extent, cache.read) for extent in extents]
        lost = [extent for extent, content in zip(extents, found, strict=True) if content is None]
        if cache.is_refused:  # a block for each sample, and none kept, would be a hundred times the bytes
            directly = iter(self._read_directly(lost))
            return [next(directly) if content is None else content for content in found]
        missing = self.blocks(lost)
        loaded = dict(zip(missing, map_in_order(self._load, missing), strict=True))

        def piece(block: Block, offset: int, size: int) -> bytes | OSError | None:
            content = loaded[block]
            if isinstance(content, OSError):
                return content
            return content[offset : offset + size] if offset + size <= len(content) else None

        return [
            content or self._gather(extent, piece) or self._ends_early(extent)
            for extent, content in zip(extents, found, strict=True)
        ]

    def _gather(
        self, extent: Extent, read: Callable[[Block, int, int], bytes | OSError | None]
    ) -> bytes | OSError | None:
        """An extent out of its blocks, mostly one; None where `read` has one of them not, or not so far."""
        parts: list[bytes] = []
        for block in self._blocks(extent):
            begin = max(extent.offset, block.begin)
            end = min(extent.offset + extent.size, block.begin + block.size)
            part = read(block, begin - block.begin, end - begin)
            if not isinstance(part, bytes):
                return part
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _blocks(self, extent: Extent) -> list[Block]:
        return blocks_of(self._shards[extent.shard], extent.offset, extent.size)

    def _load(self, block: Block) -> bytes | FileNotFoundError:
        assert self._cache is not None
        try:
            return self._cache.load(block, lambda: self._download(block))
        except FileNotFoundError as error:
            return error

    def _download(self, block: Block) -> bytes:
        return self._available(block.tar, block.begin, block.begin + block.size)

    def _available(self, tar: str, begin: int, end: int) -> bytes:
        """The bytes of a tar from `begin` to `end`, or to its own end where that comes first."""
        try:
            return self._store.read(tar, begin, end - begin)
        except FileNotFoundError:
            raise
        except OSError:
            length = self._store.size(tar)
            if length >= end:
                raise
            return self._store.read(tar, begin, length - begin) if length > begin else b""
