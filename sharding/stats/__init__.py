"""What is in a packed dataset: `sharding stats`. Counts, captions, image sizes, scores, and what is wrong with them.

    indexes and captions, shard by shard  →  Samples (samples.py)  →  Figures by split and source (here)
                                                                   →  duplicates, leaks, shared captions (overlaps.py)

Kept in memory are columns of numbers, keys and identities, some 200 bytes a sample, and the vocabulary; never captions.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharding.counts import differences
from sharding.dataset import Dataset, open_dataset, read_rejects
from sharding.sources.published import published_sizes
from sharding.stats.overlaps import Duplicates, Leak, SharedCaptions, count_distinct, duplicates, leaks, shared_captions
from sharding.stats.samples import Samples, read_samples
from sharding.store import Store

LONG = 75  # CLIP reads 77 tokens, two of them marks; a word is at least one token
COMMONEST = 5
BINS = 10


@dataclass(frozen=True, kw_only=True)
class Words:
    """Words of a caption, separated by white space; `long` counts the captions of more than 75, which CLIP cuts."""

    least: int
    mean: float
    median: float
    p95: float
    greatest: int
    long: int


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Pixels of a side of the images."""

    least: int
    median: float
    greatest: int


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Image quality of the images that have one: `counts[i]` of them lie in `edges[i]` to `edges[i + 1]`."""

    images: int
    least: float
    mean: float
    greatest: float
    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Some samples in numbers; None where there is nothing to measure.

    `unique_words` counts lower-cased runs of letters, digits and inner hyphens in all captions, and is None where they
    were not read; `sizes` are the commonest (width, height, images).
    """

    images: int
    captions: int
    identities: int
    without_captions: int
    image_bytes: int
    words: Words | None
    unique_words: int | None
    width: Spread | None
    height: Spread | None
    sizes: tuple[tuple[int, int, int], ...]
    score: Scores | None


@dataclass(frozen=True, kw_only=True)
class Stats:
    """What `sharding stats` finds; `shared_captions` is None where captions were not read.

    `rejects` are rows that were refused, `reject_reasons` those rows and rows that lost captions, by reason, the
    commonest first; `left_out` counts records that were not selected; `triplets` is 0 but for composed retrieval;
    `differences` tells in words where the counts are not those that the dataset was published with.
    """

    place: str
    name: str
    source: str
    root_hash: str
    total: Figures
    splits: dict[str, Figures]
    sources: dict[str, Figures]
    leaks: tuple[Leak, ...]
    duplicates: Duplicates
    shared_captions: SharedCaptions | None
    rejects: int
    reject_reasons: dict[str, int]
    dropped_captions: int
    left_out: int
    triplets: int
    differences: tuple[str, ...]


def stats(
    place: Path | str | Store, *, captions: bool = True, progress: Callable[[int, int], None] | None = None
) -> Stats:
    """Measure the packed dataset at `place`; `progress(samples done, samples)` is called after every shard.

    Without `captions` only indexes are read, a hundredth of the bytes; words are not collected, captions not compared.
    Raises UserError where there is no dataset or what is read is damaged.
    """
    dataset = open_dataset(place)
    samples = read_samples(dataset, captions=captions, progress=progress)
    everything = np.ones(len(samples), dtype=bool)
    return Stats(
        place=str(dataset.store),
        name=dataset.name,
        source=dataset.source,
        root_hash=dataset.root_hash,
        total=_figures(samples, everything),
        splits={name: _figures(samples, samples.split == code) for code, name in enumerate(samples.splits)},
        sources={name: _figures(samples, samples.source == code) for name, code in samples.sources.items()},
        leaks=leaks(samples),
        duplicates=duplicates(samples),
        shared_captions=shared_captions(samples) if captions else None,
        rejects=dataset.counts["rejects"],
        reject_reasons=_reasons(dataset),
        dropped_captions=dataset.counts["dropped_captions"],
        left_out=dataset.counts["left_out"],
        triplets=dataset.counts.get("triplets", 0),
        differences=tuple(differences(dataset.counts, published_sizes(dataset.source, dataset.counts["splits"]))),
    )


def _figures(samples: Samples, chosen: NDArray[np.bool_]) -> Figures:
    words = samples.words[chosen[samples.caption_owner]]
    sizes = samples.size[chosen]
    return Figures(
        images=int(chosen.sum()),
        captions=len(words),
        identities=count_distinct(samples.identity[chosen]),
        without_captions=int((samples.captions[chosen] == 0).sum()),
        image_bytes=int(samples.image_bytes[chosen].sum()),
        words=_words(words) if len(words) else None,
        unique_words=len(samples.vocabulary(chosen)) if samples.captions_read else None,
        width=_spread(sizes[:, 0]) if len(sizes) else None,
        height=_spread(sizes[:, 1]) if len(sizes) else None,
        sizes=_commonest(sizes),
        score=_scores(samples.score[chosen], samples.score),
    )


def _words(words: NDArray[np.int32]) -> Words:
    median, p95 = np.percentile(words, [50, 95])
    return Words(
        least=int(words.min()),
        mean=float(words.mean()),
        median=float(median),
        p95=float(p95),
        greatest=int(words.max()),
        long=int((words > LONG).sum()),
    )


def _spread(values: NDArray[np.int32]) -> Spread:
    return Spread(least=int(values.min()), median=float(np.median(values)), greatest=int(values.max()))


def _commonest(sizes: NDArray[np.int32]) -> tuple[tuple[int, int, int], ...]:
    """The commonest sizes, ties by width and height."""
    packed, counts = np.unique(sizes[:, 0].astype(np.int64) << 32 | sizes[:, 1], return_counts=True)
    first = np.argsort(-counts, kind="stable")[:COMMONEST]
    pairs = zip(packed[first].tolist(), counts[first].tolist(), strict=True)
    return tuple((size >> 32, size & 0xFFFFFFFF, count) for size, count in pairs)


def _scores(scores: NDArray[np.float64], everywhere: NDArray[np.float64]) -> Scores | None:
    """The scores of some samples, in bins over the scores of all, so that splits can be compared."""
    known = scores[np.isfinite(scores)]
    if not len(known):
        return None
    counts, edges = np.histogram(known, np.histogram_bin_edges(everywhere[np.isfinite(everywhere)], BINS))
    return Scores(
        images=len(known),
        least=float(known.min()),
        mean=float(known.mean()),
        greatest=float(known.max()),
        edges=tuple(edges.tolist()),
        counts=tuple(counts.tolist()),
    )


def _reasons(dataset: Dataset) -> dict[str, int]:
    counts: Counter[Any] = Counter(read_rejects(dataset)["reason"].to_pylist())
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
