"""The samples of a whole dataset as columns of numbers, for `sharding stats`: read shard by shard, strings as hashes.

n samples in packing order, c captions in the order of their samples. A sample takes about 50 bytes and a caption 16.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sharding.dataset import Dataset, read_index
from sharding.errors import UserError
from sharding.index import Shard, index_name
from sharding.members import read_members

if TYPE_CHECKING:
    import pyarrow

WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*")
MEASURED = ["identity", "source", "image_sha256", "image_size", "width", "height", "score", "caption_words"]
ORDER = ("train", "restval", "val", "test", "query", "gallery")  # of what is told about splits; others follow
LOCATED = ["key", "json_offset", "json_size", "json_sha256"]


@dataclass(frozen=True, kw_only=True)
class Occurrence:
    """A sample that is told about."""

    key: str
    split: str
    identity: str


class Samples:
    """All samples of a dataset. Equal strings and equal images have equal hashes of 64 bits.

    Different ones have the same by chance once in 90,000 datasets of 20 million captions. Every array is allocated
    once: small pieces kept while large ones are freed left holes that made up 400 MB for a million samples.
    """

    def __init__(self, dataset: Dataset) -> None:
        n = sum(shard.samples for shard in dataset.shards)
        self.dataset = dataset
        self.splits = tuple(sorted({shard.split for shard in dataset.shards}, key=_rank))
        self.sources: dict[str, int] = {}
        self.split = np.empty(n, np.int32)  # places in `splits`
        self.source = np.empty(n, np.int32)  # values of `sources`
        self.identity = np.empty(n, np.uint64)
        self.image = np.empty(n, np.uint64)
        self.image_bytes = np.empty(n, np.int64)
        self.size = np.empty((n, 2), np.int32)  # width and height in pixels
        self.score = np.empty(n, np.float64)  # NaN where there is none
        self.captions = np.empty(n, np.int32)  # how many
        self.words = np.empty(0, np.int32)  # [c], between white space
        self.caption_hash = np.empty(0, np.uint64)  # [c], empty where captions were not read
        self.raw_words: dict[tuple[int, int], set[str]] = {}  # by split and source: what white space separates
        self.index = lru_cache(maxsize=4)(self._index)

    @property
    def captions_read(self) -> bool:
        """Whether captions, and not only their numbers of words, are known."""
        return len(self.caption_hash) == len(self.words)

    def __len__(self) -> int:
        return len(self.split)

    @property
    def caption_owner(self) -> NDArray[np.int32]:
        """The sample of every caption, [c]."""
        return np.repeat(np.arange(len(self), dtype=np.int32), self.captions)

    def fill(self, first: int, shard: Shard, table: "pyarrow.Table") -> None:
        """Set the rows of one shard, which begin at `first`."""
        import pyarrow.compute as pc

        rows = slice(first, first + len(table))
        self.split[rows] = self.splits.index(shard.split)
        self.source[rows] = [self.sources.setdefault(name, len(self.sources)) for name in table["source"].to_pylist()]
        self.identity[rows] = [hash_of(identity) for identity in table["identity"].to_pylist()]
        self.image[rows] = np.frombuffer(b"".join(table["image_sha256"].to_pylist()), "<u8")[::4]
        self.image_bytes[rows] = table["image_size"].to_numpy()
        self.size[rows, 0], self.size[rows, 1] = table["width"].to_numpy(), table["height"].to_numpy()
        self.score[rows] = table["score"].to_numpy()
        self.captions[rows] = pc.list_value_length(table["caption_words"]).to_numpy()

    def vocabulary(self, chosen: NDArray[np.bool_]) -> set[str]:
        """The words of the chosen samples, which are all of a split or of a source."""
        together = self.split[chosen] * len(self.sources) + self.source[chosen]
        groups = [divmod(code, len(self.sources)) for code in np.flatnonzero(np.bincount(together)).tolist()]
        return vocabulary(self.raw_words.get(group, set()) for group in groups)

    def occurrence(self, row: int) -> Occurrence:
        """A sample in words, from its index."""
        number, row = self._place(row)
        [found] = self.index(number).slice(row, 1).select(["key", "identity"]).to_pylist()
        return Occurrence(**found, split=self.dataset.shards[number].split)

    def caption(self, row: int, wanted: int) -> str:
        """The caption of a sample that has the hash `wanted`, from its shard."""
        number, row = self._place(row)
        [(metadata,)] = read_members(
            self.dataset, self.dataset.shards[number], self.index(number).slice(row, 1), ("json",)
        )
        return next(caption for caption in json.loads(metadata)["captions"] if hash_of(caption) == wanted)

    def _place(self, row: int) -> tuple[int, int]:
        """The number of the shard, and the row in it."""
        ends = np.cumsum([shard.samples for shard in self.dataset.shards])
        number = int(np.searchsorted(ends, row, side="right"))
        return number, row - int(ends[number]) + self.dataset.shards[number].samples

    def _index(self, number: int) -> "pyarrow.Table":
        return read_index(self.dataset, self.dataset.shards[number], [*LOCATED, "identity"])


def _rank(split: str) -> tuple[int, str]:
    return ORDER.index(split) if split in ORDER else len(ORDER), split


def read_samples(dataset: Dataset, *, captions: bool, progress: Callable[[int, int], None] | None) -> Samples:
    """Every index of the dataset and, if asked, every caption; `progress` is called after every shard."""
    samples = Samples(dataset)
    hashes, words = [np.empty(0, np.uint64)], [np.empty(0, np.int32)]
    first = 0
    for shard in dataset.shards:
        table = read_index(dataset, shard, [*MEASURED, *LOCATED])
        if len(table) != shard.samples:
            raise UserError(f"{dataset.store}/{index_name(shard.name)} has not the {shard.samples} rows of its shard")
        samples.fill(first, shard, table)
        words.append(table["caption_words"].combine_chunks().flatten().to_numpy())
        if captions:
            hashes.append(_read_captions(samples, first, shard, table))
            if len(hashes[-1]) != len(words[-1]):
                raise UserError(f"{dataset.store}/{index_name(shard.name)} does not count the captions of its shard")
        first += len(table)
        if progress:
            progress(first, len(samples))
    samples.caption_hash, samples.words = np.concatenate(hashes), np.concatenate(words)
    return samples


def _read_captions(samples: Samples, first: int, shard: Shard, table: "pyarrow.Table") -> NDArray[np.uint64]:
    """The hashes of a shard's captions in order; what white space separates in them goes to `raw_words`."""
    hashes: list[int] = []
    rows = slice(first, first + len(table))
    groups = zip(samples.split[rows].tolist(), samples.source[rows].tolist(), strict=True)
    for (metadata,), group in zip(read_members(samples.dataset, shard, table, ("json",)), groups, strict=True):
        known = samples.raw_words.setdefault(group, set())
        for caption in json.loads(metadata)["captions"]:
            hashes.append(hash_of(caption))
            known.update(caption.split())
    return np.array(hashes, dtype=np.uint64)


def hash_of(text: str) -> int:
    """64 bits that stand for a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def vocabulary(raw_words: Iterable[set[str]]) -> set[str]:
    """The words in these sets: lower-cased, in composed form (NFC), runs of letters and digits with inner hyphens.

    >>> sorted(vocabulary([{"T-shirt,", "t-shirt", "(café)", "man's"}]))
    ['café', 'man', 's', 't-shirt']
    """
    found: set[str] = set()
    for group in raw_words:
        for raw in group:
            found.update(WORD.findall(unicodedata.normalize("NFC", raw.lower())))
    return found
