"""Who is read of a split: the people held out for validation, or all the others."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class People:
    """Which people of a split are read: those held out, or the others.

    A person is held out where the hash of the identity says so, in about `share` of all cases: the same people whatever
    else the dataset holds, so a validation split can be carved from a benchmark that has none.
    """

    share: float
    held_out: bool

    def chosen(self, identities: NDArray[Any]) -> NDArray[np.bool_]:
        """Which rows belong to the chosen people. [n] strings -> [n] bool."""
        names, place = np.unique(identities.astype(str), return_inverse=True)
        return np.array([_held_out(name, self.share) == self.held_out for name in names.tolist()], dtype=bool)[place]

    def __str__(self) -> str:
        return f"{'the held-out' if self.held_out else 'all but the held-out'} {100 * self.share:g} % of the people"


def _held_out(identity: str, share: float) -> bool:
    return int.from_bytes(hashlib.sha256(f"held out {identity}".encode()).digest()[:8]) < share * 2**64
