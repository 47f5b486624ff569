"""Which weights a run keeps: the best evaluation's, once; none of another split; and never half a folder."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pretrain.config import settings_from
from pretrain.engine import Engine
from pretrain.model import DualEncoder
from pretrain.objective import ContrastiveObjective
from pretrain.selection import Selection, replace_folder, restore_folder
from sharding.plan import Plan, Stream
from tests.pretrain.ranks import run_on_ranks

PLAN = Plan([Stream(name="x", root_hash="0", split="train", shard_samples=(4,))], seed=0)


def make_settings(run_dir):
    return settings_from(
        {
            "run": {"dir": run_dir},
            "data": {"mixture": [{"path": "unused"}]},
            "model": {
                "embed_dim": 8,
                "vision_cfg": {"image_size": [16, 8], "patch_size": 8, "width": 8, "layers": 1, "head_width": 4},
                "text_cfg": {"vocab_size": 11, "context_length": 9, "width": 8, "heads": 2, "layers": 1},
            },
            "engine": {"zero_stage": 0, "precision": "fp32"},
            "eval": {"data": "benchmark", "keep": "best"},
        }
    )


def kept(run_dir):
    """What lies in the export: the step and figure it was chosen by, and the mark left in its weights."""
    chosen = json.loads((Path(run_dir) / "export" / "selection.json").read_text())
    mark = load_file(Path(run_dir) / "export" / "open_clip_model.safetensors")["logit_scale"]
    return [chosen["step"], chosen["value"], round(float(mark), 3)]


def evaluations(run_dir, scores, split="val"):
    """What is kept after each evaluation (step, R@1); the weights are marked with the step."""
    settings = make_settings(run_dir)
    settings = replace(settings, eval=replace(settings.eval, split=split))
    engine = Engine(ContrastiveObjective(DualEncoder(settings.model), settings.loss), settings, torch.device("cpu"))
    selection = Selection(settings, PLAN)
    found = []
    for step, score in scores:
        for name, parameter in engine._engine.module.named_parameters():
            if name.endswith("logit_scale"):
                parameter.data.fill_(step / 100)
        rank = torch.distributed.get_rank()
        selection.after_evaluation(engine, step, {"r1": score} if rank == 0 else None)
        found.append(kept(run_dir))
    return found


def runs(run_dir):
    """A run, its resumption after a kill, another split, and a new run in the same place."""
    first = evaluations(run_dir, [(0, 5.0), (50, 9.0), (100, 8.0), (150, 9.0), (200, 12.0)])
    resumed = evaluations(run_dir, [(100, 8.0), (150, 9.0), (200, 11.9), (250, 12.5)])
    other = evaluations(run_dir, [(300, 1.0)], split="other")
    return {"first": first, "resumed": resumed, "other": other, "new": evaluations(run_dir, [(0, 0.5)])}


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    return run_on_ranks(runs, 2, str(tmp_path_factory.mktemp("run")), timeout_s=300)[0]


def test_the_best_weights_stay_and_the_earlier_of_equals(history):
    assert history["first"] == [[0, 5.0, 0.0], [50, 9.0, 0.5], [50, 9.0, 0.5], [50, 9.0, 0.5], [200, 12.0, 2.0]]


def test_what_a_killed_run_had_reached_is_beaten_and_not_forgotten(history):
    assert history["resumed"] == [[200, 12.0, 2.0]] * 3 + [[250, 12.5, 2.5]]


def test_figures_of_another_split_or_of_an_older_run_are_no_rivals(history):
    assert history["other"] == [[300, 1.0, 3.0]]
    assert history["new"] == [[0, 0.5, 0.0]]


def test_a_kill_while_a_folder_is_replaced_leaves_the_old_or_the_new_one(tmp_path):
    folder, new = tmp_path / "export", tmp_path / ".export.new"
    for place, text in ((folder, "old"), (new, "new")):
        place.mkdir()
        (place / "weights").write_text(text)
    folder.rename(tmp_path / ".export.old")  # as far as a kill at the worst moment lets it come
    restore_folder(folder)
    assert (folder / "weights").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
    new.mkdir()
    (new / "weights").write_text("new")
    replace_folder(new, folder)
    restore_folder(folder)
    assert (folder / "weights").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
