"""The loader: plan -> bytes -> uint8 images and packed token rows, read and decoded ahead in threads.

    Mixture (plan, bytes, tokens)  ->  load_batch  ->  Loader  ->  Batch, Batch, ...

Its state is one position. Rank r of W takes positions [p + r * G / W, p + (r + 1) * G / W) of every global batch G, and
every random choice is drawn by (seed, position), so neither ranks nor threads change what a step sees. Threads and not
processes: reading, hashing, decoding and resizing let go of the interpreter, and nothing has to be copied between them.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray

from pretrain.augment import Views, draw_views, render
from pretrain.batch import Batch, Skipped
from pretrain.buffers import Buffers, Pixels, channels_first
from pretrain.config import DataSettings
from pretrain.decode import Image, Scratch, Undecodable, decode
from pretrain.mixture import Drawn, Mixture
from pretrain.skipping import SkipLimit
from pretrain.text import MaskedText, pack
from pretrain.text_augment import augment_ids, mask_ids
from sharding.bpe import Ids, swap_sides
from sharding.draws import uniforms
from sharding.errors import UserError
from sharding.read_ahead import ReadAhead
from sharding.reader import Damage

CHUNK = 128  # samples that a thread decodes at a time: of 32, drawing and locating took a tenth of the time (measured)
ATTEMPTS = 100  # samples tried in the place of a damaged one


Run = Callable[[Callable[[range], "Chunk"], Iterable[range]], Iterable["Chunk"]]


@dataclass(frozen=True, kw_only=True)
class LoaderSettings:
    """What a rank's loader needs to know besides the mixture."""

    data: DataSettings
    image_size: tuple[int, int]  # height, width
    context_length: int
    global_batch: int
    rank: int
    world_size: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def share(self) -> int:
        """This rank's samples of every global batch."""
        return self.global_batch // self.world_size

    def first(self, position: int) -> int:
        """This rank's first position of the global batch that begins at `position`."""
        return position + self.rank * self.share


class Loader:
    """Endless batches of one rank, on its device, from `position` on; `close()` ends its threads.

    Batches come in order; iterating raises UserError where more samples are damaged than `data.max_skipped` allows.
    """

    def __init__(self, mixture: Mixture, settings: LoaderSettings, position: int) -> None:
        assert settings.global_batch % settings.world_size == 0
        data, cuda = settings.data, settings.device.type == "cuda"
        self._mixture, self._settings = mixture, settings
        self._buffers = Buffers((settings.share, *settings.image_size, 3), pinned=cuda)
        self._skips = SkipLimit(data.max_skipped)
        self._copying = torch.cuda.Stream(settings.device) if cuda else None
        # One thread of torch's own for each decoding thread: torch.flip would start a team of them (6 times the CPU).
        self._decoders = ThreadPoolExecutor(
            data.threads, thread_name_prefix="decode", initializer=torch.set_num_threads, initargs=(1,)
        )
        self._batches = ThreadPoolExecutor(data.prefetch, thread_name_prefix="batch")
        self._ahead: deque[Future[Batch]] = deque()
        self._next = position
        self._read_ahead = _read_ahead(mixture, settings, position)
        for _ in range(data.prefetch):
            self._submit()

    def __iter__(self) -> Iterator[Batch]:
        while True:
            if self._read_ahead is not None:
                self._read_ahead.advance(self._next - len(self._ahead) * self._settings.global_batch)
            batch = self._ahead.popleft().result()
            self._submit()
            if self._copying is not None:
                for tensor in batch.tensors:  # the allocator must not reuse them while this stream reads them
                    tensor.record_stream(torch.cuda.current_stream(self._settings.device))
            self._skips.count(batch)
            yield batch

    def close(self) -> None:
        """End the threads, when they have finished what they are reading, and drop what is loaded ahead."""
        self._batches.shutdown(wait=False, cancel_futures=True)
        if self._read_ahead is not None:
            self._read_ahead.close()
        self._batches.shutdown(wait=True)
        self._decoders.shutdown(wait=True)
        self._ahead.clear()

    def _submit(self) -> None:
        self._ahead.append(self._batches.submit(self._load, self._next))
        self._next += self._settings.global_batch

    def _load(self, position: int) -> Batch:
        batch = load_batch(self._mixture, self._settings, position, self._buffers.take(), self._decoders.map)
        if self._copying is None:
            return batch
        # Waited for in this thread, while the training step goes on: then the pinned memory is free again.
        with torch.cuda.stream(self._copying):
            moved = batch.to(self._settings.device)
        self._copying.synchronize()
        return moved


def _read_ahead(mixture: Mixture, settings: LoaderSettings, position: int) -> ReadAhead | None:
    """What fetches the coming batches into the mixture's cache, at work; None without a cache."""
    if mixture.cache is None or not mixture.remote:
        return None
    coming = (settings.first(begin) for begin in count(position, settings.global_batch))
    batches = (range(first, first + settings.share) for first in coming)
    members = [mixture.members(stream) for stream in range(len(mixture.readers))]
    return ReadAhead(mixture.plan, mixture.readers, mixture.cache, batches, members, position)


