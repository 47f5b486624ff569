"""A Ray head of one's own on this machine: free ports, a private directory and token, stopped by handle.

`cluster head` and `cluster submit` run their jobs on it where no cluster is named. `ray stop` would end every Ray
process of the user; this ends only the session it started.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cluster.errors import ClusterError

OBJECT_STORE_BYTES = 128 << 20  # functions and paths pass through it, never tensors; Ray's default is 30 % of memory
LONGEST_TEMPORARY_ROOT = 30  # Ray adds up to 75 bytes to it and a Unix socket's path ends at 107
START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 20


@contextmanager
def short_temporary_directory() -> Iterator[Path]:
    """A temporary directory whose path is short enough for Ray's Unix sockets; removed at the end."""
    root = tempfile.gettempdir()
    root = root if len(root) <= LONGEST_TEMPORARY_ROOT else "/tmp"
    with tempfile.TemporaryDirectory(prefix="ray-", dir=root, ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@contextmanager
def local_head(cpus: int | None = None) -> Iterator[str]:
    """Runs a Ray head on loopback and yields the address of its job server, `http://127.0.0.1:PORT`.

    `cpus` is what the head offers (None: the machine's). Ray's control port listens on every interface, so the head
    asks for a token (unless RAY_AUTH_MODE is set already); while the context is open, this process's environment
    carries it to child processes such as `ray job submit`. At the end the head and all that runs on it are stopped
    and its directory is removed. Raises ClusterError when the head does not start.
    """
    with short_temporary_directory() as directory, _token_in_environment(directory):
        gcs, dashboard, client, agent = _free_ports(4)
        address = f"http://127.0.0.1:{dashboard}"
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
        command += ["--temp-dir", str(directory), "--port", str(gcs), "--object-store-memory", str(OBJECT_STORE_BYTES)]
        command += ["--include-dashboard", "true", "--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard)]
        command += ["--ray-client-server-port", str(client), "--dashboard-agent-listen-port", str(agent)]
        command += [] if cpus is None else ["--num-cpus", str(cpus)]
        log = directory / "head.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, env=_head_environment(), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            _wait_until_ready(process, address, log)
            yield address
        finally:
            _stop(process)


def token_headers() -> dict[str, str]:
    """The HTTP header that a token-protected job server asks for; empty without a token in the environment.

    Ray reads its authentication mode once, when it is imported: too early for a head that starts later.
    """
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return {}
    token = os.environ.get("RAY_AUTH_TOKEN", "")
    if not token and (path := os.environ.get("RAY_AUTH_TOKEN_PATH")):
        token = Path(path).read_text().strip()
    return {"Authorization": f"Bearer {token}"} if token else {}


@contextmanager
def _token_in_environment(directory: Path) -> Iterator[None]:
    if "RAY_AUTH_MODE" in os.environ:
        yield
        return
    token = directory / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    added = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _head_environment() -> dict[str, str]:
    """The head's environment; jobs inherit it, so that `python` in a job is the interpreter that runs this."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
    }
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)])
    environment.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # one machine is not reclaimed in parts
    environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "0"  # Ctrl-C means now, not in 30 s
    return environment


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _wait_until_ready(process: "subprocess.Popen[bytes]", address: str, log: Path) -> None:
    """Returns once the job server has an agent to run jobs on."""
    request = urllib.request.Request(f"{address}/api/jobs/", headers=token_headers())
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(request, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    raise ClusterError(f"the local Ray head did not start: {lines[-1] if lines else 'it said nothing'}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Asks the head to stop, then kills what is left of the session it led."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while (members := session_members(process.pid)) and time.monotonic() < deadline:
        if process.poll() is not None:
            for pid in members:
                _kill(pid)
        time.sleep(0.1)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def session_members(session: int) -> list[int]:
    """Ids of the living processes of a session (Linux; elsewhere the list is empty)."""
    members = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, owner = entry.read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it ended between the listing and the reading
            continue
        if int(owner) == session and state != "Z":
            members.append(int(entry.parent.name))
    return members
