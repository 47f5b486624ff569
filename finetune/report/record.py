"""What a run left behind: settings, metrics, the weights that were selected, and by which rule.

RUN/settings.yaml, RUN/metrics.jsonl and RUN/export (with selection.json) or, without an export, the newest checkpoint.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from finetune.evaluate import Weights
from pretrain.checkpoint import find_latest, read_manifest
from pretrain.config import HELD_OUT, ModelSettings
from pretrain.telemetry import read_metrics
from pretrain.weights import exported_settings, weights_settings
from sharding.errors import UserError

HASH_LINE = "# settings "


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run: its resolved settings tree, the hash of what decides the weights, and the lines of metrics.jsonl.

    `plan_hash` stands for the order of the samples; "" where no checkpoint is left to name it.
    """

    directory: Path
    settings: dict[str, Any]
    settings_hash: str
    plan_hash: str
    metrics: list[dict[str, Any]]

    @property
    def name(self) -> str:
        """The name that the settings give the run."""
        return str(self.section("run").get("name") or self.directory.name)

    @property
    def fine_tuned(self) -> bool:
        """Whether it is a run of fine-tuning: only those have settings of heads."""
        return "heads" in self.settings

    def section(self, name: str) -> dict[str, Any]:
        """One section of the settings, empty where there is none."""
        section = self.settings.get(name)
        return section if isinstance(section, dict) else {}

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The lines of training steps."""
        return [line for line in self.metrics if "loss" in line]

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """The lines of evaluations, {"step", "eval": {...}}."""
        return [line for line in self.metrics if "eval" in line]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """How the reported weights were chosen: `selection.json`, or what can be said without it."""

    rule: str
    split: str | None = None
    metric: str | None = None
    value: float | None = None
    step: int | None = None

    @property
    def on_test(self) -> bool:
        """Whether the test split had a say, which makes its figures worthless as held-out results."""
        return self.split == "test"

    @property
    def where(self) -> str:
        """The split that selected, in words; "" where none did."""
        return split_words(self.split or "")

    @property
    def words(self) -> str:
        """The rule as a sentence fragment for the page."""
        at = f", step {self.step:,}" if self.step is not None else ""
        if self.split is None:
            return f"{self.rule}{at}; nothing was selected by a metric"
        value = f" ({self.value:.2f} %)" if self.value is not None else ""
        rule = self.rule.replace(self.split, self.where).replace("r1", "R@1")
        return f"{rule}{value}{at}"


def split_words(split: str) -> str:
    """The name of a split for readers."""
    return "held-out people" if split == HELD_OUT else split


def read_run(directory: Path) -> RunRecord:
    """The record of a run; UserError if there is none or it has no step yet."""
    path = directory / "settings.yaml"
    if not path.is_file():
        raise UserError(f"no run at {directory}: it holds no settings.yaml")
    text = path.read_text()
    try:
        settings = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(settings, dict):
        raise UserError(f"{path} must hold a mapping of settings, not a {type(settings).__name__}")
    first = text.partition("\n")[0]
    try:
        metrics = read_metrics(directory / "metrics.jsonl")
    except ValueError as error:
        raise UserError(f"{directory / 'metrics.jsonl'} is damaged: {error}") from None
    record = RunRecord(
        directory=directory,
        settings=settings,
        settings_hash=first.removeprefix(HASH_LINE).strip() if first.startswith(HASH_LINE) else "",
        plan_hash=_plan_hash(directory),
        metrics=metrics,
    )
    if not record.steps:
        raise UserError(f"{directory / 'metrics.jsonl'} holds no training step: nothing to report yet")
    return record


def _plan_hash(directory: Path) -> str:
    newest = find_latest(directory / "checkpoints")
    return read_manifest(newest).plan_hash if newest else ""


def selected_weights(run: Path, named: Path | None) -> tuple[Weights, Selection]:
    """The weights that the page is about, and how they were selected.

    `named` (whatever `read_state` reads) wins, then RUN/export, then the newest checkpoint. UserError without any.
    """
    if named is not None:
        return Weights(path=named, settings=weights_settings(named)), Selection(rule=f"named by hand, {named}")
    folder = run / "export"
    if folder.is_dir():
        return Weights(path=folder, settings=exported_settings(folder)), read_selection(folder)
    newest = find_latest(run / "checkpoints")
    if newest is None:
        raise UserError(f"{run} has no export and no checkpoint: name the weights, --weights PATH")
    manifest = read_manifest(newest)
    settings = TypeAdapter(ModelSettings).validate_python(manifest.settings["model"])
    selection = Selection(rule="newest checkpoint", step=manifest.step)
    return Weights(path=newest / "weights.safetensors", settings=settings), selection


def read_selection(folder: Path) -> Selection:
    """The rule in the folder's selection.json, which only training writes; UserError if it cannot be read."""
    path = folder / "selection.json"
    if not path.is_file():
        return Selection(rule="newest checkpoint when it was exported")
    try:
        content = json.loads(path.read_text())
        return Selection(**{name: content[name] for name in ("rule", "split", "metric", "value", "step")})
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error!r}") from None
