"""Features of a benchmark split on all ranks: every image once for the gallery, every caption once as a query."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from pretrain.augment import normalise
from pretrain.config import ModelSettings
from pretrain.loader import decode, stack
from pretrain.losses import gather_plain
from pretrain.retrieval import RetrievalMetrics, retrieval_metrics
from pretrain.text import PackedText, pack, tokenize
from sharding.reader import SplitReader

Item = TypeVar("Item")
Encode = Callable[[Tensor | None, PackedText | None], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """What the encoder takes: image (height, width) in pixels, caption tokens, and samples at a time."""

    image_size: tuple[int, int]
    context_length: int
    batch_size: int

    @classmethod
    def of(cls, model: ModelSettings, batch_size: int) -> "Shapes":
        """The shapes of a model."""
        return cls(
            image_size=model.vision_cfg.image_size,
            context_length=model.text_cfg.context_length,
            batch_size=batch_size,
        )


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
    often, with a spare sample whose result is dropped where it has run out, because ZeRO-3 gathers parameters inside.
    """
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    spare = benchmark.sample(0, 0)
    images, owners, captions = [], [], []
    for part in _equal_batches(range(rank, len(benchmark), world_size), shapes.batch_size):
        samples = [benchmark.sample(*benchmark.place(i)) for i in part]
        pixels = stack([decode(sample, shapes.image_size) for sample in samples or [spare]])
        images.append(encode(pixels, None)[0][: len(samples)])
        owners += [sample.identity for sample in samples]
        captions += [(caption, sample.identity) for sample in samples for caption in sample.captions]
    texts = []
    for pairs in _equal_batches(captions, shapes.batch_size):
        rows = [tokenize(caption, shapes.context_length) for caption, _ in pairs or [(spare.captions[0], "")]]
        texts.append(encode(None, pack(rows))[1][: len(pairs)])
    names = np.unique(np.concatenate([ids.astype(str) for ids in benchmark.identities]))
    return Features(
        query=_gather_rows(torch.cat(texts)),
        query_ids=_gather_rows(_numbers([owner for _, owner in captions], names)),
        gallery=_gather_rows(torch.cat(images)),
        gallery_ids=_gather_rows(_numbers(owners, names)),
    )


@torch.no_grad()
def encode(
    model: nn.Module, device: torch.device, images: Tensor | None, text: PackedText | None
) -> tuple[Tensor, Tensor]:
    """Normalised features fp32 [B, E] of uint8 images [B, 3, H, W] and of packed captions, each None if not asked for.

    `model` is a DualEncoder or the engine around one; it is left in evaluation mode.
    """
    model.eval()
    normalised = None if images is None else normalise(images.to(device))
    image, text_features, _ = model(normalised, None if text is None else text.to(device))
    return image, text_features


def _equal_batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """`items` in batches of `size`, and empty ones until every rank has had as many. All ranks must call."""
    for i in range(max(_over_ranks(-(-len(items) // size)))):
        yield items[i * size : (i + 1) * size]


def _numbers(owners: list[str], names: NDArray[np.str_]) -> Tensor:
    """The place of each owner among the sorted `names`, int64."""
    return torch.from_numpy(np.searchsorted(names, np.array(owners, dtype=names.dtype)).astype(np.int64))


def _gather_rows(mine: Tensor) -> Tensor:
    """This rank's rows [n, ...] and those of the other ranks, in rank order, on the CPU. All ranks must call."""
    sizes = _over_ranks(len(mine))
    padded = mine.new_zeros(max(sizes), *mine.shape[1:])
    padded[: len(mine)] = mine
    gathered = gather_plain(padded.to(_device())).cpu().split(max(sizes))
    return torch.cat([part[:size] for part, size in zip(gathered, sizes, strict=True)])


def _over_ranks(number: int) -> list[int]:
    """`number` of every rank. All ranks must call."""
    return gather_plain(torch.tensor([number], device=_device())).tolist()


def _device() -> str:
    """Where collectives want their tensors."""
    return "cuda" if dist.is_initialized() and dist.get_backend() == "nccl" else "cpu"
