"""Every ZeRO stage takes the same steps, and its state travels between stages and world sizes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pretrain.batch import Batch
from pretrain.config import OptimSettings, settings_from
from pretrain.engine import Engine, deepspeed_config
from pretrain.model import DualEncoder
from pretrain.objective import ContrastiveObjective
from pretrain.optim import decays, learning_rate
from pretrain.text import pack
from tests.pretrain.ranks import run_on_ranks

BATCH = 8


def make_settings(stage, precision="fp32"):
    return settings_from(
        {
            "data": {"mixture": [{"path": "unused"}]},
            "model": {
                "embed_dim": 16,
                # Odd widths: no parameter is divisible by the ranks, which is where partitioning goes wrong.
                "vision_cfg": {"image_size": [16, 8], "patch_size": 8, "width": 15, "layers": 1, "head_width": 5},
                "text_cfg": {"vocab_size": 11, "context_length": 9, "width": 9, "heads": 3, "layers": 1},
            },
            "loss": {"itc": 1.0, "sdm": 0.5},
            "optim": {"batch_size": BATCH, "steps": 20, "warmup_steps": 2, "lr": 2e-3},
            "engine": {"zero_stage": stage, "precision": precision},
        }
    )


def batch_of(step, rank, world_size):
    draw = torch.Generator().manual_seed(step)
    images = torch.randint(0, 256, (BATCH, 3, 16, 8), generator=draw, dtype=torch.uint8)
    rows = [torch.randint(0, 11, (2 + i % 5,), generator=draw).numpy().astype("<u2").tobytes() for i in range(BATCH)]
    identity = torch.randint(0, 5, (BATCH,), generator=draw)
    mine = slice(rank * BATCH // world_size, (rank + 1) * BATCH // world_size)
    return Batch(images=images[mine], text=pack(rows[mine]), identity=identity[mine], position=0, keys=())


def train(settings, first, last, weights=None, moments=None):
    torch.manual_seed(0)
    model = DualEncoder(settings.model)
    if weights:
        model.load_state_dict(weights)
    engine = Engine(ContrastiveObjective(model, settings.loss), settings, torch.device("cpu"))
    if moments:
        engine.load_moments(moments, first)
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    losses = []
    for step in range(first, last):
        loss = engine.train_step(batch_of(step, rank, world_size), step)["loss"]
        torch.distributed.all_reduce(loss)
        losses.append(float(loss) / world_size)
    weights, moments = engine.state()
    features, _ = engine.encode(batch_of(0, 0, 1).images, None)
    return {"losses": losses, "weights": weights, "moments": moments, "features": features}


def share(state):
    """Rank 0's tensors on every rank, as a checkpoint on disk would give them."""
    box = [state]
    torch.distributed.broadcast_object_list(box)
    return box[0]


def on_two_ranks():
    """For every stage: 4 steps in one go, 2 steps, and 2 more from the state of those."""
    runs = {f"bf16-{stage}": train(make_settings(stage, "bf16"), 0, 4) for stage in (0, 1, 2, 3)}
    for stage in (0, 1, 2, 3):
        settings = make_settings(stage)
        whole, half = train(settings, 0, 4), train(settings, 0, 2)
        rest = train(settings, 2, 4, share(half["weights"]), share(half["moments"]))
        runs[f"zero{stage}"] = {"whole": whole, "half": half, "rest": rest}
    return runs


def step_with_infinite_gradient(stage):
    """The message with which such a step ends."""
    settings = make_settings(stage)
    engine = Engine(ContrastiveObjective(DualEncoder(settings.model), settings.loss), settings, torch.device("cpu"))
    broken = next(engine._engine.module.parameters())
    broken.register_hook(lambda gradient: gradient * float("inf"))
    try:
        engine.train_step(batch_of(0, 0, 1), 7)
    except FloatingPointError as error:
        return str(error)
    return "no error"


def on_one_rank(half):
    """4 steps in one go, and the last 2 of them in another stage from a state that two ranks left."""
    return {
        "whole": train(make_settings(0), 0, 4),
        "rest": train(make_settings(1), 2, 4, half["weights"], half["moments"]),
        "infinite": [step_with_infinite_gradient(stage) for stage in (1, 2, 3)],
    }


@pytest.fixture(scope="module")
def two_ranks():
    return run_on_ranks(on_two_ranks, 2)[0]


@pytest.fixture(scope="module")
def one_rank(two_ranks):
    return run_on_ranks(on_one_rank, 1, two_ranks["zero3"]["half"])[0]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_ranks_take_the_steps_of_one(stage, two_ranks, one_rank):
    two, one = two_ranks[f"zero{stage}"]["whole"], one_rank["whole"]
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)
    for name, tensor in one["weights"].items():
        assert (two["weights"][name] - tensor).abs().max() < 2e-4, name


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_steps_and_two_more_are_bit_for_bit_four(stage, two_ranks):
    run = two_ranks[f"zero{stage}"]
    assert run["half"]["losses"] + run["rest"]["losses"] == run["whole"]["losses"]
    for part in ("weights", "moments"):
        assert all(torch.equal(run["rest"][part][name], tensor) for name, tensor in run["whole"][part].items())


def test_a_state_saved_by_one_stage_and_world_size_continues_in_another(one_rank):
    rest, whole = one_rank["rest"], one_rank["whole"]
    assert rest["losses"] == pytest.approx(whole["losses"][2:], rel=1e-5)
    assert (rest["features"] - whole["features"]).abs().max() < 1e-3


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_bf16_follows_fp32_with_fp32_weights(stage, two_ranks, one_rank):
    run = two_ranks[f"bf16-{stage}"]
    assert run["losses"] == pytest.approx(one_rank["whole"]["losses"], rel=0.02)
    assert run["losses"] != one_rank["whole"]["losses"]
    assert {tensor.dtype for tensor in [*run["weights"].values(), *run["moments"].values()]} == {torch.float32}


def test_a_step_with_an_infinite_gradient_ends_the_run(one_rank):
    assert all("a gradient is not finite at step 7" in message for message in one_rank["infinite"])


def test_the_deepspeed_configuration_follows_ours():
    config = deepspeed_config(make_settings(2, "bf16"), world_size=4)
    assert config["zero_optimization"]["stage"] == 2
    assert (config["train_batch_size"], config["train_micro_batch_size_per_gpu"]) == (BATCH, BATCH // 4)
    assert config["gradient_clipping"] == 1.0
    assert "torch_autocast" not in deepspeed_config(make_settings(2), world_size=4)


def test_gains_biases_and_positions_do_not_decay():
    model = DualEncoder(make_settings(0).model)
    kept = {name for name, parameter in model.named_parameters() if not decays(name, parameter)}
    assert {"logit_scale", "positional_embedding", "visual.class_embedding", "ln_final.weight"} <= kept
    assert not {"visual.proj", "token_embedding.weight", "transformer.resblocks.0.mlp.c_fc.weight"} & kept


@given(st.integers(0, 50), st.integers(1, 100))
def test_the_learning_rate_warms_up_to_its_peak_and_falls_to_its_floor(warmup, decay):
    settings = OptimSettings(lr=1.0, min_lr=0.1, warmup_steps=warmup, steps=warmup + decay)
    rates = [learning_rate(step, settings) for step in range(settings.steps + 1)]
    assert rates[warmup] == max(rates) == 1.0
    assert rates[-1] == pytest.approx(0.1)
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
