"""`finetune train` and `finetune ablate` for real: in one process, on Ray and under torchrun; selection; bad input."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from finetune.cli import main
from finetune.train import Request, build_settings
from pretrain.telemetry import read_metrics
from tests.finetune.exports import tiny_export
from tests.test_imports import ROOT

FAST = [
    *("--optim.batch_size", "16", "--optim.lr", "1e-3", "--optim.warmup_steps", "2", "--optim.steps", "8"),
    *("--schedule.epochs", "null", "--eval.every", "4", "--checkpoint.every", "4", "--data.pad", "2"),
    *("--heads.width", "16", "--heads.heads", "2", "--heads.queries", "4", "--heads.mlm_heads", "2"),
    *("--engine.precision", "fp32", "--data.threads", "1", "--data.log_samples", "true"),
    *("--launch.backend", "local", "--launch.gpus_per_rank", "0", "--launch.cpus_per_rank", "1"),
]


@pytest.fixture(scope="module")
def init(tmp_path_factory):
    return tiny_export(tmp_path_factory.mktemp("init") / "export", seed=0)


def arguments(shards, init, run, *more, benchmark="cuhk_pedes", method="cfam"):
    words = ["train", "--benchmark", benchmark, "--data", shards, "--init", init, "--method", method, "--out", run]
    return [str(word) for word in [*words, *FAST, *more]]


def execute(command, expect=0):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PATH": path}, timeout=300
    )
    assert done.returncode == expect, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def losses(run):
    return [(line["step"], line["loss"]) for line in read_metrics(run / "metrics.jsonl") if "loss" in line]


@pytest.fixture(scope="module")
def local(shards, init, tmp_path_factory):
    """One run in a process of its own: its directory and what it printed."""
    run = tmp_path_factory.mktemp("local") / "run"
    return run, execute([sys.executable, "-m", "finetune", *arguments(shards, init, run, "--json")])


def test_a_run_trains_selects_exports_and_measures(local):
    run, done = local
    metrics = read_metrics(run / "metrics.jsonl")
    evaluations = {line["step"]: line["eval"]["r1"] for line in metrics if "eval" in line}
    assert list(evaluations) == [0, 4, 8]
    assert {"sdm", "local", "match", "cid", "loss", "lr"} <= set(metrics[1])
    selection = json.loads((run / "export" / "selection.json").read_text())
    best = max(evaluations, key=evaluations.get)
    assert (selection["rule"], selection["step"]) == ("best r1 on val", best)
    assert selection["value"] == evaluations[best]
    [scores] = json.loads((run / "results.json").read_text())["benchmarks"]
    assert (scores["name"], scores["split"]) == ("cuhk_pedes", "test")
    assert "cuhk_pedes test" in (run / "export" / "README.md").read_text()
    assert {"text_to_image", "image_to_text"} <= set(scores["models"][0])
    assert json.loads(done.stdout) == json.loads((run / "results.json").read_text())  # and nothing else


def test_heads_are_in_the_checkpoint_and_not_in_the_export(local):
    run, _ = local
    checkpoint = load_file(run / "checkpoints" / "step-00000008" / "weights.safetensors")
    assert any(name.startswith("heads.decoder") for name in checkpoint)
    assert any(name.startswith("heads.matcher") for name in checkpoint)
    exported = load_file(run / "export" / "open_clip_model.safetensors")
    assert set(exported) == {name for name in checkpoint if not name.startswith("heads.")}


def test_an_interrupted_run_continues_to_the_same_end(local, shards, init, tmp_path):
    run = tmp_path / "run"
    execute([sys.executable, "-m", "finetune", *arguments(shards, init, run, "--run.stop_at", "4")])
    assert not (run / "results.json").exists()
    done = execute([sys.executable, "-m", "finetune", *arguments(shards, init, run)])
    assert "continuing from" in done.stderr
    assert losses(run) == losses(local[0])
    assert (run / "results.json").read_text() == (local[0] / "results.json").read_text().replace(
        str(local[0]), str(run)
    )


def test_two_ranks_of_torchrun_take_the_steps_of_one(local, shards, init, tmp_path):
    run = tmp_path / "run"
    command = ["torchrun", "--nproc-per-node", "2", "-m", "finetune"]
    done = execute([*command, *arguments(shards, init, run, "--launch.backend", "torchrun")])
    assert [loss for _, loss in losses(run)] == pytest.approx([loss for _, loss in losses(local[0])], rel=1e-4)
    assert done.stdout.count("| cfam") == 2  # one rank speaks: a table for each direction


@pytest.mark.slow
def test_ray_runs_the_same(local, shards, init, tmp_path):
    run = tmp_path / "run"
    more = ["--launch.backend", "ray", "--launch.ranks", "2", "--engine.zero_stage", "1"]
    execute([sys.executable, "-m", "finetune", *arguments(shards, init, run, *more)])
    assert [loss for _, loss in losses(run)] == pytest.approx([loss for _, loss in losses(local[0])], rel=1e-4)
    assert (run / "results.json").is_file()


@pytest.mark.slow
def test_seeds_give_a_mean_and_a_deviation(shards, init, tmp_path, capsys):
    command = arguments(shards, init, tmp_path / "run", "--seeds", "0,1", "--jobs", "2", method="clip")
    assert main(command) == 0
    [row] = re.findall(r"^\| clip.*", capsys.readouterr().out, re.MULTILINE)[:1]
    assert "±" in row
    [scores] = json.loads((tmp_path / "run" / "results.json").read_text())["benchmarks"]
    assert scores["models"][0]["seeds"] == [0, 1]
    done = (tmp_path / "run" / "seed-0" / "results.json").stat().st_mtime_ns
    assert main(command) == 0  # nothing is trained again
    assert (tmp_path / "run" / "seed-0" / "results.json").stat().st_mtime_ns == done
    capsys.readouterr()
    assert main([*command, "--optim.lr", "5e-4"]) == 2  # and figures of another recipe are not taken for these
    assert "holds a run with other settings" in capsys.readouterr().err


@pytest.mark.slow
def test_an_ablation_prints_a_row_for_each_method(shards, init, tmp_path, capsys):
    words = ["ablate", "--benchmark", "ufine6926", "--data", shards, "--init", init, "--out", tmp_path / "out"]
    assert main([str(word) for word in [*words, "--methods", "cfam-scratch,clip,cfam", "--jobs", "2", *FAST]]) == 0
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("| c")]
    assert rows[:4] == ["chance", "cfam-scratch", "clip", "cfam"]
    scratch, cfam = ((tmp_path / "out" / row / "seed-0" / "log.txt").read_text() for row in ("cfam-scratch", "cfam"))
    assert "RANDOM weights" in scratch
    assert "RANDOM weights" not in cfam
    selection = json.loads((tmp_path / "out" / "cfam" / "seed-0" / "export" / "selection.json").read_text())
    assert selection["rule"] == "last step"  # no val split, nobody held out, and never the test split


@pytest.mark.slow
def test_ctrl_c_stops_the_runs_of_a_grid(shards, init, tmp_path):
    more = ["--seeds", "0,1", "--jobs", "2", "--optim.steps", "100000"]
    command = [sys.executable, "-m", "finetune", *arguments(shards, init, tmp_path / "run", *more)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "run").glob("seed-*/metrics.jsonl"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path).encode() in read(path)]
    assert left == []


def read(path):
    try:
        return path.read_bytes()
    except OSError:  # it has ended
        return b""


def test_people_held_out_select_where_there_is_no_val_split(shards, init, tmp_path):
    more = ["--hold-out", "0.3", "--optim.steps", "4"]
    command = arguments(shards, init, tmp_path / "run", *more, benchmark="icfg_pedes", method="sdm")
    execute([sys.executable, "-m", "finetune", *command])
    selection = json.loads((tmp_path / "run" / "export" / "selection.json").read_text())
    assert selection["rule"] == "best r1 on held_out"


def test_a_run_does_not_continue_from_other_initial_weights(local, shards, tmp_path, capfd):
    other = tiny_export(tmp_path / "other", seed=1)
    assert main(arguments(shards, other, local[0])) == 2
    assert "init_sha256 was" in capfd.readouterr().err
    assert main(arguments(shards, other, local[0], "--from-scratch")) == 2


def test_selection_on_test_is_written_down(shards, init, tmp_path):
    more = ["--select-on-test", "--optim.steps", "4"]
    execute([sys.executable, "-m", "finetune", *arguments(shards, init, tmp_path / "run", *more, method="clip")])
    assert "on test" in json.loads((tmp_path / "run" / "export" / "selection.json").read_text())["rule"]


def test_a_recipe_counts_in_epochs_of_captions(shards, init, tmp_path):
    request = Request(
        benchmark="cuhk_pedes",
        data=shards,
        init=init,
        method="cfam",
        run_dir=tmp_path,
        overrides=("--eval.batch_size", "9"),
    )
    settings = build_settings(request)
    captions = json.loads((shards / "cuhk_pedes" / "dataset.json").read_text())["counts"]["splits"]["train"]["captions"]
    assert settings.optim.steps == round(60 * captions / 64)
    assert settings.optim.warmup_steps == round(5 * captions / 64)
    assert settings.eval.batch_size == 9
    assert settings.model.text_cfg.context_length == 168


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--data": "{shards}/rstpreid"}, "holds rstpreid, not cuhk_pedes"),
        ({"--data": "{tmp}/nowhere"}, "nowhere"),
        ({"--init": "{tmp}/nothing.pt"}, "nothing.pt"),
        ({"--method": "clap"}, "there is no method 'clap'"),
        ({"--model.vision_cfg.width": "32"}, "the weights do not fit the model"),
        ({"--model.text_cfg.context_length": "200"}, "--model.stretch_text"),
        ({"--optim.lrr": "1"}, "did you mean optim.lr?"),
        ({"--launch.ranks": "2"}, "launch.backend local runs one rank"),
        ({"--eval.split": "test"}, "write --eval.select_on_test"),
        ({"--jobs": "0"}, "not a whole number of at least 1"),
        ({"--run.dir": "elsewhere"}, "say it with --out"),
        ({"--hold-out": "1.5"}, "not a share"),
        ({"--data.split": "nope"}, "no split 'nope'"),
    ],
)
def test_bad_input_is_one_line_code_2_and_leaves_nothing(shards, init, tmp_path, capfd, monkeypatch, change, message):
    run = tmp_path / "run"
    words = arguments(shards, init, run)
    monkeypatch.setattr("finetune.train.launch", lambda *_: pytest.fail("a rank was about to start"))
    for name, value in change.items():
        words += [name, value.format(shards=shards, tmp=tmp_path)]
    try:
        code = main(words)
    except SystemExit as error:  # argparse
        code = error.code
    assert code == 2
    [line] = [line for line in capfd.readouterr().err.splitlines() if line.startswith("finetune:")]
    assert message in line
    assert not run.exists()
