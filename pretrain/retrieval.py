"""Text → image retrieval metrics, exact and streamed: pure functions of features and identities.

Stands at the end of evaluation: features of all captions (queries) and all images (gallery) go in, one
`RetrievalMetrics` comes out. Only a tile of similarities exists at a time; only each query's positives are sorted.

A pair must have one similarity wherever it is computed, or ties break at random: in floating point the last bit of a
dot product depends on the tile's shape, its place in the gallery and the device. So features are rounded to fixed point
(`fixed_point`), where float64 products are exact in any order; ranks then depend on nothing but the features.

Shapes: Q queries, G gallery images, R queries of one tile, T gallery images of one tile, P most positives (gallery
images of the query's identity) of any query in the tile, D features.
"""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from sharding.errors import UserError

FIXED_POINT_STEP = 2.0**-26
BELOW_ANY_COSINE = -2.0  # pads the positives of queries that have fewer than P


@dataclass(frozen=True, kw_only=True)
class RetrievalMetrics:
    """Means over the queries, in percent; `chance_r1` is the expected R@1 of a random ranking."""

    r1: float
    r5: float
    r10: float
    mAP: float
    mINP: float
    mSD: float
    queries: int
    gallery: int
    chance_r1: float

    def as_dict(self) -> dict[str, float]:
        """The fields by name, ready for JSON."""
        return asdict(self)


def retrieval_metrics(
    query_features: Tensor, query_ids: Tensor, gallery_features: Tensor, gallery_ids: Tensor, *, tile: int = 1024
) -> RetrievalMetrics:
    """Rank the gallery by cosine for every query and measure where the images of its identity stand.

    Features [Q, D] and [G, D] of any float dtype and norm (normalised here, in float64), ids int64 [Q] and [G], all on
    one device. A negative id, as of a distractor, matches nothing. A positive ranks after the negatives of equal
    similarity, so the order of the gallery is of no account and a constant model scores near 0.

    R@k: a positive is among the first k. AP: mean over positives of the precision at its rank. INP: positives / rank of
    the last (Ye et al. 2021, Eq. 4). SD = PNR · ASP (UFineBench, Zuo et al. 2024, Eq. 1-2) on s = (cos + 1) / 2:
    PNR = 1 − exp(−mean positive s / mean negative s), 1 if no negative has any similarity; ASP = mean over
    positives k of Σ positive s / Σ s, both over the ranks down to that of k, where 0 / 0 counts as 0.

    A query without a positive, and a feature that is zero or not finite, raise UserError. Besides a float64 copy of the
    features, memory is a few [tile, tile] and [tile, P] blocks.

    >>> query = torch.tensor([[1.0, 0.0]])
    >>> gallery = torch.tensor([[0.6, 0.8], [0.0, 1.0], [-0.6, 0.8]])  # cosines .6, 0, −.6; s = .8, .5, .2
    >>> metrics = retrieval_metrics(query, torch.tensor([7]), gallery, torch.tensor([7, 8, 7]))
    >>> metrics.r1, round(metrics.mAP, 3), round(metrics.mINP, 3)  # positives at ranks 1 and 3: (1/1 + 2/3) / 2, 2/3
    (100.0, 83.333, 66.667)
    >>> round(metrics.mSD, 3)  # (1 − exp(−.5/.5)) · (.8/.8 + 1/1.5) / 2
    52.677
    """
    query, gallery = fixed_point(query_features, "query"), fixed_point(gallery_features, "gallery")
    positive_index, first, count = _find_positives(query_ids, gallery_ids)
    rows = []
    # Queries with few positives first: P is then about the count of every query in a tile, not that of the largest.
    for block in count.argsort(stable=True).split(tile):
        positive = _positive_similarities(query[block], gallery, positive_index, first[block], count[block])
        reached, excess, total = _stream_gallery(query[block], gallery, positive, tile)
        rows.append(_row_metrics(positive, count[block], reached, excess, total, len(gallery)))
    mean = torch.cat(rows).mean(dim=0).tolist()
    return RetrievalMetrics(
        r1=100 * mean[0],
        r5=100 * mean[1],
        r10=100 * mean[2],
        mAP=100 * mean[3],
        mINP=100 * mean[4],
        mSD=100 * mean[5],
        queries=len(query),
        gallery=len(gallery),
        chance_r1=100 * count.double().mean().item() / len(gallery),
    )


