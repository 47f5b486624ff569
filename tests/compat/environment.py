"""Throw-away environments: a few packages in a folder, laid over those installed: torch is not fetched twice."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
WEBDATASET = ("webdataset==0.2.86",)  # the newest that open_clip's own loader works with; it brings a wids along
WIDS = ("wids==0.1.11",)
ENERGON = (
    "megatron-energon==7.4.1", "multi-storage-client==1.3.1", "rapidyaml==0.15.2", "mfusepy==3.1.1", "filetype==1.2.0",
    "xattr==1.3.0", "lark==1.3.1", "wcmatch==12.0.1", "bracex==3.2.3", "deprecation==2.1.0", "prettytable==3.18.0",
    "pyroute2==0.9.7",
)  # fmt: skip


@cache
def installed(requirements: tuple[str, ...], root: Path) -> Path:
    """A folder below `root` with these packages, not what they depend on; skips the test if pip cannot have them."""
    target = root / requirements[0].replace("==", "-")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), *requirements]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot have {requirements[0]}: {done.stderr.strip().splitlines()[-1]}")
    return target


def run(script: str, *arguments: Path | str, target: Path, home: Path) -> Any:
    """The JSON that a script of this folder prints on its last line, run with the packages in `target` before others.

    `home` is where the tools keep their caches.
    """
    environment = {**os.environ, "PYTHONPATH": str(target), "HOME": str(home), "WIDS_CACHE": str(home / "wids")}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
