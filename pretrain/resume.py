"""Where a run begins: at step 0, or where its newest complete checkpoint left it, if that is the same run's."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from pretrain.checkpoint import Manifest, find_latest, read_manifest
from pretrain.config import Settings, as_tree, decisive, settings_hash
from sharding.errors import UserError
from sharding.identity_plan import IdentityPlan
from sharding.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A complete checkpoint: its folder and what its manifest says."""

    folder: Path
    manifest: Manifest


def find_checkpoint(settings: Settings, plan: Plan | IdentityPlan) -> Checkpoint | None:
    """The checkpoint that a run with these settings and data continues from, or None to begin at step 0.

    UserError if `resume` forbids it, or if the checkpoint was made with other settings or another data plan.
    """
    folder = find_latest(settings.run.dir / "checkpoints")
    if folder is None:
        return None
    if settings.resume == "never":
        raise UserError(f"{settings.run.dir} already holds {folder.name}; choose another run.dir, or --resume auto")
    manifest = read_manifest(folder)
    if manifest.settings_hash != settings_hash(settings):
        changed = "; ".join(differences(decisive(manifest.settings), decisive(as_tree(settings))))
        raise UserError(f"settings changed since {folder}: {changed}")
    if manifest.plan_hash != plan.hash:
        before, now = manifest.plan_hash[:12], plan.hash[:12]
        raise UserError(f"the packed data changed since {folder}: its plan is {before}, now it is {now}")
    return Checkpoint(folder=folder, manifest=manifest)


def agree_on_checkpoint(settings: Settings, plan: Plan | IdentityPlan) -> Checkpoint | None:
    """`find_checkpoint` of rank 0, on all ranks. All ranks must call."""
    found = [find_checkpoint(settings, plan) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(found)
    return found[0]


def differences(before: Any, now: Any, name: str = "") -> list[str]:
    """The dotted settings that differ, with both values.

    >>> differences({"optim": {"lr": 1, "steps": 5}}, {"optim": {"lr": 2, "steps": 5}})
    ['optim.lr was 1, is 2']
    """
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        return [d for key in keys for d in differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)]
    return [] if before == now else [f"{name} was {before}, is {now}"]
