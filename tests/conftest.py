"""Small packed datasets, drawn and packed once for all tests by the commands that users type."""

from pathlib import Path

import pytest
from hypothesis import settings

from sharding.cli import main as sharding

settings.register_profile("project", deadline=None)  # a clock is no test, and machines are shared
settings.load_profile("project")

PEOPLE = {
    "pretrain_110k": 30, "luperson_t": 30, "syncpr": 20,
    "cuhk_pedes": 30, "icfg_pedes": 20, "rstpreid": 20, "ufine6926": 28, "ufine3c": 24,
}  # fmt: skip


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the three pre-training sources and the benchmarks, packed."""
    root = tmp_path_factory.mktemp("people")
    for layout, people in PEOPLE.items():
        raw, out = str(root / "raw" / layout), str(root / "shards" / layout)
        assert sharding(["synth", "--layout", layout, "--people", str(people), "--out", raw, "--seed", "0"]) == 0
        assert sharding(["pack", "--source", layout, "--input", raw, "--out", out]) == 0
    return root / "shards"
