"""Runs one function on N ranks: through Ray Train, inside torchrun, or one rank in this process.

A rank's failure becomes one clear line.

`pretrain.run` calls it with the resolved settings; the function finds torch.distributed already initialised.
Ray and torch are imported inside the functions that need them, so that importing this module costs nothing.
"""

import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from math import ceil, floor
from pathlib import Path
from types import FrameType
from typing import Any

from cluster.errors import ClusterError, LaunchError
from cluster.head import OBJECT_STORE_BYTES, short_temporary_directory

Worker = Callable[[dict[str, Any]], None]

# Ray reads these when it is imported; what the user has set himself is kept.
RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_WORKER_LOG_PREFIX": "1",  # lines of the ranks arrive as they were written
    "RAY_DEDUP_LOGS": "0",  # otherwise lines that differ in numbers only are held back for 5 s and merged
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # the patched print writes every line twice
    "RAY_TRAIN_METRICS_ENABLED": "0",  # cluster.metrics exports what is worth watching
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # otherwise a relative path in the settings means another file on the ranks
}
# Additionally for a cluster of our own.
LOCAL_RAY_ENVIRONMENT = {
    "RAY_LOGGER_LEVEL": "error",  # Ray Train's helper actors warn every second that there is no dashboard
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a single machine is not reclaimed while its driver lives
}

# Without an address Ray Train's helper actors look for one, and print tracebacks where a second Ray runs here.
NO_DASHBOARD = "http://127.0.0.1:9"
CONNECT_TIMEOUT_S = 10


@dataclass(frozen=True, kw_only=True)
class Topology:
    """How many ranks, and what each one reserves; `timeout_s` bounds every collective operation."""

    ranks: int
    cpus_per_rank: float = 1
    gpus_per_rank: int = 0
    timeout_s: int = 1800

    def __post_init__(self) -> None:
        if self.ranks < 1 or self.cpus_per_rank <= 0 or self.gpus_per_rank < 0:
            raise ClusterError(f"a topology needs ranks >= 1, CPUs > 0 and GPUs >= 0 per rank; got {self}")

    @property
    def resources_per_rank(self) -> dict[str, float]:
        """Ray's resource names → amount of one rank."""
        resources = {"CPU": float(self.cpus_per_rank)}
        return resources | {"GPU": float(self.gpus_per_rank)} if self.gpus_per_rank else resources


class RankError(Exception):
    """Carries a rank's failure to the driver as plain text and numbers, so that it always survives pickling."""

    def __init__(self, message: str, exit_code: int | None, trace: str, when: float) -> None:
        super().__init__(message, exit_code, trace, when)
        self.message = message
        self.exit_code = exit_code
        self.trace = trace
        self.when = when


def launch_ray(worker: Worker, settings: dict[str, Any], *, topology: Topology, name: str, storage: Path) -> None:
    """Runs `worker(settings)` on `topology.ranks` ranks of a Ray cluster and returns when all of them have.

    Joins the cluster that RAY_ADDRESS names (`ray job submit` sets it), else starts a local one for this call alone.
    On every rank torch.distributed is initialised (nccl with GPUs, else gloo) and OMP_NUM_THREADS is the rank's CPUs.
    `storage` is the run's directory; Ray Train keeps its own state below `storage/name`.

    Raises LaunchError when a rank fails (one line; its traceback has gone to stderr), ClusterError when the cluster
    has no room for the ranks. On Ctrl-C and SIGTERM the ranks are stopped, then KeyboardInterrupt or SystemExit(143)
    is raised.
    """
    with _signal_handlers_restored(), _ray_cluster(topology):
        terminations = _catch_sigterm()
        _require_room(topology)
        try:
            _trainer(worker, settings, topology=topology, name=name, storage=storage).fit()
        except SystemExit:  # Ray turns both signals into the same SystemExit(1)
            if terminations:
                raise SystemExit(128 + signal.SIGTERM) from None
            raise KeyboardInterrupt from None
        except Exception as error:
            raise _launch_error(error) from None


