"""Captions as token ids, written once beside the shards: a sidecar file for each shard, found by what it was made of.

    pretrain_110k-train-000000.<shard>-<tokenizer>.tokens

Both parts of the name are hashes, of the shard's index and of the tokenizer: what was made of another packing, or by
another tokenizer, is never found. A file holds a head (FORM, counts, the sha256 of the rest) and three arrays:
u32 [N + 1] the first caption of each of N samples, u32 [C + 1] where each of C captions begins, u16 [T] the ids, all
little-endian; nothing is truncated.
"""

import hashlib
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from sharding.bpe import Ids, encode, tokenizer_hash
from sharding.companions import TOKENS, tokens_name
from sharding.dataset import Dataset, read_index
from sharding.errors import UserError
from sharding.index import Shard
from sharding.members import read_members
from sharding.pool import run
from sharding.store import Store

FORM = b"person-tokens-1\n"
HEAD = struct.Struct("<16sQQQ32s")  # form, samples, captions, ids, sha256 of what follows
KEPT = 64  # shards whose tokens are held: a window and the next, of several datasets


@dataclass(frozen=True, kw_only=True)
class ShardTokens:
    """The captions of one shard as ids, by row of the shard's index."""

    first: NDArray[np.uint32]
    begin: NDArray[np.uint32]
    ids: Ids

    def captions(self, row: int) -> int:
        """How many captions the sample has."""
        return int(self.first[row + 1] - self.first[row])

    def row(self, row: int, caption: int) -> Ids:
        """The ids of one of its captions, uint16 [L], with start and end token."""
        number = int(self.first[row]) + caption
        return self.ids[self.begin[number] : self.begin[number + 1]]


class Tokens:
    """The sidecars of a dataset; thread-safe."""

    def __init__(self, store: Store, in_use: int) -> None:
        self._read = lru_cache(max(in_use, KEPT))(partial(_read_tokens, store))

    def of(self, shard: Shard) -> ShardTokens:
        """The tokens of one shard; UserError where the file is damaged."""
        return self._read(shard)


def open_tokens(dataset: Dataset, in_use: int = KEPT) -> Tokens | None:
    """The sidecars of a dataset, or None where there are none; UserError where some shards have them and others not.

    At least as many shards as are `in_use` at a time are kept in memory.
    """
    missing = _missing(dataset)
    if len(missing) == len(dataset.shards):
        return None
    if missing:
        raise UserError(
            f"{dataset.store}: {len(missing)} of {len(dataset.shards)} shards have no tokens; finish them with "
            f"`sharding tokenize --data {dataset.store}`"
        )
    return Tokens(dataset.store, in_use)


@dataclass(frozen=True, kw_only=True)
class Tokenized:
    """What `tokenize` did: shards written and found there, captions and ids written."""

    written: int
    kept: int
    captions: int
    ids: int


def tokenize(dataset: Dataset, *, workers: int = 1, progress: Callable[[int, int], None] | None = None) -> Tokenized:
    """Write the sidecars that are missing or damaged; a call that was interrupted is finished by the next one.

    `progress` hears of (samples done, samples to do). UserError for shards whose captions are damaged.
    """
    missing = [shard for shard in dataset.shards if not _is_whole(dataset, shard)]
    samples = {shard.name: shard.samples for shard in missing}
    done, captions, ids = 0, 0, 0
    processes = min(workers, len(missing))  # each loads the tokenizer, and torch with it: three seconds of CPU
    for name, more_captions, more_ids in run(partial(_tokenize_shard, dataset), missing, workers=processes):
        done, captions, ids = done + samples[name], captions + more_captions, ids + more_ids
        if progress:
            progress(done, sum(samples.values()))
    return Tokenized(written=len(missing), kept=len(dataset.shards) - len(missing), captions=captions, ids=ids)


def _missing(dataset: Dataset) -> list[Shard]:
    there = {name for name, _ in dataset.store.names() if TOKENS.fullmatch(name)}
    return [shard for shard in dataset.shards if tokens_name(shard, tokenizer_hash()) not in there]


def _is_whole(dataset: Dataset, shard: Shard) -> bool:
    try:
        _read_tokens(dataset.store, shard)
    except (FileNotFoundError, UserError):
        return False
    return True


def _tokenize_shard(dataset: Dataset, shard: Shard) -> tuple[str, int, int]:
    """Write one sidecar; the shard's name, how many captions it has, and how many ids they have."""
    first, rows = [0], []
    for captions in _captions(dataset, shard):
        rows += [encode(caption) for caption in captions]
        first.append(len(rows))
    begin = np.cumsum([0, *(len(row) for row in rows)]).astype("<u4")
    ids = np.concatenate([np.empty(0, "<u2"), *rows])
    body = b"".join((np.array(first, "<u4").tobytes(), begin.tobytes(), ids.astype("<u2").tobytes()))
    head = HEAD.pack(FORM, len(first) - 1, len(rows), len(ids), hashlib.sha256(body).digest())
    dataset.store.write(tokens_name(shard, tokenizer_hash()), head + body)
    return shard.name, len(rows), len(ids)


def _captions(dataset: Dataset, shard: Shard) -> Iterator[Sequence[str]]:
    index = read_index(dataset, shard, ["key", "json_offset", "json_size", "json_sha256"])
    for (content,) in read_members(dataset, shard, index, ("json",)):
        yield json.loads(content)["captions"]


def _read_tokens(store: Store, shard: Shard) -> ShardTokens:
    name = tokens_name(shard, tokenizer_hash())
    data = store.read(name)
    damaged = UserError(f"{store}/{name} is damaged: `sharding tokenize --data {store}` writes it again")
    if len(data) < HEAD.size:
        raise damaged
    form, samples, captions, ids, digest = HEAD.unpack_from(data)
    body = memoryview(data)[HEAD.size :]
    size = 4 * (samples + 1) + 4 * (captions + 1) + 2 * ids
    if form != FORM or samples != shard.samples or len(body) != size or hashlib.sha256(body).digest() != digest:
        raise damaged
    first = np.frombuffer(body, "<u4", samples + 1)
    begin = np.frombuffer(body, "<u4", captions + 1, offset=first.nbytes)
    return ShardTokens(first=first, begin=begin, ids=np.frombuffer(body, "<u2", ids, first.nbytes + begin.nbytes))
