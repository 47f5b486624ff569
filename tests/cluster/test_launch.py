"""Launching real ranks: Ray Train on the shared head, on a cluster of its own, and torchrun."""

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent

import pytest

from cluster.errors import ClusterError, LaunchError
from cluster.head import session_members
from cluster.launch import RankError, Topology, _launch_error, _reporting_failures, launch_torchrun

PRELUDE = """
import os, sys, time
from pathlib import Path
from cluster.launch import Topology, launch_ray, launch_torchrun

def reduce_and_write(settings):
    import torch
    import torch.distributed as distributed
    rank = distributed.get_rank()
    total = torch.tensor([rank + 1.0])
    distributed.all_reduce(total)
    file = Path(settings["directory"]) / f"rank-{rank}"
    file.write_text(f"{total.item():g} of {distributed.get_world_size()}, {os.environ['OMP_NUM_THREADS']} threads")

def fail_on_rank_1(settings):
    import torch.distributed as distributed
    if distributed.get_rank() == 1:
        raise ValueError("shard 7 has\\nno index")

def sleep(settings):
    print("asleep", file=sys.stderr, flush=True)
    time.sleep(600)

storage = Path(sys.argv[1])
settings = {"directory": str(storage)}
"""


def _script(directory: Path, body: str) -> list[str]:
    file = directory / "script.py"
    file.write_text(PRELUDE + dedent(body))
    return [sys.executable, str(file), str(directory)]


def _written(directory: Path) -> list[str]:
    return [(directory / f"rank-{rank}").read_text() for rank in range(2)]


THREE_LAUNCHES = """
def attempt(worker, **topology):
    try:
        launch_ray(worker, settings, topology=Topology(**topology), name="r", storage=storage)
        print("went well")
    except Exception as error:
        print(f"{type(error).__name__}: {error}")

attempt(sleep, ranks=3, cpus_per_rank=2)
attempt(fail_on_rank_1, ranks=2)
attempt(reduce_and_write, ranks=2)
"""


@pytest.fixture(scope="module")
def launches(run_job, tmp_path_factory) -> tuple[Path, str]:
    """The directory and the log of one job that launches three times: too much, a failing rank, a good run."""
    directory = tmp_path_factory.mktemp("launches")
    code, log = run_job(_script(directory, THREE_LAUNCHES))
    assert code == 0, log
    return directory, log


def test_ranks_of_a_ray_job_form_one_process_group_with_their_threads(launches):
    directory, log = launches
    assert _written(directory) == ["3 of 2, 1 threads"] * 2
    assert "went well" in log


def test_a_failing_rank_ends_the_run_with_its_own_message_in_one_line(launches):
    _, log = launches
    assert "LaunchError: rank 1 failed: ValueError: shard 7 has no index" in log
    assert log.count("Traceback") == 1


def test_asking_for_more_than_the_cluster_has_is_an_error_that_names_both(launches):
    _, log = launches
    assert "ClusterError: 3 ranks of 2 CPU each do not fit the cluster: it has 2 CPU and 0 GPU" in log


@pytest.mark.slow
def test_ctrl_c_stops_a_cluster_of_its_own_and_leaves_nothing(tmp_path, repository_environment):
    body = "launch_ray(sleep, settings, topology=Topology(ranks=2), name='r', storage=storage)"
    process = subprocess.Popen(
        _script(tmp_path, "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n" + body),
        env=repository_environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    assert any("asleep" in line for line in process.stderr)
    os.killpg(process.pid, signal.SIGINT)
    last_line = process.stderr.read().splitlines()[-1]
    assert process.wait(60) == -signal.SIGINT
    assert last_line == "KeyboardInterrupt"
    deadline = time.monotonic() + 30  # orphaned ranks notice within a second that their raylet is gone
    while session_members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert session_members(process.pid) == []


def test_torchrun_ranks_form_one_process_group(tmp_path, repository_environment):
    script = _script(tmp_path, "launch_torchrun(reduce_and_write, settings, topology=Topology(ranks=2))")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *script[1:]]
    subprocess.run(command, env=repository_environment | {"OMP_NUM_THREADS": "1"}, check=True)
    assert _written(tmp_path) == ["3 of 2, 1 threads"] * 2


def test_outside_torchrun_the_error_names_the_command(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ClusterError, match="torchrun --nproc-per-node"):
        launch_torchrun(lambda settings: None, {}, topology=Topology(ranks=2))


@pytest.mark.parametrize("wrong", [{"ranks": 0}, {"ranks": 1, "cpus_per_rank": 0}, {"ranks": 1, "gpus_per_rank": -1}])
def test_a_topology_without_room_for_a_rank_is_refused(wrong):
    with pytest.raises(ClusterError, match="topology"):
        Topology(**wrong)


class UserError(Exception):
    """Like the errors of the other packages: an exit code, and not constructible from its message alone."""

    exit_code = 2

    def __init__(self, setting: str, value: object) -> None:
        super().__init__(f"{setting} cannot be {value}")


def _fail_with_user_error(settings: dict) -> None:
    raise UserError("data.path", 3)


def test_a_user_error_reaches_the_driver_as_it_is_with_its_exit_code(capsys):
    from ray.train import WorkerGroupError

    with pytest.raises(RankError) as caught:
        _reporting_failures(_fail_with_user_error)({})
    arrived = pickle.loads(pickle.dumps(caught.value))
    others = {0: RankError("RuntimeError: Connection closed by peer", None, "Traceback", 0.0), 1: arrived}
    error = _launch_error(WorkerGroupError("pages of traceback", others))
    assert isinstance(error, LaunchError)
    assert (str(error), error.exit_code) == ("data.path cannot be 3", 2)
    assert capsys.readouterr().err == ""


def test_the_rank_that_failed_first_is_named(capsys):
    from ray.train import WorkerGroupError

    cause, consequence = RankError("no memory", None, "why\n", 1.0), RankError("peer gone", None, "later\n", 2.0)
    error = _launch_error(WorkerGroupError("pages of traceback", {0: consequence, 1: cause}))
    assert str(error) == "rank 1 failed: no memory"
    assert capsys.readouterr().err == "why\n"


def test_a_lost_process_is_named_with_its_rank():
    from ray.train import WorkerGroupError

    death = RuntimeError(
        "The actor died.\nWorker exit detail: Worker exits\nwith code 9. Some common causes include: ..."
    )
    error = _launch_error(WorkerGroupError("pages of advice", {3: death}))
    assert str(error).startswith("rank 3 died: Worker exits with code 9.")
