"""One process, several, and a Ray cluster write the same bytes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sharding.cli import main
from sharding.pack import pack
from sharding.packing.images import ImagePolicy
from sharding.pool import started
from tests.sharding.on_ray import die_once, double


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(pretrain):
    """Thirty images, one missing, one that cannot be opened."""
    raw = pretrain(30, {6: {"captions": ["", "Kept."]}})
    (raw / "imgs/IUSTPersonReID/1_1_0_3.jpg").unlink()
    (raw / "imgs/IUSTPersonReID/4_1_0_9.jpg").write_bytes(b"GIF89a")
    return raw


def test_two_processes_write_what_one_writes(folder, tmp_path):
    one = pack("pretrain_110k", folder, tmp_path / "one", shard_samples=4)
    two = pack("pretrain_110k", folder, tmp_path / "two", shard_samples=4, workers=2)
    assert (one.dataset.root_hash, one.images_written) == (two.dataset.root_hash, two.images_written)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_ray_writes_what_one_process_writes_and_tries_again_what_died(folder, tmp_path):
    one = pack("pretrain_110k", folder, tmp_path / "one", shard_samples=4)
    command = [sys.executable, "-m", "tests.sharding.on_ray", str(folder), str(tmp_path / "ray")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "doubled": list(range(0, 100, 2)),
        "died": ["done"],
        "refused": "this is bad",
        "root_hash": one.dataset.root_hash,
    }
    assert contents(tmp_path / "one") == contents(tmp_path / "ray")


def test_no_ray_at_the_address_is_one_line(folder, tmp_path, capsys):
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        arguments = ["--source", "pretrain_110k", "--input", str(folder), "--out", str(tmp_path / "out")]
        assert main(["pack", *arguments, "--ray", address]) == 2
    assert capsys.readouterr().err == f"sharding: no Ray cluster answers at {address}: Connection refused\n"
    assert not (tmp_path / "out").exists()


def test_a_killed_local_worker_is_one_clear_error(tmp_path):
    with pytest.raises(OSError, match="a worker process was killed"), started(workers=2) as run:
        list(run(die_once, [str(tmp_path / "marker")]))


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_is_run_once(workers):
    with started(workers=workers) as run:
        assert sorted(run(double, range(50))) == list(range(0, 100, 2))


STOPPED = """
import signal, sys
from sharding.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started with it ignored
sys.exit(main(sys.argv[1:]))
"""


def descendants(pid):
    """All processes below one: workers are children of a server that forks them."""
    children = children_of(pid)
    return children + [below for child in children for below in descendants(child)]


def children_of(pid):
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(pid) for pid in listed.stdout.split()]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stopping_a_packing_stops_its_workers_and_it_can_be_resumed(pretrain, tmp_path, how):
    folder, large = pretrain(40), ImagePolicy(resize=(2500, 1000))  # some 50 ms an image: there is time to stop it
    slow = ("--source", "pretrain_110k", "--input", str(folder), "--out", str(tmp_path / "out"))
    command = [sys.executable, "-c", STOPPED, "pack", *slow, "--shard-samples", "1", "--workers", "2"]
    command += ["--resize", "2500x1000"]
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
    resumed = pack("pretrain_110k", folder, tmp_path / "out", shard_samples=1, images=large)
    assert 0 < resumed.images_written < 40
    whole = pack("pretrain_110k", folder, tmp_path / "one", shard_samples=1, images=large)
    assert resumed.dataset.root_hash == whole.dataset.root_hash


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
