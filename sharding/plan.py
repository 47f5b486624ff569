"""The plan: which sample stands at which global position of a training run.

Pure: (datasets, weights, seed) -> global order, with no I/O and no state. Position p is found in closed form, and the
position of a sample too, so the whole state of a data stream is `{plan hash, position}` and a run resumes on any number
of ranks and workers.

    position -> block -> stream (by exact quotas) -> that stream's own order (sharding/orders.py) -> (epoch, shard, row)

Shards are permuted in every epoch of a stream; samples are permuted inside windows of consecutive permuted shards, so
that reads stay local however large the dataset is. Or, to sample P identities x K images, K consecutive positions hold
one person.

There is no tail: every stream is endless, and where its epoch ends inside a batch, the first samples of the next epoch
complete it, each with weight 1. So nothing is dropped, nothing comes twice in an epoch, and since a global batch is a
range of positions that the ranks share out evenly, all of them take the same number of steps.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharding.draws import Integers, permutation
from sharding.orders import IdentityOrder, Permutation, ShardOrder

ORDER_VERSION = 2  # another one where the same streams and seed give other samples, or other views of them
CACHED_BLOCKS = 64  # permutations of the mixture: more than a global batch spans


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One dataset's part in a mixture: the sizes of its shards and its share of the samples (`weight`, relative)."""

    name: str
    root_hash: str
    split: str
    shard_samples: tuple[int, ...]
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.samples == 0:
            raise ValueError(f"dataset {self.name} has no samples in split {self.split}")
        if not 0 < self.weight < math.inf:
            raise ValueError(f"dataset {self.name}: weight must be positive and finite, not {self.weight}")

    @cached_property
    def samples(self) -> int:
        """How many there are."""
        return sum(self.shard_samples)

    @property
    def facts(self) -> dict[str, Any]:
        """What it is, without the size of every shard."""
        return {
            "name": self.name,
            "root_hash": self.root_hash,
            "split": self.split,
            "weight": float(self.weight),
            "samples": self.samples,
            "shards": len(self.shard_samples),
        }


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where the samples of some positions lie; four int64 arrays of one length.

    epoch: how often the sample has come before.
    """

    stream: Integers
    epoch: Integers
    shard: Integers
    row: Integers


class Plan:
    """The global order over a weighted mixture. Thread-safe.

    `block`: every block of that many groups holds each stream exactly `quotas` times. A group is one sample; with
    `identities` (for each stream one array per shard) it is `per_identity` samples of one person. `window`: how many
    shards are shuffled together; larger mixes better and reads from more places. Raises ValueError where a stream is
    empty, or so light that its quota in a block is 0.
    """

    def __init__(
        self,
        streams: Sequence[Stream],
        *,
        seed: int,
        block: int = 1024,
        window: int = 16,
        identities: Sequence[Sequence[NDArray[Any]]] | None = None,
        per_identity: int = 1,
    ) -> None:
        if not streams:
            raise ValueError("a plan needs at least one dataset")
        if (identities is None) != (per_identity == 1):
            raise ValueError("identities and per_identity > 1 belong together")
        assert window >= 1, window
        self.streams, self.seed, self.block, self.window = tuple(streams), seed, block, window
        self.per_identity = per_identity
        self.quotas = integer_quotas([stream.weight for stream in streams], block)
        for stream, quota in zip(streams, self.quotas, strict=True):
            if quota == 0:
                raise ValueError(f"dataset {stream.name}: weight {stream.weight} is below one sample in {block}")
        self.shares = [quota / block for quota in self.quotas]  # of the samples, by stream
        all_sizes = [np.array(stream.shard_samples, dtype=np.int64) for stream in streams]
        self._orders: list[ShardOrder | IdentityOrder] = (
            [ShardOrder(sizes, seed, i, window) for i, sizes in enumerate(all_sizes)]
            if identities is None
            else [
                IdentityOrder(sizes, people, seed, i, per_identity)
                for i, (sizes, people) in enumerate(zip(all_sizes, identities, strict=True))
            ]
        )
        self._quotas = np.array(self.quotas, dtype=np.int64)
        self._ends = np.cumsum(self._quotas)
        self._slots = lru_cache(CACHED_BLOCKS)(self._make_slots)

    @property
    def facts(self) -> dict[str, Any]:
        """What decides the order, readable and small. `hash` knows the sizes of the shards and their people too."""
        return {
            "order_version": ORDER_VERSION,
            "seed": self.seed,
            "block": self.block,
            "window": self.window,
            "per_identity": self.per_identity,
            "streams": [stream.facts for stream in self.streams],
        }

    @cached_property
    def hash(self) -> str:
        """sha256 over everything that decides the order: the facts, the sizes of all shards and whose images they hold.

        Weights count as they were given: 1:1 and 2:2 mean the same order, but differ here.
        """
        digest = hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode())
        for order in self._orders:
            for numbers in order.made_from:
                digest.update(numbers.astype("<i8").tobytes())
        return digest.hexdigest()

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

    def positions_of(self, places: Places) -> Integers:
        """The inverse of `locate`: the global positions [n] of samples."""
        index = np.empty_like(places.row)
        for s, order in enumerate(self._orders):
            mine = places.stream == s
            if mine.any():
                index[mine] = order.index_of(places.epoch[mine], places.shard[mine], places.row[mine])
        return self._position(places.stream, index)

    def substitute(self, position: int, attempt: int) -> int:
        """A position whose sample stands in for a damaged one: drawn anew for each attempt, the same for every rank.

        It is of the same stream and epoch; of the same person, where K positions hold one and others of the K are left.
        It may be the damaged one again, where chance or a person with fewer than K images has it so: then try another.
        """
        stream, index = self._stream_and_index(np.array([position]))
        other = self._orders[int(stream[0])].stand_in(int(index[0]), attempt)
        return int(self._position(stream, np.array([other]))[0])

    def next_uses(self, position: int, stream: int) -> Integers:
        """For each shard of a stream the first position from `position` on at which it may be read: int64 [shards].

        Up to a block too early, never too late.
        """
        block, quota = position // self._block_positions, self.quotas[stream] * self.per_identity
        uses = self._orders[stream].next_uses(block * quota)
        return np.maximum(uses // quota * self._block_positions, position)

    @property
    def _block_positions(self) -> int:
        return self.block * self.per_identity

    def _stream_and_index(self, position: Integers) -> tuple[Integers, Integers]:
        """Which stream each position belongs to, and how many samples of that stream come before it."""
        group, place = np.divmod(position, self.per_identity)
        block, within = np.divmod(group, self.block)
        slot = np.empty_like(position)
        for b in np.unique(block).tolist():
            mine = block == b
            slot[mine] = self._slots(b).order[within[mine]]
        stream = np.searchsorted(self._ends, slot, side="right")
        quota = self._quotas[stream]
        return stream, (block * quota + slot - (self._ends - self._quotas)[stream]) * self.per_identity + place

    def _position(self, stream: Integers, index: Integers) -> Integers:
        """The inverse of `_stream_and_index`."""
        group, place = np.divmod(index, self.per_identity)
        block, within = np.divmod(group, self._quotas[stream])
        slot = within + (self._ends - self._quotas)[stream]
        for b in np.unique(block).tolist():
            mine = block == b
            slot[mine] = self._slots(b).inverse[slot[mine]]
        return (block * self.block + slot) * self.per_identity + place

    def _make_slots(self, block: int) -> Permutation:
        """How the streams' quotas are mixed in one block; one stream keeps its order, and its epochs their ends."""
        if len(self.streams) == 1:
            return Permutation.of(np.arange(self.block))
        return Permutation.of(permutation(self.block, self.seed, "mixture", block))


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
