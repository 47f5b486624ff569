"""Submits a command as a Ray job, follows its log and returns the command's own exit code.

`ray job submit` returns 0 or 1 whatever the command returned and leaves the job running on Ctrl-C; this does neither.
"""

import asyncio
import logging
import os
import shlex
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from cluster.errors import ClusterError
from cluster.head import token_headers

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

STOP_WAIT_S = 60  # Ray's default of 3 s kills a job in the middle of its last checkpoint
POLL_S = 0.2
EXCLUDES = [".git", ".venv", "venv", "__pycache__"]  # Ray's default list, which it announces with a warning each time
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


@dataclass(frozen=True, kw_only=True)
class Job:
    """A command, the directory that travels with it (its .rayignore applies) and the variables it sees."""

    entrypoint: list[str]
    working_dir: Path
    submission_id: str | None = None
    environment: dict[str, str] = field(default_factory=dict)


def submit(job: Job, *, address: str, wait: bool = True, output: TextIO | None = None) -> int:
    """Runs `job` on the cluster whose job server answers at `address`; returns its exit code (0 without `wait`).

    The job's log goes to `output` (stdout) as it is written. A command ended by signal N counts as 128 + N, a job that
    never started as 1. On KeyboardInterrupt and SystemExit the job is stopped first, for up to RAY_JOB_STOP_WAIT_TIME_S
    (60 s) gracefully. Raises ClusterError when the cluster does not answer or refuses the job.
    """
    client = _client(address)
    submission_id = _submit(client, job)
    print(f"submitted {submission_id} to {address}", file=sys.stderr)
    if not wait:
        print(submission_id, file=output)
        return 0
    try:
        asyncio.run(_follow(client, submission_id, output or sys.stdout))
        return _exit_code(_wait_until_ended(client, submission_id))
    except (KeyboardInterrupt, SystemExit):
        print(f"stopping {submission_id}", file=sys.stderr)
        client.stop_job(submission_id)
        _wait_until_ended(client, submission_id)
        raise


def named_address() -> str | None:
    """The cluster that the environment names, in Ray's own order; None: none."""
    return next((os.environ[name] for name in ADDRESS_VARIABLES if os.environ.get(name)), None)


def _client(address: str) -> "JobSubmissionClient":
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for handler in logging.getLogger("ray").handlers:
        handler.setLevel(logging.WARNING)
    # Ray lets these variables win over the address it is given.
    hidden = {name: os.environ.pop(name) for name in ADDRESS_VARIABLES if name in os.environ}
    try:
        return JobSubmissionClient(address, headers=token_headers())
    except AuthenticationError:
        raise ClusterError(
            f"the cluster at {address} asks for a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
        ) from None
    except (ConnectionError, ValueError):
        raise ClusterError(f"no Ray job server answers at {address}") from None
    finally:
        os.environ.update(hidden)


def _submit(client: "JobSubmissionClient", job: Job) -> str:
    if not job.working_dir.is_dir():
        raise ClusterError(f"the working directory {job.working_dir} does not exist")
    os.environ.setdefault("RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES", "")
    environment = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)} | job.environment
    try:
        return client.submit_job(
            entrypoint=shlex.join(job.entrypoint),  # Ray hands it to `sh -c`
            submission_id=job.submission_id,
            runtime_env={"working_dir": str(job.working_dir), "excludes": EXCLUDES, "env_vars": environment},
        )
    except (RuntimeError, ValueError) as error:
        raise ClusterError(f"the cluster refused the job: {_reason(str(error))}") from None


def _reason(text: str) -> str:
    """The last line that says something: the server sends its traceback, followed by a full stop on its own line."""
    lines = [line.strip() for line in text.splitlines() if any(character.isalnum() for character in line)]
    return lines[-1] if lines else "it gave no reason"


async def _follow(client: "JobSubmissionClient", submission_id: str, output: TextIO) -> None:
    """Copies the job's log until it ends; a lost connection is taken up where it broke."""
    written = 0
    while True:
        skip = written  # every connection sends the log from its beginning
        try:
            async for text in client.tail_job_logs(submission_id):
                fresh, skip = text[skip:], max(0, skip - len(text))
                written += len(fresh)
                output.write(fresh)
                output.flush()
            return
        except RuntimeError:
            if client.get_job_status(submission_id).is_terminal():
                output.write(client.get_job_logs(submission_id)[written:])
                return
            await asyncio.sleep(1)


def _wait_until_ended(client: "JobSubmissionClient", submission_id: str) -> "JobDetails":
    while not (details := client.get_job_info(submission_id)).status.is_terminal():
        time.sleep(POLL_S)
    return details


def _exit_code(details: "JobDetails") -> int:
    code = details.driver_exit_code
    if code is None:
        print(f"job {details.submission_id} {details.status.lower()}: {details.message}", file=sys.stderr)
        return 0 if details.status == "SUCCEEDED" else 1
    return code if code >= 0 else 128 - code
