"""The two orders in which one dataset's samples come, endlessly: both in closed form, forth and back.

ShardOrder      index -> epoch -> window of permuted shards -> permuted sample of the window -> (shard, row)
IdentityOrder   index -> group of K -> epoch over people -> person -> K of the person's images, in cycles
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sharding.draws import Integers, permutation, words

CACHED = 4  # epochs and windows kept: a batch touches one or two of each


class Epoch(NamedTuple):
    """An epoch's shards, empty ones left out, in their order; the index at which each begins; where each shard is."""

    shards: Integers
    starts: Integers
    place: Integers


class Permutation(NamedTuple):
    """A permutation and its inverse."""

    order: Integers
    inverse: Integers

    @classmethod
    def of(cls, order: Integers) -> "Permutation":
        """With the inverse that belongs to it."""
        inverse = np.empty_like(order)
        inverse[order] = np.arange(len(order))
        return cls(order, inverse)


class ShardOrder:
    """Epoch after epoch, each a permutation of all samples: shards are permuted, and samples within `window` shards.

    lru_cache and not dicts of our own: loader threads share an order, and its lookups cannot race with evictions.
    """

    def __init__(self, sizes: Integers, seed: int, stream: int, window: int) -> None:
        self.sizes, self.seed, self.stream, self.window = sizes, seed, stream, window
        self.samples = int(sizes.sum())
        self.made_from = (sizes,)
        self._epoch = lru_cache(CACHED)(self._make_epoch)
        self._window = lru_cache(CACHED)(self._make_window)

    def locate(self, index: Integers) -> tuple[Integers, Integers, Integers]:
        """(epoch, shard, row) of the index-th samples, int64 [n] each."""
        epoch, within = np.divmod(index, self.samples)
        shard, row = np.empty_like(index), np.empty_like(index)
        for e in np.unique(epoch).tolist():
            mine = np.flatnonzero(epoch == e)
            shards, starts, _ = self._epoch(e)
            window = (np.searchsorted(starts, within[mine], side="right") - 1) // self.window
            for w in np.unique(window).tolist():
                some, first = mine[window == w], starts[w * self.window]
                shuffled = first + self._window(e, w).order[within[some] - first]
                at = np.searchsorted(starts, shuffled, side="right") - 1
                shard[some], row[some] = shards[at], shuffled - starts[at]
        return epoch, shard, row

    def index_of(self, epoch: Integers, shard: Integers, row: Integers) -> Integers:
        """The inverse of `locate`."""
        index = np.empty_like(row)
        for e in np.unique(epoch).tolist():
            mine = np.flatnonzero(epoch == e)
            _, starts, place = self._epoch(e)
            places = place[shard[mine]]
            for w in np.unique(places // self.window).tolist():
                here = places // self.window == w
                some, first = mine[here], starts[w * self.window]
                shuffled = starts[places[here]] + row[some]
                index[some] = e * self.samples + first + self._window(e, w).inverse[shuffled - first]
        return index

    def stand_in(self, index: int, attempt: int) -> int:
        """Another sample of the same epoch, drawn by (index, attempt)."""
        drawn = int(words(self.seed, "substitute", self.stream, index, attempt)) % self.samples
        return index // self.samples * self.samples + drawn

    def next_uses(self, index: int) -> Integers:
        """For each shard the first index from `index` on at which it may be read: int64 [shards]."""
        epoch, within = divmod(index, self.samples)
        uses = np.full(len(self.sizes), np.iinfo(np.int64).max)
        for e, passed in ((epoch + 1, -1), (epoch, within)):  # what this epoch still needs comes before the next
            shards, starts, _ = self._epoch(e)
            opens = starts[:: self.window]
            begins, ends = (
                np.repeat(edge, self.window)[: len(shards)] for edge in (opens, np.append(opens[1:], self.samples))
            )
            ahead = ends > passed
            uses[shards[ahead]] = e * self.samples + begins[ahead]
        return np.maximum(uses, index)

    def _make_epoch(self, epoch: int) -> Epoch:
        shards = permutation(len(self.sizes), self.seed, "shards", self.stream, epoch)
        shards = shards[self.sizes[shards] > 0]
        place = np.full(len(self.sizes), -1)
        place[shards] = np.arange(len(shards))
        return Epoch(shards, np.cumsum(self.sizes[shards]) - self.sizes[shards], place)

    def _make_window(self, epoch: int, window: int) -> Permutation:
        starts = self._epoch(epoch).starts[window * self.window :]
        end = starts[self.window] if len(starts) > self.window else self.samples
        return Permutation.of(permutation(int(end - starts[0]), self.seed, "window", self.stream, epoch, window))


class IdentityOrder:
    """Every K consecutive samples are of one person (P x K sampling); an epoch over people visits everyone once.

    A person's visits walk through all of the person's images before any comes again, in an order of its own each time:
    `epoch` of a sample counts these cycles. A person with fewer than K images repeats some within a group. `identities`
    holds one array per shard, of names or numbers.
    """

    def __init__(
        self, sizes: Integers, identities: Sequence[NDArray[Any]], seed: int, stream: int, per_identity: int
    ) -> None:
        assert sizes.tolist() == [len(people) for people in identities]
        self.seed, self.stream, self.per_identity = seed, stream, per_identity
        self._starts = np.cumsum(sizes) - sizes
        self._shard = np.repeat(np.arange(len(sizes)), sizes)
        _, self._person, self._count = np.unique(np.concatenate(identities), return_inverse=True, return_counts=True)
        self.made_from = (sizes, self._person)
        self._samples = Permutation.of(np.argsort(self._person, kind="stable"))  # person after person
        self._first = np.cumsum(self._count) - self._count
        self._people = lru_cache(CACHED)(self._make_people)

    def locate(self, index: Integers) -> tuple[Integers, Integers, Integers]:
        """(cycle, shard, row) of the index-th samples, int64 [n] each."""
        group, place = np.divmod(index, self.per_identity)
        epoch, within = np.divmod(group, len(self._count))
        person = np.empty_like(group)
        for e in np.unique(epoch).tolist():
            mine = epoch == e
            person[mine] = self._people(e).order[within[mine]]
        cycle, step = np.divmod(epoch * self.per_identity + place, self._count[person])
        walk, begin = self._walks(person, cycle)
        sample = self._samples.order[walk.order[begin + step]]
        return cycle, self._shard[sample], sample - self._starts[self._shard[sample]]

    def index_of(self, cycle: Integers, shard: Integers, row: Integers) -> Integers:
        """The inverse of `locate`."""
        sample = self._starts[shard] + row
        person = self._person[sample]
        image = self._samples.inverse[sample] - self._first[person]
        walk, begin = self._walks(person, cycle)
        step = walk.inverse[begin + image] - begin
        epoch, place = np.divmod(cycle * self._count[person] + step, self.per_identity)
        within = np.empty_like(epoch)
        for e in np.unique(epoch).tolist():
            mine = epoch == e
            within[mine] = self._people(e).inverse[person[mine]]
        return (epoch * len(self._count) + within) * self.per_identity + place

    def stand_in(self, index: int, attempt: int) -> int:
        """Another place of the same group, and when all were tried one of another person."""
        group, place = divmod(index, self.per_identity)
        if attempt < self.per_identity - 1:
            return group * self.per_identity + (place + 1 + attempt) % self.per_identity
        drawn = int(words(self.seed, "substitute", self.stream, index, attempt)) % (
            self.per_identity * len(self._count)
        )
        return group // len(self._count) * len(self._count) * self.per_identity + drawn

    def next_uses(self, index: int) -> Integers:
        """Any shard may be read next: int64 [shards]."""
        return np.full(len(self._starts), index)

    def _make_people(self, epoch: int) -> Permutation:
        return Permutation.of(permutation(len(self._count), self.seed, "people", self.stream, epoch))

    def _walks(self, person: Integers, cycle: Integers) -> tuple["_Walk", Integers]:
        """The images of each distinct (person, cycle) in their order, end to end, and where each of [n] begins there.

        Made for all at once: a generator for every sample costs 20 µs.
        """
        pairs, which = np.unique(np.stack([person, cycle]), axis=1, return_inverse=True)
        count = self._count[pairs[0]]
        begin = np.cumsum(count) - count
        pair = np.repeat(np.arange(len(count)), count)
        slot = self._first[pairs[0]][pair] + np.arange(len(pair)) - begin[pair]
        order = np.lexsort((words(self.seed, "images", self.stream, slot, pairs[1][pair]), pair))
        inverse = np.empty_like(order)
        inverse[order] = np.arange(len(order))
        return _Walk(slot[order], inverse), begin[which.reshape(-1)]


class _Walk(NamedTuple):
    """order: for each place of a walk the image's place among all people's; inverse: for each image its place."""

    order: Integers
    inverse: Integers