def launch_torchrun(worker: Worker, settings: dict[str, Any], *, topology: Topology) -> None:
    """Runs `worker(settings)` as the rank that torchrun started; all ranks must call.

    Initialises torch.distributed from torchrun's environment (nccl with GPUs, else gloo) and destroys
    the process group at the end, also when the worker raises. Raises ClusterError outside torchrun.
    """
    missing = [
        name for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ
    ]
    if missing:
        raise ClusterError(
            f"the torchrun backend finds no {', '.join(missing)} in its environment; start it with "
            "`torchrun --nproc-per-node N -m pretrain.run --config FILE --launch.backend torchrun`"
        )
    import torch

    if topology.gpus_per_rank:
        local_rank, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local_rank >= there:
            raise ClusterError(f"local rank {local_rank} has no GPU: this machine has {there}")
        torch.cuda.set_device(local_rank)
    _run_in_group(worker, settings, topology)


def launch_local(worker: Worker, settings: dict[str, Any], *, topology: Topology) -> None:
    """Runs `worker(settings)` as the only rank, in this process.

    Raises ClusterError for a topology with a GPU where there is none.
    """
    assert topology.ranks == 1, topology
    import torch
    from torch.distributed import HashStore

    if topology.gpus_per_rank and not torch.cuda.is_available():
        raise ClusterError("the local backend finds no GPU here; --launch.gpus_per_rank 0 runs on the CPU")
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}  # as any launcher does
    _run_in_group(worker, settings, topology, store=HashStore(), rank=0, world_size=1)


def _run_in_group(worker: Worker, settings: dict[str, Any], topology: Topology, **group: Any) -> None:
    """`worker(settings)` with torch.distributed initialised (nccl with GPUs, else gloo), and destroyed in any case."""
    import torch.distributed as distributed

    backend = "nccl" if topology.gpus_per_rank else "gloo"
    distributed.init_process_group(backend, timeout=timedelta(seconds=topology.timeout_s), **group)
    try:
        worker(settings)
    finally:
        distributed.destroy_process_group()


@contextmanager
def _ray_cluster(topology: Topology) -> Iterator[None]:
    """Connects to the cluster of RAY_ADDRESS or starts a local one; closes only what it opened."""
    address = os.environ.get("RAY_ADDRESS")
    for key, value in (RAY_ENVIRONMENT if address else RAY_ENVIRONMENT | LOCAL_RAY_ENVIRONMENT).items():
        os.environ.setdefault(key, value)
    if not address and "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        # Ray's control port listens on every interface: whoever reaches it could run code as this user.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    import ray

    with short_temporary_directory() as directory:
        try:
            _connect(address) if address else _start_local(topology, directory)
            yield
        finally:
            ray.shutdown()


def _connect(address: str) -> None:
    """Joins a cluster; Ray itself would try a dead address for more than ten minutes."""
    import ray

    host, _, port = address.rpartition(":")
    try:
        if host and port.isdigit():  # "auto" and the like are Ray's to resolve
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()
        ray.init(logging_level=logging.WARNING)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"no Ray cluster answers at RAY_ADDRESS={address} ({error}); unset it to run on this machine"
        ) from None


def _start_local(topology: Topology, directory: Path) -> None:
    import ray

    ray.init(
        address="local",  # without it Ray joins whatever cluster was started last on this machine
        num_cpus=ceil(topology.ranks * topology.cpus_per_rank),
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        logging_level=logging.WARNING,
        runtime_env={"env_vars": {"RAY_API_SERVER_ADDRESS": NO_DASHBOARD}},
        _node_ip_address="127.0.0.1",
        _temp_dir=str(directory),
    )


