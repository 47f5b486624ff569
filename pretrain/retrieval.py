"""Retrieval metrics, exact and streamed: pure functions of features and identities.

Stands at the end of evaluation: features of all captions (queries) and all images (gallery) go in, one `QueryMetrics`
with a figure for each query comes out, and its mean, `RetrievalMetrics`. Swap the arguments for image → text.
`pretrain.ranking` streams the gallery; the definitions are here.

Shapes: Q queries, G gallery images, R queries of one tile, P most positives (gallery images of the query's identity) of
any query in the tile, D features.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from pretrain.ranking import Positives, Ranking, rank_positives, sums_in_gallery_order
from sharding.errors import UserError

Names = Sequence[str] | Callable[[int], str]


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
    mSD_row: float
    mSD_matrix: float
    mSD_legacy: float | None = None

    def as_dict(self) -> dict[str, float]:
        """The fields by name, ready for JSON; without mSD_legacy unless it was asked for."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class QueryMetrics:
    """What `query_metrics` says of each query, in the order given; all [Q], fractions in float64, the counts int64."""

    first_rank: Tensor
    ap: Tensor
    inp: Tensor
    sd: Tensor
    sd_row: Tensor
    sd_matrix: Tensor
    sd_legacy: Tensor | None
    positives: Tensor
    gallery: int

    def mean(self) -> RetrievalMetrics:
        """The means over the queries."""
        return RetrievalMetrics(
            r1=_percent(self.first_rank <= 1),
            r5=_percent(self.first_rank <= 5),
            r10=_percent(self.first_rank <= 10),
            mAP=_percent(self.ap),
            mINP=_percent(self.inp),
            mSD=_percent(self.sd),
            queries=len(self.ap),
            gallery=self.gallery,
            chance_r1=_percent(self.positives) / self.gallery,
            mSD_row=_percent(self.sd_row),
            mSD_matrix=_percent(self.sd_matrix),
            mSD_legacy=None if self.sd_legacy is None else _percent(self.sd_legacy),
        )


def retrieval_metrics(
    query_features: Tensor,
    query_ids: Tensor,
    gallery_features: Tensor,
    gallery_ids: Tensor,
    *,
    tile: int = 1024,
    legacy: bool = False,
    names: Names | None = None,
) -> RetrievalMetrics:
    """The means of `query_metrics`, which see for the arguments.

    >>> query = torch.tensor([[1.0, 0.0]])
    >>> gallery = torch.tensor([[0.6, 0.8], [0.0, 1.0], [-0.6, 0.8]])  # cosines .6, 0, −.6; s = .8, .5, .2
    >>> metrics = retrieval_metrics(query, torch.tensor([7]), gallery, torch.tensor([7, 8, 7]))
    >>> metrics.r1, round(metrics.mAP, 3), round(metrics.mINP, 3)  # positives at ranks 1 and 3: (1/1 + 2/3) / 2, 2/3
    (100.0, 83.333, 66.667)
    >>> round(metrics.mSD, 3)  # (1 − exp(−.5/.5)) · (.8/.8 + 1/1.5) / 2
    52.677
    """
    return query_metrics(
        query_features, query_ids, gallery_features, gallery_ids, tile=tile, legacy=legacy, names=names
    ).mean()


