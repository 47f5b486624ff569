import contextlib
import doctest
import math
from collections.abc import Iterator
from dataclasses import dataclass
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pretrain import ranking, retrieval, similarity
from pretrain.retrieval import QueryMetrics, query_metrics, retrieval_metrics
from pretrain.similarity import fixed_point, fp32_error, top_k
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


def in_unit(cosines: list[float], low: float = -1.0, high: float = 1.0) -> list[float]:
    return [(c - low) / (high - low) if high > low else 0.0 for c in cosines]


def legacy_sd(cosines: list[float], match: list[bool]) -> float:
    """mSD_Calculator.py put in words: the match of rank r goes with the similarity of the r-th image of the gallery."""
    return reference_row(in_unit(cosines), match).sd


def reference(similarity: Tensor, match: Tensor) -> dict[str, list[float]]:
    """Sort every row of a full cosine matrix [Q, G], negatives before positives of equal similarity."""
    columns: dict[str, list[float]] = {name: [] for name in COLUMNS}
    extremes = similarity.min().item(), similarity.max().item()
    for cosines, matched in zip(similarity.tolist(), match.tolist(), strict=True):
        order = sorted(range(len(cosines)), key=lambda j: (-cosines[j], matched[j]))
        ranked, ranked_match = [cosines[j] for j in order], [matched[j] for j in order]
        row = reference_row(in_unit(ranked), ranked_match)
        by_row = reference_row(in_unit(ranked, ranked[-1], ranked[0]), ranked_match)
        by_matrix = reference_row(in_unit(ranked, *extremes), ranked_match)
        values = row.first_rank, row.ap, row.inp, row.sd, by_row.sd, by_matrix.sd, legacy_sd(cosines, ranked_match)
        for name, value in zip(COLUMNS, values, strict=True):
            columns[name].append(value)
    return columns


COLUMNS = ["first_rank", "ap", "inp", "sd", "sd_row", "sd_matrix", "sd_legacy"]


def columns(metrics: QueryMetrics) -> dict[str, list[float]]:
    return {name: getattr(metrics, name).tolist() for name in COLUMNS if getattr(metrics, name) is not None}


def assert_agrees(case: tuple[Tensor, ...], tile: int, tolerance: float) -> None:
    found, expected = columns(query_metrics(*case, tile=tile, legacy=True)), reference_of(*case)
    for name in ("first_rank", "ap", "inp"):
        assert found[name] == pytest.approx(expected[name], abs=1e-12), name
    for name in COLUMNS[3:]:
        assert found[name] == pytest.approx(expected[name], abs=tolerance), name


@contextlib.contextmanager
def fp32_products() -> Iterator[None]:
    """Multiply small problems as large ones are."""
    with mock.patch.object(ranking, "FLOAT64_PRODUCTS", 0):
        yield


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


def test_the_worked_examples_of_the_docstrings_hold() -> None:
    for module in (retrieval, similarity):
        assert doctest.testmod(module).failed == 0
        assert doctest.testmod(module).attempted > 0


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


def reference_of(query: Tensor, query_ids: Tensor, gallery: Tensor, gallery_ids: Tensor) -> dict[str, list[float]]:
    cosines = fixed_point(query, "query") @ fixed_point(gallery, "gallery").T
    return reference(cosines, query_ids[:, None] == gallery_ids[None])


def gaussian_case(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """40 queries and 70 images of 9 people, half of the gallery there twice."""
    generator = torch.Generator().manual_seed(seed)
    query, gallery = torch.randn(40, 16, generator=generator), torch.randn(70, 16, generator=generator)
    gallery[35:] = gallery[:35][torch.randperm(35, generator=generator)]
    gallery_ids = torch.arange(70) % 9
    return query, gallery_ids[:40], gallery, gallery_ids


@settings(max_examples=150)
@given(cases(), st.integers(1, 9))
def test_streaming_agrees_with_sorting_the_full_matrix(case: tuple[Tensor, ...], tile: int) -> None:
    assert_agrees(case, tile, 1e-9)


@settings(max_examples=150)
@given(cases(), st.integers(1, 9))
def test_fp32_products_change_no_rank_among_ties(case: tuple[Tensor, ...], tile: int) -> None:
    with fp32_products():
        assert_agrees(case, tile, 2e-6)


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(5, 90), st.sampled_from([torch.float64, torch.float16]), st.booleans())
def test_streaming_agrees_on_gaussian_features_some_of_them_twice(
    seed: int, tile: int, dtype: torch.dtype, fp32: bool
) -> None:
    query, query_ids, gallery, gallery_ids = gaussian_case(seed)
    with fp32_products() if fp32 else contextlib.nullcontext():
        case = query.to(dtype), query_ids, gallery.to(dtype), gallery_ids
        assert_agrees(case, tile, 2e-6 if fp32 else 1e-9)


