"""Which weights a run leaves for others: those of the best evaluation, or the last ones.

    runs/NAME/export/{open_clip_config.json, open_clip_model.safetensors, README.md, selection.json, …}

selection.json and the card say by what rule they were chosen, so that no one has to trust a figure selected on the
split it is reported on. The folder is replaced as a whole, so weights and the figure that chose them never part.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from pydantic import TypeAdapter

from pretrain.config import Settings, as_tree, settings_hash
from pretrain.engine import Engine
from pretrain.export import SELECTION_NAME, export
from pretrain.provenance import of_training, training_data
from sharding.files import sync, write_durably
from sharding.plan import Plan

METRIC = "r1"


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Why the weights after `step` steps: the rule in words, and the figure that decided, if one did."""

    rule: str
    step: int
    data: str | None = None
    split: str | None = None
    metric: str | None = None
    value: float | None = None


class Selection:
    """Keeps the weights that `eval.keep` asks for in run.dir/export. All ranks must make it and call its methods."""

    def __init__(self, settings: Settings, plan: Plan) -> None:
        self.settings, self.plan = settings, plan
        self.folder = settings.run.dir / "export"
        if dist.get_rank() == 0:
            restore_folder(self.folder)

    def after_evaluation(self, engine: Engine, step: int, metrics: dict[str, Any] | None) -> None:
        """Keep the weights if their `metrics`, which rank 0 has, beat those of the weights kept so far."""
        evaluation = self.settings.eval
        if evaluation.keep != "best":
            return
        better = [metrics is not None and self._is_best(metrics[METRIC], step)]
        dist.broadcast_object_list(better)
        if better[0]:
            chosen = Chosen(
                rule=f"best {METRIC} on {evaluation.split}",
                step=step,
                data=str(evaluation.data),
                split=evaluation.split,
                metric=METRIC,
                value=metrics[METRIC] if metrics else None,
            )
            self._keep(engine, chosen, metrics or {})

    def _is_best(self, value: float, step: int) -> bool:
        """Whether `value` beats what is kept, be it of a later step that a killed run had reached.

        What another split or benchmark chose is no rival, and neither is what lies there before the first step.
        """
        kept = self._kept()
        evaluation = self.settings.eval
        if kept is None or step == 0 or (kept.data, kept.split) != (str(evaluation.data), evaluation.split):
            return True
        return kept.value is None or value > kept.value

    def _kept(self) -> Chosen | None:
        path = self.folder / SELECTION_NAME
        return TypeAdapter(Chosen).validate_json(path.read_bytes()) if path.is_file() else None

    def at_end(self, engine: Engine, step: int) -> None:
        """Keep the weights after the last step, where these are asked for."""
        if self.settings.eval.keep == "last":
            self._keep(engine, Chosen(rule="last step", step=step), {})

    def _keep(self, engine: Engine, chosen: Chosen, metrics: dict[str, Any]) -> None:
        weights = engine.weights()
        if dist.get_rank() == 0:
            new = self.folder.with_name(".export.new")
            shutil.rmtree(new, ignore_errors=True)
            provenance = of_training(
                as_tree(self.settings),
                settings_hash(self.settings),
                chosen.step,
                training_data(self.plan.streams),
                metrics=metrics,
                evaluated_on=f"{self.settings.eval.data} {chosen.split}; selected there" if metrics else None,
            )
            export(weights, self.settings.model, new, provenance=provenance)
            write_durably(new / SELECTION_NAME, (json.dumps(asdict(chosen), indent=1) + "\n").encode())
            replace_folder(new, self.folder)
        dist.barrier()


def replace_folder(new: Path, folder: Path) -> None:
    """Put `new` in the place of `folder`; a kill in between leaves the old one where `restore_folder` finds it."""
    old = _old(folder)
    for path in new.iterdir():
        with path.open("rb") as file:
            sync(file)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def restore_folder(folder: Path) -> None:
    """Undo what a kill in `replace_folder` left half done, and remove what one left while the new one was written."""
    if _old(folder).exists() and not folder.exists():
        _old(folder).rename(folder)
    for pattern in (f".{folder.name}.old", f".{folder.name}.new", f"..{folder.name}.new.*"):
        for left in folder.parent.glob(pattern):
            shutil.rmtree(left)


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")
