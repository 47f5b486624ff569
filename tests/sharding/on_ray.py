"""Runs tasks on a Ray of its own: `python -m tests.sharding.on_ray RAW OUT` packs, and prints what came of it as JSON.

A process of its own, because how Ray authenticates is settled once in a process, and other tests settle it otherwise.
"""

import json
import os
import signal
import sys
import tempfile
from pathlib import Path

import ray

from sharding.errors import UserError
from sharding.pack import pack
from sharding.pool import started


def die_once(marker):
    """Kill this process the first time."""
    if not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def refuse(task):
    raise UserError(f"{task} is bad")


def double(number):
    return 2 * number


def refused():
    """What the caller sees of a bad input."""
    try:
        with started(ray_address="auto") as run:
            list(run(refuse, ["this"]))
    except UserError as error:
        return str(error)


def main():
    raw, out = sys.argv[1:]
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as directory, started(ray_address="auto") as run:
        results = {
            "doubled": sorted(run(double, range(50))),
            "died": list(run(die_once, [f"{directory}/marker"])),
            "refused": refused(),
            "root_hash": pack("pretrain_110k", raw, out, shard_samples=4, ray_address="auto").dataset.root_hash,
        }
    ray.shutdown()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
