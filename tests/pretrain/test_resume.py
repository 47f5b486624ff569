"""A stream that is cut and continued, on other numbers of ranks too, is the stream that was never cut."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.test_imports import ROOT

STEPS = 60
RECIPE = ROOT / "pretrain/recipes/demo.yaml"


def command(out, shards, ranks):
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "-m", "pretrain.run"]
    line += ["--config", str(RECIPE), "--launch.backend", "torchrun", "--run.dir", str(out), "--data.root", str(shards)]
    line += ["--optim.steps", str(STEPS), "--checkpoint.every", "7", "--eval.data", "null", "--data.log_samples", "yes"]
    return line


def steps_done(out):
    with suppress(OSError):
        return max([json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()], default=-1)
    return -1


def kill_after(step, out, shards, ranks):
    """Train until `step` is done, then SIGKILL for torchrun and its ranks, which are sessions of their own."""
    process = subprocess.Popen(command(out, shards, ranks), cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 200
    while steps_done(out) < step and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if str(out).encode() in path.read_bytes():
                os.kill(int(path.parent.name), signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert step <= steps_done(out) < STEPS - 1


def sample_log(out, ranks):
    """The keys of every step, those of all its ranks after each other."""
    files = [(out / "samples" / f"rank-{rank}.jsonl") for rank in range(ranks)]
    steps = {}
    for path in files:
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            steps.setdefault(entry["step"], []).extend(entry["keys"])
    return steps


@pytest.mark.slow
def test_the_demo_killed_at_random_and_continued_on_one_rank_and_on_two_sees_every_sample(shards, tmp_path):
    first, second = sorted(random.sample(range(8, STEPS - 12), 2))  # shown where the test fails
    out = tmp_path / "run"
    kill_after(first, out, shards, ranks=2)
    kill_after(second, out, shards, ranks=1)
    for uncut in (out, tmp_path / "whole"):
        done = subprocess.run(command(uncut, shards, 2), cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
    whole = sample_log(tmp_path / "whole", 2)
    assert {len(keys) for keys in whole.values()} == {128}
    assert len(whole) == STEPS
    assert sample_log(out, 2) == whole, (first, second)
