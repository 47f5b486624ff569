import doctest
import math
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pretrain import retrieval
from pretrain.retrieval import RetrievalMetrics, fixed_point, retrieval_metrics
from sharding.errors import UserError

# Rank lists of FIELD's golden table: mapped similarities, match, x, PNR, ASP, SD, AP. The fourth holds ties as given.
GOLDEN = [
    ([1, 0.8, 0.4, 0.3, 0], [1, 0, 1, 0, 0], 1.909091, 0.851785, 0.818182, 0.696915, 0.833333),
    ([0.9, 0.7, 0.6, 0.5, 0.4, 0.1], [1, 0, 1, 0, 0, 0], 1.764706, 0.828763, 0.840909, 0.696914, 0.833333),
    ([1, 0.8, 0.5, 0.4, 0.1, 0], [1, 0, 1, 0, 0, 0], 2.307692, 0.900509, 0.826087, 0.743899, 0.833333),
    ([0.5, 0.5, 0.5, 0.5], [1, 0, 1, 0], 1.0, 0.632121, 0.833333, 0.526767, 0.833333),
    ([0.9, 0.8, 0.3, 0.2], [1, 1, 0, 0], 3.4, 0.966627, 1.0, 0.966627, 1.0),
]


@dataclass(frozen=True, kw_only=True)
class Row:
    """The textbook metrics of one query, with the parts of SD."""

    x: float
    pnr: float
    asp: float
    sd: float
    ap: float
    inp: float
    first_rank: int


def reference_row(s: list[float], match: list[bool]) -> Row:
    """The definitions applied to one list in rank order, s in [0, 1]; nothing is sorted here."""
    positions = [i for i, matched in enumerate(match) if matched]
    positive, negative = ([v for v, m in zip(s, match, strict=True) if m is want] for want in (True, False))
    x = math.inf
    if sum(negative) > 0:
        x = (sum(positive) / len(positive)) / (sum(negative) / len(negative))
    pnr = 1 - math.exp(-x)
    precision, share = [], []
    for j in positions:
        matched = [s[i] for i in positions if i <= j]
        precision.append(len(matched) / (j + 1))
        share.append(sum(matched) / sum(s[: j + 1]) if sum(s[: j + 1]) > 0 else 0.0)
    ap, asp = sum(precision) / len(positions), sum(share) / len(positions)
    inp = len(positions) / (positions[-1] + 1)
    return Row(x=x, pnr=pnr, asp=asp, sd=pnr * asp, ap=ap, inp=inp, first_rank=positions[0] + 1)


def reference(similarity: Tensor, match: Tensor) -> list[Row]:
    """Sort every row of a full cosine matrix [Q, G], negatives before positives of equal similarity."""
    rows = []
    for cosines, matched in zip(similarity.tolist(), match.tolist(), strict=True):
        order = sorted(range(len(cosines)), key=lambda j: (-cosines[j], matched[j]))
        rows.append(reference_row([(cosines[j] + 1) / 2 for j in order], [matched[j] for j in order]))
    return rows


def percent(values: list[float] | list[bool]) -> float:
    return 100 * sum(values) / len(values)


