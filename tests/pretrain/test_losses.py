import math

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pretrain.losses import LOSSES, gather, gather_batch, itc, sdm, weighted_loss
from tests.pretrain.ranks import run_on_ranks

PAIRS, INPUTS, WIDTH, SCALE = 8, 6, 5, 1 / 0.07
IDENTITIES = [3, 7, 3, 5, 7, 3, 9, 5]  # 3, 5 and 7 lie on both of two ranks; 3 twice on the first


def features(seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image, text = torch.randn(2, PAIRS, WIDTH, generator=generator, dtype=torch.float64)
    return F.normalize(image, dim=1).to(dtype), F.normalize(text, dim=1).to(dtype)


def naive_loss(name: str, image: Tensor, text: Tensor, identity: list[int], scale: float) -> float:
    """The formulas of FIELD's losses, one pair at a time in Python floats."""
    n, total = len(identity), 0.0
    for rows, columns in ((image.tolist(), text.tolist()), (text.tolist(), image.tolist())):
        for i in range(n):
            z = [scale * sum(a * b for a, b in zip(rows[i], columns[j], strict=True)) for j in range(n)]
            log_sum = math.log(sum(math.exp(value) for value in z))
            if name == "itc":
                total += (log_sum - z[i]) / (2 * n)
                continue
            for j in range(n):
                q = (identity[i] == identity[j]) / identity.count(identity[i])
                log_p = z[j] - log_sum
                total += math.exp(log_p) * (log_p - math.log(q + 1e-8)) / n
    return total


@pytest.mark.parametrize("identities", [IDENTITIES, list(range(PAIRS)), [4] * PAIRS])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_equals_the_formula_written_as_a_loop(name: str, identities: list[int]) -> None:
    image, text = features(0)
    loss = LOSSES[name](gather_batch(image, text, torch.tensor(identities)), SCALE)
    assert loss.item() == pytest.approx(naive_loss(name, image, text, identities, SCALE), abs=1e-12)


def train_step_gradients() -> dict[str, dict[str, Tensor]]:
    """Loss and parameter gradients, averaged over ranks, of linear encoders on this rank's part of the pairs."""
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    mine = slice(rank * PAIRS // world_size, (rank + 1) * PAIRS // world_size)
    generator = torch.Generator().manual_seed(1)
    pixels, words = torch.randn(2, PAIRS, INPUTS, generator=generator, dtype=torch.float64)
    weights = torch.randn(2, INPUTS, WIDTH, generator=generator, dtype=torch.float64)
    results = {}
    for name in [*LOSSES, "both"]:
        see, read = (weight.clone().requires_grad_() for weight in weights)
        logit_scale = torch.tensor([math.log(SCALE)], dtype=torch.float64, requires_grad=True)
        image, text = F.normalize(pixels[mine] @ see, dim=1), F.normalize(words[mine] @ read, dim=1)
        batch = gather_batch(image, text, torch.tensor(IDENTITIES)[mine])
        chosen = {"itc": 1.0, "sdm": 0.5} if name == "both" else {name: 1.0}
        loss, _ = weighted_loss(batch, logit_scale.exp(), chosen)
        loss.backward()
        values = {"loss": loss.detach(), "see": see.grad, "read": read.grad, "logit_scale": logit_scale.grad}
        for value in values.values():
            if world_size > 1:
                dist.all_reduce(value)
                value /= world_size
        results[name] = values
    return results


def test_two_ranks_of_half_the_batch_give_the_loss_and_gradients_of_one_rank_of_all() -> None:
    whole = train_step_gradients()
    for result in run_on_ranks(train_step_gradients, 2):
        torch.testing.assert_close(result, whole, rtol=0, atol=1e-9)


def test_gather_alone_is_the_identity() -> None:
    x = torch.randn(3, 2)
    assert gather(x) is x


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_agree_with_finite_differences(name: str) -> None:
    image, text = (feature.requires_grad_() for feature in features(2))
    scale = torch.tensor([5.0], dtype=torch.float64, requires_grad=True)
    identity = torch.tensor(IDENTITIES)
    assert torch.autograd.gradcheck(lambda i, t, s: LOSSES[name](gather_batch(i, t, identity), s), (image, text, scale))


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_features_are_scored_in_fp32_even_under_autocast(name: str) -> None:
    image, text = features(3, torch.bfloat16)
    identity, scale = torch.tensor(IDENTITIES), torch.tensor([SCALE])
    exact = LOSSES[name](gather_batch(image.double(), text.double(), identity), scale)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = LOSSES[name](gather_batch(image, text, identity), scale)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_separated_people_cost_less_than_mixed_ones(name: str) -> None:
    identity, people = torch.arange(4), torch.eye(4)
    separated = LOSSES[name](gather_batch(people, people, identity), 50.0)
    mixed = LOSSES[name](gather_batch(people, people.roll(1, dims=0), identity), 50.0)
    assert separated < 1e-3 < mixed


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.lists(st.integers(0, 4), min_size=PAIRS, max_size=PAIRS), st.floats(0.1, 100))
def test_sdm_is_a_divergence_never_below_zero(seed: int, identities: list[int], scale: float) -> None:
    assert sdm(gather_batch(*features(seed), torch.tensor(identities)), scale) > -1e-6


def test_sdm_vanishes_when_one_person_is_seen_as_one_and_the_same() -> None:
    same = F.normalize(torch.ones(PAIRS, WIDTH), dim=1)
    assert sdm(gather_batch(same, same, torch.zeros(PAIRS, dtype=torch.int64)), SCALE).abs() < 1e-6


def test_a_second_image_of_a_person_is_a_match_to_sdm_and_a_negative_to_itc() -> None:
    two_images = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    same, different = torch.tensor([1, 1, 2]), torch.tensor([1, 3, 2])
    batches = [gather_batch(two_images, two_images, identity) for identity in (same, different)]
    assert sdm(batches[0], 50.0) < 1e-3 < sdm(batches[1], 50.0)
    assert itc(batches[0], 50.0) == itc(batches[1], 50.0) > 0.4


def test_weighted_loss_adds_the_weighted_terms_and_reports_them_unweighted() -> None:
    batch = gather_batch(*features(4), torch.tensor(IDENTITIES))
    scale = torch.tensor([SCALE], dtype=torch.float64, requires_grad=True)
    total, terms = weighted_loss(batch, scale, {"itc": 2.0, "sdm": 0.5})
    assert terms == {"itc": itc(batch, scale), "sdm": sdm(batch, scale)}
    assert not any(term.requires_grad for term in terms.values())
    torch.testing.assert_close(total, 2.0 * terms["itc"] + 0.5 * terms["sdm"])


def test_a_fixed_sdm_temperature_replaces_the_learned_scale_for_sdm_alone() -> None:
    batch = gather_batch(*features(5), torch.tensor(IDENTITIES))
    _, terms = weighted_loss(batch, torch.tensor([SCALE]), {"itc": 1.0, "sdm": 1.0}, sdm_temperature=0.02)
    torch.testing.assert_close(terms, {"itc": itc(batch, torch.tensor([SCALE])), "sdm": sdm(batch, 50.0)})