@settings(max_examples=10)
@given(st.integers(0, 10_000), st.integers(20, 200), st.booleans())
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
    with fp32_products():
        fp32 = retrieval_metrics(query, ids[:50], gallery[order], ids[order], tile=tile).as_dict()
    assert {name: fp32[name] for name in ("r1", "r5", "r10", "mAP", "mINP")} == pytest.approx(
        {name: given_order[name] for name in ("r1", "r5", "r10", "mAP", "mINP")}, abs=1e-9
    )


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 1)), min_size=2, max_size=30), st.integers(1, 40))
def test_images_that_fp32_cannot_tell_apart_rank_as_the_exact_similarity_says(
    images: list[tuple[int, int]], tile: int
) -> None:
    ids = torch.tensor([owner for _, owner in images])
    gallery = torch.full((len(images), 4), 0.5, dtype=torch.float64)
    gallery[:, 0] += torch.tensor([4 * step for step, _ in images]) * similarity.FIXED_POINT_STEP
    # Normalised, a step is (3, −1, −1, −1) · 2⁻²⁶, nearly orthogonal to the query: 4e-11 of similarity.
    query = torch.tensor([[0.501, 0.5, 0.5, 0.5]], dtype=torch.float64)
    exact = (fixed_point(query, "query") @ fixed_point(gallery, "gallery").T)[0]
    assert len(exact.unique()) == len({step for step, _ in images})
    assert len(exact.float().unique()) == 1
    with fp32_products():
        found = columns(query_metrics(query, ids[:1], gallery, ids, tile=tile))
    expected = reference_of(query, ids[:1], gallery, ids)
    for name in ("first_rank", "ap", "inp", "sd"):
        assert found[name] == pytest.approx(expected[name], abs=1e-6), name


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e-4, 1e-2])
def test_ranks_of_nearly_collapsed_features_are_exact(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    query, gallery = (1 + scale * torch.randn(n, 512, generator=generator) for n in (60, 300))
    ids = torch.arange(300) % 40
    exact = columns(query_metrics(query, ids[:60], gallery, ids))
    with fp32_products():
        found = columns(query_metrics(query, ids[:60], gallery, ids, tile=128))
    assert [found[name] for name in COLUMNS[:3]] == [exact[name] for name in COLUMNS[:3]]
    assert found["sd"] == pytest.approx(exact["sd"], abs=1e-6)


def test_neither_tf32_nor_autocast_reaches_the_products() -> None:
    case = gaussian_case(1)
    with fp32_products():
        plain = columns(query_metrics(*case))
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")
        try:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                assert columns(query_metrics(*case)) == plain
            assert torch.get_float32_matmul_precision() == "medium"
        finally:
            torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("dimensions", [8, 64, 512, 1024])
def test_fp32_products_keep_within_the_error_bound_and_not_for_want_of_trying(dimensions: int) -> None:
    generator = torch.Generator().manual_seed(0)
    # All of one sign, so that partial sums and their rounding errors are as large as can be.
    a, b = (fixed_point(torch.rand(200, dimensions, generator=generator) + 1, "test") for _ in range(2))
    error = ((a.float() @ b.float().T).double() - a @ b.T).abs().max()
    assert 0 < error < fp32_error(dimensions)


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


def test_image_to_text_is_the_same_with_the_arguments_swapped() -> None:
    query, query_ids, gallery, gallery_ids = gaussian_case(2)
    assert_agrees((gallery, gallery_ids, query, query_ids), 16, 1e-9)


def test_the_mean_of_the_queries_is_the_metric() -> None:
    case = gaussian_case(3)
    queries, metrics = query_metrics(*case, legacy=True), retrieval_metrics(*case, legacy=True)
    assert queries.mean() == metrics
    assert metrics.mSD_legacy == pytest.approx(100 * sum(queries.sd_legacy.tolist()) / 40)
    assert metrics.r5 == 100 * sum(rank <= 5 for rank in queries.first_rank.tolist()) / 40
    assert queries.positives.tolist() == [int((case[3] == owner).sum()) for owner in case[1]]


def test_the_legacy_figure_is_computed_on_request_only() -> None:
    assert "mSD_legacy" not in retrieval_metrics(*gaussian_case(0)).as_dict()
    assert "mSD_legacy" in retrieval_metrics(*gaussian_case(0), legacy=True).as_dict()


def test_even_a_perfect_model_has_a_legacy_figure_of_63() -> None:
    """PNR ≈ 1 − 1/e where gallery order means nothing; in rank order the legacy figure is the right one."""
    generator = torch.Generator().manual_seed(0)
    people = torch.eye(200) + 0.01 * torch.randn(200, 200, generator=generator)
    ids = torch.arange(200).repeat_interleave(4)[torch.randperm(800, generator=generator)]
    metrics = retrieval_metrics(people, torch.arange(200), people[ids], ids, legacy=True)
    assert metrics.mAP == 100
    assert metrics.mSD > 80
    assert metrics.mSD_legacy == pytest.approx(100 * (1 - math.exp(-1)), abs=0.5)


def test_the_legacy_figure_is_right_where_the_gallery_is_in_rank_order() -> None:
    query, query_ids, gallery, gallery_ids = gaussian_case(4)
    order = top_k(query[:1], gallery[:35], 35)[1][0]
    metrics = retrieval_metrics(query[:1], query_ids[:1], gallery[order], gallery_ids[order], legacy=True)
    assert metrics.mSD_legacy == pytest.approx(metrics.mSD, abs=1e-9)


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 90), st.integers(8, 50))
def test_top_k_is_that_of_the_full_matrix_first_come_first_among_equals(seed: int, k: int, tile: int) -> None:
    query, _, gallery, _ = gaussian_case(seed)
    full = fixed_point(query, "query") @ fixed_point(gallery, "gallery").T
    found, index = top_k(query, gallery, k, tile=tile)
    assert torch.equal(found, full.topk(min(k, 70), dim=1).values)
    assert torch.equal(index, full.sort(dim=1, descending=True, stable=True).indices[:, :k])


