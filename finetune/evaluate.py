"""Evaluation: features of every model on every benchmark, from the cache or on all ranks, and their metrics on rank 0.

weights -> encoder -> features (kept by content) -> retrieval metrics -> BenchmarkScores
"""

import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from finetune.benchmarks import difference_from_published
from finetune.feature_cache import FeatureCache, FeatureKey
from finetune.feature_files import FilePair
from finetune.scores import IMAGE_TO_TEXT, TEXT_TO_IMAGE, BenchmarkScores, ModelScores
from pretrain.config import ModelSettings
from pretrain.features import Features, Labels, Shapes, encode, extract_features, over_ranks
from pretrain.model import DualEncoder
from pretrain.retrieval import Names, RetrievalMetrics, retrieval_metrics
from pretrain.tensor_hash import tensors_hash
from pretrain.text import PackedText
from pretrain.weights import encoder_state, load_weights, read_state
from sharding.command import progress_bar
from sharding.dataset import Dataset
from sharding.reader import SplitReader

log = logging.getLogger(__name__)

COUNTS = ("queries", "gallery", "chance_r1")  # of RetrievalMetrics, besides the metrics


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights at `path`, or random ones by `seed` where it is None, of the architecture `settings`."""

    path: Path | None
    settings: ModelSettings
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Model:
    """One row under the name it is shown by: weights for each of `seeds`, or one alone where that is None."""

    name: str
    given: str | None  # the path as the user wrote it; None for random weights
    weights: tuple[Weights, ...]
    seeds: tuple[int, ...] | None


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How to evaluate; `cache` is the folder where features are kept, None to keep none."""

    batch_size: int = 256
    precision: Literal["fp32", "bf16"] = "fp32"
    directions: tuple[str, ...] = (TEXT_TO_IMAGE,)
    legacy: bool = False
    cache: Path | None = None


