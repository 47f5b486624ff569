"""Features of a benchmark split on all ranks: every image once for the gallery, every caption once as a query."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from pretrain.loader import decode, stack
from pretrain.losses import gather_plain
from pretrain.retrieval import RetrievalMetrics, retrieval_metrics
from pretrain.text import PackedText, pack, tokenize
from sharding.reader import SplitReader

Item = TypeVar("Item")
Encode = Callable[[Tensor | None, PackedText | None], tuple[Tensor | None, Tensor | None]]


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """What the encoder takes: image (height, width) in pixels, caption tokens, and samples at a time."""

    image_size: tuple[int, int]
    context_length: int
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class Features:
    """query [Q, E] and gallery [G, E], normalised fp32, with their identities as int64 [Q] and [G]."""

    query: Tensor
    query_ids: Tensor
    gallery: Tensor
    gallery_ids: Tensor

    def metrics(self) -> RetrievalMetrics:
        """Text -> image retrieval metrics; UserError if a query has no relevant image."""
        return retrieval_metrics(self.query, self.query_ids, self.gallery, self.gallery_ids)


def extract_features(encode: Encode, benchmark: SplitReader, shapes: Shapes) -> Features:
    """The features of one benchmark split. All ranks must call; each encodes every W-th image and its captions.

    `encode` maps uint8 images [B, 3, H, W] or packed captions to normalised features. Every rank calls it equally
    often, with a batch whose result is dropped where it has run out, because ZeRO-3 gathers parameters inside.
    """
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    names = np.unique(np.concatenate([ids.astype(str) for ids in benchmark.identities]))
    samples = [benchmark.sample(*benchmark.place(i)) for i in range(rank, len(benchmark), world_size)]
    spare = benchmark.sample(0, 0)
    identity = torch.from_numpy(np.searchsorted(names, np.array([s.identity for s in samples], dtype=names.dtype)))

    gallery = [
        encode(stack([decode(sample, shapes.image_size) for sample in part]), None)[0]
        for part in _equal_batches(samples, spare, shapes.batch_size)
    ]
    captions = [(caption, i) for i, sample in enumerate(samples) for caption in sample.captions]
    queries = [
        encode(None, pack([tokenize(caption, shapes.context_length) for caption, _ in part]))[1]
        for part in _equal_batches(captions, (spare.captions[0], 0), shapes.batch_size)
    ]
    owners = identity[torch.tensor([i for _, i in captions], dtype=torch.int64)]
    return Features(
        query=_gather_rows(queries, len(captions)),
        query_ids=_gather_rows([owners], len(captions)),
        gallery=_gather_rows(gallery, len(samples)),
        gallery_ids=_gather_rows([identity], len(samples)),
    )


def _equal_batches(items: list[Item], spare: Item, size: int) -> Iterator[list[Item]]:
    """`items` in batches of `size`, followed by batches of `spare` until every rank has had as many."""
    batches = -(-len(items) // size)
    for i in range(max(_over_ranks(batches))):
        yield items[i * size : (i + 1) * size] or [spare]


def _gather_rows(parts: list[Tensor | None], rows: int) -> Tensor:
    """The first `rows` rows of this rank's `parts`, followed by those of the other ranks in rank order, on the CPU."""
    mine = torch.cat([part for part in parts if part is not None])[:rows]
    sizes = _over_ranks(rows)
    padded = mine.new_zeros(max(sizes), *mine.shape[1:])
    padded[:rows] = mine
    gathered = gather_plain(padded).cpu().split(max(sizes))
    return torch.cat([part[:size] for part, size in zip(gathered, sizes, strict=True)])


def _over_ranks(number: int) -> list[int]:
    """`number` of every rank."""
    if not dist.is_initialized():
        return [number]
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    return gather_plain(torch.tensor([number], device=device)).tolist()
