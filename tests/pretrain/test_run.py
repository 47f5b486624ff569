"""The training command for real: on Ray, under torchrun, as a submitted job, stopped and resumed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import open_clip
import pytest
import torch
import yaml
from prometheus_client.parser import text_string_to_metric_families
from safetensors.torch import load_file

from finetune.cli import main as finetune
from pretrain.cli import main as pretrain
from pretrain.run import main as run
from pretrain.telemetry import read_metrics
from sharding.cli import main as sharding
from sharding.dataset import open_dataset
from tests.test_imports import ROOT

STEPS = 12


@pytest.fixture(scope="module")
def recipe(shards, tmp_path_factory):
    tree = {
        "run": {"name": "tiny", "log_every": 3},
        "data": {
            "root": str(shards),
            "mixture": [{"path": "pretrain_110k", "weight": 2}, {"path": "luperson_t"}, {"path": "syncpr"}],
            "log_samples": True,
        },
        "model": {
            "embed_dim": 16,
            "vision_cfg": {"image_size": [32, 16], "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
            "text_cfg": {"width": 16, "heads": 2, "layers": 1},
        },
        "loss": {"itc": 1.0, "sdm": 0.5},
        "optim": {"steps": STEPS, "batch_size": 16, "warmup_steps": 2, "lr": 1e-3},
        "engine": {"zero_stage": 1, "precision": "fp32"},
        "launch": {"ranks": 2},
        "checkpoint": {"every": 6},
        "eval": {"data": "cuhk_pedes", "split": "val", "every": 6},
    }
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def execute(command, **environment):
    """Run a command from the checkout with the tests' own Python first on PATH; its output as text."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    variables = os.environ | {"PATH": path} | environment
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=variables, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def torchrun(recipe, out, *overrides, ranks=2):
    command = ["torchrun", "--nproc-per-node", str(ranks), "-m", "pretrain.run", "--config", str(recipe)]
    return execute([*command, "--launch.backend", "torchrun", "--run.dir", str(out), *overrides])


def losses(run_dir):
    return [(line["step"], line["loss"]) for line in read_metrics(run_dir / "metrics.jsonl") if "loss" in line]


def samples(run_dir):
    return [(run_dir / "samples" / f"rank-{rank}.jsonl").read_text() for rank in (0, 1)]


@pytest.fixture(scope="module")
def on_ray(recipe, tmp_path_factory):
    out = tmp_path_factory.mktemp("ray") / "run"
    log = execute([sys.executable, "-m", "pretrain.run", "--config", str(recipe), "--run.dir", str(out)])
    return out, log


def watch(directory, ranks, found, deadline_s=200):
    """What Prometheus would see: the targets as they are announced, and what each of them serves."""
    end = time.monotonic() + deadline_s
    while len(found) < ranks and time.monotonic() < end:
        for path in set(directory.glob("rank-*.json")) - set(found):
            [target] = json.loads(path.read_text())
            with urllib.request.urlopen(f"http://{target['targets'][0]}/metrics", timeout=10) as reply:
                found[path] = target["labels"], reply.read().decode()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def resumed(recipe, tmp_path_factory):
    """A run of two torchrun halves: its directory, the log of the second, and what the ranks served meanwhile."""
    out = tmp_path_factory.mktemp("torchrun") / "run"
    served = {}
    watcher = threading.Thread(target=watch, args=(out / "prometheus", 2, served))
    watcher.start()
    torchrun(recipe, out, "--run.stop_at", "6")
    watcher.join()
    assert [step for step, _ in losses(out)] == list(range(6))
    return out, torchrun(recipe, out), served


def test_a_local_ray_trains_evaluates_and_keeps_everything(on_ray):
    out, log = on_ray
    assert "attention on cpu in float32" in log
    assert "RANDOM weights" in log
    assert "ZeRO stage 1, 2 ranks" in log
    metrics = read_metrics(out / "metrics.jsonl")
    assert [line["step"] for line in metrics if "eval" in line] == [0, 6, 12]
    assert [step for step, _ in losses(out)] == list(range(STEPS))
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in (out / "checkpoints").iterdir()} == {"step-00000006", "step-00000012"}
    assert "optim:" in (out / "settings.yaml").read_text()
    assert not list((out / "prometheus").glob("*.json"))  # withdrawn at the end


