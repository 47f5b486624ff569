"""Random access to the samples of a packed dataset: the index says where the bytes lie, the tar is mapped."""

import hashlib
import json
import mmap
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sharding.dataset import Dataset, pack_again, read_index, shards_of
from sharding.errors import UserError
from sharding.index import tar_name

if TYPE_CHECKING:
    import pyarrow

COLUMNS = ["key", "identity"]
COLUMNS += [f"{member}_{what}" for member in ("image", "json") for what in ("offset", "size", "sha256")]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image (its file's bytes) with its captions."""

    key: str
    image: bytes
    captions: tuple[str, ...]
    identity: str


@dataclass(frozen=True, kw_only=True)
class People:
    """Which people of a split are read: those held out, or the others.

    A person is held out where the hash of the identity says so, in about `share` of all cases: the same people whatever
    else the dataset holds, so a validation split can be carved from a benchmark that has none.
    """

    share: float
    held_out: bool

    def chosen(self, identities: NDArray[Any]) -> NDArray[np.bool_]:
        """Which rows belong to the chosen people. [n] strings -> [n] bool."""
        names, place = np.unique(identities.astype(str), return_inverse=True)
        return np.array([_held_out(name, self.share) == self.held_out for name in names.tolist()], dtype=bool)[place]

    def __str__(self) -> str:
        return f"{'the held-out' if self.held_out else 'all but the held-out'} {100 * self.share:g} % of the people"


def _held_out(identity: str, share: float) -> bool:
    return int.from_bytes(hashlib.sha256(f"held out {identity}".encode()).digest()[:8]) < share * 2**64


class SplitReader:
    """The samples of one split, or of some of its `people`, by (shard, row).

    Reads the split's indexes at once (about 350 bytes a sample) and maps each tar when it is first touched. Safe to
    share between threads. Raises UserError if the dataset has no such split, or the split none of the people.
    """

    def __init__(self, dataset: Dataset, split: str, people: People | None = None) -> None:
        self.dataset, self.split = dataset, split
        self.shards = shards_of(dataset, split)
        self._people = people
        self._columns = [_columns(table) for table in self._tables(COLUMNS)]
        if not len(self):
            raise UserError(f"{dataset.store}: split {split!r} has nobody among {people}")
        self._maps: dict[int, mmap.mmap] = {}

    def __len__(self) -> int:
        return sum(self.shard_samples)

    @property
    def shard_samples(self) -> tuple[int, ...]:
        """How many samples are read of each shard."""
        return tuple(len(columns["key"]) for columns in self._columns)

    def index(self, columns: list[str]) -> "pyarrow.Table":
        """The named columns of the index (`sample_schema`) for the samples read, in packing order."""
        import pyarrow as pa

        return pa.concat_tables(self._tables(columns))

    def _tables(self, columns: list[str]) -> "list[pyarrow.Table]":
        """The same, a table for each shard."""
        wanted = columns if self._people is None else [*columns, "identity"]
        tables = [read_index(self.dataset, shard, list(dict.fromkeys(wanted))) for shard in self.shards]
        if self._people is None:
            return tables
        masks = [self._people.chosen(table["identity"].to_numpy(zero_copy_only=False)) for table in tables]
        return [table.filter(mask).select(columns) for table, mask in zip(tables, masks, strict=True)]

    @cached_property
    def identities(self) -> list[NDArray[Any]]:
        """The identity ("source:ID") of every row, one string array a shard."""
        return [columns["identity"] for columns in self._columns]

    def place(self, index: int) -> tuple[int, int]:
        """(shard, row) of the index-th sample of the split in packing order."""
        starts = np.cumsum((0, *self.shard_samples))
        shard = int(np.searchsorted(starts, index, side="right")) - 1
        return shard, index - int(starts[shard])

    def sample(self, shard: int, row: int) -> Sample:
        """The sample at a place; UserError if its bytes are not those that were packed."""
        columns = self._columns[shard]
        metadata = json.loads(self._read(shard, row, "json"))
        return Sample(
            key=str(columns["key"][row]),
            image=self._read(shard, row, "image"),
            captions=tuple(metadata["captions"]),
            identity=str(columns["identity"][row]),
        )

    def _read(self, shard: int, row: int, member: str) -> bytes:
        columns = self._columns[shard]
        path = self.dataset.directory / tar_name(self.shards[shard].name)
        if shard not in self._maps:
            self._maps[shard] = _map(path, self.shards[shard].bytes)
        offset, size = columns[f"{member}_offset"][row], columns[f"{member}_size"][row]
        data = self._maps[shard][offset : offset + size]
        if hashlib.sha256(data).digest() != columns[f"{member}_sha256"][row]:
            key = columns["key"][row]
            raise UserError(f"shard {path} is damaged at sample {key} ({member}); {pack_again(path.name)}")
        return data


def _columns(table: "pyarrow.Table") -> dict[str, NDArray[Any]]:
    return {name: table.column(name).to_numpy(zero_copy_only=False) for name in COLUMNS}


def _map(path: Path, size: int) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read shard {path}: {error}") from None
    if len(mapped) != size:
        raise UserError(f"shard {path} has {len(mapped)} bytes, its index says {size}; restore it, or pack again")
    return mapped
