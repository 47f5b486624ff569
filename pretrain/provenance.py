"""Where weights come from: data with their hashes, settings, metrics. Kept beside an export, and told by its card."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pretrain.checkpoint import Manifest
from pretrain.config import DataSettings, decisive
from pretrain.telemetry import read_metrics
from sharding.errors import UserError
from sharding.files import write_durably
from sharding.plan import Stream

PROVENANCE_NAME = "provenance.json"


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """One dataset of the mixture: `share` is its part of the samples, in (0, 1]; `root_hash` is of its shards."""

    name: str
    split: str
    share: float
    root_hash: str


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What is known of weights; what is not known stays empty, and the card says that it is not known.

    settings: those that decide the weights (`decisive`). data_note: why `data` is empty, in a sentence.
    metrics: figures by name, flat; evaluated_on: dataset, split and step they were measured at.
    """

    name: str
    step: int | None = None
    settings_hash: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    data: tuple[TrainingData, ...] = ()
    data_note: str = "Not known: the weights came without a record of it."
    init: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    evaluated_on: str | None = None


def training_data(streams: Sequence[Stream]) -> tuple[TrainingData, ...]:
    """The datasets of a plan (`plan.streams`) with their shares of the samples."""
    total = sum(stream.weight for stream in streams)
    return tuple(
        TrainingData(name=s.name, split=s.split, share=s.weight / total, root_hash=s.root_hash) for s in streams
    )


def of_training(
    tree: dict[str, Any],
    settings_hash: str,
    step: int,
    data: tuple[TrainingData, ...],
    *,
    metrics: Mapping[str, Any] | None = None,
    evaluated_on: str | None = None,
) -> Provenance:
    """The provenance of weights that a run made: `tree` as from `as_tree`, of pre-training or fine-tuning.

    Of the metrics, numbers are kept. Paths are cut to their last two names: a card travels further than a disk.
    """
    init = tree["model"].get("init")
    numbers = {name: float(value) for name, value in (metrics or {}).items() if isinstance(value, int | float)}
    return Provenance(
        name=tree["run"]["name"],
        step=step,
        settings_hash=settings_hash,
        settings=decisive(tree),
        data=data,
        init="/".join(Path(init).parts[-2:]) if init else None,
        metrics=numbers,
        evaluated_on=evaluated_on,
    )


def of_checkpoint(run: Path, manifest: Manifest) -> Provenance:
    """The provenance of the checkpoint that `manifest` is of, with the last evaluation in RUN/metrics.jsonl up to it.

    The data are named only where the plan made of them now is the plan that the run was trained with.
    """
    tree = manifest.settings
    data, note = _data_of(tree, manifest.plan_hash)
    lines = [line for line in read_metrics(run / "metrics.jsonl") if "eval" in line and line["step"] <= manifest.step]
    benchmark = tree.get("eval", {})
    where = f"{Path(benchmark['data']).name} {benchmark['split']}" if benchmark.get("data") else "benchmark"
    found = of_training(
        tree,
        manifest.settings_hash,
        manifest.step,
        data,
        metrics=lines[-1]["eval"] if lines else None,
        evaluated_on=f"{where}, after step {lines[-1]['step']}" if lines else None,
    )
    return replace(found, data_note=note)


def write_provenance(provenance: Provenance, directory: Path) -> None:
    """Keep it as JSON, for the next conversion and for machines."""
    text = json.dumps(asdict(provenance), indent=1, ensure_ascii=False)
    write_durably(directory / PROVENANCE_NAME, (text + "\n").encode())


def read_provenance(weights: Path) -> Provenance:
    """What stands beside weights (a folder, or a file in one), or no more than their name."""
    path = (weights if weights.is_dir() else weights.parent) / PROVENANCE_NAME
    if not path.is_file():
        return Provenance(name=weights.absolute().name)
    try:
        return TypeAdapter(Provenance).validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(f"{path} cannot be read: {error.errors()[0]['msg']}") from None


def _data_of(tree: dict[str, Any], plan_hash: str) -> tuple[tuple[TrainingData, ...], str]:
    from pretrain.mixture import Mixture  # late: torch

    try:
        plan = Mixture(TypeAdapter(DataSettings).validate_python(tree["data"]), tree["run"]["seed"], cached=False).plan
    except (UserError, OSError):
        return (), "Not at hand where this card was written."
    if plan.hash != plan_hash:
        return (), "Packed anew since the training: what lies there now is not what the weights have seen."
    return training_data(plan.streams), ""
