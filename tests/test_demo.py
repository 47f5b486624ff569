"""What `make demo` leaves behind is what it promises. Run it first; `.ci/run` does."""

import json

import pytest

from tests.test_imports import ROOT

RUN = ROOT / "runs" / "demo"


@pytest.mark.slow
@pytest.mark.skipif(not (RUN / "results.json").exists(), reason="`make demo` has not been run here")
def test_the_demo_learns_to_find_unseen_people():
    untrained, trained = json.loads((RUN / "results.json").read_text())["models"]
    assert trained["gallery"] >= 400
    assert trained["r1"] >= 40 * trained["chance_r1"]
    assert trained["r1"] <= 95  # else the people are too easy to tell apart
    assert untrained["r1"] < 5 * untrained["chance_r1"]
    counts = json.loads((ROOT / "data/shards/cuhk_pedes/dataset.json").read_text())["counts"]["splits"]
    assert counts["test"]["identities"] >= 200
    assert all((RUN / name).stat().st_size > 1000 for name in ("curves.png", "export/open_clip_model.safetensors"))
