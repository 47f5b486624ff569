"""Random access to the samples of a packed dataset, in a folder or in a bucket: the index says where the bytes lie.

index of the split  ->  people, captions, places  |  tars  ->  bytes, checked  ->  samples, or Damage in their place
"""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sharding.blocks import Block
from sharding.cache import BlockCache
from sharding.dataset import Dataset, pack_again, read_index, shards_of
from sharding.errors import UserError
from sharding.index import tar_name
from sharding.layout import Integers, Layout, read_contents, read_layout
from sharding.people import People
from sharding.remote_tars import RemoteTars
from sharding.store import LocalStore
from sharding.tars import Extent, LocalTars, Tars

if TYPE_CHECKING:
    import pyarrow

LAYOUTS = 64  # of shards: two windows of the plan, and some; 340 KB each at 64 MiB a shard
PIECE = 8 << 20  # bytes of a tar that are hashed at a time

Verify = Literal["off", "shard", "sample"]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image (its file's bytes) with its captions."""

    key: str
    image: bytes
    captions: tuple[str, ...]
    identity: str


class Damage(NamedTuple):
    """A sample whose bytes are not those that were packed ("damaged"), or are not there ("unreadable").

    `detail` is a line for the log that names the tar, the key and what to do.
    """

    key: str
    reason: str
    detail: str


class SplitReader:
    """The samples of one split, or of some of its `people`, by (shard, row). Safe to share between threads.

    Reads the split's indexes once, and keeps 12 bytes a sample and the people's names. `verify` says what is hashed:
    each member read ("sample"), each tar when it is first touched and the members of those that differ ("shard"), or
    nothing ("off"); a member that is missing or cut short is found by all three. `cache` serves a dataset in a bucket;
    at least as many shards' layouts as are `in_use` at a time are kept in memory.
    Raises UserError if the dataset has no such split, or the split none of the people.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        people: People | None = None,
        *,
        verify: Verify = "sample",
        cache: BlockCache | None = None,
        in_use: int = LAYOUTS,
    ) -> None:
        self.dataset, self.split, self._people, self._verify = dataset, split, people, verify
        self.shards = shards_of(dataset, split)
        self._contents = read_contents(dataset, self.shards, people)
        self.shard_samples = tuple(len(codes) for codes in self._contents.codes)
        self._starts = np.cumsum((0, *self.shard_samples))
        if not len(self):
            raise UserError(f"{dataset.store}: split {split!r} has nobody among {people}")
        self._every_row = np.arange(max(self.shard_samples))
        self._layout = lru_cache(max(in_use, LAYOUTS))(self._read_layout)
        self._sound: dict[int, Future[bool]] = {}  # shards whose tar was hashed
        store = dataset.store
        self._tars: Tars = (
            LocalTars(store.directory, self.shards)
            if isinstance(store, LocalStore)
            else RemoteTars(store, self.shards, cache)
        )

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def captions(self) -> Integers:
        """How many captions every sample has, in packing order. int64 [samples]."""
        return self._contents.captions

    @property
    def identity_names(self) -> list[str]:
        """Every identity ("source:ID") once, in the order of appearance."""
        names: list[str] = self._contents.names.to_pylist()
        return names

    @property
    def identity_codes(self) -> list[NDArray[np.int32]]:
        """The identity of every row as its place in `identity_names`, one array a shard."""
        return self._contents.codes

    @property
    def identities(self) -> list[NDArray[Any]]:
        """The identity ("source:ID") of every row, one string array a shard; made anew, 8 bytes a sample and more."""
        names = np.array(self.identity_names, dtype=object)
        return [names[codes] for codes in self._contents.codes]

    def rows(self, shard: int) -> Integers:
        """The row numbers in the shard's own index of the rows that are read."""
        rows = self._contents.rows
        return self._every_row[: self.shard_samples[shard]] if rows is None else rows[shard].astype(np.int64)

    def index(self, columns: list[str]) -> "pyarrow.Table":
        """The named columns of the index (`sample_schema`) for the samples read, in packing order."""
        import pyarrow as pa

        tables = [read_index(self.dataset, shard, columns) for shard in self.shards]
        if self._contents.rows is not None:
            tables = [table.take(rows) for table, rows in zip(tables, self._contents.rows, strict=True)]
        return pa.concat_tables(tables)

    def place(self, index: int) -> tuple[int, int]:
        """(shard, row) of the index-th sample of the split in packing order."""
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        return shard, index - int(self._starts[shard])

    def keys(self, shards: int | Integers, rows: int | Integers) -> list[str]:
        """The keys of the samples at these places; one shard may stand for all."""
        places = zip(*(array.tolist() for array in np.broadcast_arrays(shards, np.atleast_1d(rows))), strict=True)
        return [_key(self._layout(shard), row) for shard, row in places]

    def sample(self, shard: int, row: int) -> Sample:
        """The sample at a place; UserError if its bytes are not those that were packed."""
        return self.samples([(shard, row)])[0]

    def samples(self, places: Sequence[tuple[int, int]]) -> list[Sample]:
        """The samples at some (shard, row), read together; UserError for the first that is not as it was packed."""
        read = self.read([shard for shard, _ in places], [row for _, row in places], ("image", "json"))
        samples = []
        for (shard, row), found in zip(places, read, strict=True):
            if isinstance(found, Damage):
                raise UserError(found.detail)
            image, metadata = found
            key, captions = _key(self._layout(shard), row), tuple(json.loads(metadata)["captions"])
            identity = self._contents.names[int(self._contents.codes[shard][row])].as_py()
            samples.append(Sample(key=key, image=image, captions=captions, identity=identity))
        return samples

    def read(
        self, shards: Sequence[int] | Integers, rows: Sequence[int] | Integers, members: tuple[str, ...] = ("image",)
    ) -> list[tuple[bytes, ...] | Damage]:
        """The bytes of `members` ("image", "json") of the samples at these places, in the order asked for.

        Raises OSError or UserError where a store does not answer, and UserError for a damaged index.
        """
        places = [(int(shard), int(row)) for shard, row in zip(shards, rows, strict=True)]
        extents = self._extents(places, members)
        contents = self._tars.read(extents)
        found: list[tuple[bytes, ...] | Damage] = []
        for i, (shard, row) in enumerate(places):
            mine = slice(i * len(members), (i + 1) * len(members))
            found.append(self._checked(shard, row, members, extents[mine], contents[mine]))
        return found

    def blocks(self, shards: Integers, rows: Integers, members: tuple[str, ...]) -> list[Block]:
        """The blocks of the cache that `read` will look into, in the order of first use; none without a cache."""
        return self._tars.blocks(self._extents(list(zip(shards.tolist(), rows.tolist(), strict=True)), members))

    def load_ahead(self, block: Block) -> bool:
        """Have a block in the cache; False where all of the cache's room is needed earlier."""
        return self._tars.load_ahead(block)

    def _extents(self, places: list[tuple[int, int]], members: tuple[str, ...]) -> list[Extent]:
        extents = []
        for shard, row in places:
            layout = self._layout(shard)
            for member in members:
                where = layout.members[member]
                extents.append(Extent(shard, where.offset.item(row), where.size.item(row)))
        return extents

    def _read_layout(self, shard: int) -> Layout:
        rows = self._contents.rows
        return read_layout(self.dataset, self.shards[shard], None if rows is None else rows[shard])

    def _checked(
        self, shard: int, row: int, members: tuple[str, ...], extents: list[Extent], contents: list[bytes | OSError]
    ) -> tuple[bytes, ...] | Damage:
        """The members of one sample, or what is wrong with the first that is not as it was packed."""
        layout, hashed = self._layout(shard), self._verify == "sample" or not self._is_sound(shard)
        checked: list[bytes] = []
        for member, extent, content in zip(members, extents, contents, strict=True):
            expected = layout.members[member].sha256[row].tobytes()
            if hashed and not isinstance(content, OSError) and hashlib.sha256(content).digest() != expected:
                content = self._tars.read_anew(extent)
                if not isinstance(content, OSError) and hashlib.sha256(content).digest() != expected:
                    return self._damage(shard, row, member, None)
            if isinstance(content, OSError):
                return self._damage(shard, row, member, content)
            checked.append(content)
        return tuple(checked)

    def _damage(self, shard: int, row: int, member: str, error: OSError | None) -> Damage:
        key, tar = _key(self._layout(shard), row), tar_name(self.shards[shard].name)
        place = f"shard {self.dataset.store}/{tar}"
        if error is None:
            return Damage(key, "damaged", f"{place} is damaged at sample {key} ({member}); {pack_again(tar)}")
        return Damage(
            key, "unreadable", f"{place} cannot be read at sample {key} ({member}): {error}; {pack_again(tar)}"
        )

    def _is_sound(self, shard: int) -> bool:
        """Whether the members of a shard need no hashing, as the setting has it: of a tar that was hashed whole."""
        if self._verify != "shard":
            return self._verify == "off"
        mine: Future[bool] = Future()
        future = self._sound.setdefault(shard, mine)
        if future is mine:  # the first thread to come; the others wait for its answer
            try:
                mine.set_result(self._hash_tar(shard) == self.shards[shard].sha256)
            except BaseException as error:
                del self._sound[shard]  # no answer of the store: asked again next time
                mine.set_exception(error)
        return future.result()

    def _hash_tar(self, shard: int) -> str | None:
        """The sha256 (hex) of a whole tar, or None where it ends early."""
        digest, size = hashlib.sha256(), self.shards[shard].bytes
        for offset in range(0, size, PIECE):
            (piece,) = self._tars.read([Extent(shard, offset, min(PIECE, size - offset))])
            if isinstance(piece, OSError):
                return None
            digest.update(piece)
        return digest.hexdigest()


def _key(layout: Layout, row: int) -> str:
    return layout.key[row].decode()