class Encoder:
    """One set of weights, read when its hash or its features are first needed, on the GPU where there is one."""

    def __init__(self, weights: Weights, precision: str) -> None:
        self.weights, self.precision = weights, precision
        self.device = _device()

    @cached_property
    def hash(self) -> str:
        """sha256 of the tensors."""
        return tensors_hash(self._state)

    def encode(self, images: Tensor | None, text: PackedText | None) -> tuple[Tensor, Tensor]:
        """Normalised features fp32 [B, E] of uint8 images and of packed captions."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return encode(self._model, self.device, images, text)

    @cached_property
    def _state(self) -> dict[str, Tensor]:
        if self.weights.path is None:
            torch.manual_seed(self.weights.seed)
            return DualEncoder(self.weights.settings).state_dict()
        return encoder_state(read_state(self.weights.path))

    @cached_property
    def _model(self) -> DualEncoder:
        model = DualEncoder(self.weights.settings)
        load_weights(model, self._state)
        return model.to(self.device)


def evaluate(
    models: Sequence[Model], datasets: Sequence[Dataset], split: str, settings: EvaluationSettings
) -> list[BenchmarkScores] | None:
    """The scores of all models on all benchmarks; None on ranks other than 0. All ranks must call.

    One model at a time is in memory, and the features of one split. Raises UserError for a missing split, weights that
    cannot be read or do not fit, damaged shards, and features that have no cosine.
    """
    os.environ.setdefault("LRU_CACHE_CAPACITY", "64")  # else CPU kernels keep code for every length of text they meet
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    readers = [SplitReader(dataset, split) for dataset in datasets]
    results: dict[tuple[int, int], list[dict[str, RetrievalMetrics]]] = defaultdict(list)  # [benchmark, model]: seeds
    hashes: list[list[str]] = [[] for _ in models]
    for row, model in enumerate(models):
        for weights in model.weights:
            encoder = Encoder(weights, settings.precision)
            for column, reader in enumerate(readers):
                features = features_of(encoder, reader, settings)
                if features is not None:
                    results[column, row].append(measure(features, settings))
            if _rank() == 0:
                hashes[row].append(encoder.hash)
    if _rank() != 0:
        return None
    return [
        _benchmark_scores(
            reader,
            results[column, 0][0],
            [_model_scores(model, hashes[row], results[column, row]) for row, model in enumerate(models)],
        )
        for column, reader in enumerate(readers)
    ]


def features_of(encoder: Encoder, reader: SplitReader, settings: EvaluationSettings) -> Features | None:
    """The features of one split, from the cache or extracted on all ranks and then kept; None on ranks other than 0.

    All ranks must call. Only rank 0 looks at the cache; what it finds, the others hear.
    """
    cached = key = cache = None
    if _rank() == 0 and settings.cache is not None:
        cache, key = FeatureCache(settings.cache), _key(encoder, reader)
        labels = Labels.of(reader)
        tensors = cache.load(key, {"query": len(labels.query_ids), "gallery": len(labels.gallery_ids)})
        if tensors is not None:
            cached = Features(query_ids=labels.query_ids, gallery_ids=labels.gallery_ids, **tensors)
    if settings.cache is not None and over_ranks(int(cached is not None))[0]:  # as rank 0 has it
        return cached
    features = _extract(encoder, reader, settings.batch_size)
    if cache is not None and key is not None:
        cache.save(key, {"query": features.query, "gallery": features.gallery})
    return features if _rank() == 0 else None


def measure(
    features: Features, settings: EvaluationSettings, names: dict[str, Names] | None = None
) -> dict[str, RetrievalMetrics]:
    """The metrics of each direction; `names` tells errors, by direction, what the queries are called.

    Image -> text: every image is a query, every caption stands in the gallery.
    """
    captions = (features.query.to(_device()), features.query_ids.to(_device()))
    images = (features.gallery.to(_device()), features.gallery_ids.to(_device()))
    sides = {TEXT_TO_IMAGE: (*captions, *images), IMAGE_TO_TEXT: (*images, *captions)}
    return {
        direction: retrieval_metrics(*sides[direction], legacy=settings.legacy, names=(names or {}).get(direction))
        for direction in settings.directions
    }


def scores_of_files(pair: FilePair, name: str, data: str, settings: EvaluationSettings) -> BenchmarkScores:
    """The scores of features that come from files, as one benchmark with one model `name`."""
    names: dict[str, Names] = {TEXT_TO_IMAGE: pair.query_name, IMAGE_TO_TEXT: pair.gallery_name}
    metrics = measure(pair.features, settings, names)
    model = Model(name=name, given=None, weights=(), seeds=None)
    return BenchmarkScores(
        name="files",
        data=data,
        split=None,
        root_hash=None,
        queries=len(pair.features.query),
        gallery=len(pair.features.gallery),
        chance_r1={direction: found.chance_r1 for direction, found in metrics.items()},
        models=(_model_scores(model, [], [metrics]),),
    )


def _key(encoder: Encoder, reader: SplitReader) -> FeatureKey:
    return FeatureKey(
        weights=encoder.hash,
        model=encoder.weights.settings,
        root_hash=reader.dataset.root_hash,
        split=reader.split,
        precision=encoder.precision,
    )


def _extract(encoder: Encoder, reader: SplitReader, batch_size: int) -> Features:
    """All ranks must call; rank 0 shows how far it is."""
    name = f"{reader.dataset.source} {reader.split}"
    counts = reader.dataset.counts["splits"][reader.split]
    log.info("encoding %s: %d images, %d captions", name, counts["images"], counts["captions"])
    shapes = Shapes.of(encoder.weights.settings, batch_size)
    with progress_bar(name, "samples") if _rank() == 0 else nullcontext() as progress:
        return extract_features(encoder.encode, reader, shapes, progress)


def _model_scores(model: Model, hashes: list[str], runs: list[dict[str, RetrievalMetrics]]) -> ModelScores:
    return ModelScores(
        name=model.name,
        weights=model.given,
        weights_sha256=tuple(hashes),
        seeds=model.seeds,
        runs={direction: tuple(_metrics(run[direction]) for run in runs) for direction in runs[0]},
    )


def _benchmark_scores(
    reader: SplitReader, example: dict[str, RetrievalMetrics], models: list[ModelScores]
) -> BenchmarkScores:
    """`example` gives what no model changes: the counts and the chance of each direction."""
    if difference := difference_from_published(reader.dataset, reader.split):
        log.info(difference)
    counts = reader.dataset.counts["splits"][reader.split]
    return BenchmarkScores(
        name=reader.dataset.source,
        data=str(reader.dataset.store),
        split=reader.split,
        root_hash=reader.dataset.root_hash,
        queries=counts["captions"],
        gallery=counts["images"],
        chance_r1={direction: metrics.chance_r1 for direction, metrics in example.items()},
        models=tuple(models),
    )


def _metrics(found: RetrievalMetrics) -> dict[str, float]:
    """The metrics without the counts."""
    return {name: value for name, value in found.as_dict().items() if name not in COUNTS}


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0