def _require_room(topology: Topology) -> None:
    """Ray Train would wait forever for resources that no node has: say so before it starts."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    wanted = topology.resources_per_rank
    room = sum(floor(min(node.get(kind, 0) / amount for kind, amount in wanted.items())) for node in nodes)
    if room >= topology.ranks:
        _say_if_busy(topology)
        return
    asked = " and ".join(f"{amount:g} {kind}" for kind, amount in wanted.items())
    total = ray.cluster_resources()
    there = " and ".join(f"{total.get(kind, 0):g} {kind}" for kind in ("CPU", "GPU"))
    raise ClusterError(
        f"{topology.ranks} ranks of {asked} each do not fit the cluster: it has {there} on {len(nodes)} node(s), "
        f"room for {room} such ranks; ask for fewer ranks, less per rank, or add nodes"
    )


def _say_if_busy(topology: Topology) -> None:
    """Ray Train waits for as long as others hold what the ranks need, and says nothing of it."""
    import ray

    free = ray.available_resources()
    for kind, amount in topology.resources_per_rank.items():
        if free.get(kind, 0) < amount * topology.ranks:
            print(
                f"waiting: {amount * topology.ranks:g} {kind} are needed, {free.get(kind, 0):g} are free now",
                file=sys.stderr,
                flush=True,
            )


def _trainer(worker: Worker, settings: dict[str, Any], *, topology: Topology, name: str, storage: Path) -> Any:
    from ray.train import LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    variables = {"OMP_NUM_THREADS": str(max(1, floor(topology.cpus_per_rank)))}  # Ray would say 1
    if not topology.gpus_per_rank:
        variables["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves the machine's GPUs visible to ranks that reserve none
    storage.mkdir(parents=True, exist_ok=True)
    return TorchTrainer(
        _reporting_failures(worker),
        train_loop_config=settings,
        torch_config=TorchConfig(backend="nccl" if topology.gpus_per_rank else "gloo", timeout_s=topology.timeout_s),
        scaling_config=ScalingConfig(
            num_workers=topology.ranks,
            use_gpu=topology.gpus_per_rank > 0,
            resources_per_worker=topology.resources_per_rank,
        ),
        run_config=RunConfig(  # type: ignore[call-arg]  # ray.train's stubs describe its version 1
            name=name,
            storage_path=str(storage.resolve()),
            worker_runtime_env={"env_vars": variables},
            logging_config=LoggingConfig(log_level="CRITICAL"),
        ),
    )


def _reporting_failures(worker: Worker) -> Worker:
    """`worker`, with a failure passed on as a RankError.

    An exception that cannot be pickled would otherwise take down Ray Train's controller with it. The traceback travels
    too: what a failing rank prints itself is lost when its process ends before Ray has read it.
    """

    def report(settings: dict[str, Any]) -> None:
        try:
            worker(settings)
        except BaseException as error:
            exit_code = getattr(error, "exit_code", None)
            if exit_code is not None:
                raise RankError(str(error), int(exit_code), "", time.time()) from None
            message = f"{type(error).__name__}: {error}"
            raise RankError(message, None, traceback.format_exc(), time.time()) from None

    return report


def _launch_error(error: Exception) -> LaunchError:
    """The one line for a failed run: user errors first, then the rank that raised first (its traceback goes to stderr;
    the others fail after it because it is gone), then the lowest that died."""
    from ray.train import WorkerGroupError

    failures = dict(sorted(error.worker_failures.items())) if isinstance(error, WorkerGroupError) else {}
    reported = {rank: failure for rank, failure in failures.items() if isinstance(failure, RankError)}
    for failure in reported.values():
        if failure.exit_code is not None:
            return LaunchError(failure.message, exit_code=failure.exit_code)
    for rank, failure in sorted(reported.items(), key=lambda item: item[1].when):
        print(failure.trace, file=sys.stderr, end="", flush=True)
        return LaunchError(f"rank {rank} failed: {_one_line(failure.message)}")
    for rank, death in failures.items():
        return LaunchError(f"rank {rank} died: {_cause_of_death(death)}")
    return LaunchError(f"Ray Train failed: {_one_line(str(error))}")


def _cause_of_death(failure: Exception) -> str:
    """Ray's sentence about a lost process, out of its page of advice."""
    text = str(getattr(failure, "health_check_failure", failure))
    detail = text.partition("Worker exit detail:")[2].partition("Some common causes")[0]
    return f"{_one_line(detail or text)} Was it out of memory? The kernel's log (`dmesg`) knows."


def _one_line(text: str) -> str:
    return " ".join(text.split())[:500]


@contextmanager
def _signal_handlers_restored() -> Iterator[None]:
    """Ray replaces the handlers of SIGINT and SIGTERM and leaves its own behind; only the main thread can set any."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _catch_sigterm() -> list[int]:
    """The SIGTERMs received from now on; Ray's own handler, set by ray.init, prints a C++ backtrace and aborts."""
    received: list[int] = []

    def terminate(number: int, frame: FrameType | None) -> None:
        received.append(number)
        sys.exit(128 + number)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)
    return received
