"""What samples share that should be told: equal images, people or images in two splits, one caption for several people.

Hashes and rows are those of `sharding.stats.samples.Samples`; a code stands for one hash, counted from 0.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from sharding.stats.samples import Occurrence, Samples

EXAMPLES = 5
MEANT_TO_OVERLAP = [{"query", "gallery"}]  # of one evaluation: a query finds its person in the gallery


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """Images with the same bytes: `groups` of them, `images` in all, and how many groups span splits and identities.

    `examples` are groups (their first members), those that span splits or identities first.
    """

    groups: int
    images: int
    across_splits: int
    across_identities: int
    examples: tuple[tuple[Occurrence, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Leak:
    """How many identities and images (by their bytes) two splits have in common, with an occurrence of some in each."""

    splits: tuple[str, str]
    identities: int
    images: int
    identity_examples: tuple[tuple[Occurrence, Occurrence], ...]
    image_examples: tuple[tuple[Occurrence, Occurrence], ...]


@dataclass(frozen=True, kw_only=True)
class SharedCaption:
    """One caption of several identities, and the first sample of some of them."""

    caption: str
    identities: int
    examples: tuple[Occurrence, ...]


@dataclass(frozen=True, kw_only=True)
class SharedCaptions:
    """The number of distinct captions that are given to more than one identity; examples, the most shared first."""

    captions: int
    examples: tuple[SharedCaption, ...]


def duplicates(samples: Samples) -> Duplicates:
    """The images that occur more than once."""
    first, code = _codes(samples.image)
    counts = np.bincount(code)
    splits, identities = _labels_per_code(code, samples.split), _labels_per_code(code, _codes(samples.identity)[1])
    repeated = np.flatnonzero(counts > 1)
    worst_first = repeated[np.lexsort((first[repeated], -identities[repeated], -splits[repeated]))]
    return Duplicates(
        groups=len(repeated),
        images=int(counts[repeated].sum()),
        across_splits=int((splits > 1).sum()),
        across_identities=int((identities > 1).sum()),
        examples=tuple(
            tuple(samples.occurrence(row) for row in np.flatnonzero(code == group)[:EXAMPLES].tolist())
            for group in worst_first[:EXAMPLES]
        ),
    )


def leaks(samples: Samples) -> tuple[Leak, ...]:
    """The pairs of splits that have an identity or an image in common, in the dataset's order of splits."""
    found = []
    for one, other in combinations(range(len(samples.splits)), 2):
        names = (samples.splits[one], samples.splits[other])
        if set(names) in MEANT_TO_OVERLAP:
            continue
        people = _in_both(samples, samples.identity, one, other)
        images = _in_both(samples, samples.image, one, other)
        if len(people) + len(images):
            found.append(
                Leak(
                    splits=names,
                    identities=len(people),
                    images=len(images),
                    identity_examples=_pairs(samples, people),
                    image_examples=_pairs(samples, images),
                )
            )
    return tuple(found)


def shared_captions(samples: Samples) -> SharedCaptions:
    """The captions of more than one identity; the examples' texts are read from the shards again."""
    owner, identity = samples.caption_owner, _codes(samples.identity)[1]
    first, code = _codes(samples.caption_hash)
    identities = _labels_per_code(code, identity[owner])
    shared = np.flatnonzero(identities > 1)
    chosen = shared[np.lexsort((first[shared], -identities[shared]))][:EXAMPLES]
    examples = []
    for number in chosen:
        rows = owner[code == number]
        one_each = np.sort(np.unique(identity[rows], return_index=True)[1])[:EXAMPLES]
        examples.append(
            SharedCaption(
                caption=samples.caption(int(rows[0]), int(samples.caption_hash[first[number]])),
                identities=int(identities[number]),
                examples=tuple(samples.occurrence(row) for row in rows[one_each].tolist()),
            )
        )
    return SharedCaptions(captions=len(shared), examples=tuple(examples))


def count_distinct(hashes: NDArray[np.uint64]) -> int:
    """How many different hashes there are; np.unique takes five times as long for a million."""
    ordered = np.sort(hashes)
    return int((ordered[1:] != ordered[:-1]).sum()) + bool(len(ordered))


def _codes(hashes: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(where each code occurs first, the code of every hash)."""
    _, first, code = np.unique(hashes, return_index=True, return_inverse=True)
    return first, code


def _labels_per_code(codes: NDArray[np.int64], labels: NDArray[np.integer]) -> NDArray[np.int64]:
    """How many distinct labels each code occurs with; labels count from 0."""
    span = int(labels.max(initial=0)) + 1
    pairs = np.sort(codes * span + labels)
    return np.bincount(pairs[np.diff(pairs, prepend=-1) > 0] // span)


def _in_both(samples: Samples, hashes: NDArray[np.uint64], one: int, other: int) -> NDArray[np.int64]:
    """(row in one split, row in the other) of every hash that both have, the first of each, in packing order."""
    rows = [np.flatnonzero(samples.split == split) for split in (one, other)]
    _, *places = np.intersect1d(hashes[rows[0]], hashes[rows[1]], return_indices=True)
    pairs = np.stack([rows[0][places[0]], rows[1][places[1]]], axis=1)
    return pairs[np.argsort(pairs[:, 0])]


def _pairs(samples: Samples, rows: NDArray[np.int64]) -> tuple[tuple[Occurrence, Occurrence], ...]:
    return tuple((samples.occurrence(one), samples.occurrence(other)) for one, other in rows[:EXAMPLES].tolist())
