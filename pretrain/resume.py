"""Where a run begins: at step 0, or where its newest complete checkpoint left it, if that is the same run's."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from pretrain.checkpoint import Manifest, find_latest, read_manifest
from pretrain.config import Settings, as_tree, decisive
from sharding.errors import UserError
from sharding.plan import Plan

log = logging.getLogger(__name__)

OF_DATA = ("data.", "run.seed ")  # settings that decide the order or the looks of the data


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A complete checkpoint: its folder and what its manifest says."""

    folder: Path
    manifest: Manifest


def find_checkpoint(settings: Settings, plan: Plan) -> Checkpoint | None:
    """The checkpoint that a run with these settings and data continues from, or None to begin at step 0.

    UserError if `resume` forbids it, or if the checkpoint was made with other settings or another order of the data.
    """
    folder = find_latest(settings.run.dir / "checkpoints")
    if folder is None:
        return None
    if settings.resume == "never":
        raise UserError(f"{settings.run.dir} already holds {folder.name}; choose another run.dir, or --resume auto")
    manifest = read_manifest(folder)
    refuse_changes(folder, manifest, settings, plan)
    return Checkpoint(folder=folder, manifest=manifest)


def refuse_changes(folder: Path, manifest: Manifest, settings: Settings, plan: Plan) -> None:
    """UserError, naming both values, where settings or data are not those of the checkpoint.

    With `allow_data_change` the order of the data, and the settings that make it, may be others: the run goes on at the
    same position of the new plan, and a line of the log says what changed.
    """
    changed = differences(decisive(manifest.settings), decisive(as_tree(settings)))
    of_data = [change for change in changed if change.startswith(OF_DATA)]
    if others := [change for change in changed if change not in of_data]:
        raise UserError(f"settings changed since {folder}: {'; '.join(others)}")
    if manifest.plan_hash != plan.hash:
        of_data += differences(manifest.plan, plan.facts, "plan")
        of_data.append(f"plan was {manifest.plan_hash[:12]}, is {plan.hash[:12]}")
    if not of_data:
        return
    if not settings.allow_data_change:
        advice = "--allow-data-change continues all the same"
        raise UserError(f"the data changed since {folder}: {'; '.join(of_data)}; {advice}")
    log.warning("going on with other data than %s: %s", folder, "; ".join(of_data))


def agree_on_checkpoint(settings: Settings, plan: Plan) -> Checkpoint | None:
    """`find_checkpoint` of rank 0, on all ranks. All ranks must call."""
    found = [find_checkpoint(settings, plan) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(found)
    return found[0]


def differences(before: Any, now: Any, name: str = "") -> list[str]:
    """The dotted settings that differ, with both values.

    >>> differences({"optim": {"lr": 1, "steps": 5}}, {"optim": {"lr": 2, "steps": 5}})
    ['optim.lr was 1, is 2']
    """
    if isinstance(before, list) and isinstance(now, list):
        before, now = (dict(enumerate(values)) for values in (before, now))
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        return [d for key in keys for d in differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)]
    return [] if before == now else [f"{name} was {before}, is {now}"]
