"""What a run says of itself: a progress line, one JSON line per step, Prometheus metrics of every rank, and curves.

runs/NAME/metrics.jsonl         {"step", "loss", ..., "samples_per_s", "data_wait_s"} and {"step", "eval": {...}}
runs/NAME/prometheus/rank-0.json   file_sd targets of each rank's /metrics
runs/NAME/curves.png            loss, throughput and R@1 over the steps
"""

import json
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cluster.metrics import RankMetrics
from pretrain.batch import Batch
from pretrain.config import Settings
from sharding.files import write_durably

log = logging.getLogger(__name__)


class Telemetry:
    """One rank's record of a run, a context manager. All ranks must construct it.

    `first_step` is where this run begins: what earlier runs recorded of later steps is dropped.
    """

    def __init__(self, settings: Settings, first_step: int) -> None:
        self.settings = settings
        self.rank = dist.get_rank()
        self.path = settings.run.dir / "metrics.jsonl"
        self._prometheus = RankMetrics(directory=settings.run.dir / "prometheus", run=settings.run.name, rank=self.rank)
        self._window = _Window()
        if self.rank == 0:
            _forget_from(self.path, first_step)
        self._samples = _samples_file(settings, self.rank, first_step)

    def __enter__(self) -> "Telemetry":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._prometheus.close()

    def step(
        self, step: int, batch: Batch, losses: dict[str, float], *, rate: float, wait_s: float, step_s: float
    ) -> None:
        """Record step `step` (0-based, just done) with the losses of the global batch."""
        self._prometheus.observe_step(
            samples=len(batch.identity),
            tokens=int(batch.text.boundaries[batch.text.captions]),
            duration_s=step_s,
            data_wait_s=wait_s,
            loss=losses["loss"],
            learning_rate=rate,
        )
        for sample in batch.skipped:
            self._prometheus.observe_skipped(sample.reason)
        if self._samples:
            _append(self._samples, {"step": step, "keys": batch.keys})
        self._window.add(step_s, wait_s)
        if self.rank == 0:
            speed = self.settings.optim.batch_size / step_s
            times = {"step_s": round(step_s, 5), "data_wait_s": round(wait_s, 5), "samples_per_s": round(speed, 2)}
            _append(self.path, {"step": step, **losses, "lr": rate, **times})
            if (step + 1) % self.settings.run.log_every == 0:
                self._say(step, losses, rate)
                self._window = _Window()
        if not math.isfinite(losses["loss"]):
            raise FloatingPointError(f"the loss is not a number at step {step}: lower optim.lr, or use fp32")

    def evaluation(self, step: int, metrics: dict[str, Any]) -> None:
        """Record retrieval metrics after `step` steps. Rank 0 calls."""
        _append(self.path, {"step": step, "eval": metrics})
        log.info(
            "eval after step %d: R@1 %.2f  R@10 %.2f  mAP %.2f", step, metrics["r1"], metrics["r10"], metrics["mAP"]
        )

    def _say(self, step: int, mean: dict[str, float], rate: float) -> None:
        optim = self.settings.optim
        step_s, wait_share = self._window.step_s / self._window.steps, self._window.wait_s / self._window.step_s
        left = (optim.steps - step - 1) * step_s
        parts = "  ".join(f"{name} {value:.3f}" for name, value in mean.items())
        log.info(
            "step %d/%d  %s  lr %.2e  %.0f samples/s  waiting for data %.1f %%  %s left",
            step + 1,
            optim.steps,
            parts,
            rate,
            optim.batch_size / step_s,
            100 * wait_share,
            time.strftime("%H:%M:%S", time.gmtime(left)),
        )


@dataclass
class _Window:
    """Durations since the last line of progress."""

    steps: int = 0
    step_s: float = 0.0
    wait_s: float = 0.0

    def add(self, step_s: float, wait_s: float) -> None:
        self.steps, self.step_s, self.wait_s = self.steps + 1, self.step_s + step_s, self.wait_s + wait_s


def average_over_ranks(values: dict[str, Tensor]) -> dict[str, float]:
    """The mean of each scalar over the ranks, as floats. All ranks must call, with the same names."""
    stacked = torch.stack([value.float() for value in values.values()])
    dist.all_reduce(stacked)
    return dict(zip(values, (stacked / dist.get_world_size()).tolist(), strict=True))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line cut off by a kill is left out."""
    if not path.is_file():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1]]


def plot_curves(metrics: list[dict[str, Any]], path: Path) -> None:
    """Draw loss, throughput and R@1 over the steps into a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    steps = [line for line in metrics if "loss" in line]
    evaluations = [line for line in metrics if "eval" in line]
    figure, (loss, speed, recall) = pyplot.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    loss.plot([line["step"] + 1 for line in steps], [line["loss"] for line in steps], linewidth=1)
    loss.set(title="Loss", xlabel="step")
    speed.plot([line["step"] + 1 for line in steps], [line["samples_per_s"] for line in steps], linewidth=1)
    speed.set(title="Throughput", xlabel="step", ylabel="samples/s", ylim=(0, None))
    recall.plot([line["step"] for line in evaluations], [line["eval"]["r1"] for line in evaluations], marker="o")
    if evaluations:
        recall.axhline(evaluations[0]["eval"]["chance_r1"], linestyle=":", color="grey", label="chance")
        recall.legend()
    recall.set(title="R@1, text to image, held-out people", xlabel="step", ylabel="%", ylim=(0, None))
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def _forget_from(path: Path, step: int) -> None:
    """Drop what a run recorded after the checkpoint it now continues from."""
    kept = [line for line in read_metrics(path) if line["step"] < step or ("eval" in line and 0 < step == line["step"])]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, "".join(json.dumps(line) + "\n" for line in kept).encode())


def _samples_file(settings: Settings, rank: int, first_step: int) -> Path | None:
    """Where this rank writes the keys it sees; what ranks wrote that are gone is dropped too. All ranks must call."""
    if not settings.data.log_samples:
        return None
    folder = settings.run.dir / "samples"
    if rank == 0:
        for path in folder.glob("rank-*.jsonl"):
            _forget_from(path, first_step)
    dist.barrier()
    path = folder / f"rank-{rank}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
