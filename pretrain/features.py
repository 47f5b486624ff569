"""Features of a benchmark split on all ranks: every image once for the gallery, every caption once as a query.

Rows stand in packing order (captions image by image) whatever the number of ranks, so that features can be kept and
compared; whose they are follows from the split's index, without a look into the shards.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from pretrain.augment import normalise
from pretrain.config import ModelSettings
from pretrain.losses import gather_plain
from pretrain.pictures import picture, stacked
from pretrain.retrieval import RetrievalMetrics, retrieval_metrics
from pretrain.text import PackedText, pack, token_row
from sharding.reader import SplitReader

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
Encode = Callable[[Tensor | None, PackedText | None], tuple[Tensor, Tensor]]
Progress = Callable[[int, int], None]  # (done, total)


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
class Labels:
    """Who is on the G images of a split, in packing order, from its index alone.

    keys: G sample keys. gallery_ids: int64 [G], contiguous from 0 in the order of the identities' names. captions:
    int64 [G], the number of captions of each image; they sum to Q.
    """

    keys: tuple[str, ...]
    gallery_ids: Tensor
    captions: Tensor

    @classmethod
    def of(cls, benchmark: SplitReader) -> "Labels":
        """The labels of a split; UserError if an index is damaged."""
        import pyarrow.compute as pc

        table = benchmark.index(["key", "identity", "caption_words"])
        identities = np.array(table["identity"].to_pylist())
        captions = pc.list_value_length(table["caption_words"]).to_numpy()
        return cls(
            keys=tuple(table["key"].to_pylist()),
            gallery_ids=torch.from_numpy(np.unique(identities, return_inverse=True)[1].astype(np.int64)),
            captions=torch.from_numpy(captions.astype(np.int64)),
        )

    @cached_property
    def query_ids(self) -> Tensor:
        """The identity of every caption, int64 [Q]."""
        return self.gallery_ids.repeat_interleave(self.captions)

    @cached_property
    def caption_names(self) -> tuple[str, ...]:
        """What errors call the Q captions: key and number, such as `cuhk_pedes-000000007 caption 2`."""
        counts = zip(self.keys, self.captions.tolist(), strict=True)
        return tuple(f"{key} caption {number + 1}" for key, count in counts for number in range(count))


@dataclass(frozen=True, kw_only=True)
class Features:
    """query [Q, E] and gallery [G, E], normalised fp32 on the CPU, with their identities as int64 [Q] and [G]."""

    query: Tensor
    query_ids: Tensor
    gallery: Tensor
    gallery_ids: Tensor

    def metrics(self) -> RetrievalMetrics:
        """Text -> image retrieval metrics; UserError if a query has no relevant image."""
        return retrieval_metrics(self.query, self.query_ids, self.gallery, self.gallery_ids)


def extract_features(
    encode: Encode, benchmark: SplitReader, shapes: Shapes, progress: Progress | None = None
) -> Features:
    """The features of one benchmark split, in packing order. All ranks must call; each encodes one stretch of images.

    `encode` maps uint8 images [B, 3, H, W] or packed captions to normalised features. Every rank calls it equally
    often, with a spare sample whose result is dropped where it has run out, because ZeRO-3 gathers parameters inside.
    The next batch is read and decoded while `encode` runs. `progress` hears of this rank's images and captions.
    """
    labels = Labels.of(benchmark)
    mine, spare = _share(len(benchmark)), benchmark.sample(0, 0)
    total = len(mine) + int(labels.captions[mine.start : mine.stop].sum())

    def load_images(part: Sequence[int]) -> tuple[Tensor, list[str], int]:
        samples = benchmark.samples([benchmark.place(i) for i in part])
        pixels = stacked([picture(sample, shapes.image_size) for sample in samples or [spare]])
        return pixels, [caption for sample in samples for caption in sample.captions], len(part)

    def load_text(part: Sequence[str]) -> tuple[PackedText, int]:
        return pack([token_row(caption, shapes.context_length) for caption in part or spare.captions[:1]]), len(part)

    images, texts, captions, done = [], [], [], 0
    for pixels, owned, count in _one_ahead(load_images, _equal_batches(mine, shapes.batch_size)):
        images.append(encode(pixels, None)[0][:count].cpu())
        captions += owned
        done += count
        if progress:
            progress(done, total)
    assert len(mine) + len(captions) == total, "the index counts other captions than the shards hold"
    for text, count in _one_ahead(load_text, _equal_batches(captions, shapes.batch_size)):
        texts.append(encode(None, text)[1][:count].cpu())
        done += count
        if progress:
            progress(done, total)
    return Features(
        query=_gather_rows(torch.cat(texts)),
        query_ids=labels.query_ids,
        gallery=_gather_rows(torch.cat(images)),
        gallery_ids=labels.gallery_ids,
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


def _share(number: int) -> range:
    """This rank's stretch of `number` items; the stretches of all ranks laid end to end are all of them, in order."""
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    return range(number * rank // world_size, number * (rank + 1) // world_size)


def _one_ahead(load: Callable[[Item], Loaded], items: Iterable[Item]) -> Iterator[Loaded]:
    """`load(item)` of each item in order, run in a thread while the caller still works on the one before."""
    with ThreadPoolExecutor(1, thread_name_prefix="load") as pool:
        ahead: Future[Loaded] | None = None
        for item in items:
            following = pool.submit(load, item)
            if ahead is not None:
                yield ahead.result()
            ahead = following
        if ahead is not None:
            yield ahead.result()


def _equal_batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """`items` in batches of `size`, and empty ones until every rank has had as many. All ranks must call."""
    for i in range(max(over_ranks(-(-len(items) // size)))):
        yield items[i * size : (i + 1) * size]


def _gather_rows(mine: Tensor) -> Tensor:
    """This rank's rows [n, ...] and those of the other ranks, in rank order, on the CPU. All ranks must call."""
    sizes = over_ranks(len(mine))
    padded = mine.new_zeros(max(sizes), *mine.shape[1:])
    padded[: len(mine)] = mine
    gathered = gather_plain(padded.to(_device())).cpu().split(max(sizes))
    return torch.cat([part[:size] for part, size in zip(gathered, sizes, strict=True)])


def over_ranks(number: int) -> list[int]:
    """`number` of every rank. All ranks must call."""
    return gather_plain(torch.tensor([number], device=_device())).tolist()


def _device() -> str:
    """Where collectives want their tensors."""
    return "cuda" if dist.is_initialized() and dist.get_backend() == "nccl" else "cpu"
