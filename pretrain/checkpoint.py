"""Checkpoints: world-size-free state on disk, a manifest written last, discovery by manifest.

    checkpoints/step-00000400/{weights.safetensors, moments.safetensors, manifest.json}

A step's folder is complete if and only if its manifest is there: the tensors are written and synced first, then the
manifest is renamed into place. A kill at any moment therefore leaves either a complete checkpoint or one that discovery
does not see. The manifest holds sizes and sha256, so damage is found before a tensor is used; nothing is unpickled.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from sharding.errors import UserError
from sharding.files import write_durably

log = logging.getLogger(__name__)

FORMAT = 2
FILES = ("weights.safetensors", "moments.safetensors")

State = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a checkpoint is: where the run stood and what its files must be.

    position: the plan position of the next sample. plan: what decided the order (`Plan.facts`), for humans; its hash
    decides. files: name -> {"bytes", "sha256"}.
    """

    format: int
    step: int
    position: int
    plan_hash: str
    plan: dict[str, Any]
    settings_hash: str
    settings: dict[str, Any]
    files: dict[str, dict[str, Any]]


def write_checkpoint(
    directory: Path,
    weights: State,
    moments: State,
    *,
    step: int,
    position: int,
    plan_hash: str,
    plan: dict[str, Any],
    settings_hash: str,
    settings: dict[str, Any],
) -> Path:
    """Write one checkpoint below `directory` and return its folder. One rank calls, with full fp32 tensors.

    Raises FloatingPointError for weights that are not finite: the newest checkpoint is one that a run can continue.
    """
    broken = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if broken:
        raise FloatingPointError(f"{broken[0]} is not finite at step {step}: lower optim.lr, or use fp32")
    folder = directory / f"step-{step:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    # A step written again is incomplete until its new manifest is there.
    (folder / "manifest.json").unlink(missing_ok=True)
    for name, state in zip(FILES, (weights, moments), strict=True):
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, folder / name)
        _sync(folder / name)
    manifest = Manifest(
        format=FORMAT,
        step=step,
        position=position,
        plan_hash=plan_hash,
        plan=plan,
        settings_hash=settings_hash,
        settings=settings,
        files={name: {"bytes": (folder / name).stat().st_size, "sha256": _sha256(folder / name)} for name in FILES},
    )
    write_durably(folder / "manifest.json", (json.dumps(asdict(manifest), indent=1) + "\n").encode())
    return folder


def find_latest(directory: Path) -> Path | None:
    """The newest complete checkpoint folder below `directory`, or None if there is none.

    Raises UserError where checkpoints were begun but none is complete: a run never falls back to step 0 by itself.
    """
    folders = sorted(directory.glob("step-*"), reverse=True)
    for folder in folders:
        if (folder / "manifest.json").is_file():
            return folder
        log.warning("checkpoint %s has no manifest: it was not finished, and is passed over", folder)
    if folders:
        raise UserError(
            f"no complete checkpoint among the {len(folders)} in {directory}; remove it to start from step 0"
        )
    return None


def read_manifest(folder: Path) -> Manifest:
    """The manifest of one checkpoint, its files' sizes checked; UserError if it is damaged or of another format."""
    path = folder / "manifest.json"
    try:
        manifest = Manifest(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if not isinstance(manifest.files, dict) or set(manifest.files) != set(FILES):
        raise UserError(f"{path} does not name the files of a checkpoint")
    if manifest.format != FORMAT:
        raise UserError(f"{path} has format {manifest.format}, this version reads {FORMAT}")
    for name, facts in manifest.files.items():
        size = (folder / name).stat().st_size if (folder / name).is_file() else 0
        if size != facts["bytes"]:
            raise UserError(f"{folder / name} has {size} bytes, its manifest says {facts['bytes']}")
    return manifest


def read_tensors(folder: Path, manifest: Manifest, name: str) -> State:
    """The tensors of one file of a checkpoint, its sha256 checked; UserError if they differ from what was written."""
    if _sha256(folder / name) != manifest.files[name]["sha256"]:
        raise UserError(f"{folder / name} is damaged: its sha256 is not the manifest's")
    return load_file(folder / name)


def keep_newest(directory: Path, keep: int) -> None:
    """Remove all but the `keep` newest complete checkpoints, and unfinished ones older than the newest of them.

    A manifest goes before its files, so that none is left looking whole.
    """
    complete = sorted(path.parent for path in directory.glob("step-*/manifest.json"))
    kept = complete[-keep:]
    for folder in sorted(directory.glob("step-*")):
        if folder not in kept and complete and folder < complete[-1]:
            (folder / "manifest.json").unlink(missing_ok=True)
            shutil.rmtree(folder)


@contextmanager
def only_writer(run_dir: Path) -> Iterator[None]:
    """Hold `run_dir` for this process; UserError if another run writes there. The system frees it if we are killed."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another run is writing to {run_dir}; wait for it or choose another run.dir") from None
        yield


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
