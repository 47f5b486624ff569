"""Many training runs, each a process of its own, some at a time: the seeds of a method, the rows of an ablation.

A process each, because a run that fails or is killed must not take the others along, and memory goes back in between.
A run with its `results.json`, of the same settings and data, is done: the same command finishes an interrupted grid.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sharding.errors import UserError

POLL_S = 0.2
STOP_S = 20  # from Ctrl-C to the end of a run's own clean-up


@dataclass(frozen=True, kw_only=True)
class Job:
    """One `finetune` command line, the directory of its run, and the hashes of its settings and of the benchmark."""

    run_dir: Path
    arguments: tuple[str, ...]
    settings_hash: str
    root_hash: str

    @property
    def done(self) -> bool:
        """Whether the run has been measured; UserError if another run lies there."""
        if not (self.run_dir / "settings.yaml").is_file():
            return False
        head = (self.run_dir / "settings.yaml").read_text().partition("\n")[0]
        results = self.run_dir / "results.json"
        data = json.loads(results.read_text())["benchmarks"][0]["root_hash"] if results.is_file() else self.root_hash
        if head != f"# settings {self.settings_hash}" or data != self.root_hash:
            raise UserError(
                f"{self.run_dir} holds a run with other settings or data: remove it or choose another place"
            )
        return results.is_file()


def run_jobs(jobs: Sequence[Job], at_once: int) -> None:
    """Run what is not done yet, `at_once` at a time, with the output of each in RUN/log.txt.

    Raises UserError with the failed run's exit code and last line; the others that are under way are stopped, as they
    are on Ctrl-C and SIGTERM.
    """
    waiting = [job for job in jobs if not job.done]
    _say(f"{len(jobs)} runs, {len(jobs) - len(waiting)} already done")
    running: dict[Job, subprocess.Popen[bytes]] = {}
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop(0)
                running[job] = _start(job)
                _say(f"started {job.run_dir}")
            for job, process in list(running.items()):
                if process.poll() is not None:
                    del running[job]
                    _check(job, process.returncode)
                    _say(f"done {job.run_dir}, {len(waiting) + len(running)} left")
            time.sleep(POLL_S)
    finally:
        _stop(list(running.values()))
        signal.signal(signal.SIGTERM, before)


def _start(job: Job) -> "subprocess.Popen[bytes]":
    job.run_dir.mkdir(parents=True, exist_ok=True)
    with (job.run_dir / "log.txt").open("ab") as log:
        command = [sys.executable, "-m", "finetune", *job.arguments]
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)


def _check(job: Job, code: int) -> None:
    if code == 0:
        return
    lines = (job.run_dir / "log.txt").read_text(errors="replace").strip().splitlines()
    error = UserError(f"{job.run_dir} ended with {code}: {lines[-1] if lines else 'no output'} (see its log.txt)")
    error.exit_code = code if code > 0 else 1
    raise error


def _stop(processes: "list[subprocess.Popen[bytes]]") -> None:
    """Have the runs end by themselves, and those that do not, by force; a second Ctrl-C does not cut this short."""
    if not processes:
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    signal.signal(signal.SIGINT, before)


def _say(message: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr, flush=True)
