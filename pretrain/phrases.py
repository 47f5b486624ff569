"""Conquer: how well every phrase of every attribute fits every image of a packed dataset, by a CLIP model.

    index → parts of at most PART images → rank r of W scores parts r, r + W, … into OUT.parts/ → rank 0 merges them

A scoring that was killed goes on with the parts it finds, on any number of ranks. What the phrases are, and what
becomes of their scores, is told in sharding/pseudo_text.
"""

import logging
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from pretrain.config import ModelSettings, open_clip_config
from pretrain.decode import Image
from pretrain.features import encode
from pretrain.model import DualEncoder
from pretrain.pictures import picture, stacked
from pretrain.tensor_hash import tensors_hash
from pretrain.text import pack, tokenize
from pretrain.weights import encoder_state, load_weights, read_state
from sharding.dataset import Dataset, shards_of
from sharding.errors import UserError
from sharding.files import TEMPORARY, rename_durably, sync, write_durably
from sharding.index import content_hash, table_bytes
from sharding.pseudo_text import scores
from sharding.pseudo_text.vocabulary import Vocabulary
from sharding.reader import SplitReader

log = logging.getLogger(__name__)

PART = 4096  # images: seconds of work on a GPU, a few minutes on a CPU, and 5 MB
THREADS = 4  # a picture takes about 0.3 ms to decode: enough for 10,000 a second
SENTENCES = 256  # encoded at a time
PARQUET = {"compression": "zstd", "version": "2.6", "write_page_checksum": True}


class PhraseScorer:
    """Weights, ready to score images by the phrases of a vocabulary. UserError for weights that cannot be read."""

    def __init__(self, weights: Path, settings: ModelSettings, words: Vocabulary, device: torch.device) -> None:
        state = encoder_state(read_state(weights))
        self.words, self.settings, self.device = words, settings, device
        self.weights_hash = content_hash([tensors_hash(state), open_clip_config(settings)])
        self.model = DualEncoder(settings)
        load_weights(self.model, state)
        self.model.to(device)
        self.phrases_PE = self._phrases()

    @property
    def scale(self) -> float:
        """The model's 1 / temperature."""
        with torch.no_grad():
            return float(self.model(None, None)[2])

    def cosines(self, images_B3HW: Tensor) -> NDArray[np.float32]:
        """Of uint8 images with every column of every attribute, [B, P] in the order of the vocabulary."""
        image_BE, _ = encode(self.model, self.device, images_B3HW, None)
        return (image_BE @ self.phrases_PE.T).cpu().numpy()

    def _phrases(self) -> Tensor:
        """A normalised fp32 embedding for every column: the mean of its sentences' normalised embeddings."""
        columns = [column for attribute in self.words.attributes for column in attribute.columns]
        sentences = list(dict.fromkeys(sentence for column in columns for sentence in column))
        place = {sentence: number for number, sentence in enumerate(sentences)}
        rows = [tokenize(sentence, self.settings.text_cfg.context_length) for sentence in sentences]
        batches = [rows[i : i + SENTENCES] for i in range(0, len(rows), SENTENCES)]
        embedded = torch.cat([encode(self.model, self.device, None, pack(batch))[1] for batch in batches])
        means = [embedded[[place[sentence] for sentence in column]].mean(0) for column in columns]
        return normalize(torch.stack(means), dim=-1)


