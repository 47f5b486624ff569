"""Settings are strict, and every problem is told at once with a way out."""

import pytest
import yaml

from pretrain.config import as_tree, load_settings, setting_names, settings_from, settings_hash
from sharding.errors import UserError
from tests.test_imports import ROOT

DEMO = ROOT / "pretrain" / "recipes" / "demo.yaml"


def problems(*overrides):
    with pytest.raises(UserError) as error:
        load_settings(DEMO, list(overrides))
    return str(error.value).splitlines()


@pytest.mark.parametrize("recipe", sorted((ROOT / "pretrain" / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_valid(recipe):
    settings = load_settings(recipe, [])
    assert settings_from(yaml.safe_load(yaml.safe_dump(as_tree(settings)))) == settings


def test_overrides_reach_any_depth():
    settings = load_settings(DEMO, ["--optim.lr", "1e-4", "--data.mixture.1.weight=3", "--model.init", "w.pt"])
    assert (settings.optim.lr, settings.data.mixture[1].weight, str(settings.model.init)) == (1e-4, 3.0, "w.pt")


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("optim.lrr", "optim.lr"),
        ("optm.lr", "optim"),
        ("model.vision_cfg.patchsize", "model.vision_cfg.patch_size"),
        ("data.mixture.0.wieght", "data.mixture.0.weight"),
        ("reusme", "resume"),
    ],
)
def test_an_unknown_setting_names_the_nearest_known_one(wrong, nearest):
    [line] = problems(f"--{wrong}", "1")
    assert line.startswith("unknown setting")
    assert line.endswith(f"did you mean {nearest}?")


def test_all_problems_are_reported_together():
    lines = problems("--optim.lr", "-1", "--engine.precision", "fp8", "--run.sed", "1")
    assert len(lines) == 3
    assert any("optim.lr: Input should be greater than 0 (got -1)" in line for line in lines)
    assert any("'fp32' or 'bf16'" in line for line in lines)


def test_settings_that_contradict_each_other_are_refused():
    assert problems("--optim.batch_size", "7") == ["optim.batch_size 7 is not a multiple of launch.ranks 2"]
    assert "is smaller than patch_size 700" in problems("--model.vision_cfg.patch_size", "700")[0]
    assert "is not a multiple of heads 7" in problems("--model.text_cfg.heads", "7")[0]
    assert problems("--loss.itc", "0", "--loss.sdm", "0") == ["every loss has weight 0"]
    words = ["--data.mask_words", "0.6", "--data.replace_words", "0.3"]
    assert "add up to more than 1" in problems(*words, "--data.delete_words", "0.2")[0]
    assert load_settings(DEMO, [*words, "--data.delete_words", "0.1"]).data.mask_words == 0.6


def test_malformed_overrides_and_files_are_one_line(tmp_path):
    assert problems("--optim.lr") == ["--optim.lr needs a value"]
    assert problems("optim.lr", "3") == ["expected --section.setting, not 'optim.lr'"]
    assert problems("--data.mixture.9.weight", "1")[0].startswith("unknown setting data.mixture.9.weight")
    (tmp_path / "bad.yaml").write_text("a: [")
    for path, message in ((tmp_path / "bad.yaml", "not valid YAML"), (tmp_path / "none.yaml", "no settings file")):
        with pytest.raises(UserError, match=message):
            load_settings(path, [])


def test_the_hash_follows_what_shapes_the_weights_and_nothing_else():
    base = settings_hash(load_settings(DEMO, []))
    for same in (
        "--run.dir=x",
        "--launch.ranks=4",
        "--checkpoint.every=7",
        "--data.threads=3",
        "--engine.zero_stage=3",
    ):
        assert settings_hash(load_settings(DEMO, [same])) == base
    for other in ("--run.seed=1", "--optim.lr=0.5", "--data.flip=0", "--model.embed_dim=64", "--loss.itc=2"):
        assert settings_hash(load_settings(DEMO, [other])) != base


def test_every_setting_is_listed_for_help():
    names = {name for name, _ in setting_names()}
    assert {"optim.lr", "model.vision_cfg.image_size", "launch.backend", "resume"} <= names


def test_a_bare_off_is_off(tmp_path):
    (tmp_path / "run.yaml").write_text("data: {mixture: [{path: x}], verify: off}")
    assert load_settings(tmp_path / "run.yaml", []).data.verify == "off"
    assert load_settings(tmp_path / "run.yaml", ["--data.verify", "off"]).data.verify == "off"