def assert_agrees(metrics: RetrievalMetrics, rows: list[Row]) -> None:
    expected = {f"r{k}": percent([row.first_rank <= k for row in rows]) for k in (1, 5, 10)}
    expected |= {"mAP": percent([row.ap for row in rows]), "mINP": percent([row.inp for row in rows])}
    expected |= {"mSD": percent([row.sd for row in rows])}
    assert {name: metrics.as_dict()[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def on_the_circle(s: list[float]) -> Tensor:
    """Unit vectors [G, 2] whose cosine to (1, 0) is the one that maps to s."""
    cosine = torch.tensor(s, dtype=torch.float64) * 2 - 1
    return torch.stack([cosine, (1 - cosine**2).sqrt()], dim=1)


@pytest.mark.parametrize(("s", "match", "x", "pnr", "asp", "sd", "ap"), GOLDEN)
def test_the_reference_gives_the_golden_values(
    s: list[float], match: list[int], x: float, pnr: float, asp: float, sd: float, ap: float
) -> None:
    row = reference_row(s, [bool(m) for m in match])
    assert (row.x, row.pnr, row.asp, row.sd, row.ap) == pytest.approx((x, pnr, asp, sd, ap), abs=1e-6)


@pytest.mark.parametrize(("s", "match", "sd", "ap"), [(*row[:2], *row[5:]) for row in GOLDEN if len(set(row[0])) > 1])
def test_golden_lists_without_ties(s: list[float], match: list[int], sd: float, ap: float) -> None:
    query = torch.tensor([[1.0, 0.0]])
    metrics = retrieval_metrics(query, torch.tensor([1]), on_the_circle(s), torch.tensor(match))
    assert (metrics.mSD, metrics.mAP) == pytest.approx((100 * sd, 100 * ap), abs=1e-4)


def test_the_golden_list_of_ties_ranks_its_positives_last() -> None:
    gallery, ids = on_the_circle([0.5] * 4), torch.tensor([1, 0, 1, 0])
    metrics = retrieval_metrics(torch.tensor([[1.0, 0.0]]), torch.tensor([1]), gallery, ids)
    assert metrics.mAP == pytest.approx(100 * (1 / 3 + 2 / 4) / 2)
    assert metrics.mSD == pytest.approx(63.2121 * (1 / 3 + 2 / 4) / 2, abs=1e-4)


def test_the_worked_example_of_the_docstring_holds() -> None:
    assert doctest.testmod(retrieval).failed == 0
    assert doctest.testmod(retrieval).attempted > 0


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Small integer features (many equal and parallel ones) of one to five people; every query has a positive."""
    coordinate = st.integers(-2, 2)
    # The first coordinate keeps all on one side: exactly opposite features make 0/0 of SD a matter of rounding.
    point = st.tuples(st.integers(1, 3), coordinate, coordinate)
    gallery = draw(st.lists(point, min_size=1, max_size=24))
    people = draw(st.integers(0, 4))
    gallery_ids = draw(st.lists(st.integers(0, people), min_size=len(gallery), max_size=len(gallery)))
    query = draw(st.lists(point, min_size=1, max_size=12))
    query_ids = draw(st.lists(st.sampled_from(gallery_ids), min_size=len(query), max_size=len(query)))
    features = torch.tensor(query, dtype=torch.float32), torch.tensor(gallery, dtype=torch.float32)
    return features[0], torch.tensor(query_ids), features[1], torch.tensor(gallery_ids)


def reference_rows(query: Tensor, query_ids: Tensor, gallery: Tensor, gallery_ids: Tensor) -> list[Row]:
    similarity = fixed_point(query, "query") @ fixed_point(gallery, "gallery").T
    return reference(similarity, query_ids[:, None] == gallery_ids[None])


@settings(deadline=None, max_examples=300)
@given(cases(), st.integers(1, 9))
def test_streaming_agrees_with_sorting_the_full_matrix(case: tuple[Tensor, ...], tile: int) -> None:
    assert_agrees(retrieval_metrics(*case, tile=tile), reference_rows(*case))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(5, 90), st.sampled_from([torch.float32, torch.float16]))
def test_streaming_agrees_on_gaussian_features_some_of_them_twice(seed: int, tile: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    query, gallery = torch.randn(40, 16, generator=generator), torch.randn(70, 16, generator=generator)
    gallery[35:] = gallery[:35][torch.randperm(35, generator=generator)]
    gallery_ids = torch.arange(70) % 9
    case = query.to(dtype), gallery_ids[:40], gallery.to(dtype), gallery_ids
    assert_agrees(retrieval_metrics(*case, tile=tile), reference_rows(*case))


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10_000), st.integers(3, 200), st.booleans())
def test_neither_gallery_order_nor_tile_changes_a_rank(seed: int, tile: int, constant: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    query, gallery = torch.randn(50, 33, generator=generator), torch.randn(60, 33, generator=generator).repeat(2, 1)
    if constant:  # one pair, yet its fp32 products differ in the last bits from tile to tile
        query, gallery = query[:1].expand(50, -1), gallery[:1].expand(120, -1)
    ids = torch.arange(120) % 7
    order = torch.randperm(120, generator=generator)
    given_order = retrieval_metrics(query, ids[:50], gallery, ids).as_dict()
    shuffled = retrieval_metrics(query, ids[:50], gallery[order], ids[order], tile=tile).as_dict()
    assert given_order == pytest.approx(shuffled, abs=1e-9)


def test_similarities_are_the_same_bits_in_every_tile_and_order() -> None:
    generator = torch.Generator().manual_seed(0)
    query, gallery = (fixed_point(torch.randn(n, 512, generator=generator), "test") for n in (7, 130))
    whole = query @ gallery.T
    assert torch.equal(torch.stack([(query * image).flip(1).sum(dim=1) for image in gallery], dim=1), whole)
    assert torch.equal(torch.cat([query @ images.T for images in gallery.split(1)], dim=1), whole)


def test_fixed_point_moves_a_cosine_by_less_than_fp32_does() -> None:
    a, b = torch.randn(2, 200, 512, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = F.cosine_similarity(a, b, dim=1)
    assert ((fixed_point(a, "a") * fixed_point(b, "b")).sum(dim=1) - exact).abs().max() < 2**-24


def test_a_constant_model_ranks_every_positive_behind_every_negative() -> None:
    ids = torch.arange(40) % 20
    metrics = retrieval_metrics(torch.ones(20, 8), ids[:20], torch.ones(40, 8), ids)
    assert (metrics.r1, metrics.r5, metrics.r10) == (0, 0, 0)
    assert metrics.mAP == pytest.approx(100 * (1 / 39 + 2 / 40) / 2)
    assert metrics.mINP == pytest.approx(100 * 2 / 40)


def test_a_gallery_of_the_query_s_own_images_is_perfect() -> None:
    metrics = retrieval_metrics(torch.randn(3, 4), torch.full((3,), 5), torch.randn(6, 4), torch.full((6,), 5))
    assert [metrics.r1, metrics.mAP, metrics.mINP, metrics.mSD, metrics.chance_r1] == pytest.approx([100] * 5)


def test_opposite_features_have_no_similarity_and_no_nan() -> None:
    query, opposite = torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0], [-2.0, 0.0]])
    assert retrieval_metrics(query, torch.tensor([1]), opposite, torch.tensor([1, 2])).mSD == 0
    own = torch.cat([query, opposite])
    assert retrieval_metrics(query, torch.tensor([1]), own, torch.tensor([1, 2, 3])).mSD == pytest.approx(100)


def test_chance_is_the_share_of_the_gallery_that_matches() -> None:
    gallery_ids = torch.tensor([1, 1, 1, 2])
    metrics = retrieval_metrics(torch.randn(2, 3), torch.tensor([1, 2]), torch.randn(4, 3), gallery_ids)
    assert (metrics.chance_r1, metrics.queries, metrics.gallery) == (50.0, 2, 4)


def test_a_query_without_a_positive_is_an_error_that_names_it() -> None:
    gallery_ids = torch.tensor([3, 4, -1])
    for query_ids, message in (([3, 9, 8], r"query 1 \(id 9\)"), ([3, 4, -1], r"query 2 \(id -1\)")):
        with pytest.raises(UserError, match=message):
            retrieval_metrics(torch.ones(3, 2), torch.tensor(query_ids), torch.ones(3, 2), gallery_ids)


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_a_feature_without_direction_is_an_error_that_names_it(value: float) -> None:
    gallery = torch.ones(3, 2)
    gallery[1] = value
    with pytest.raises(UserError, match="gallery feature 1 is zero or not finite"):
        retrieval_metrics(torch.ones(1, 2), torch.tensor([0]), gallery, torch.zeros(3, dtype=torch.int64))
