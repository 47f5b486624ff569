"""The loader: plan -> bytes -> uint8 images and packed token rows, decoded ahead in threads.

    SplitReader (bytes) + Plan (order)  ->  Mixture  ->  Loader  ->  Batch, Batch, ...

Its state is one position. Rank r of W takes positions [p + r * G / W, p + (r + 1) * G / W) of every global batch G, and
every random choice is drawn by (seed, position), so neither ranks nor threads change what a step sees.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import simplejpeg
import torch
from PIL import Image as PillowImage
from torch import Tensor

from pretrain.augment import Image, augment
from pretrain.config import HELD_OUT, DataSettings, Settings
from pretrain.text import MaskedText, PackedText, pack, tokenize
from pretrain.text_augment import augment_ids, mask_ids
from sharding.dataset import open_dataset
from sharding.errors import UserError
from sharding.identity_plan import IdentityPlan
from sharding.plan import Plan, Stream, generator
from sharding.reader import People, Sample, SplitReader


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One rank's part of a global batch.

    images: uint8 [b, 3, H, W]. text: b packed captions. identity: int64 [b], contiguous over the mixture.
    position: the global position of the first sample of the *global* batch. keys: b sample keys.
    masked: the same captions with tokens to be predicted, where data.mlm asks for them.
    """

    images: Tensor
    text: PackedText
    identity: Tensor
    position: int
    keys: tuple[str, ...]
    masked: MaskedText | None = None

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`."""
        return Batch(
            images=self.images.to(device, non_blocking=True),
            text=self.text.to(device),
            identity=self.identity.to(device, non_blocking=True),
            position=self.position,
            keys=self.keys,
            masked=self.masked.to(device) if self.masked else None,
        )


class Mixture:
    """The datasets of a run: their readers, their plan, and one integer per identity over all of them.

    Raises UserError where a dataset is missing, half written, lacks the split or has images without captions in it.
    """

    def __init__(self, settings: DataSettings, seed: int) -> None:
        kept = People(share=settings.hold_out, held_out=False) if settings.hold_out else None
        self.readers = [
            SplitReader(open_dataset(settings.root / part.path), settings.split, kept) for part in settings.mixture
        ]
        for reader in self.readers:
            _require_captions(reader)
        streams = [
            Stream(
                name=reader.dataset.name,
                root_hash=reader.dataset.root_hash,
                split=f"{settings.split}, {kept}" if kept else settings.split,
                shard_samples=reader.shard_samples,
                weight=part.weight,
            )
            for reader, part in zip(self.readers, settings.mixture, strict=True)
        ]
        self.plan = self._plan(settings, streams, seed)
        names = np.concatenate([ids.astype(str) for reader in self.readers for ids in reader.identities])
        self.identities = {name: number for number, name in enumerate(np.unique(names).tolist())}

    def _plan(self, settings: DataSettings, streams: list[Stream], seed: int) -> Plan | IdentityPlan:
        if settings.sampler == "identity":
            if len(streams) > 1:
                raise UserError(f"data.sampler identity takes one dataset, data.mixture names {len(streams)}")
            return IdentityPlan(streams[0], self.readers[0].identities, per_identity=settings.per_identity, seed=seed)
        try:
            return Plan(streams, seed=seed)
        except ValueError as error:
            raise UserError(str(error)) from None

    def samples(self, positions: Sequence[int]) -> Iterator[tuple[int, Sample]]:
        """(position, sample) for each of `positions`."""
        places = self.plan.locate(positions)
        for position, stream, shard, row in zip(positions, places.stream, places.shard, places.row, strict=True):
            yield position, self.readers[stream].sample(int(shard), int(row))


def _require_captions(reader: SplitReader) -> None:
    import pyarrow.compute as pc

    captions = pc.list_value_length(reader.index(["caption_words"])["caption_words"])
    if bare := pc.sum(pc.equal(captions, 0)).as_py():
        raise UserError(
            f"{reader.dataset.directory}: {bare:,} images of split {reader.split!r} have no caption; "
            "`sharding pseudo-text` can write some"
        )


def open_evaluated(settings: Settings) -> SplitReader | None:
    """The people that `eval` measures on, or None where it names none; UserError where they are not there."""
    if settings.eval.data is None:
        return None
    dataset = open_dataset(settings.data.root / settings.eval.data)
    people = People(share=settings.data.hold_out, held_out=True) if settings.eval.split == HELD_OUT else None
    return SplitReader(dataset, settings.evaluated_split, people)


@dataclass(frozen=True, kw_only=True)
class LoaderSettings:
    """What a rank's loader needs to know besides the mixture."""

    data: DataSettings
    image_size: tuple[int, int]  # height, width
    context_length: int
    global_batch: int
    rank: int
    world_size: int


class Loader:
    """Endless batches of one rank from `position` on; `close()` ends its threads."""

    def __init__(self, mixture: Mixture, settings: LoaderSettings, position: int) -> None:
        assert settings.global_batch % settings.world_size == 0
        self._mixture, self._settings = mixture, settings
        self._pool = ThreadPoolExecutor(settings.data.threads, thread_name_prefix="decode")
        self._ahead: list[Future[Batch]] = []
        self._next = position
        for _ in range(settings.data.prefetch):
            self._submit()

    def __iter__(self) -> Iterator[Batch]:
        while True:
            batch = self._ahead.pop(0).result()
            self._submit()
            yield batch

    def close(self) -> None:
        """Drop what is decoded ahead and end the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self) -> None:
        self._ahead.append(self._pool.submit(load_batch, self._mixture, self._settings, self._next))
        self._next += self._settings.global_batch


def load_batch(mixture: Mixture, settings: LoaderSettings, position: int) -> Batch:
    """The batch of `settings.rank` in the global batch that begins at `position`."""
    share = settings.global_batch // settings.world_size
    first = position + settings.rank * share
    images, rows, masked, identity, keys = [], [], [], [], []
    for place, sample in mixture.samples(range(first, first + share)):
        draw = generator(mixture.plan.seed, "sample", place)
        caption = sample.captions[draw.integers(len(sample.captions))]
        image = decode(sample, settings.image_size)
        images.append(np.ascontiguousarray(augment(image, settings.data, draw)))
        ids = np.frombuffer(tokenize(caption, settings.context_length), "<u2")
        view, originals = augment_ids(ids, settings.data, draw)
        rows.append(view.tobytes())
        if settings.data.mlm:  # of the words as they were: what augmentation put there is not to be predicted
            masked.append(mask_ids(originals, settings.data.mlm, draw))
        identity.append(mixture.identities[sample.identity])
        keys.append(sample.key)
    return Batch(
        images=stack(images),
        text=pack(rows),
        identity=torch.tensor(identity),
        position=position,
        keys=tuple(keys),
        masked=MaskedText.of(masked) if masked else None,
    )


def stack(images: list[Image]) -> Tensor:
    """Images uint8 [H, W, 3] of one size as one tensor uint8 [B, 3, H, W]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def decode(sample: Sample, size: tuple[int, int]) -> Image:
    """The sample's image as RGB uint8 [H, W, 3], resized (not cropped) to `size`; UserError if it cannot be decoded."""
    try:
        pixels = (
            PillowImage.fromarray(_decode_jpeg(sample.image, size)) if _is_jpeg(sample.image) else _open(sample.image)
        )
    except (OSError, ValueError) as error:
        raise UserError(f"sample {sample.key} cannot be decoded: {error}") from None
    height, width = size
    if pixels.size != (width, height):
        pixels = pixels.resize((width, height), PillowImage.Resampling.BICUBIC)
    return np.asarray(pixels)


def _is_jpeg(data: bytes) -> bool:
    return data[:2] == b"\xff\xd8"


def _decode_jpeg(data: bytes, size: tuple[int, int]) -> Image:
    height, width = size
    try:
        # libjpeg scales by eighths while decoding, never below the size asked for: a large photo costs a small decode.
        return simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width, min_factor=1)
    except ValueError:  # CMYK and other rarities
        return np.asarray(_open(data))


def _open(data: bytes) -> PillowImage.Image:
    return PillowImage.open(BytesIO(data), formats=("JPEG", "PNG")).convert("RGB")
