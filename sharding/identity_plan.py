"""The identity-balanced plan: every K consecutive positions hold K images of one person (P x K sampling).

Pure and in closed form like the random plan, so a run resumes exactly and ranks change nothing. Batch-hard
losses need several images of a person in a batch, which random sampling of thousands of people rarely gives.

    position -> group of K -> epoch over people -> person -> K of the person's images, in cycles
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharding.plan import Integers, Places, Stream, permutation


class IdentityPlan:
    """The global order over the people of one stream.

    An epoch visits every person once. A person's visits walk through all of the person's images before any comes again,
    so a person with fewer than K images repeats some within a group. `identities` holds one string array per shard.
    """

    def __init__(self, stream: Stream, identities: Sequence[NDArray[Any]], *, per_identity: int, seed: int) -> None:
        self.streams, self.seed, self.per_identity = (stream,), seed, per_identity
        self.shares = [1.0]
        names = np.concatenate([ids.astype(str) for ids in identities])
        sizes = [len(ids) for ids in identities]
        self._shard = np.repeat(np.arange(len(sizes)), sizes)
        self._row = np.concatenate([np.arange(size) for size in sizes])
        _, person, counts = np.unique(names, return_inverse=True, return_counts=True)
        self._samples = np.argsort(person, kind="stable")  # person after person
        self._first, self._count = np.cumsum(counts) - counts, counts
        self._people = lru_cache(4)(self._make_people)

    @property
    def hash(self) -> str:
        """sha256 over everything that decides the order."""
        facts = ["identity", asdict(self.streams[0]), self.seed, self.per_identity]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def locate(self, positions: Sequence[int] | Integers) -> Places:
        """The samples at global `positions` [n] (int, >= 0), in the order asked for."""
        group, place = np.divmod(np.asarray(positions, dtype=np.int64), self.per_identity)
        epoch, within = np.divmod(group, len(self._count))
        person = np.array([self._people(int(e))[w] for e, w in zip(epoch, within, strict=True)], dtype=np.int64)
        cycle, turn = np.divmod(epoch * self.per_identity + place, self._count[person])
        sample = np.array([self._image(*key) for key in zip(person, cycle, turn, strict=True)], dtype=np.int64)
        return Places(stream=np.zeros_like(group), epoch=epoch, shard=self._shard[sample], row=self._row[sample])

    def _make_people(self, epoch: int) -> Integers:
        return permutation(len(self._count), self.seed, "people", epoch)

    def _image(self, person: int, cycle: int, turn: int) -> int:
        """The sample that comes at `turn` of a person's `cycle`-th walk through the person's images."""
        order = permutation(int(self._count[person]), self.seed, "images", int(person), int(cycle))
        return int(self._samples[self._first[person] + order[turn]])
