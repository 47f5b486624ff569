"""A process that reads a whole dataset through a cache it shares with others: `DATASET CACHE LIMIT BLOCK LOG [KILL]`.

A line in LOG for each block it downloads. KILL says where it kills itself: "download", while it holds the block's lock,
or "write", with a temporary file on the disk.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from sharding import blocks
from sharding.cache import BlockCache
from sharding.dataset import open_dataset
from sharding.reader import Damage, SplitReader
from tests.sharding.bucket import in_bucket


def main() -> None:
    place, directory, limit, block, log, *kill = sys.argv[1:]
    blocks.BLOCK_BYTES = int(block)

    def disturb() -> None:
        with Path(log).open("a") as file:
            file.write(f"{reader.dataset.store.requests[-1]}\n")  # type: ignore[attr-defined]
        if kill == ["download"]:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.01)  # so that the other process asks for the same meanwhile

    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if kill == ["write"]:
        Path.replace = die  # type: ignore[assignment,method-assign]
    reader = SplitReader(in_bucket(open_dataset(place), disturb), "train", cache=BlockCache(directory, int(limit)))
    for index in range(len(reader)):
        (found,) = reader.read(*np.array([reader.place(index)]).T)
        assert not isinstance(found, Damage)


if __name__ == "__main__":
    main()
