"""Submitting commands to a real job server, and the head that is started where none is named."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.errors import ClusterError
from cluster.head import local_head, session_members
from cluster.submit import Job, _client, _exit_code, named_address, submit

SLEEP = "import time; print('asleep', flush=True); time.sleep(600)"


def test_a_submission_id_in_use_is_refused_in_one_line(head, tmp_path):
    job = Job(entrypoint=["true"], working_dir=tmp_path, submission_id="once")
    assert submit(job, address=head, wait=False) == 0
    with pytest.raises(ClusterError, match="once already exists"):
        submit(job, address=head)


@pytest.mark.parametrize(
    ("status", "driver_exit_code", "expected"),
    [("SUCCEEDED", 0, 0), ("FAILED", 3, 3), ("FAILED", -9, 137), ("FAILED", None, 1), ("STOPPED", None, 1)],
)
def test_the_commands_own_exit_code_counts(status, driver_exit_code, expected):
    from ray.job_submission import JobDetails

    details = JobDetails(type="SUBMISSION", entrypoint="x", status=status, driver_exit_code=driver_exit_code)
    assert _exit_code(details) == expected


def test_without_the_token_the_head_refuses_jobs(head, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(ClusterError, match="asks for a token"):
        submit(Job(entrypoint=["true"], working_dir=tmp_path), address=head)


def test_nobody_at_the_address_is_an_error_in_one_line(tmp_path):
    with pytest.raises(ClusterError, match=r"no Ray job server answers at http://127\.0\.0\.1:9"):
        submit(Job(entrypoint=["true"], working_dir=tmp_path), address="http://127.0.0.1:9")


def test_the_given_address_wins_over_the_environment(head, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    assert _client(head).list_jobs() is not None
    assert named_address() == "http://127.0.0.1:9"


def test_ctrl_c_stops_the_job_and_the_head_started_for_it(tmp_path, repository_environment):
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    program += "from cluster.cli import main; raise SystemExit(main())"
    arguments = ["submit", "--working-dir", str(tmp_path), "--num-cpus", "1", "--", sys.executable, "-c", SLEEP]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env=repository_environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert any(line.startswith("asleep") for line in process.stdout)
    heads = _children(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    assert len(heads) == 1
    assert session_members(heads[0]) == []
    assert not _is_running(SLEEP)


def _children(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def _is_running(argument: str) -> bool:
    """Whether any process has this argument on its command line."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if argument.encode() in file.read_bytes().split(b"\0"):
                return True
        except OSError:
            continue
    return False


def test_a_head_that_cannot_start_says_why(tmp_path, monkeypatch):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho the disk is full\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(broken))
    with pytest.raises(ClusterError, match="did not start: the disk is full"), local_head():
        pass