@dataclass(frozen=True, kw_only=True)
class Part:
    """Samples start:stop of the shard-th shard of a split's reader, scored together."""

    reader: SplitReader
    shard: int
    start: int
    stop: int

    @property
    def images(self) -> int:
        """How many they are."""
        return self.stop - self.start

    @property
    def file(self) -> str:
        """The file below OUT.parts with its scores."""
        return f"{self.reader.shards[self.shard].name}-{self.start:06d}.parquet"


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What was done: the origin of the scores, how many images they cover, how many of them this rank scored just now,
    and whether an earlier call had left nothing to do."""

    origin: scores.Origin
    images: int
    scored: int
    already_complete: bool


def score_phrases(
    dataset: Dataset,
    scorer: PhraseScorer,
    out: Path,
    *,
    split: str | None = None,
    batch_size: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> Scored:
    """Write the scores of all images of a split (None: of all splits) to `out`. All ranks must call.

    Does nothing if `out` is there and of the same origin. `progress` hears of this rank's images. Raises UserError if
    `out` or its parts hold scores of anything else, for a missing split, and for damaged shards.
    """
    origin = scores.Origin(
        root_hash=dataset.root_hash,
        split=split,
        weights=scorer.weights_hash,
        phrases=scorer.words.phrases_hash,
        scale=scorer.scale,
    )
    parts = parts_of(dataset, split)
    folder = out.with_name(f"{out.name}.parts")
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    check_origins(out, folder, origin)
    complete = out.exists()
    _wait_for_all()  # nobody may find what another rank has only just written
    scored = 0 if complete else _score_parts(parts[rank::world_size], scorer, origin, folder, batch_size, progress)
    _wait_for_all()
    if rank == 0:
        if not complete:
            merge([folder / part.file for part in parts], out)
        shutil.rmtree(folder, ignore_errors=True)
    images = sum(part.images for part in parts)
    return Scored(origin=origin, images=images, scored=scored, already_complete=complete)


def parts_of(dataset: Dataset, split: str | None) -> list[Part]:
    """The parts in packing order; UserError, naming the splits there are, for a missing one."""
    readers: dict[str, tuple[SplitReader, Iterator[int]]] = {}
    parts = []
    for name in [shard.split for shard in (dataset.shards if split is None else shards_of(dataset, split))]:
        if name not in readers:
            readers[name] = SplitReader(dataset, name), count()
        reader, numbers = readers[name]
        shard = next(numbers)
        samples = reader.shard_samples[shard]
        parts += [
            Part(reader=reader, shard=shard, start=start, stop=min(start + PART, samples))
            for start in range(0, samples, PART)
        ]
    return parts


def check_origins(out: Path, folder: Path, origin: scores.Origin) -> None:
    """UserError, in one line, where `out` or a part below `folder` holds the scores of anything else."""
    for path in filter(Path.exists, (out, *sorted(folder.glob("*.parquet")))):
        found = scores.read_origin(path)
        differing = [name for name, value in asdict(origin).items() if value != getattr(found, name)]
        if differing:
            here = folder if path.parent == folder else path
            raise UserError(
                f"{here} holds scores of another {' and '.join(differing)}: remove it or choose another --out"
            )


def merge(parts: list[Path], out: Path) -> None:
    """Put the parts into one file, a row group each, in their order; it appears whole or not at all."""
    import pyarrow.parquet as pq

    temporary = out.with_name(f"{TEMPORARY}{out.name}")
    with temporary.open("wb") as file:
        with pq.ParquetWriter(file, pq.read_schema(parts[0]), **PARQUET) as writer:
            for part in parts:
                writer.write_table(pq.read_table(part))
        sync(file)
    rename_durably(temporary, out)


def _score_parts(
    parts: Sequence[Part],
    scorer: PhraseScorer,
    origin: scores.Origin,
    folder: Path,
    batch_size: int,
    progress: Callable[[int, int], None] | None,
) -> int:
    """Write the parts that are not there yet; the number of their images."""
    folder.mkdir(parents=True, exist_ok=True)
    left = [part for part in parts if not (folder / part.file).exists()]
    scored, total = 0, sum(part.images for part in left)
    log.info("%d images to score; %d of %d parts are there already", total, len(parts) - len(left), len(parts))
    with ThreadPoolExecutor(THREADS, thread_name_prefix="decode") as pool:
        for part in left:
            keys: list[str] = []
            cosines = []
            for samples, images in _decoded(part, scorer.settings.vision_cfg.image_size, batch_size, pool):
                keys += samples
                cosines.append(scorer.cosines(images))
                if progress:
                    progress(scored + len(keys), total)
            scored += len(keys)
            table = scores.table(scorer.words, origin, keys, np.concatenate(cosines))
            write_durably(folder / part.file, table_bytes(table))
    return scored


def _decoded(
    part: Part, size: tuple[int, int], batch_size: int, pool: ThreadPoolExecutor
) -> Iterator[tuple[list[str], Tensor]]:
    """Keys and images uint8 [B, 3, H, W] of batch after batch; the next is decoded while one is being scored."""

    def load(row: int) -> tuple[str, Image]:
        sample = part.reader.sample(part.shard, row)
        return sample.key, picture(sample, size)

    ahead: deque[list[Future[tuple[str, Image]]]] = deque()
    for first in range(part.start, part.stop, batch_size):
        ahead.append([pool.submit(load, row) for row in range(first, min(first + batch_size, part.stop))])
        if len(ahead) > 1:
            yield _batch(ahead.popleft())
    yield _batch(ahead.popleft())


def _batch(loaded: list[Future[tuple[str, Image]]]) -> tuple[list[str], Tensor]:
    keys, images = zip(*(future.result() for future in loaded), strict=True)
    return list(keys), stacked(images)


def _wait_for_all() -> None:
    if dist.is_initialized():
        dist.barrier()
