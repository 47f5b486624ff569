"""Settings of fine-tuning are as strict as those of pre-training; epochs become steps; the hash sees what decides."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.config import TERMS, FinetuneSettings, with_epochs
from pretrain.config import as_tree, decisive, override, settings_from, settings_hash
from sharding.errors import UserError


def settings_of(*overrides):
    tree = {"data": {"mixture": [{"path": "x"}]}, "loss": {"sdm": 1.0}, "optim": {"batch_size": 64}}
    return settings_from(override(tree, list(overrides), FinetuneSettings), FinetuneSettings)


def problems(*overrides):
    with pytest.raises(UserError) as error:
        settings_of(*overrides)
    return str(error.value).splitlines()


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("loss.lokal", "loss.local"),
        ("heads.querys", "heads.queries"),
        ("schedule.epoch", "schedule.epochs"),
        ("data.mask_word", "data.mask_words"),
        ("shedule.epochs", "schedule"),
    ],
)
def test_an_unknown_setting_names_the_nearest_known_one(wrong, nearest):
    [line] = problems(f"--{wrong}=1")
    assert line.startswith("unknown setting")
    assert line.endswith(f"did you mean {nearest}?")


def test_settings_that_contradict_each_other_are_refused():
    assert problems("--loss.mlm=1") == ["loss.mlm needs masked words: set data.mlm, e.g. 0.15"]
    assert problems("--heads.width=100") == ["heads.width 100 is not a multiple of heads.heads 8"]
    assert problems("--loss.sdm=0") == ["every loss has weight 0"]
    odd = problems("--loss.mlm=1", "--data.mlm=0.15", "--heads.mlm_heads=7")
    assert odd == ["model.embed_dim 512 is not a multiple of heads.mlm_heads"]
    assert "heads.token_share: Input should be greater than 0 (got 0)" in problems("--heads.token_share=0")
    assert problems("--eval.keep=best") == ["eval.keep best needs eval.data to tell which weights are best"]
    assert problems("--eval.split=held_out")[0].startswith("eval.split held_out needs people kept from training")
    assert "'local' or 'global'" in problems("--loss.hardness=text")[0]


def test_masked_words_are_taken_with_their_term():
    assert settings_of("--loss.mlm=1", "--data.mlm=0.15").loss.weights == {"sdm": 1.0, "mlm": 1.0}


@given(st.dictionaries(st.sampled_from([term for term in TERMS if term != "mlm"]), st.floats(0.1, 9), min_size=1))
def test_the_weights_are_the_terms_that_count(weights):
    settings = settings_of("--loss.sdm=0", *(f"--loss.{term}={weight}" for term, weight in weights.items()))
    assert settings.loss.weights == pytest.approx(weights)


def test_the_settings_survive_the_trip_to_a_rank():
    settings = settings_of("--loss.local=0.5", "--heads.queries=4", "--schedule.epochs=2.5", "--data.hold_out=0.1")
    assert settings_from(as_tree(settings), FinetuneSettings) == settings


def test_epochs_become_steps_of_the_global_batch():
    overrides = ("--schedule.epochs=60", "--schedule.warmup_epochs=5", "--schedule.eval_epochs=2")
    settings = with_epochs(settings_of(*overrides), pairs=6400)
    assert (settings.optim.steps, settings.optim.warmup_steps) == (6000, 500)
    assert (settings.eval.every, settings.checkpoint.every) == (200, 200)
    assert settings.schedule == settings_of(*overrides).schedule


@given(st.floats(0.01, 100), st.floats(0, 100), st.floats(0.01, 100), st.integers(1, 100_000))
def test_steps_are_the_nearest_to_the_epochs_and_at_least_one(epochs, warmup, evaluation, pairs):
    warmup = min(warmup, 0.9 * epochs)
    schedule = {"epochs": epochs, "warmup_epochs": warmup, "eval_epochs": evaluation}
    settings = with_epochs(settings_of(*(f"--schedule.{name}={value}" for name, value in schedule.items())), pairs)
    assert settings.optim.steps >= 1
    assert abs(settings.optim.steps - epochs * pairs / 64) <= 1
    assert abs(settings.optim.warmup_steps - warmup * pairs / 64) <= 0.5
    assert 1 <= settings.eval.every <= settings.optim.steps
    assert settings.checkpoint.every == settings.eval.every


def test_a_warm_up_as_long_as_the_run_is_refused():
    with pytest.raises(UserError, match="leaves nothing of schedule"):
        settings_of("--schedule.epochs=5", "--schedule.warmup_epochs=5")


def test_without_epochs_the_steps_stay():
    settings = settings_of("--optim.steps=7")
    assert with_epochs(settings, pairs=6400) is settings


@pytest.mark.parametrize(
    "same",
    [
        "eval.every=7",
        "eval.keep=last",
        "launch.ranks=2",
        "schedule.eval_epochs=3",
        "checkpoint.every=9",
        "data.threads=2",
    ],
)
def test_what_decides_no_weight_leaves_the_hash_as_it_is(same):
    assert settings_hash(settings_of(f"--{same}")) == settings_hash(settings_of())


@pytest.mark.parametrize(
    "other",
    [
        *(f"loss.{term}=0.3" for term in TERMS if term != "mlm"),
        "loss.hardness=global",
        "loss.tal_margin=0.2",
        "heads.queries=4",
        "heads.width=256",
        "optim.new_lr_scale=1",
        "data.mask_words=0.1",
        "data.mlm=0.15",
        "data.sampler=identity",
        "data.hold_out=0.1",
    ],
)
def test_what_decides_the_weights_changes_the_hash(other):
    assert settings_hash(settings_of(f"--{other}")) != settings_hash(settings_of())


def test_epochs_decide_by_the_steps_they_make():
    base = settings_of("--optim.steps=100", "--optim.warmup_steps=0", "--schedule.epochs=1")
    tree = decisive(as_tree(with_epochs(base, pairs=6400)))
    assert "schedule" not in tree
    assert tree == decisive(as_tree(settings_of("--optim.steps=100", "--optim.warmup_steps=0")))
    assert settings_hash(with_epochs(base, pairs=640)) != settings_hash(with_epochs(base, pairs=6400))
