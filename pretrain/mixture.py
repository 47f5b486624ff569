"""The datasets of a run: their readers, their captions' tokens, their plan, and one integer per identity over all.

SplitReader (bytes) + Tokens (captions) + Plan (order)  ->  Mixture  ->  Loader
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pretrain.config import HELD_OUT, DataSettings, Settings
from pretrain.text import token_row
from sharding.bpe import Ids, truncate
from sharding.cache import BlockCache
from sharding.dataset import open_dataset
from sharding.errors import UserError
from sharding.people import People
from sharding.plan import Plan, Stream
from sharding.reader import Damage, SplitReader
from sharding.store import LocalStore
from sharding.tokens import Tokens, open_tokens


@dataclass(frozen=True, slots=True)
class Drawn:
    """A sample of the plan with its bytes. `row` counts the rows of the reader; `json` is read only without tokens."""

    stream: int
    shard: int
    row: int
    key: str
    image: bytes
    json: bytes | None


class Mixture:
    """The datasets of a run, by global position. Safe to share between threads.

    `cached` is False where nothing but indexes will be read, and no cache is to be made. Raises UserError where a
    dataset is missing, half written, lacks the split or has images without captions in it.
    """

    def __init__(self, settings: DataSettings, seed: int, *, cached: bool = True) -> None:
        kept = People(share=settings.hold_out, held_out=False) if settings.hold_out else None
        self.cache = _cache(settings) if cached else None
        # A window and the next; people stand in any shard.
        in_use = 3 * settings.window if settings.sampler == "random" else 1 << 20
        self.readers = [
            SplitReader(
                open_dataset(settings.place(part.path)),
                settings.split,
                kept,
                verify=settings.verify,
                cache=self.cache,
                in_use=in_use,
            )
            for part in settings.mixture
        ]
        self.remote = any(not isinstance(reader.dataset.store, LocalStore) for reader in self.readers)
        for reader in self.readers:
            _require_captions(reader)
        self.tokens: list[Tokens | None] = [open_tokens(reader.dataset, in_use) for reader in self.readers]
        self.plan = self._plan(settings, seed, f"{settings.split}, {kept}" if kept else settings.split)
        self.identities, self._numbers = _number(self.readers)
        self._starts = [np.cumsum([0, *reader.shard_samples]) for reader in self.readers]

    def _plan(self, settings: DataSettings, seed: int, split: str) -> Plan:
        streams = [
            Stream(
                name=reader.dataset.name,
                root_hash=reader.dataset.root_hash,
                split=split,
                shard_samples=reader.shard_samples,
                weight=part.weight,
            )
            for reader, part in zip(self.readers, settings.mixture, strict=True)
        ]
        try:
            if settings.sampler == "identity":
                people = [reader.identity_codes for reader in self.readers]
                return Plan(streams, seed=seed, identities=people, per_identity=settings.per_identity)
            return Plan(streams, seed=seed, window=settings.window)
        except ValueError as error:
            raise UserError(str(error)) from None

    @property
    def working_set(self) -> int:
        """Bytes of the tars in a bucket that are read from at a time: of a window, or all where people are sampled."""
        total = 0
        for reader in self.readers:
            if not isinstance(reader.dataset.store, LocalStore):
                sizes = sorted((shard.bytes for shard in reader.shards), reverse=True)
                total += sum(sizes if self.plan.per_identity > 1 else sizes[: self.plan.window])
        return total

    def describe(self) -> str:
        """How samples are read, in a line for the start of the log."""
        encoded = sum(tokens is None for tokens in self.tokens)
        place = "buckets" if self.remote else "folders"
        if self.remote:
            cache = self.cache
            place += f", through {cache.directory} ({cache.limit_bytes / 1e9:g} GB)" if cache else ", without a cache"
        captions = f"captions of {encoded} datasets encoded meanwhile" if encoded else "captions encoded beforehand"
        return f"reading from {place}; {captions}"

    def members(self, stream: int) -> tuple[str, ...]:
        """What is read of a stream's samples: captions only where their tokens were not written beforehand."""
        return ("image",) if self.tokens[stream] else ("image", "json")

    def read(self, positions: Sequence[int] | NDArray[np.int64]) -> list[Drawn | Damage]:
        """The samples at `positions`, in their order, each read with its neighbours in the shards."""
        places = self.plan.locate(positions)
        found: list[Drawn | Damage] = [None] * len(positions)  # type: ignore[list-item]
        for stream, reader in enumerate(self.readers):
            mine = np.flatnonzero(places.stream == stream)
            if not len(mine):
                continue
            shards, rows = places.shard[mine], places.row[mine]
            keys = reader.keys(shards, rows)
            read = reader.read(shards, rows, self.members(stream))
            where = zip(mine.tolist(), shards.tolist(), rows.tolist(), keys, read, strict=True)
            for place, shard, row, key, content in where:
                if isinstance(content, Damage):
                    found[place] = content
                else:
                    found[place] = Drawn(stream, shard, row, key, content[0], content[1] if len(content) > 1 else None)
        return found

    def ids(self, sample: Drawn, choice: float, context_length: int) -> Ids:
        """Token ids of one of the sample's captions, drawn by `choice` in [0, 1). uint16 [L]."""
        tokens, reader = self.tokens[sample.stream], self.readers[sample.stream]
        if tokens is None:
            assert sample.json is not None
            captions: list[str] = json.loads(sample.json)["captions"]
            return token_row(captions[int(choice * len(captions))], context_length)
        written, row = tokens.of(reader.shards[sample.shard]), int(reader.rows(sample.shard)[sample.row])
        return truncate(written.row(row, int(choice * written.captions(row))), context_length)

    def identity(self, samples: Sequence[Drawn]) -> NDArray[np.int64]:
        """The number of each sample's identity, contiguous over the mixture. int64 [n]."""
        return np.array([self._numbers[s.stream][self._starts[s.stream][s.shard] + s.row] for s in samples], np.int64)


def _number(readers: list[SplitReader]) -> tuple[dict[str, int], list[NDArray[np.int32]]]:
    """The number of every name, in the order of names, and those of every reader's samples in packing order."""
    names = sorted({name for reader in readers for name in reader.identity_names})
    numbers = {name: number for number, name in enumerate(names)}
    new = [np.array([numbers[name] for name in reader.identity_names], np.int32) for reader in readers]
    return numbers, [codes[np.concatenate(reader.identity_codes)] for codes, reader in zip(new, readers, strict=True)]


def _cache(settings: DataSettings) -> BlockCache | None:
    if settings.cache.dir is None:
        return None
    return BlockCache(settings.cache.dir, int(settings.cache.gb * 1e9))


def _require_captions(reader: SplitReader) -> None:
    if bare := int((reader.captions == 0).sum()):
        raise UserError(
            f"{reader.dataset.store}: {bare:,} images of split {reader.split!r} have no caption; "
            "`sharding pseudo-text` can write some"
        )


def open_evaluated(settings: Settings) -> SplitReader | None:
    """The people that `eval` measures on, or None where it names none; UserError where they are not there."""
    if settings.eval.data is None:
        return None
    dataset = open_dataset(settings.data.place(settings.eval.data))
    people = People(share=settings.data.hold_out, held_out=True) if settings.eval.split == HELD_OUT else None
    return SplitReader(dataset, settings.evaluated_split, people)
