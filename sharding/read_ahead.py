"""Fetches into the cache what the coming batches of a rank will read, and tells it what is needed when.

Plan (coming positions)  ->  places  ->  blocks not in the cache  ->  BlockCache  ->  SplitReader.read finds them
"""

import logging
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType

import numpy as np

from sharding.blocks import Block
from sharding.cache import BlockCache
from sharding.errors import UserError
from sharding.layout import Integers
from sharding.plan import Plan
from sharding.reader import SplitReader

log = logging.getLogger(__name__)

DOWNLOADS = 8  # at once: blocks of 4 MiB, so that few fill a line
LOOK_AHEAD = 64  # batches: some ten seconds of training, and more samples than a window has blocks
TELL_BLOCKS = 8  # blocks of the plan after which the cache is told anew what is needed when


class ReadAhead:
    """Downloads, in threads and until it is closed, what the coming `batches` of a rank need.

    `batches` are ranges of positions in the order in which they will be read, from `position` on, and `members` what is
    read of each reader's samples. At most half of the cache is fetched ahead of the position that `advance` was told
    last, in the order of first use, and nothing that is needed earlier is evicted for it. What cannot be fetched is
    logged and left to the reader, who meets the error himself.
    """

    def __init__(
        self,
        plan: Plan,
        readers: Sequence[SplitReader],
        cache: BlockCache,
        batches: Iterable[range],
        members: Sequence[tuple[str, ...]],
        position: int,
    ) -> None:
        self._plan, self._readers, self._cache, self._members = plan, readers, cache, members
        self._wanted = self._all_wanted(iter(batches))
        self._asking = threading.Lock()  # whoever holds it advances `_wanted`
        self._changed = threading.Condition()  # guards what follows; notified of progress and of the end
        self._position = self._told = position
        self._closed = False
        self._coming: deque[int] = deque(maxlen=LOOK_AHEAD)  # ends of the batches looked at last
        self._in_flight: set[Block] = set()
        self._ahead: deque[tuple[int, int]] = deque()  # (end of the batch, bytes fetched for it)

        self._tell()
        self._threads = [threading.Thread(target=self._fetch, name="read ahead", daemon=True) for _ in range(DOWNLOADS)]
        self._threads.append(threading.Thread(target=self._keep_telling, name="next uses", daemon=True))
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=1)  # one that waits for a dead store is left behind; it ends with its request

    def __enter__(self) -> "ReadAhead":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def advance(self, position: int) -> None:
        """Tell that all batches before `position` have been read."""
        with self._changed:
            self._position = position
            while self._ahead and self._ahead[0][0] <= position:
                self._ahead.popleft()
            self._changed.notify_all()

    def _keep_telling(self) -> None:
        """Keep the cache informed of the next uses; with 100,000 shards that takes 50 ms, hence not at every batch."""
        step = max(TELL_BLOCKS * self._plan.block, sum(len(reader.shards) for reader in self._readers))
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._position >= self._told + step)
                if self._closed:
                    return
            self._tell()

    def _tell(self) -> None:
        self._told = self._position
        self._cache.set_next_uses(next_uses(self._plan, self._readers, self._told))
        with self._changed:
            self._changed.notify_all()

    def _fetch(self) -> None:
        while True:
            with self._asking:
                wanted = next(self._wanted, None)
            if wanted is None:
                return
            reader, block, end = wanted
            try:
                while not reader.load_ahead(block):
                    with self._changed:
                        if self._closed or end <= self._position:
                            break
                        self._changed.wait()  # for the consumer, who will need other blocks no longer
            except (OSError, UserError) as error:
                log.warning("reading ahead: %s", error)
            with self._changed:
                self._in_flight.discard(block)

    def _all_wanted(self, batches: Iterator[range]) -> Iterator[tuple[SplitReader, Block, int]]:
        """Reader, block and end of the batch for which it is fetched, in the order of first use, as room permits."""
        for batch in batches:
            if batch.stop <= self._position:
                continue
            if not self._wait_for_consumer(batch.stop):
                return
            places = self._plan.locate(np.arange(batch.start, batch.stop))
            for stream, (reader, members) in enumerate(zip(self._readers, self._members, strict=True)):
                mine = places.stream == stream
                for block in self._blocks(reader, places.shard[mine], places.row[mine], members):
                    if block in self._cache or block in self._in_flight:
                        continue
                    if not self._wait_for_room(block, batch.stop):
                        return
                    yield reader, block, batch.stop

    def _blocks(self, reader: SplitReader, shards: Integers, rows: Integers, members: tuple[str, ...]) -> list[Block]:
        try:
            return reader.blocks(shards, rows, members)
        except (OSError, UserError) as error:  # of an index
            log.warning("reading ahead: %s", error)
            return []

    def _wait_for_consumer(self, end: int) -> bool:
        """Wait until a batch that ends at `end` is one of the next LOOK_AHEAD; False when the context is left.

        Where nothing is to be fetched there is never a lack of room to wait for, and the batches have no end.
        """
        with self._changed:
            coming = self._coming
            self._changed.wait_for(lambda: self._closed or len(coming) < LOOK_AHEAD or coming[0] <= self._position)
            coming.append(end)
            return not self._closed

    def _wait_for_room(self, block: Block, end: int) -> bool:
        """Wait until a block more is no more than half of the cache ahead; False when the context is left."""
        room = self._cache.limit_bytes // 2 - block.size
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or not self._ahead or sum(size for _, size in self._ahead) <= room
            )
            self._ahead.append((end, block.size))
            self._in_flight.add(block)
            return not self._closed


def next_uses(plan: Plan, readers: Sequence[SplitReader], position: int) -> dict[str, int]:
    """The first position from `position` on at which each shard (by sha256) may be read, as the plan tells it."""
    uses: dict[str, int] = {}
    for stream, reader in enumerate(readers):
        for shard, use in zip(reader.shards, plan.next_uses(position, stream).tolist(), strict=True):
            uses[shard.sha256] = min(use, uses.get(shard.sha256, use))
    return uses
