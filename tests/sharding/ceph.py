"""A Ceph cluster of one monitor, one OSD in memory and one gateway: a real S3 service for as long as a test runs."""

import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin", "setpriv")
ACCESS_KEY, SECRET_KEY = "testkey", "testsecret"
START_SECONDS = 60

# Without authentication and replicas. `paxos propose interval` is a second if left alone, which every change of the
# cluster's state would wait for.
SETTINGS = """
[global]
fsid = {fsid}
mon host = v1:127.0.0.1:{monitor_port}
mon initial members = a
public network = 127.0.0.0/8
ms bind ipv6 = false
ms bind msgr2 = false
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail warn = 1
mon data avail crit = 1
paxos propose interval = 0.02
paxos min wait = 0.01
osd objectstore = memstore
memstore device bytes = 4294967296
osd class load list = *
osd class default list = *
run dir = {folder}
admin socket =
log file = {folder}/$name.log
mon data = {folder}/mon
osd data = {folder}/osd
keyring = {folder}/keyring
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw thread pool size = 32
rgw dns name = localhost
"""


def is_installed() -> bool:
    """Whether the programs are on the path."""
    return all(shutil.which(program) for program in PROGRAMS)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def gateway() -> Iterator[str]:
    """The URL of the S3 service, which knows one user, ACCESS_KEY; stopped and forgotten when the context is left."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ceph-")))  # short: sockets lie in it
        for name in ("mon", "osd"):
            (folder / name).mkdir()
        port, monitor_port, fsid = free_port(), free_port(), str(uuid4())
        settings, processes = folder / "ceph.conf", dict[str, "subprocess.Popen[bytes]"]()
        settings.write_text(SETTINGS.format(folder=folder, port=port, monitor_port=monitor_port, fsid=fsid))

        def call(program: str, *arguments: str) -> str:
            line = [program, "-c", str(settings), *arguments]
            return subprocess.run(line, check=True, capture_output=True, text=True, timeout=START_SECONDS).stdout

        def start(program: str, *arguments: str) -> None:
            log = stack.enter_context((folder / f"{program}.out").open("wb"))
            # A killed test run takes them with it: nobody would be left to stop them.
            line = ["setpriv", "--pdeathsig", "TERM", program, "-c", str(settings), "-f", *arguments]
            processes[program] = subprocess.Popen(line, stdout=log, stderr=subprocess.STDOUT)
            stack.callback(_stop, processes[program])

        def start_storage() -> None:
            start("ceph-osd", "-i", "0")

        def wait_until_it_answers() -> None:
            end = time.monotonic() + START_SECONDS
            while not _answers(port):
                if processes["ceph-osd"].poll() is not None:
                    # It may ask the monitor something before it has learnt the cluster's fsid; it is refused ("wrong
                    # fsid") and ends, in 1 of 10 starts on a busy machine.
                    start_storage()
                dead = next((program for program, process in processes.items() if process.poll() is not None), None)
                if dead or time.monotonic() > end:
                    logs = "\n".join((folder / f"{program}.out").read_text()[-2000:] for program in processes)
                    raise RuntimeError(f"{dead or 'the S3 gateway'} did not start:\n{logs}")
                time.sleep(0.05)

        keyring, map_ = str(folder / "keyring"), str(folder / "monmap")
        call("ceph-authtool", "--create-keyring", keyring)
        call("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v1:127.0.0.1:{monitor_port}]", map_)
        call("ceph-mon", "--mkfs", "-i", "a", "--monmap", map_, "--keyring", keyring)
        start("ceph-mon", "-i", "a")
        identity = str(uuid4())
        call("ceph", "--connect-timeout", str(START_SECONDS), "osd", "new", identity)
        call("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", identity)
        start_storage()
        start("radosgw", "-n", "client.rgw", "--no-mon-config")
        wait_until_it_answers()
        user = ("--uid", "test", "--display-name", "test", "--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY)
        call("radosgw-admin", "--no-mon-config", "user", "create", *user)
        yield f"http://127.0.0.1:{port}"


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(3)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
