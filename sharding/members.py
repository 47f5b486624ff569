"""Members of shards in bulk, from any place: neighbours are read together, each is checked against its sha256.

The index says where a member lies. A request for each would cost a round trip a sample in a bucket, and reading whole
tars would cost all of their bytes where a few samples are wanted.
"""

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sharding.dataset import Dataset, pack_again
from sharding.errors import UserError
from sharding.index import Shard, tar_name

if TYPE_CHECKING:
    import pyarrow

GAP = 256 << 10  # bytes: reading over a smaller one costs less than another request
WINDOW = 8 << 20  # bytes: as much is asked for at a time


def read_members(
    dataset: Dataset, shard: Shard, index: "pyarrow.Table", members: tuple[str, ...]
) -> Iterator[tuple[bytes, ...]]:
    """The bytes of the named `members` ("image", "text", "json") of every sample in `index`, in its order.

    `index` holds rows of the shard's index in the order of the tar, with `key` and the offset, size and sha256 of those
    members. About WINDOW bytes are held at a time. Raises UserError for bytes that are not those that were packed.
    """
    offsets = [index[f"{member}_offset"].to_numpy() for member in members]
    sizes = [index[f"{member}_size"].to_numpy() for member in members]
    begin, end = np.min(offsets, axis=0), np.max(np.add(offsets, sizes), axis=0)
    columns = [f"{member}_{what}" for member in members for what in ("offset", "size", "sha256")]
    for first, last in windows(begin, end):
        start = int(begin[first])
        data = dataset.store.read(tar_name(shard.name), start, int(end[last - 1]) - start)
        for row in index.slice(first, last - first).select(["key", *columns]).to_pylist():
            yield tuple(_cut(dataset, shard, data, start, row, member) for member in members)


def _cut(dataset: Dataset, shard: Shard, data: bytes, start: int, row: dict[str, Any], member: str) -> bytes:
    """A member out of `data`, which begin at byte `start` of the tar."""
    begin = row[f"{member}_offset"] - start
    content = data[begin : begin + row[f"{member}_size"]]
    if hashlib.sha256(content).digest() != row[f"{member}_sha256"]:
        name = f"{dataset.store}/{tar_name(shard.name)}"
        raise UserError(f"shard {name} is damaged at sample {row['key']} ({member}); {pack_again(name)}")
    return content


def windows(begin: NDArray[np.int64], end: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Which consecutive extents are read at once: (first, last + 1) of each group.

    `begin` ascends. A group ends before a gap of more than GAP bytes, and before it would pass WINDOW bytes.
    """
    first = 0
    for number in range(1, len(begin)):
        if begin[number] - end[number - 1] > GAP or end[number] - begin[first] > WINDOW:
            yield first, number
            first = number
    if len(begin):
        yield first, len(begin)