def load_batch(
    mixture: Mixture, settings: LoaderSettings, position: int, pixels: Pixels | None = None, run: Run = map
) -> Batch:
    """The batch of `settings.rank` in the global batch that begins at `position`.

    The images are written to `pixels`, uint8 [b, H, W, 3], if it is given; `run` is a `map` that may use threads.
    """
    share, first = settings.share, settings.first(position)
    if pixels is None:
        pixels = np.empty((share, *settings.image_size, 3), np.uint8)
    # From a bucket, a whole batch is read at once: the more samples, the more of them are neighbours.
    read = mixture.read(np.arange(first, first + share)) if mixture.remote else None

    def load(places: range) -> Chunk:
        drawn = read[places.start : places.stop] if read else None
        return load_chunk(mixture, settings, first + places.start, pixels[places.start : places.stop], drawn)

    chunks = list(run(load, [range(begin, min(begin + CHUNK, share)) for begin in range(0, share, CHUNK)]))
    samples = [sample for chunk in chunks for sample in chunk.samples]
    rows = [row for chunk in chunks for row in chunk.rows]
    masked = [row for chunk in chunks for row in chunk.masked]
    text = pack(rows, bucket=settings.data.token_bucket, context_length=settings.context_length)
    return Batch(
        images=channels_first(pixels),
        text=text,
        identity=torch.from_numpy(mixture.identity(samples)),
        position=position,
        keys=tuple(sample.key for sample in samples),
        masked=MaskedText.of(masked, beside=text) if masked else None,
        skipped=tuple(skipped for chunk in chunks for skipped in chunk.skipped),
    )


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """What one thread loads at a time, besides the pixels: see Batch. `masked` is empty where data.mlm is 0."""

    samples: list[Drawn]
    rows: list[Ids]
    masked: list[tuple[Ids, NDArray[np.int64]]]
    skipped: list[Skipped]


def load_chunk(
    mixture: Mixture, settings: LoaderSettings, first: int, pixels: Pixels, drawn: list[Drawn | Damage] | None = None
) -> Chunk:
    """The samples of the positions from `first` on, their images written to `pixels` uint8 [n, H, W, 3].

    `drawn` are the samples where they have been read already.
    """
    count, data = len(pixels), settings.data
    if drawn is None:
        drawn = mixture.read(np.arange(first, first + count))
    views = draw_views(data, settings.image_size, mixture.plan.seed, first, count)
    samples: list[Drawn] = []
    skipped: list[Skipped] = []
    for place, found in enumerate(drawn):
        sample, image = _decoded(mixture, settings, first + place, found, skipped)
        render(image, views, place, data.pad, pixels[place])
        samples.append(sample)
    rows, masked = _captions(mixture, settings, first, samples, views)
    return Chunk(samples=samples, rows=rows, masked=masked, skipped=skipped)


def _decoded(
    mixture: Mixture, settings: LoaderSettings, position: int, drawn: Drawn | Damage, skipped: list[Skipped]
) -> tuple[Drawn, Image]:
    """The sample of the plan, or the first whole one of those that stand in for it, and its image."""
    for attempt in range(ATTEMPTS):
        if isinstance(drawn, Damage):
            skipped.append(Skipped(position, *drawn))
        else:
            try:
                return drawn, decode(drawn.image, settings.image_size, _scratch())
            except Undecodable as error:
                skipped.append(Skipped(position, drawn.key, "undecodable", str(error)))
        [drawn] = mixture.read([mixture.plan.substitute(position, attempt)])
    last = skipped[-1].detail
    raise UserError(f"{ATTEMPTS} samples were tried at position {position}, and all are damaged: {last}")


_own = threading.local()


def _scratch() -> Scratch:
    """This thread's."""
    if not hasattr(_own, "scratch"):
        _own.scratch = Scratch()
    scratch: Scratch = _own.scratch
    return scratch


def _captions(
    mixture: Mixture, settings: LoaderSettings, first: int, samples: list[Drawn], views: Views
) -> tuple[list[Ids], list[tuple[Ids, NDArray[np.int64]]]]:
    """The token rows of the samples' captions and, where data.mlm asks for them, masked copies with their labels."""
    data, seed, context = settings.data, mixture.plan.seed, settings.context_length
    choice = uniforms(seed, "caption", first, len(samples), 1)[:, 0].tolist()
    rows = [mixture.ids(sample, chance, context) for sample, chance in zip(samples, choice, strict=True)]
    if data.swap_sides:
        rows = [swap_sides(ids) if flipped else ids for ids, flipped in zip(rows, views.flip, strict=True)]
    originals = rows
    if data.mask_words or data.replace_words or data.delete_words:
        draws = uniforms(seed, "words", first, len(samples), 2 * context).reshape(-1, context, 2)
        augmented = [augment_ids(ids, data, draw) for ids, draw in zip(rows, draws, strict=True)]
        rows, originals = [view for view, _ in augmented], [kept for _, kept in augmented]
    if not data.mlm:
        return rows, []
    # Of the words as they were: what augmentation put there is not to be predicted.
    draws = uniforms(seed, "mlm", first, len(samples), 3 * context).reshape(-1, context, 3)
    return rows, [mask_ids(ids, data.mlm, draw) for ids, draw in zip(originals, draws, strict=True)]
