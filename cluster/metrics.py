"""Training figures of one rank as a Prometheus endpoint that Prometheus finds by itself.

`pretrain.telemetry` reports every step; Prometheus reads the targets from files (`file_sd_configs: [{files:
["DIRECTORY/*.json"]}]`). The run and the rank are labels of the target, not of each metric, so that every series of a
rank carries them and none can forget them.
"""

import json
import os
from pathlib import Path
from types import TracebackType

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

STEP_SECONDS_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class RankMetrics:
    """Serves one rank's metrics on 127.0.0.1 at a port the system chooses, and announces it in a file.

    The file is `directory/rank-<rank>.json` in Prometheus's file_sd form with the labels job ("pretrain"), run and
    rank; `close()`, or leaving the `with` block, stops the server and removes it.
    """

    def __init__(self, *, directory: Path, run: str, rank: int) -> None:
        registry = CollectorRegistry()
        self._samples = Counter("samples_total", "Samples trained on by this rank.", registry=registry)
        self._tokens = Counter("tokens_total", "Text tokens trained on by this rank.", registry=registry)
        self._step_duration = Histogram(
            "step_duration_seconds", "Duration of a step.", buckets=STEP_SECONDS_BUCKETS, registry=registry
        )
        self._skipped = Counter(
            "samples_skipped_total", "Samples left out because they are damaged.", ["reason"], registry=registry
        )
        self._data_wait = Counter("data_wait_seconds_total", "Time spent waiting for data.", registry=registry)
        self._loss = Gauge("loss", "Loss of the last step.", registry=registry)
        self._learning_rate = Gauge("learning_rate", "Learning rate of the last step.", registry=registry)
        self._last_step = Gauge("last_step_timestamp_seconds", "Unix time at the last step's end.", registry=registry)
        self._server, self._thread = start_http_server(0, addr="127.0.0.1", registry=registry)
        self.port: int = self._server.server_port
        self._file = directory / f"rank-{rank}.json"
        labels = {"job": "pretrain", "run": run, "rank": str(rank)}
        _write_atomically(self._file, json.dumps([{"targets": [f"127.0.0.1:{self.port}"], "labels": labels}]) + "\n")

    def observe_step(
        self, *, samples: int, tokens: int, duration_s: float, data_wait_s: float, loss: float, learning_rate: float
    ) -> None:
        """Adds one finished step: this rank's samples and tokens, its seconds and the share of them without data."""
        self._samples.inc(samples)
        self._tokens.inc(tokens)
        self._step_duration.observe(duration_s)
        self._data_wait.inc(data_wait_s)
        self._loss.set(loss)
        self._learning_rate.set(learning_rate)
        self._last_step.set_to_current_time()

    def observe_skipped(self, reason: str) -> None:
        """Adds one sample that was left out, for a reason in a word."""
        self._skipped.labels(reason).inc()

    def close(self) -> None:
        """Withdraws the announcement, then stops serving; a second call does nothing."""
        self._file.unlink(missing_ok=True)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> "RankMetrics":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _write_atomically(path: Path, text: str) -> None:
    """Prometheus rereads the file whenever it changes and must not meet half of it, nor the temporary one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(text)
    temporary.replace(path)