def test_six_steps_and_six_more_are_twelve(on_ray, resumed):
    out, log, _ = resumed
    assert "continuing from" in log
    assert samples(out) == samples(on_ray[0])
    assert losses(out) == losses(on_ray[0])
    first, second = (load_file(run / "checkpoints/step-00000012/weights.safetensors") for run in (on_ray[0], out))
    assert all(torch.equal(first[name], second[name]) for name in first)


def kill_all_that_name(word):
    """SIGKILL for torchrun and its ranks, which are sessions of their own: whoever has `word` in its command line."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if word.encode() in path.read_bytes():
                os.kill(int(path.parent.name), signal.SIGKILL)


def test_a_killed_run_goes_on_with_another_number_of_ranks(on_ray, recipe, tmp_path):
    """SIGKILL after the first checkpoint of two ranks; the rest on one rank sees the samples of the whole run."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "pretrain.run"]
    command += ["--config", str(recipe), "--launch.backend", "torchrun", "--run.dir", str(out)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 200
    while not (out / "checkpoints" / "step-00000006" / "manifest.json").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    kill_all_that_name(str(out))
    process.wait()
    assert not (out / "checkpoints" / "step-00000012" / "manifest.json").exists()
    log = torchrun(recipe, out, ranks=1)
    assert "continuing from" in log
    assert [loss for _, loss in losses(out)] == pytest.approx([loss for _, loss in losses(on_ray[0])], rel=1e-4)
    keys = [json.loads(line)["keys"] for line in (out / "samples" / "rank-0.jsonl").read_text().splitlines()]
    halves = [[json.loads(line)["keys"] for line in text.splitlines()] for text in samples(on_ray[0])]
    assert keys[6:] == [first + second for first, second in zip(*halves, strict=True)][6:]


def test_every_rank_serves_its_metrics_to_prometheus(resumed):
    _, _, served = resumed
    assert sorted(labels["rank"] for labels, _ in served.values()) == ["0", "1"]
    for labels, text in served.values():
        assert (labels["job"], labels["run"]) == ("pretrain", "tiny")
        families = {family.name for family in text_string_to_metric_families(text)}
        assert {"samples", "tokens", "step_duration_seconds", "data_wait_seconds", "loss", "learning_rate"} <= families
        assert "last_step_timestamp_seconds" in families


def test_a_finished_run_is_not_trained_again_and_a_changed_one_is_refused(resumed, recipe, capfd):
    out, _, _ = resumed
    before = (out / "metrics.jsonl").read_text()
    torchrun(recipe, out)
    assert (out / "metrics.jsonl").read_text() == before
    same = ["--config", str(recipe), "--run.dir", str(out)]
    assert run([*same, "--optim.lr", "0.5"]) == 2
    assert "optim.lr was 0.001, is 0.5" in capfd.readouterr().err
    assert run([*same, "--resume", "never"]) == 2
    assert "already holds step-00000012" in capfd.readouterr().err


def test_changed_data_is_refused_with_both_values_unless_it_is_allowed(resumed, recipe, shards, tmp_path, capfd):
    run_dir, _, _ = resumed
    out, here = tmp_path / "run", tmp_path / "shards"
    shutil.copytree(run_dir / "checkpoints/step-00000006", out / "checkpoints/step-00000006")
    shutil.copytree(shards, here)
    shutil.rmtree(here / "luperson_t")
    raw = str(tmp_path / "raw")
    assert sharding(["synth", "--layout", "luperson_t", "--people", "31", "--out", raw]) == 0
    assert sharding(["pack", "--source", "luperson_t", "--input", raw, "--out", str(here / "luperson_t")]) == 0
    again = ["--config", str(recipe), "--run.dir", str(out), "--data.root", str(here)]
    assert run(again) == 2
    told = capfd.readouterr().err
    before, now = (open_dataset(root / "luperson_t").root_hash for root in (shards, here))
    assert f"plan.streams.1.root_hash was {before}, is {now}" in told
    assert "--allow-data-change continues all the same" in told
    assert run([*again, "--run.seed", "7"]) == 2
    assert "run.seed was 0, is 7" in capfd.readouterr().err
    assert run([*again, "--allow-data-change", "--optim.lr", "0.5"]) == 2
    assert "optim.lr was 0.001, is 0.5" in capfd.readouterr().err
    local = ["--launch.backend", "local", "--launch.ranks", "1", "--allow-data-change", "--run.stop_at", "8"]
    log = execute([sys.executable, "-m", "pretrain.run", *again, *local])
    assert "going on with other data" in log
    assert [step for step, _ in losses(out)] == [6, 7]


def test_ray_job_submit_runs_the_same_line(recipe, on_ray, tmp_path):
    submit = ["cluster", "head", "--num-cpus", "2", "--", "ray", "job", "submit", "--working-dir", ".", "--"]
    command = ["python", "-m", "pretrain.run", "--config", str(recipe), "--run.dir", str(tmp_path / "run")]
    execute([*submit, *command, "--run.stop_at", "3"])
    assert losses(tmp_path / "run") == losses(on_ray[0])[:3]


def test_an_export_opens_in_open_clip_and_evaluates(on_ray, shards, tmp_path, capsys):
    export = tmp_path / "export"
    assert pretrain(["export", "--run", str(on_ray[0]), "--out", str(export)]) == 0
    model = open_clip.create_model(f"local-dir:{export}")
    weights = load_file(on_ray[0] / "checkpoints/step-00000012/weights.safetensors")
    assert torch.equal(model.state_dict()["visual.proj"], weights["visual.proj"])
    capsys.readouterr()
    arguments = ["evaluate", "--data", str(shards / "cuhk_pedes"), "--split", "val", "--weights", str(export)]
    arguments.append("--no-cache")
    assert finetune([*arguments, "--json"]) == 0
    [scores] = json.loads(capsys.readouterr().out)["benchmarks"][0]["models"]
    trained = [line["eval"] for line in read_metrics(on_ray[0] / "metrics.jsonl") if "eval" in line][-1]
    assert scores["text_to_image"]["mAP"] == pytest.approx(trained["mAP"], abs=0.5)
    assert finetune([*arguments, "--untrained", "--out", str(tmp_path / "r.json")]) == 0
    table = capsys.readouterr().out
    assert all(word in table for word in ("chance", "untrained", "R@1", "mSD"))
    models = json.loads((tmp_path / "r.json").read_text())["benchmarks"][0]["models"]
    assert [model["name"] for model in models] == ["untrained", str(export)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "{recipe}", "--optim.lrr", "1"], "unknown setting optim.lrr; did you mean optim.lr?"),
        (["--config", "{recipe}", "--data.root", "/nonexistent"], "/nonexistent/pretrain_110k is not a directory"),
        (["--config", "{recipe}", "--data.cache.dir", "s3://b/x"], "data.cache.dir is a folder of this machine"),
        (["--config", "{recipe}", "--data.split", "nope"], "has no split 'nope'"),
        (["--config", "{recipe}", "--model.init", "/nonexistent.pt"], "no weights at /nonexistent.pt"),
        (["--config", "{recipe}", "--model.init", "README.md"], "cannot read weights"),
        (["--config", "{recipe}", "--data.mixture.1.weight", "1e-9"], "below one sample"),
        (["--config", "{recipe}", "--model.text_cfg.vocab_size", "100"], "vocab_size must be at least 49408"),
        (["--config", "/nonexistent.yaml"], "no settings file /nonexistent.yaml"),
        (["--config", "{recipe}", "--launch.backend", "torchrun"], "torchrun"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(recipe, tmp_path, capfd, arguments, message):
    out = tmp_path / "run"
    assert run([word.format(recipe=recipe) for word in arguments] + ["--run.dir", str(out)]) == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("pretrain:")]
    assert len(errors) == 1
    assert message in errors[0]
    assert not out.exists()


def test_export_without_a_checkpoint_is_one_line(tmp_path, capsys):
    assert pretrain(["export", "--run", str(tmp_path), "--out", str(tmp_path / "x")]) == 2
    assert capsys.readouterr().err.startswith("pretrain: no checkpoint in")
    assert not (tmp_path / "x").exists()
