"""All terms together: over ranks, under every ZeRO stage and precision, and across a change of both."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist

from finetune.config import TERMS, FinetuneSettings
from finetune.objective import FinetuneObjective
from pretrain.augment import normalise
from pretrain.batch import Batch
from pretrain.config import settings_from
from pretrain.engine import Engine
from pretrain.model import DualEncoder
from pretrain.objective import load_parameters
from pretrain.text import MaskedText, pack
from tests.pretrain.ranks import run_on_ranks

BATCH, PEOPLE, STEPS = 8, 5, 3
STAGES = (0, 1, 2, 3)
METHODS = {"irra": ("sdm", "id", "mlm"), "rde": ("tal", "token_tal"), "cfam": ("sdm", "local", "match", "cid")}


def make_settings(stage=0, precision="fp32", terms=TERMS):
    tree = {
        "data": {"mixture": [{"path": "unused"}], "mlm": 0.15},
        "model": {
            "embed_dim": 10,
            # Odd widths: no parameter is divisible by the ranks, which is where partitioning goes wrong.
            "vision_cfg": {"image_size": [24, 8], "patch_size": 8, "width": 15, "layers": 1, "head_width": 5},
            "text_cfg": {"vocab_size": 11, "context_length": 9, "width": 9, "heads": 3, "layers": 1},
        },
        # Margin and temperature with which no hinge is at rest, and smooth enough to compare steps.
        "loss": {**dict.fromkeys(terms, 1.0), "tal_margin": 0.5, "tal_temperature": 0.2, "sdm_temperature": 0.2},
        "heads": {"width": 9, "heads": 3, "layers": 1, "queries": 3, "mlm_layers": 1, "mlm_heads": 5},
        "optim": {"batch_size": BATCH, "steps": 20, "warmup_steps": 2, "lr": 1e-3},
        "engine": {"zero_stage": stage, "precision": precision},
    }
    return settings_from(tree, FinetuneSettings)


def batch_of(step, rank, world_size):
    """Captions of 2 to 8 tokens, of which a rank's first few have masked words: M differs between ranks."""
    draw = torch.Generator().manual_seed(step)
    images = torch.randint(0, 256, (BATCH, 3, 24, 8), generator=draw, dtype=torch.uint8)
    rows = [torch.randint(0, 11, (2 + (3 * i) % 7,), generator=draw).numpy().astype("<u2") for i in range(BATCH)]
    identity = torch.randint(0, PEOPLE, (BATCH,), generator=draw)
    masked = []
    for number, row in enumerate(rows):
        labels = torch.full((len(row),), -1)
        if len(row) > 2 and number != 1:
            labels[1] = int(row[1])
        masked.append((row // 2, labels.numpy()))
    mine = slice(rank * BATCH // world_size, (rank + 1) * BATCH // world_size)
    text = pack(rows[mine])
    return Batch(
        images=images[mine],
        text=text,
        identity=identity[mine],
        position=0,
        keys=(),
        masked=MaskedText.of(masked[mine], beside=text),
    )


def make_objective(settings):
    torch.manual_seed(0)
    return FinetuneObjective(DualEncoder(settings.model), settings, PEOPLE)


def terms_and_gradients():
    """Losses by name and gradients by parameter, averaged over ranks."""
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    objective, batch = make_objective(make_settings()), batch_of(0, rank, world_size)
    loss, terms = objective(normalise(batch.images), batch.text, batch)
    loss.backward()
    values = {"loss": loss.detach(), **terms}
    values |= {f"gradient of {name}": parameter.grad for name, parameter in objective.named_parameters()}
    for value in values.values():
        if world_size > 1:
            dist.all_reduce(value)
            value /= world_size
    return values


def train(settings, first, last, state=None):
    objective = make_objective(settings)
    if state:
        load_parameters(objective, state["weights"])
    engine = Engine(objective, settings, torch.device("cpu"))
    if state:
        engine.load_moments(state["moments"], first)
    losses = []
    for step in range(first, last):
        loss = engine.train_step(batch_of(step, dist.get_rank(), dist.get_world_size()), step)["loss"]
        dist.all_reduce(loss)
        losses.append(float(loss) / dist.get_world_size())
    weights, moments = engine.state()
    return {"losses": losses, "weights": weights, "moments": moments}


def on_two_ranks():
    runs = {f"fp32-{stage}": train(make_settings(stage), 0, STEPS) for stage in STAGES}
    runs |= {f"bf16-{stage}": train(make_settings(stage, "bf16"), 0, 2) for stage in STAGES}
    runs |= {name: train(make_settings(3, "bf16", terms), 0, 1) for name, terms in METHODS.items()}
    return {**runs, "values": terms_and_gradients(), "begun": train(make_settings(2), 0, 1)}


def on_one_rank(begun):
    return {"whole": train(make_settings(0), 0, STEPS), "rest": train(make_settings(0), 1, STEPS, begun)}


@pytest.fixture(scope="module")
def two_ranks():
    return run_on_ranks(on_two_ranks, 2, timeout_s=300)[0]


@pytest.fixture(scope="module")
def one_rank(two_ranks):
    return run_on_ranks(on_one_rank, 1, two_ranks["begun"], timeout_s=300)[0]


def test_two_ranks_of_half_the_batch_give_every_term_and_gradient_of_one_rank_of_all(two_ranks):
    whole = terms_and_gradients()
    assert set(TERMS) < whole.keys()
    assert all(whole[name] > 0 for name in TERMS)
    torch.testing.assert_close(two_ranks["values"], whole, rtol=1e-4, atol=2e-6)


def test_every_head_learns():
    gradients = terms_and_gradients()
    idle = [name for name, value in gradients.items() if name.startswith("gradient") and not value.any()]
    assert not idle


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_take_the_steps_of_one_in_every_stage(stage, two_ranks, one_rank):
    two, one = two_ranks[f"fp32-{stage}"], one_rank["whole"]
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert any(name.startswith("heads.") for name in one["weights"])
    for name, tensor in one["weights"].items():
        assert (two["weights"][name] - tensor).abs().max() < 1e-3, name


@pytest.mark.parametrize("stage", STAGES)
def test_bf16_follows_fp32_with_fp32_weights(stage, two_ranks, one_rank):
    run = two_ranks[f"bf16-{stage}"]
    fp32 = one_rank["whole"]["losses"][:2]
    assert run["losses"] == pytest.approx(fp32, rel=0.02)
    assert run["losses"] != fp32
    assert {tensor.dtype for tensor in [*run["weights"].values(), *run["moments"].values()]} == {torch.float32}


def test_stage_3_ends_where_stage_0_does(two_ranks):
    for part in ("weights", "moments"):
        torch.testing.assert_close(two_ranks["fp32-3"][part], two_ranks["fp32-0"][part], rtol=1e-4, atol=1e-4)


def test_the_state_of_two_ranks_in_stage_2_continues_on_one_in_stage_0(two_ranks, one_rank):
    heads = {name for name in two_ranks["begun"]["moments"] if name.startswith("heads.")}
    assert all(two_ranks["begun"]["moments"][name].any() for name in heads)
    assert one_rank["rest"]["losses"] == pytest.approx(one_rank["whole"]["losses"][1:], rel=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_alone_trains_a_step_in_stage_3_and_bf16(method, two_ranks):
    assert two_ranks[method]["losses"][0] > 0


def test_masked_words_do_not_change_the_other_terms():
    settings = make_settings()
    without = replace(settings, loss=replace(settings.loss, mlm=0.0))
    together, apart = make_objective(settings), make_objective(without)
    apart.load_state_dict({name: together.state_dict()[name] for name in apart.state_dict()})
    batch = batch_of(0, 0, 1)
    _, all_terms = together(normalise(batch.images), batch.text, batch)
    _, others = apart(normalise(batch.images), batch.text, batch)
    del all_terms["mlm"]
    torch.testing.assert_close(all_terms, others)
