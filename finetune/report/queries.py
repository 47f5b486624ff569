"""How every query of a split fared: ranks, example strips, histograms of similarities and slices of failure.

Features of the split go in; only sampled pairs and the strips' few rows of similarities are ever formed. Q queries
(captions in packing order), G gallery images, E embedding width.
"""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pretrain.features import Features, Labels
from pretrain.retrieval import QueryMetrics, RetrievalMetrics, query_metrics, retrieval_metrics
from pretrain.similarity import top_k
from sharding.reader import SplitReader

RANKS = 10  # images of a strip
STRIPS = 4  # queries of each kind
THUMBNAIL = (72, 180)  # largest width and height in pixels
JPEG_QUALITY = 82
SAMPLED_PAIRS = 40_000
MOST_SLICES = 6
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class QueryResults:
    """A split's features, what was measured of each query, and the gallery row of the image it describes, int64 [Q]."""

    features: Features
    metrics: QueryMetrics
    image: Ints

    @cached_property
    def first_rank(self) -> Ints:
        """The rank of the first match, from 1, [Q]."""
        return self.metrics.first_rank.numpy()

    @cached_property
    def ap(self) -> NDArray[np.float64]:
        """Average precision in 0..1, [Q]."""
        return self.metrics.ap.numpy()

    @cached_property
    def matches(self) -> Ints:
        """How many images of the gallery show the query's person, [Q]."""
        return self.metrics.positives.numpy()


@dataclass(frozen=True, kw_only=True)
class Item:
    """One retrieved image of a strip; `picture` is a data URI."""

    rank: int
    picture: str
    similarity: float
    match: bool


@dataclass(frozen=True, kw_only=True)
class Strip:
    """A query with the first images of its results; `matches` counts the images of its identity in the gallery."""

    caption: str
    picture: str
    identity: str
    first_rank: int
    ap: float
    matches: int
    shown: list[Item]


@dataclass(frozen=True, kw_only=True)
class Slice:
    """The queries that share a property, with their R@1 and mAP in percent."""

    label: str
    queries: int
    r1: float
    mAP: float


def query_results(features: Features, benchmark: SplitReader) -> QueryResults:
    """Rank the gallery for every caption of the split that `features` are of.

    Raises UserError for a query without a match.
    """
    labels = Labels.of(benchmark)
    metrics = query_metrics(
        features.query, features.query_ids, features.gallery, features.gallery_ids, names=labels.caption_names
    )
    captions = labels.captions.numpy()
    return QueryResults(features=features, metrics=metrics, image=np.repeat(np.arange(len(captions)), captions))


def image_to_text(features: Features) -> RetrievalMetrics:
    """The metrics of images that look for captions."""
    return retrieval_metrics(features.gallery, features.gallery_ids, features.query, features.query_ids)


def strips(results: QueryResults, benchmark: SplitReader) -> dict[str, list[Strip]]:
    """The best, the worst and some random queries, each of another person."""
    thumbnail = _thumbnails(benchmark)
    return {
        kind: [_strip(results, benchmark, query, thumbnail) for query in queries]
        for kind, queries in choose(results).items()
    }


def choose(results: QueryResults) -> dict[str, list[int]]:
    """Which queries are shown as best, worst and random: the first of each order whose person was not yet shown.

    Best is the greatest AP, then the most matches; worst is the least AP, then the latest first match.
    """
    people = results.features.query_ids.numpy()
    orders = {
        "best": np.lexsort((-results.matches, -results.ap)),
        "worst": np.lexsort((-results.first_rank, results.ap)),
        "random": np.random.default_rng(0).permutation(len(people)),
    }
    shown: set[int] = set()
    chosen: dict[str, list[int]] = {}
    for kind, order in orders.items():
        chosen[kind] = []
        for query in order.tolist():
            if people[query] not in shown and len(chosen[kind]) < STRIPS:
                shown.add(int(people[query]))
                chosen[kind].append(query)
    return chosen


