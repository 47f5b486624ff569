"""What a reader knows of a split: people and captions of every sample, and where the bytes of a shard's samples lie.

The first is read once for the whole split and kept, 12 bytes a sample and the people's names; the second is some 120
bytes a sample, and is read again for each shard when it is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sharding.dataset import Dataset, read_index
from sharding.index import Shard
from sharding.io_pool import map_in_order
from sharding.people import People
from sharding.store import LocalStore

if TYPE_CHECKING:
    import pyarrow

Integers = NDArray[np.int64]
MEMBERS = ("image", "json")  # what is read of a sample: its text is the first caption of its json


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The samples that are read of a split.

    names: every identity once, in the order of appearance (an Arrow array of strings). codes: int32 [n] a shard, its
    samples' places in `names`. captions: int64 [samples], in packing order. rows: int32 [n] a shard, the row numbers in
    the shard's index, or None where all are read.
    """

    names: "pyarrow.StringArray"
    codes: list[NDArray[np.int32]]
    captions: Integers
    rows: list[NDArray[np.int32]] | None


def read_contents(dataset: Dataset, shards: Sequence[Shard], people: People | None) -> Contents:
    """One pass over the indexes of some shards; UserError where one is damaged."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def read(shard: Shard) -> tuple[Any, Any, Any]:
        table = read_index(dataset, shard, ["identity", "caption_words"])
        identities = table["identity"].combine_chunks()
        captions = pc.list_value_length(table["caption_words"]).to_numpy()
        if people is None:
            return identities.dictionary_encode(), captions, None
        rows = np.flatnonzero(people.chosen(identities.to_numpy(zero_copy_only=False))).astype(np.int32)
        return identities.take(pa.array(rows)).dictionary_encode(), captions[rows], rows

    # Where there is nothing to wait for, threads only get in each other's way.
    local = isinstance(dataset.store, LocalStore)
    parts = [read(shard) for shard in shards] if local else list(map_in_order(read, shards))
    encoded = pa.chunked_array([part[0] for part in parts]).unify_dictionaries()
    return Contents(
        names=encoded.chunk(0).dictionary,
        codes=[chunk.indices.to_numpy() for chunk in encoded.chunks],
        captions=np.concatenate([part[1] for part in parts]).astype(np.int64),
        rows=None if people is None else [part[2] for part in parts],
    )


@dataclass(frozen=True, kw_only=True)
class Extents:
    """Where one member of a shard's samples lies, in bytes from the start of the tar, and its sha256; each [n]."""

    offset: Integers
    size: Integers
    sha256: NDArray[np.void]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Keys (ASCII) and extents, by member, of the samples that are read of one shard."""

    key: NDArray[np.bytes_]
    members: dict[str, Extents]


def read_layout(dataset: Dataset, shard: Shard, rows: NDArray[np.int32] | None) -> Layout:
    """The layout of some rows of a shard's index, or of all; UserError where the index is damaged."""
    columns = [f"{member}_{what}" for member in MEMBERS for what in ("offset", "size", "sha256")]
    table = read_index(dataset, shard, ["key", *columns])
    if rows is not None:
        table = table.take(rows)
    return Layout(
        key=table["key"].to_numpy().astype(np.bytes_),
        members={
            member: Extents(
                offset=table[f"{member}_offset"].to_numpy(),
                size=table[f"{member}_size"].to_numpy(),
                sha256=np.frombuffer(b"".join(table[f"{member}_sha256"].to_pylist()), "V32"),
            )
            for member in MEMBERS
        },
    )
