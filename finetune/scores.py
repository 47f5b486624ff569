"""What an evaluation finds: for each benchmark a row of metrics for each model, mean and std where there are seeds.

Metrics are percent, by name ("r1", "mAP", "mSD" …), in a dict for each direction; no torch in here.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from sharding.errors import UserError

TEXT_TO_IMAGE, IMAGE_TO_TEXT = "text_to_image", "image_to_text"
DIRECTIONS = {"t2i": (TEXT_TO_IMAGE,), "i2t": (IMAGE_TO_TEXT,), "both": (TEXT_TO_IMAGE, IMAGE_TO_TEXT)}
COLUMNS = {
    "r1": "R@1",
    "r5": "R@5",
    "r10": "R@10",
    "mAP": "mAP",
    "mINP": "mINP",
    "mSD": "mSD",
    "mSD_row": "mSD (min–max, row)",
    "mSD_matrix": "mSD (min–max, matrix)",
    "mSD_legacy": "mSD (legacy)",
}

Metrics = dict[str, float]


class RequirementError(UserError):
    """A figure is below what `--require` asks for."""

    exit_code = 4


@dataclass(frozen=True, kw_only=True)
class ModelScores:
    """One model on one benchmark: by direction, the metrics of each seed (one where it has none).

    `weights` is the path as it was given, with its placeholder; None for random weights and for features from files.
    """

    name: str
    weights: str | None
    weights_sha256: tuple[str, ...]
    seeds: tuple[int, ...] | None
    runs: dict[str, tuple[Metrics, ...]]

    def mean(self, direction: str) -> Metrics:
        """The mean over the seeds of each metric."""
        runs = self.runs[direction]
        return {name: fmean(run[name] for run in runs) for name in runs[0]}

    def std(self, direction: str) -> Metrics | None:
        """The sample standard deviation (n - 1) over the seeds; None of fewer than two."""
        runs = self.runs[direction]
        return {name: stdev(run[name] for run in runs) for name in runs[0]} if len(runs) > 1 else None

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        hashes: Any = self.weights_sha256 if self.seeds else next(iter(self.weights_sha256), None)
        spread = {direction: self.std(direction) for direction in self.runs}
        return {
            "name": self.name,
            "weights": self.weights,
            "weights_sha256": hashes,
            "seeds": self.seeds,
            **{direction: self.mean(direction) for direction in self.runs},
            **({"std": spread, "per_seed": self.runs} if all(spread.values()) else {}),
        }


@dataclass(frozen=True, kw_only=True)
class BenchmarkScores:
    """The models on one benchmark. `chance_r1` is, by direction, the expected R@1 of a random ranking.

    queries and gallery count captions and images, whatever the direction; `split` and `root_hash` are None where the
    features come from files.
    """

    name: str
    data: str
    split: str | None
    root_hash: str | None
    queries: int
    gallery: int
    chance_r1: dict[str, float]
    models: tuple[ModelScores, ...]

    def as_dict(self) -> dict[str, Any]:
        """The JSON form; `chance_r1` is that of text -> image unless only the other direction was asked for."""
        chance = {"chance_r1": self.chance_r1.get(TEXT_TO_IMAGE, self.chance_r1.get(IMAGE_TO_TEXT))}
        if len(self.chance_r1) > 1:
            chance["chance_r1_image_to_text"] = self.chance_r1[IMAGE_TO_TEXT]
        return {
            "name": self.name,
            "data": self.data,
            "split": self.split,
            "root_hash": self.root_hash,
            "queries": self.queries,
            "gallery": self.gallery,
            **chance,
            "models": [model.as_dict() for model in self.models],
        }


def as_json(benchmarks: Sequence[BenchmarkScores]) -> str:
    """All benchmarks as one JSON object; metrics are percent, `std` the sample standard deviation over the seeds."""
    return json.dumps({"benchmarks": [benchmark.as_dict() for benchmark in benchmarks]}, indent=1, allow_nan=False)


def over_seeds(results: Mapping[str, Sequence[str]], seeds: tuple[int, ...]) -> BenchmarkScores:
    """One row for each method from the JSON (as from `as_json`) of its runs, one for each of `seeds`.

    All of them were measured on one benchmark, with one model each.
    """
    found = {name: [json.loads(text)["benchmarks"][0] for text in texts] for name, texts in results.items()}
    first = next(iter(found.values()))[0]
    directions = [direction for direction in (TEXT_TO_IMAGE, IMAGE_TO_TEXT) if direction in first["models"][0]]
    chance = {
        TEXT_TO_IMAGE: first["chance_r1"],
        IMAGE_TO_TEXT: first.get("chance_r1_image_to_text", first["chance_r1"]),
    }
    rows = {name: [benchmark["models"][0] for benchmark in benchmarks] for name, benchmarks in found.items()}
    return BenchmarkScores(
        **{key: first[key] for key in ("name", "data", "split", "root_hash", "queries", "gallery")},
        chance_r1={direction: chance[direction] for direction in directions},
        models=tuple(
            ModelScores(
                name=name,
                weights=str(models[0]["weights"]).replace(f"seed-{seeds[0]}", "seed-{seed}"),
                weights_sha256=tuple(model["weights_sha256"] for model in models),
                seeds=seeds,
                runs={direction: tuple(model[direction] for model in models) for direction in directions},
            )
            for name, models in rows.items()
        ),
    )


def require(benchmarks: Sequence[BenchmarkScores], required: dict[str, float]) -> None:
    """RequirementError, one line a failure, unless the last model reaches every figure on every benchmark.

    The figure is the mean over the seeds, text -> image unless only the other direction was evaluated.
    """
    missed = []
    for benchmark in benchmarks:
        model = benchmark.models[-1]
        reached = model.mean(next(iter(model.runs)))
        for name, wanted in required.items():
            if name not in reached:
                raise UserError(f"--require: {name} was not computed; there are: {', '.join(reached)}")
            if reached[name] < wanted:
                missed.append(
                    f"{name} of {model.name} on {benchmark.name} is {reached[name]:.4g}, "
                    f"{wanted - reached[name]:.3g} below the required {wanted:g}"
                )
    if missed:
        raise RequirementError("\n".join(missed))