def similarity_samples(features: Features) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cosines of sampled matching and non-matching (caption, image) pairs, at most SAMPLED_PAIRS of each.

    Random pairs of a query and an image, less those that match, are the negatives; the positives are a random image of
    the person for a random query. Pairs are multiplied row by row: no Q x G matrix.
    """
    draw = np.random.default_rng(0)
    query_ids, gallery_ids = features.query_ids.numpy(), features.gallery_ids.numpy()
    number = min(SAMPLED_PAIRS, len(query_ids) * len(gallery_ids))
    query, image = draw.integers(len(query_ids), size=number), draw.integers(len(gallery_ids), size=number)
    apart = query_ids[query] != gallery_ids[image]
    order = np.argsort(gallery_ids, kind="stable")
    first = np.searchsorted(gallery_ids[order], query_ids[query])
    count = np.searchsorted(gallery_ids[order], query_ids[query], side="right") - first
    own = order[first + draw.integers(count)]
    return _cosines(features, query, own), _cosines(features, query[apart], image[apart])


def slices(results: QueryResults, benchmark: SplitReader) -> dict[str, list[Slice]]:
    """R@1 and mAP by words of the caption, by images of the person, and by where the image comes from."""
    table = benchmark.index(["source", "file_path", "caption_words"])
    words = np.array([count for row in table["caption_words"].to_pylist() for count in row])
    sources = table["source"].to_pylist()
    folders = [path.partition("/")[0] for path in table["file_path"].to_pylist()]
    by_source = len(set(sources)) > 1 or not 1 < len(set(folders)) <= 3 * MOST_SLICES
    origin = np.array(sources if by_source else folders)[results.image]
    return {
        "Words of the caption": _by_number(results, words),
        "Images of the person in the gallery": _by_number(results, results.matches),
        "Source" if by_source else "Folder of the image": _by_name(results, origin),
    }


def bins(values: Ints, most: int = MOST_SLICES) -> list[tuple[int, int]]:
    """(least, greatest) of at most `most` groups of whole numbers, of about equal numbers of `values` each.

    >>> bins(np.array([1, 1, 2, 3]))
    [(1, 1), (2, 2), (3, 3)]
    """
    unique = np.unique(values)
    if len(unique) <= most:
        return [(int(value), int(value)) for value in unique]
    edges = np.unique(np.quantile(values, np.linspace(0, 1, most + 1)[1:], method="lower"))
    starts = [int(unique[0]), *(int(edge) + 1 for edge in edges[:-1])]
    return [(start, int(edge)) for start, edge in zip(starts, edges, strict=True)]


def _by_number(results: QueryResults, values: Ints) -> list[Slice]:
    return [
        _slice(results, f"{low}" if low == high else f"{low}–{high}", (values >= low) & (values <= high))
        for low, high in bins(values)
    ]


def _by_name(results: QueryResults, names: NDArray[Any]) -> list[Slice]:
    unique, count = np.unique(names, return_counts=True)
    return [_slice(results, str(name), names == name) for name in unique[np.argsort(-count, kind="stable")]]


def _slice(results: QueryResults, label: str, mask: NDArray[np.bool_]) -> Slice:
    r1, mean_ap = float((results.first_rank[mask] == 1).mean()), float(results.ap[mask].mean())
    return Slice(label=label, queries=int(mask.sum()), r1=100 * r1, mAP=100 * mean_ap)


def _cosines(features: Features, query: Ints, image: Ints) -> NDArray[np.float64]:
    rows = (features.query[part] * features.gallery[other] for part, other in _blocks(query, image))
    return torch.cat([row.sum(dim=1) for row in rows]).double().numpy()


def _blocks(query: Ints, image: Ints, size: int = 4096) -> list[tuple[torch.Tensor, torch.Tensor]]:
    both = zip(torch.from_numpy(query).split(size), torch.from_numpy(image).split(size), strict=True)
    return list(both)


def _strip(results: QueryResults, benchmark: SplitReader, query: int, thumbnail: Callable[[int], str]) -> Strip:
    features = results.features
    similarity, index = top_k(features.query[query : query + 1], features.gallery, RANKS)
    own = int(results.image[query])
    sample = benchmark.sample(*benchmark.place(own))
    number = query - int(np.searchsorted(results.image, own))  # which of the image's captions
    person = features.query_ids[query]
    return Strip(
        caption=sample.captions[number],
        picture=thumbnail(own),
        identity=sample.identity,
        first_rank=int(results.first_rank[query]),
        ap=100 * float(results.ap[query]),
        matches=int(results.matches[query]),
        shown=[
            Item(
                rank=rank, picture=thumbnail(image), similarity=value, match=bool(features.gallery_ids[image] == person)
            )
            for rank, (value, image) in enumerate(zip(similarity[0].tolist(), index[0].tolist(), strict=True), start=1)
        ],
    )


def _thumbnails(benchmark: SplitReader) -> Callable[[int], str]:
    """A function: row of an image -> data URI of a small JPEG, each made once."""
    made: dict[int, str] = {}

    def thumbnail(row: int) -> str:
        if row not in made:
            with Image.open(BytesIO(benchmark.sample(*benchmark.place(row)).image), formats=("JPEG", "PNG")) as picture:
                small = picture.convert("RGB")
            small.thumbnail(THUMBNAIL, Image.Resampling.LANCZOS)
            buffer = BytesIO()
            small.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
            made[row] = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
        return made[row]

    return thumbnail
