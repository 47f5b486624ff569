"""Work that one process does by itself, and several share below torchrun."""

import os
from collections.abc import Callable
from typing import TypeVar

from cluster.errors import ClusterError
from cluster.launch import Topology, launch_torchrun
from sharding.errors import UserError

Result = TypeVar("Result")


def below_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def rank() -> int:
    """This process's rank, also before torch.distributed is there: 0 outside of torchrun."""
    return int(os.environ["RANK"]) if below_torchrun() else 0


def on_all_ranks(work: Callable[[], Result], *, gpu: bool) -> Result:
    """`work()` in this process, or, below torchrun, on this rank with torch.distributed initialised (nccl with `gpu`).

    UserError where ranks and GPUs do not match.
    """
    if not below_torchrun():
        return work()
    results = []
    try:
        topology = Topology(ranks=int(os.environ["WORLD_SIZE"]), gpus_per_rank=int(gpu))
        launch_torchrun(lambda _: results.append(work()), {}, topology=topology)
    except ClusterError as error:
        raise UserError(str(error)) from None
    return results[0]