def fixed_point(features: Tensor, name: str) -> Tensor:
    """L2-normalise features [N, D] and round them to multiples of 2⁻²⁶, in float64; `name` is for the error.

    Products of two such rows are multiples of 2⁻⁵² and their partial sums stay below 2 (Cauchy-Schwarz), so float64
    holds every one exactly. Cosines move by about 1e-8, less than the rounding of fp32. Raises UserError.
    """
    features = features.double()
    norm = features.norm(dim=1, keepdim=True)
    unusable = ~(torch.isfinite(norm) & (norm > 0)).flatten()
    if unusable.any():
        row = int(unusable.nonzero()[0])
        raise UserError(f"{name} feature {row} is zero or not finite, so it has no cosine: check the checkpoint")
    return (features / norm / FIXED_POINT_STEP).round() * FIXED_POINT_STEP


def _find_positives(query_ids: Tensor, gallery_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (index [G], first [Q], count [Q]): query q's positives are index[first[q] : first[q] + count[q]]."""
    sorted_ids, index = gallery_ids.sort()
    first = torch.searchsorted(sorted_ids, query_ids)
    count = torch.searchsorted(sorted_ids, query_ids, right=True) - first
    count[query_ids < 0] = 0
    if not count.all():
        row = int((count == 0).nonzero()[0])
        raise UserError(
            f"query {row} (id {int(query_ids[row])}) has no image of its id in the gallery of {len(gallery_ids)}: "
            "add one or leave the query out"
        )
    return index, first, count


def _positive_similarities(query: Tensor, gallery: Tensor, index: Tensor, first: Tensor, count: Tensor) -> Tensor:
    """Cosines of each query [R, D] to its own positives, [R, P] in falling order, padded with BELOW_ANY_COSINE."""
    positives = int(count.max())
    similarity = query.new_full((len(query), positives), BELOW_ANY_COSINE)
    for k in range(positives):  # one at a time: all at once would gather [R, P, D]
        has = (count > k).nonzero().flatten()
        similarity[has, k] = (query[has] * gallery[index[first[has] + k]]).sum(dim=1)
    return similarity.sort(dim=1, descending=True).values


def _stream_gallery(query: Tensor, gallery: Tensor, positive: Tensor, tile: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pass over the gallery once, holding every image against every positive of the query.

    Returns `reached` [R, P] int64, how many images are at least as similar as positive k; `excess` [R, P], the sum of
    what they exceed it by; `total` [R], the sum of all cosines.
    """
    reached = torch.zeros(positive.shape, dtype=torch.int64, device=positive.device)
    excess, total = torch.zeros_like(positive), torch.zeros_like(positive[:, 0])
    for images in gallery.split(tile):
        similarity_RT = query @ images.T
        total += similarity_RT.sum(dim=1)
        for k in range(positive.shape[1]):
            threshold = positive[:, k : k + 1]
            reached[:, k] += (similarity_RT >= threshold).sum(dim=1)
            excess[:, k] += (similarity_RT - threshold).clamp_(min=0).sum(dim=1)
    return reached, excess, total


def _row_metrics(
    positive: Tensor, count: Tensor, reached: Tensor, excess: Tensor, total: Tensor, gallery: int
) -> Tensor:
    """R@1, R@5, R@10, AP, INP and SD of each query, [R, 6], as fractions; the arguments are as made above."""
    k = torch.arange(1, positive.shape[1] + 1, dtype=positive.dtype, device=positive.device)
    valid = k <= count[:, None]
    positive_sum = positive.cumsum(dim=1)
    # What is as similar as positive k, less the positives among it: the negatives that rank above.
    negatives = reached - torch.searchsorted(-positive, -positive, right=True)
    negative_sum = excess - (positive_sum - k * positive) + negatives * positive
    rank = k + negatives

    last = (count - 1)[:, None]
    ap = _mean_of_valid(k / rank, valid)
    inp = count / rank.gather(1, last).squeeze(1)
    all_positive_sum = positive_sum.gather(1, last).squeeze(1)
    mean_positive = _mapped(all_positive_sum, count) / count
    mean_negative = _mapped(total - all_positive_sum, gallery - count) / (gallery - count)
    has_contrast = (count < gallery) & (mean_negative > 0)
    pnr = torch.where(has_contrast, 1 - torch.exp(-mean_positive / mean_negative), 1.0)
    matched = _mapped(positive_sum, k)
    share = matched / (matched + _mapped(negative_sum, negatives))
    asp = _mean_of_valid(share.nan_to_num(nan=0.0), valid)
    recall = [(rank[:, 0] <= cut).double() for cut in (1, 5, 10)]
    return torch.stack([*recall, ap, inp, pnr * asp], dim=1)


def _mapped(cosine_sum: Tensor, number: Tensor | int) -> Tensor:
    """Sum of (cos + 1) / 2 over `number` cosines; rounding may leave an empty or opposite set a hair below 0."""
    return ((cosine_sum + number) / 2).clamp(min=0)


def _mean_of_valid(values: Tensor, valid: Tensor) -> Tensor:
    return torch.where(valid, values, 0).sum(dim=1) / valid.sum(dim=1)
