"""The plan: which sample stands at which global position of a training run.

Pure: (datasets, weights, seed) -> global order, with no I/O and no state. Position p is found in closed form, so the
whole state of a data stream is `{plan hash, position}` and a run resumes on any number of ranks and workers.

    position -> block -> stream (by exact quotas) -> epoch of that stream -> window of shards -> (shard, row)

Shards are permuted in every epoch of a stream; samples are permuted inside windows of consecutive permuted shards, so
that reads stay local however large the dataset is.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


def generator(seed: int, purpose: str, *counter: int) -> np.random.Generator:
    """A generator that depends on (seed, purpose, up to three counters) alone: never on rank, worker or time."""
    return np.random.Generator(_philox(seed, purpose, *counter))


def permutation(size: int, seed: int, purpose: str, *counter: int) -> Integers:
    """The permutation of [0, size) drawn by (seed, purpose, counter).

    Sorting raw Philox words keeps the order across numpy releases, which `Generator.permutation` does not promise.
    """
    return np.argsort(_philox(seed, purpose, *counter).random_raw(size), kind="stable")


def _philox(seed: int, purpose: str, *counter: int) -> np.random.Philox:
    domain = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")
    # The lowest counter word is the one Philox advances; the caller's counters take the three above it.
    return np.random.Philox(key=[seed, domain], counter=[0, *counter, *[0] * (3 - len(counter))])


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One dataset's part in a mixture: the sizes of its shards and its share of the samples (`weight`, relative)."""

    name: str
    root_hash: str
    split: str
    shard_samples: tuple[int, ...]
    weight: float = 1.0

    def __post_init__(self) -> None:
        if sum(self.shard_samples) == 0:
            raise ValueError(f"dataset {self.name} has no samples in split {self.split}")
        if not 0 < self.weight < math.inf:
            raise ValueError(f"dataset {self.name}: weight must be positive and finite, not {self.weight}")


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where the samples of some positions lie; four int64 arrays of one length."""

    stream: Integers
    epoch: Integers
    shard: Integers
    row: Integers


class Plan:
    """The global order over a weighted mixture.

    `block`: every block of that many positions holds each stream exactly `quotas` times.
    `window`: how many shards are shuffled together; larger mixes better and reads from more places.
    Raises ValueError where a stream is empty, or so light that its quota in a block is 0.
    """

    def __init__(self, streams: Sequence[Stream], *, seed: int, block: int = 1024, window: int = 16) -> None:
        if not streams:
            raise ValueError("a plan needs at least one dataset")
        self.streams, self.seed, self.block, self.window = tuple(streams), seed, block, window
        self.quotas = integer_quotas([stream.weight for stream in streams], block)
        for stream, quota in zip(streams, self.quotas, strict=True):
            if quota == 0:
                raise ValueError(f"dataset {stream.name}: weight {stream.weight} is below one sample in {block}")
        self.shares = [quota / block for quota in self.quotas]  # of the samples, by stream
        self._orders = [_StreamOrder(stream, seed, i, window) for i, stream in enumerate(self.streams)]

    @property
    def hash(self) -> str:
        """sha256 over everything that decides the order: data, weights, seed, block and window."""
        facts = [[asdict(stream) for stream in self.streams], self.seed, self.block, self.window]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def locate(self, positions: Sequence[int] | Integers) -> Places:
        """The samples at global `positions` [n] (int, >= 0), in the order asked for."""
        position = np.asarray(positions, dtype=np.int64)
        stream, index = self._stream_and_index(position)
        epoch, shard, row = np.empty_like(index), np.empty_like(index), np.empty_like(index)
        for s, order in enumerate(self._orders):
            mine = stream == s
            if mine.any():
                epoch[mine], shard[mine], row[mine] = order.locate(index[mine])
        return Places(stream=stream, epoch=epoch, shard=shard, row=row)

    def _stream_and_index(self, position: Integers) -> tuple[Integers, Integers]:
        """Which stream each position belongs to, and how many samples of that stream come before it."""
        ends = np.cumsum(self.quotas)
        block, within = np.divmod(position, self.block)
        slot = np.empty_like(position)
        for b in np.unique(block):
            mine = block == b
            slot[mine] = permutation(self.block, self.seed, "mixture", int(b))[within[mine]]
        stream = np.searchsorted(ends, slot, side="right")
        quota = np.asarray(self.quotas, dtype=np.int64)
        return stream, block * quota[stream] + slot - (ends - quota)[stream]


def integer_quotas(weights: Sequence[float], total: int) -> list[int]:
    """Whole numbers that sum to `total` in proportion to `weights` (largest remainder).

    >>> integer_quotas([2, 1, 1], 1024)
    [512, 256, 256]
    """
    exact = np.asarray(weights, dtype=np.float64) / sum(weights) * total
    quotas = np.floor(exact).astype(np.int64)
    for i in np.argsort(quotas - exact, kind="stable")[: total - int(quotas.sum())]:
        quotas[i] += 1
    return [int(q) for q in quotas]


class _StreamOrder:
    """One stream's endless order: epoch after epoch, each a permutation of all its samples."""

    CACHED = 4  # epochs and windows kept: a batch touches one or two of each

    def __init__(self, stream: Stream, seed: int, index: int, window: int) -> None:
        self.sizes = np.asarray(stream.shard_samples, dtype=np.int64)
        self.samples = int(self.sizes.sum())
        self.seed, self.index, self.window = seed, index, window
        # lru_cache and not dicts of our own: loader threads share a plan, and its lookups cannot race with evictions.
        self._epoch = lru_cache(self.CACHED)(self._make_epoch)
        self._window = lru_cache(self.CACHED)(self._make_window)

    def locate(self, index: Integers) -> tuple[Integers, Integers, Integers]:
        epoch, within = np.divmod(index, self.samples)
        shard, row = np.empty_like(index), np.empty_like(index)
        for e in np.unique(epoch):
            mine = epoch == e
            shard[mine], row[mine] = self._locate_in_epoch(int(e), within[mine])
        return epoch, shard, row

    def _locate_in_epoch(self, epoch: int, within: Integers) -> tuple[Integers, Integers]:
        shards, starts = self._epoch(epoch)
        window = (np.searchsorted(starts, within, side="right") - 1) // self.window
        shuffled = np.empty_like(within)
        for w in np.unique(window):
            mine, first = window == w, starts[w * self.window]
            shuffled[mine] = first + self._window(epoch, int(w))[within[mine] - first]
        at = np.searchsorted(starts, shuffled, side="right") - 1
        return shards[at], shuffled - starts[at]

    def _make_epoch(self, epoch: int) -> tuple[Integers, Integers]:
        """The permuted (non-empty) shards of an epoch and the index at which each begins."""
        shards = permutation(len(self.sizes), self.seed, "shards", self.index, epoch)
        shards = shards[self.sizes[shards] > 0]
        return shards, np.cumsum(self.sizes[shards]) - self.sizes[shards]

    def _make_window(self, epoch: int, window: int) -> Integers:
        """The permutation of the samples of one window of consecutive permuted shards."""
        _, starts = self._epoch(epoch)
        bounds = [*starts[:: self.window], self.samples]
        size = int(bounds[window + 1] - bounds[window])
        return permutation(size, self.seed, "window", self.index, epoch, window)
