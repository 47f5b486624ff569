"""One process, several, and a Ray cluster write the same bytes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray

from sharding.errors import UserError
from sharding.pack import pack
from sharding.pool import started


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(pretrain):
    """Thirty images, one missing, one that cannot be opened."""
    raw = pretrain(30, {6: {"captions": ["", "Kept."]}})
    (raw / "imgs/IUSTPersonReID/1_1_0_3.jpg").unlink()
    (raw / "imgs/IUSTPersonReID/4_1_0_9.jpg").write_bytes(b"GIF89a")
    return raw


@pytest.fixture(scope="module")
def cluster():
    """A Ray of this test's own, on two cores."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def test_two_processes_write_what_one_writes(folder, tmp_path):
    one = pack("pretrain_110k", folder, tmp_path / "one", shard_samples=4)
    two = pack("pretrain_110k", folder, tmp_path / "two", shard_samples=4, workers=2)
    assert (one.dataset.root_hash, one.images_written) == (two.dataset.root_hash, two.images_written)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_ray_writes_what_one_process_writes(folder, tmp_path, cluster):
    one = pack("pretrain_110k", folder, tmp_path / "one", shard_samples=4)
    by_ray = pack("pretrain_110k", folder, tmp_path / "ray", shard_samples=4, ray_address="auto")
    assert one.dataset.root_hash == by_ray.dataset.root_hash
    assert contents(tmp_path / "one") == contents(tmp_path / "ray")


def die_once(marker):
    """Kill this process the first time."""
    if not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def test_ray_tries_a_task_again_whose_worker_died(tmp_path, cluster):
    with started(ray_address="auto") as run:
        assert list(run(die_once, [str(tmp_path / "marker")])) == ["done"]


def test_a_killed_local_worker_is_one_clear_error(tmp_path):
    with pytest.raises(OSError, match="a worker process was killed"), started(workers=2) as run:
        list(run(die_once, [str(tmp_path / "marker")]))


def refuse(task):
    raise UserError(f"{task} is bad")


def test_a_bad_input_in_a_ray_task_is_its_own_one_line(cluster):
    with pytest.raises(UserError) as caught, started(ray_address="auto") as run:
        list(run(refuse, ["this"]))
    assert str(caught.value) == "this is bad"


def double(number):
    return 2 * number


def test_every_task_is_run_once(cluster):
    for where in ({}, {"workers": 2}, {"ray_address": "auto"}):
        with started(**where) as run:
            assert sorted(run(double, range(50))) == list(range(0, 100, 2))


STOPPED = "import sys; from sharding.cli import main; sys.exit(main(sys.argv[1:]))"


def descendants(pid):
    """All processes below one: workers are children of a server that forks them."""
    children = children_of(pid)
    return children + [below for child in children for below in descendants(child)]


def children_of(pid):
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(pid) for pid in listed.stdout.split()]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stopping_a_packing_stops_its_workers_and_it_can_be_resumed(folder, tmp_path, how):
    slow = ("--source", "pretrain_110k", "--input", str(folder), "--out", str(tmp_path / "out"))
    command = [sys.executable, "-c", STOPPED, "pack", *slow, "--shard-samples", "1", "--workers", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob("*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.01)
    workers = descendants(process.pid)
    assert workers
    process.send_signal(how)
    _, told = process.communicate(timeout=60)
    if how == signal.SIGINT:
        assert (process.returncode, told.count("\n")) == (130, 1), told
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in workers)
    resumed = pack("pretrain_110k", folder, tmp_path / "out", shard_samples=1)
    assert (
        resumed.dataset.root_hash == pack("pretrain_110k", folder, tmp_path / "one", shard_samples=1).dataset.root_hash
    )


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
