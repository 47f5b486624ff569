"""The one source of chance of the synthetic people: counter-based draws keyed by names and numbers.

The same key always gives the same draws, so any identity, caption or image can be made alone and in any order.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Dice:
    """Endless independent draws for one key, such as `Dice(seed, "cuhk_pedes", "view", identity, view)`."""

    def __init__(self, *key: str | int) -> None:
        digest = blake2b(repr(key).encode(), digest_size=16).digest()
        self.generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
        self._buffer: list[float] = []

    def unit(self) -> float:
        """Uniform in [0, 1); drawn 64 at a time because one numpy call costs as much as sixty list pops."""
        if not self._buffer:
            self._buffer = self.generator.random(64).tolist()
        return self._buffer.pop()

    def between(self, low: float, high: float) -> float:
        """Uniform in [low, high)."""
        return low + (high - low) * self.unit()

    def count(self, low: int, high: int) -> int:
        """Uniform whole number in [low, high], both ends included."""
        return low + int(self.unit() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.unit() < probability

    def pick(self, choices: Sequence[T]) -> T:
        """One of the choices, all equally likely."""
        return choices[int(self.unit() * len(choices))]

    def weighted(self, weights: Mapping[T, float]) -> T:
        """One of the keys, as likely as its weight says."""
        left = self.unit() * sum(weights.values())
        for choice, weight in weights.items():
            left -= weight
            if left < 0:
                return choice
        return choice

    def shuffled(self, choices: Sequence[T]) -> list[T]:
        """All choices in random order."""
        return sorted(choices, key=lambda _: self.unit())
