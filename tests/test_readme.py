"""Every command in the README works as it is written."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_imports import ROOT

IN_CI = {"make demo", "make test"}  # .ci/run runs them


def commands():
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def test_the_commands_that_only_ci_runs_are_in_its_script():
    assert set(commands()) >= IN_CI
    script = (ROOT / ".ci" / "run").read_text()
    assert all(command in script for command in IN_CI)


def test_the_readme_is_short_and_names_no_missing_file():
    text = (ROOT / "README.md").read_text()
    assert text.count("\n") < 300
    assert not re.findall(r"^[A-Z_]{6,}$|@@", text, re.MULTILINE)  # a place that was to be filled
    assert all((ROOT / path).is_file() for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text))


@pytest.mark.slow
def test_the_other_commands_run_one_after_the_other(tmp_path):
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(".git", ".venv", "data", "runs", ".*_cache"))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(checkout)}
    tour = [command for command in commands() if command not in IN_CI]
    assert len(tour) >= 8
    for command in tour:
        done = subprocess.run(
            command, shell=True, cwd=checkout, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
