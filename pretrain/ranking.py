"""Where the images of each query's identity stand in the gallery: exact ranks and sums of cosines, streamed.

Stands between features and metrics: `rank_positives` passes over the gallery tile by tile and yields one `Ranking` per
tile of queries; `pretrain.retrieval` turns those into metrics. Only a tile of similarities exists at a time, and only
each query's positives are sorted: an image that is not one of them is held against them, counted and summed.

Large problems multiply in fp32, at twice the speed of float64. A rank stays exact because an image whose fp32
similarity lies within the error bound of a positive's is held against it again in float64 (`pretrain.similarity`).

Shapes: Q queries, G gallery images, R queries of one tile, T gallery images of one tile, P most positives (gallery
images of the query's identity) of any query in the tile, D features.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pretrain.similarity import fixed_point, fp32_error, full_precision

FLOAT64_PRODUCTS = 2**34  # below this many (a fraction of a second) float64 is cheap enough for everything
TILES_AT_ONCE = 16  # tiles of queries held while the gallery passes, so that each image is converted once for all
ABOVE_ANY_COSINE = 3.0
BELOW_ANY_COSINE = -3.0
_ALL_ROWS: Tensor | slice = slice(None)


@dataclass(frozen=True, kw_only=True)
class Positives:
    """The gallery sorted by identity: query q's positives are index[first[q] : first[q] + count[q]], all int64."""

    index: Tensor
    first: Tensor
    count: Tensor

    @classmethod
    def find(cls, query_ids: Tensor, gallery_ids: Tensor) -> "Positives":
        """Positives of ids [Q] in ids [G]; a negative id has none."""
        sorted_ids, index = gallery_ids.sort(stable=True)
        first = torch.searchsorted(sorted_ids, query_ids)
        count = torch.searchsorted(sorted_ids, query_ids, right=True) - first
        return cls(index=index, first=first, count=count.masked_fill(query_ids < 0, 0))


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The positives of R queries in rank order, k = 1 … P, and the cosines around them.

    `query` int64 [R] places the rows among all queries; `count` int64 [R] ≥ 1 positives of each, columns beyond it mean
    nothing. `rank` int64 [R, P] of positive k, counted from 1. Sums of cosines, float64: `matched` [R, P] over the
    first k positives, `listed` [R, P] over all images down to rank k, `total` [R] over the gallery. `lowest` and
    `highest` cosine [R]. Where fp32 multiplied, the negatives in `listed` and the extremes (but for those of the whole
    matrix) carry its noise, about 1e-8 a cosine; ranks, `matched` and `total` do not.
    """

    query: Tensor
    count: Tensor
    rank: Tensor
    matched: Tensor
    listed: Tensor
    total: Tensor
    lowest: Tensor
    highest: Tensor


def rank_positives(query: Tensor, gallery: Tensor, positives: Positives, tile: int) -> Iterator[Ranking]:
    """Rank the positives of features [Q, D] in the gallery [G, D]; every query must have one.

    A positive ranks after the negatives of equal similarity; neither the order of the gallery nor `tile` changes a
    rank. Memory besides the features: TILES_AT_ONCE tiles of queries in float64, a few [tile, tile] and [tile, D]
    blocks, and the result. An unusable feature raises UserError.
    """
    products = len(query) * gallery.numel()
    dtype = torch.float64 if products < FLOAT64_PRODUCTS else torch.float32
    # Queries of few positives first: P is then about the count of every query in a tile. Those of one identity
    # together: they share their positives.
    order = positives.first.argsort(stable=True)
    order = order[positives.count[order].argsort(stable=True)]
    for block in order.split(TILES_AT_ONCE * tile):
        tiles = [_QueryTile(query, rows, gallery, positives, dtype) for rows in block.split(tile)]
        total = gallery.new_zeros(gallery.shape[1], dtype=torch.float64)
        for places in torch.arange(len(gallery), device=gallery.device).split(tile):
            images = fixed_point(gallery[places], "gallery", places)
            total += images.sum(dim=0)
            fp32 = images.float()
            for queries in tiles:
                queries.hold_against(images, fp32, int(places[0]))
        yield from (queries.ranking(total) for queries in tiles)


class _QueryTile:
    """R queries, their positives in falling similarity, and what has been seen of the gallery so far."""

    def __init__(self, query: Tensor, rows: Tensor, gallery: Tensor, positives: Positives, dtype: torch.dtype) -> None:
        self.rows, self.count = rows, positives.count[rows]
        self.exact = fixed_point(query[rows], "query", rows)
        self.products = self.exact.to(dtype)
        k = torch.arange(int(self.count.max()), device=rows.device)
        self.valid = k < self.count[:, None]
        at = (positives.first[rows][:, None] + k).clamp(max=len(gallery) - 1)
        self.column = torch.where(self.valid, positives.index[at], -1)
        self.positive = self._positive_similarities(gallery)
        self.threshold = self.positive.where(self.valid, ABOVE_ANY_COSINE)
        self.negatives = torch.zeros_like(self.column)  # that are at least as similar as positive k
        self.excess = torch.zeros_like(self.positive)  # the sum of what they exceed it by
        self.lowest = self.positive.new_full((len(rows),), ABOVE_ANY_COSINE)
        self.highest = self.positive.new_full((len(rows),), BELOW_ANY_COSINE)

    def _positive_similarities(self, gallery: Tensor) -> Tensor:
        """Cosines of each query to its own positives, [R, P] in falling order, padded with BELOW_ANY_COSINE."""
        needed, place = self.column.unique(return_inverse=True)
        needed.clamp_(min=0)
        images = fixed_point(gallery[needed], "gallery", needed)
        similarity = torch.full(self.column.shape, BELOW_ANY_COSINE, dtype=torch.float64, device=gallery.device)
        for k in range(similarity.shape[1]):  # one at a time: all at once would gather [R, P, D]
            similarity[:, k] = images[place[:, k]].mul_(self.exact).sum(dim=1)
        return similarity.where(self.valid, BELOW_ANY_COSINE).sort(dim=1, descending=True).values

    def hold_against(self, images: Tensor, fp32: Tensor, start: int) -> None:
        """Count and sum the negatives among images [T, D], given in fixed point and in fp32; the first is `start`."""
        if self.products.dtype == torch.float32:
            similarity, error = self._similarities(fp32), fp32_error(images.shape[1])
            self._note_extremes(similarity, images, error)
            self._hide_positives(similarity, start)
            seen = _compare(similarity, self.threshold, error)
            if int((seen.possible - seen.certain).sum()) > 4 * len(self.rows):
                self.products = self.exact  # a collapsed model, say, whose cosines are all alike
            else:
                self._settle(seen, similarity, images)
        if self.products.dtype == torch.float64:
            similarity = self._similarities(images)
            self._note_extremes(similarity, images, 0.0)
            self._hide_positives(similarity, start)
            seen = _compare(similarity, self.threshold, 0.0)
        self.negatives += seen.certain
        self.excess += seen.excess

    def _similarities(self, images: Tensor) -> Tensor:
        """Cosines [R, T] in the dtype of `products`."""
        with full_precision(images.device):
            return self.products @ images.T

    def _note_extremes(self, similarity: Tensor, images: Tensor, error: float) -> None:
        """Update each query's lowest and highest cosine; those that may be the matrix's are had from fixed point."""
        lowest, highest = similarity.amin(dim=1).double(), similarity.amax(dim=1).double()
        if error > 0:
            extreme = lowest <= torch.minimum(lowest.min(), self.lowest.min()) + 2 * error
            extreme |= highest >= torch.maximum(highest.max(), self.highest.max()) - 2 * error
            exact = self.exact[extreme] @ images.T
            lowest[extreme], highest[extreme] = exact.amin(dim=1), exact.amax(dim=1)
        self.lowest = torch.minimum(self.lowest, lowest)
        self.highest = torch.maximum(self.highest, highest)

    def _hide_positives(self, similarity: Tensor, start: int) -> None:
        row, k = ((self.column >= start) & (self.column < start + similarity.shape[1])).nonzero(as_tuple=True)
        similarity[row, self.column[row, k] - start] = BELOW_ANY_COSINE

    def _settle(self, seen: "_Seen", similarity: Tensor, images: Tensor) -> None:
        """Add to `seen.certain` those of its doubtful images that fixed point finds as similar as the positive."""
        row, k = (seen.possible > seen.certain).nonzero(as_tuple=True)
        near = similarity[row]
        low, high = (limit[row, k, None] for limit in seen.limits)
        pair, image = ((near >= low) & (near < high)).nonzero(as_tuple=True)
        row, k = row[pair], k[pair]
        exact = images[image].mul_(self.exact[row]).sum(dim=1)
        seen.certain.index_put_((row, k), (exact >= self.threshold[row, k]).long(), accumulate=True)

    def ranking(self, gallery_sum: Tensor) -> Ranking:
        """The result, after the whole gallery; `gallery_sum` [D] is the sum of its features."""
        matched = self.positive.cumsum(dim=1)
        k = torch.arange(1, matched.shape[1] + 1, device=matched.device)
        return Ranking(
            query=self.rows,
            count=self.count,
            rank=k + self.negatives,
            matched=matched,
            listed=matched + self.negatives * self.positive + self.excess,
            total=self.exact @ gallery_sum,
            lowest=self.lowest,
            highest=self.highest,
        )


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """How many images of a tile are `certain` to be at least as similar as positive k, and how many `possible`.

    Both int64 [R, P]. `excess` float64 [R, P] is the sum of what they exceed it by. `limits` are the two similarities
    [R, P] between which an image is possible but not certain.
    """

    certain: Tensor
    possible: Tensor
    excess: Tensor
    limits: tuple[Tensor, Tensor]


def _compare(similarity: Tensor, threshold: Tensor, error: float) -> _Seen:
    """Hold similarities [R, T], each known within `error`, against thresholds float64 [R, P]."""
    low, middle, high = ((threshold + shift).to(similarity.dtype) for shift in (-error, 0, error))
    excess, possible = torch.zeros_like(threshold), torch.zeros_like(threshold, dtype=torch.int64)
    certain = possible if error == 0 else possible.clone()
    reached = similarity.amax(dim=1, keepdim=True) >= low
    for k in range(threshold.shape[1]):
        few = reached[:, k].nonzero().flatten()  # of a good model
        row, part = _ALL_ROWS, similarity
        if 2 * len(few) < len(similarity):
            row, part = few, similarity[few]
        possible[row, k] = _count(part, low[row, k])
        if error > 0:
            certain[row, k] = _count(part, high[row, k])
        excess[row, k] = (part - middle[row, k, None]).clamp_(min=0).sum(dim=1).double()
    return _Seen(certain=certain, possible=possible, excess=excess, limits=(low, high))


def _count(similarity: Tensor, limit: Tensor) -> Tensor:
    """How many of each row [R, T] reach its limit [R]. As floats: four times as fast as booleans on a CPU."""
    return torch.ge(similarity, limit[:, None], out=torch.empty_like(similarity)).sum(dim=1).long()


def sums_in_gallery_order(ranking: Ranking, query: Tensor, gallery: Tensor, tile: int) -> tuple[Tensor, Tensor]:
    """`matched` and `listed` [R, P] as they are if the image at rank r is taken to be the r-th of the gallery.

    A sum of cosines is the cosine to a sum: running sums of the gallery's features need no second matrix product.
    """
    exact = fixed_point(query[ranking.query], "query", ranking.query)
    at, listed = torch.zeros_like(ranking.matched), torch.zeros_like(ranking.listed)
    carried = exact.new_zeros(1, exact.shape[1])
    for places in torch.arange(len(gallery), device=gallery.device).split(tile):
        images = fixed_point(gallery[places], "gallery", places)
        running = carried + images.cumsum(dim=0)
        carried = running[-1:]
        local = ranking.rank - 1 - places[0]
        for k in range(local.shape[1]):
            row = ((local[:, k] >= 0) & (local[:, k] < len(places))).nonzero().flatten()
            image = local[row, k]
            at[row, k] = (exact[row] * images[image]).sum(dim=1)
            listed[row, k] = (exact[row] * running[image]).sum(dim=1)
    return at.cumsum(dim=1), listed