@torch.no_grad()
def query_metrics(
    query_features: Tensor,
    query_ids: Tensor,
    gallery_features: Tensor,
    gallery_ids: Tensor,
    *,
    tile: int = 1024,
    legacy: bool = False,
    names: Names | None = None,
) -> QueryMetrics:
    """Rank the gallery by cosine for every query and measure where the images of its identity stand.

    Features [Q, D] and [G, D] of any float dtype and norm (normalised here), ids int64 [Q] and [G], all on one device.
    A negative id, as of a distractor, matches nothing. A positive ranks after the negatives of equal similarity, so the
    order of the gallery is of no account and a constant model scores near 0.

    first_rank: of the best positive; R@k is the share of queries where it is ≤ k. AP: mean over positives of the
    precision at its rank. INP: positives / rank of the last (Ye et al. 2021, Eq. 4).
    SD = PNR · ASP (UFineBench, Zuo et al. 2024, Eq. 1-2): PNR = 1 − exp(−mean positive s / mean negative s), 1 if no
    negative has any similarity; ASP = mean over positives k of Σ positive s / Σ s, both over the ranks down to that of
    k, where 0 / 0 counts as 0. The paper leaves open how s in [0, 1] is had from a cosine:
    - sd: s = (cos + 1) / 2, as in the released mSD_Calculator.py; the published mSD fit this one;
    - sd_row: s = (cos − min) / (max − min) over the query's row; sd_matrix: over all pairs. 0 where max = min;
    - sd_legacy, if `legacy`: s as in sd, but as the released mSD_Calculator.py computes it, for comparison only. It
      sorts which images match but not their similarities: "the s at rank r" is that of gallery image r. So it depends
      on the gallery's order, and where that has nothing to do with the query even a perfect model has PNR ≈ 1 − 1/e
      and a mean of about 63.2 %.

    A feature that is zero or not finite, and a query without a positive, raise UserError; the latter names the query,
    by `names` (a sequence [Q], or a function of the row) if given. Memory: see `rank_positives`.
    """
    positives = Positives.find(query_ids, gallery_ids)
    _check_matches(positives.count, query_ids, len(gallery_ids), names)
    rankings = list(rank_positives(query_features, gallery_features, positives, tile))
    lowest = torch.cat([ranking.lowest for ranking in rankings]).min()
    highest = torch.cat([ranking.highest for ranking in rankings]).max()
    rows = [_row_metrics(ranking, lowest, highest, len(gallery_ids)) for ranking in rankings]
    if legacy:
        sums = [sums_in_gallery_order(ranking, query_features, gallery_features, tile) for ranking in rankings]
        rows = [
            torch.cat([row, _distribution(ranking, *pair, -1.0, 1.0, len(gallery_ids))], dim=1)
            for row, ranking, pair in zip(rows, rankings, sums, strict=True)
        ]
    in_order = torch.cat([ranking.query for ranking in rankings]).argsort()
    columns = torch.cat(rows)[in_order].unbind(dim=1)
    return QueryMetrics(
        first_rank=columns[0].long(),
        ap=columns[1],
        inp=columns[2],
        sd=columns[3],
        sd_row=columns[4],
        sd_matrix=columns[5],
        sd_legacy=columns[6] if legacy else None,
        positives=positives.count,
        gallery=len(gallery_ids),
    )


def _check_matches(count: Tensor, query_ids: Tensor, gallery: int, names: Names | None) -> None:
    """Raise UserError, with the query's name, if a query has no positive: `count` [Q]."""
    if count.all():
        return
    row = int((count == 0).nonzero()[0])
    name = row if names is None else names(row) if callable(names) else names[row]
    raise UserError(
        f"query {name} (id {int(query_ids[row])}) has no image of its id in the gallery of {gallery}: "
        "add one or leave the query out"
    )


def _row_metrics(ranking: Ranking, lowest: Tensor, highest: Tensor, gallery: int) -> Tensor:
    """First rank, AP, INP, SD, SD by row and by matrix of each query, [R, 6]; the extremes are the matrix's."""
    k = torch.arange(1, ranking.rank.shape[1] + 1, device=ranking.rank.device)
    rank, count = ranking.rank.double(), ranking.count[:, None]  # a quotient of integers would be fp32
    sums = ranking.matched, ranking.listed
    columns = [
        rank[:, :1],
        _mean_over_positives(k / rank, ranking.count),
        count / rank.gather(1, count - 1),
        _distribution(ranking, *sums, -1.0, 1.0, gallery),
        _distribution(ranking, *sums, ranking.lowest[:, None], ranking.highest[:, None], gallery),
        _distribution(ranking, *sums, lowest, highest, gallery),
    ]
    return torch.cat(columns, dim=1)


def _distribution(
    ranking: Ranking, matched: Tensor, listed: Tensor, lowest: Tensor | float, highest: Tensor | float, gallery: int
) -> Tensor:
    """SD [R, 1], the similarity being (cos − lowest) / (highest − lowest).

    `matched` and `listed` [R, P] are sums of cosines as in `Ranking`. The map is linear, so that of a sum is had from
    the sum and its length; rounding may leave that of an empty or opposite set a hair below 0.
    """
    span = torch.as_tensor(highest - lowest, device=matched.device)

    def mapped(cosine_sum: Tensor, number: Tensor) -> Tensor:
        return torch.where(span > 0, ((cosine_sum - number * lowest) / span).clamp(min=0), 0.0)

    count = ranking.count[:, None]
    all_matched = matched.gather(1, count - 1)
    mean_positive = mapped(all_matched, count) / count
    mean_negative = mapped(ranking.total[:, None] - all_matched, gallery - count) / (gallery - count)
    has_contrast = (count < gallery) & (mean_negative > 0)
    pnr = torch.where(has_contrast, 1 - torch.exp(-mean_positive / mean_negative), 1.0)
    k = torch.arange(1, matched.shape[1] + 1, device=matched.device)
    share = mapped(matched, k) / mapped(listed, ranking.rank)
    return pnr * _mean_over_positives(share.nan_to_num(nan=0.0), ranking.count)


def _mean_over_positives(values: Tensor, count: Tensor) -> Tensor:
    """Mean [R, 1] of the first `count` [R] of each row [R, P]."""
    k = torch.arange(values.shape[1], device=values.device)
    return torch.where(k < count[:, None], values, 0.0).sum(dim=1, keepdim=True) / count[:, None]


def _percent(values: Tensor) -> float:
    return 100 * values.double().mean().item()
