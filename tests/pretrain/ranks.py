"""Run a function on several gloo ranks of this machine: for tests of what all ranks do together."""

import os
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

HOST = "127.0.0.1"


def run_on_ranks(function: Callable[..., Any], world_size: int, *arguments: Any, timeout_s: float = 120) -> list[Any]:
    """Call `function(*arguments)` on `world_size` spawned gloo ranks; return what each returned, by rank.

    `function` is importable (module level) and returns tensors, numbers and lists or dicts of them. A rank's exception
    is raised here with its traceback; ranks that outlast `timeout_s` are killed and TimeoutError is raised.
    """
    # The parent hosts the store on a port of the system's choice: no gap in which another process could take it.
    store = dist.TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
    deadline = time.monotonic() + timeout_s
    with tempfile.TemporaryDirectory() as directory:
        call = partial(function, *arguments)
        ranks = mp.spawn(_rank, (world_size, store.port, timeout_s, directory, call), world_size, join=False)
        while not ranks.join(timeout=max(0, deadline - time.monotonic())):
            if time.monotonic() >= deadline:
                _kill(ranks.processes)
                raise TimeoutError(f"{function.__name__} took longer than {timeout_s} s on {world_size} ranks")
        return [torch.load(Path(directory) / f"{rank}.pt", weights_only=True) for rank in range(world_size)]


def _rank(rank: int, world_size: int, port: int, timeout_s: float, directory: str, call: Callable[[], Any]) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a host name that does not resolve would stop gloo
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}  # as any launcher does
    torch.set_num_threads(1)
    timeout = timedelta(seconds=timeout_s)
    store = dist.TCPStore(HOST, port, is_master=False, timeout=timeout)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=timeout)
    torch.save(call(), Path(directory) / f"{rank}.pt")
    dist.destroy_process_group()


def _kill(processes: list[Any]) -> None:
    for process in processes:
        process.kill()
        process.join()
