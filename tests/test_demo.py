"""What `make demo` leaves behind is what it promises. Run it first; `.ci/run` does."""

import json

import pytest

from tests.test_imports import ROOT

RUN = ROOT / "runs" / "demo"
TUNED = ROOT / "runs" / "demo-finetune"


@pytest.mark.slow
@pytest.mark.skipif(not (RUN / "results.json").exists(), reason="`make demo` has not been run here")
def test_the_demo_learns_to_find_unseen_people():
    [benchmark] = json.loads((RUN / "results.json").read_text())["benchmarks"]
    untrained, trained = (model["text_to_image"] for model in benchmark["models"])
    assert benchmark["gallery"] >= 400
    assert trained["r1"] >= 40 * benchmark["chance_r1"]
    assert trained["r1"] <= 95  # else the people are too easy to tell apart
    assert untrained["r1"] < 5 * benchmark["chance_r1"]
    counts = json.loads((ROOT / "data/shards/cuhk_pedes/dataset.json").read_text())["counts"]["splits"]
    assert counts["test"]["identities"] >= 200
    assert all((RUN / name).stat().st_size > 1000 for name in ("curves.png", "export/open_clip_model.safetensors"))


@pytest.mark.slow
@pytest.mark.skipif(not (TUNED / "results.json").exists(), reason="`make demo` has not been run here")
def test_the_demo_fine_tunes_better_from_its_pre_trained_weights():
    [benchmark] = json.loads((TUNED / "results.json").read_text())["benchmarks"]
    r1 = {model["name"]: model["text_to_image"]["r1"] for model in benchmark["models"]}
    assert list(r1) == ["cfam-scratch", "clip", "cfam"]
    assert 95 > min(r1["clip"], r1["cfam"]) > 10 * max(r1["cfam-scratch"], benchmark["chance_r1"])
    counts = json.loads((ROOT / "data/shards/ufine6926/dataset.json").read_text())["counts"]["splits"]
    assert counts["test"]["identities"] >= 300
    assert "<svg" in (TUNED / "report.html").read_text()
