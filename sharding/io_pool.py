"""The threads in which one process waits for an object store: requests side by side, each with its own round trip."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

THREADS = 32  # as many as there are connections to an S3 service (s3_client.CONNECTIONS)
AT_ONCE = 1024  # pieces of work in the queue: a future is 1 KB, and there may be 100,000 shards

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_order(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """The results for all items, in their order; the first error is raised in its place.

    `work` must not use this pool itself: with all threads waiting for others, none would be left to wait for.
    """
    for first in range(0, len(items), AT_ONCE):
        yield from _pool().map(work, items[first : first + AT_ONCE])


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="store")


os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has the pool, but none of its threads
