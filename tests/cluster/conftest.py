"""One Ray head for all tests of this folder: it takes ~10 s to start."""

import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.head import local_head
from cluster.submit import Job, submit

REPOSITORY = Path(__file__).parents[2]
RunJob = Callable[[list[str]], tuple[int, str]]


@pytest.fixture(scope="session")
def head() -> Iterator[str]:
    with local_head(cpus=2) as address:
        yield address


@pytest.fixture(scope="session")
def run_job(head: str, tmp_path_factory: pytest.TempPathFactory) -> RunJob:
    """Runs a command as a job that can import the repository; returns its exit code and its log."""

    def run(entrypoint: list[str]) -> tuple[int, str]:
        log = io.StringIO()
        environment = {"PYTHONPATH": str(REPOSITORY)}
        job = Job(entrypoint=entrypoint, working_dir=tmp_path_factory.mktemp("job"), environment=environment)
        return submit(job, address=head, output=log), log.getvalue()

    return run


@pytest.fixture
def repository_environment() -> dict[str, str]:
    """The environment of a child process that can import the repository and knows of no cluster."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {"PYTHONPATH": str(REPOSITORY), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