def test_chance_is_the_share_of_the_gallery_that_matches() -> None:
    gallery_ids = torch.tensor([1, 1, 1, 2])
    metrics = retrieval_metrics(torch.randn(2, 3), torch.tensor([1, 2]), torch.randn(4, 3), gallery_ids)
    assert (metrics.chance_r1, metrics.queries, metrics.gallery) == (50.0, 2, 4)


def test_a_query_without_a_positive_is_an_error_that_names_it() -> None:
    gallery_ids = torch.tensor([3, 4, -1])
    for query_ids, message in (([3, 9, 8], r"query 1 \(id 9\)"), ([3, 4, -1], r"query 2 \(id -1\)")):
        with pytest.raises(UserError, match=message):
            retrieval_metrics(torch.ones(3, 2), torch.tensor(query_ids), torch.ones(3, 2), gallery_ids)


@pytest.mark.parametrize("names", [["a.jpg", "b.jpg"], lambda row: f"{'ab'[row]}.jpg"])
def test_a_query_without_a_positive_is_called_by_its_name(names: retrieval.Names) -> None:
    with pytest.raises(UserError, match=r"query b\.jpg \(id 9\) has no image of its id in the gallery of 3"):
        retrieval_metrics(
            torch.ones(2, 2), torch.tensor([3, 9]), torch.ones(3, 2), torch.tensor([3, 4, -1]), names=names
        )


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_a_feature_without_direction_is_an_error_that_names_it(value: float) -> None:
    gallery = torch.ones(3, 2)
    gallery[1] = value
    with pytest.raises(UserError, match="gallery feature 1 is zero or not finite"):
        retrieval_metrics(torch.ones(1, 2), torch.tensor([0]), gallery, torch.zeros(3, dtype=torch.int64))


def test_an_unusable_query_is_called_by_its_place_among_all_queries() -> None:
    query = torch.ones(5, 2)
    query[3] = 0
    ids = torch.tensor([1, 1, 1, 2, 1])
    for find in (
        lambda: retrieval_metrics(query, ids, torch.ones(3, 2), torch.tensor([1, 2, 1]), tile=2),
        lambda: top_k(query, torch.ones(3, 2), 1, tile=2),
    ):
        with pytest.raises(UserError, match="query feature 3 is zero"):
            find()
