"""The endpoint of a rank, scraped over HTTP as Prometheus does."""

import json
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cluster.metrics import RankMetrics

STEP = {"samples": 512, "tokens": 9000, "duration_s": 0.7, "data_wait_s": 0.1, "loss": 4.5, "learning_rate": 1e-4}


def _scrape(target: str) -> dict[str, float]:
    """Sample name (with its `le` for a bucket) → value."""
    with urllib.request.urlopen(f"http://{target}/metrics") as response:
        families = text_string_to_metric_families(response.read().decode())
        return {s.name + s.labels.get("le", ""): s.value for family in families for s in family.samples}


@pytest.fixture
def metrics(tmp_path):
    with RankMetrics(directory=tmp_path / "targets", run="demo", rank=3) as metrics:
        yield metrics


def _announced(tmp_path: Path) -> list[dict]:
    return [entry for file in (tmp_path / "targets").glob("*.json") for entry in json.loads(file.read_text())]


def test_two_steps_add_up_at_the_announced_target(metrics, tmp_path):
    metrics.observe_step(**STEP)
    metrics.observe_step(**STEP | {"loss": 4.0, "duration_s": 90.0})
    [entry] = _announced(tmp_path)
    values = _scrape(entry["targets"][0])
    assert values["samples_total"] == 1024
    assert values["tokens_total"] == 18000
    assert values["data_wait_seconds_total"] == pytest.approx(0.2)
    assert values["step_duration_seconds_count"] == 2
    assert values["step_duration_seconds_bucket1.0"] == 1
    assert values["step_duration_seconds_bucket120.0"] == 2
    assert values["loss"] == 4.0
    assert values["learning_rate"] == 1e-4
    assert values["last_step_timestamp_seconds"] > 1.7e9


def test_the_target_carries_run_and_rank(metrics, tmp_path):
    target = f"127.0.0.1:{metrics.port}"
    assert _announced(tmp_path) == [{"targets": [target], "labels": {"job": "pretrain", "run": "demo", "rank": "3"}}]


def test_ranks_of_one_machine_do_not_collide(metrics, tmp_path):
    with RankMetrics(directory=tmp_path / "targets", run="demo", rank=4) as other:
        other.observe_step(**STEP)
        assert len(_announced(tmp_path)) == 2
        assert _scrape(f"127.0.0.1:{metrics.port}")["samples_total"] == 0


def test_closing_withdraws_the_target_and_stops_serving(metrics, tmp_path):
    metrics.close()
    assert list((tmp_path / "targets").iterdir()) == []
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{metrics.port}/metrics")


def test_samples_left_out_are_counted_by_reason(metrics, tmp_path):
    for reason in ("damaged", "undecodable", "damaged"):
        metrics.observe_skipped(reason)
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics.port}/metrics") as response:
        served = response.read().decode()
    assert 'samples_skipped_total{reason="damaged"} 2.0' in served
    assert 'samples_skipped_total{reason="undecodable"} 1.0' in served
