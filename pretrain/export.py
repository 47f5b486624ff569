"""Exports: one encoder in one of four formats, with its card, whole or not there at all.

Everything is written into a temporary folder and renamed file by file, weights last: a folder with weights is whole.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from pydantic import TypeAdapter

from pretrain.checkpoint import find_latest, read_manifest, read_tensors
from pretrain.config import ModelSettings
from pretrain.hugging_face import write_folder
from pretrain.model import DualEncoder
from pretrain.model_card import Format, write_model_card
from pretrain.onnx_export import TEXT_NAME, require_onnx, write_onnx
from pretrain.provenance import Provenance, of_checkpoint, read_provenance
from pretrain.weight_files import HF_NAME, TORCH_NAME, WEIGHTS_NAME, State
from pretrain.weights import (
    export_open_clip,
    load_weights,
    open_clip_state,
    read_shapes,
    read_state,
    weights_settings,
    write_open_clip_config,
)
from sharding.errors import UserError


def write_torch(state: State, settings: ModelSettings, folder: Path) -> None:
    """An open_clip folder with a torch file that `torch.load(..., weights_only=True)` reads."""
    write_open_clip_config(settings, folder)
    torch.save(state, folder / TORCH_NAME)


SELECTION_NAME = "selection.json"  # why a run kept these weights

# What writes a format into an empty folder, and which of its files comes last.
WRITERS: dict[Format, tuple[Callable[[State, ModelSettings, Path], None], str]] = {
    "open_clip": (export_open_clip, WEIGHTS_NAME),
    "pt": (write_torch, TORCH_NAME),
    "hf": (write_folder, HF_NAME),
    "onnx": (write_onnx, TEXT_NAME),
}


def export(
    state: State, settings: ModelSettings, directory: Path, *, provenance: Provenance, format: Format = "open_clip"
) -> None:
    """Write the encoder in `state` (fp32, by parameter name; heads are left out) and its card. One rank calls.

    An older export in the same format is replaced. UserError where the folder holds one in another format, or where the
    packages for ONNX are not installed.
    """
    check_target(directory, format)
    writer, last = WRITERS[format]
    state = open_clip_state(state)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{directory.name}.", dir=directory.parent) as temporary:
        folder = Path(temporary)
        writer(state, settings, folder)
        parameters = sum(tensor.numel() for tensor in state.values())
        write_model_card(folder, settings=settings, provenance=provenance, parameters=parameters, format=format)
        directory.mkdir(exist_ok=True)
        (directory / last).unlink(missing_ok=True)
        (directory / SELECTION_NAME).unlink(missing_ok=True)  # it told of the weights that are replaced
        for path in sorted(folder.iterdir(), key=lambda path: path.name == last):
            path.replace(directory / path.name)


def record_metrics(directory: Path, metrics: dict[str, float], evaluated_on: str) -> None:
    """Put the figures of an open_clip export, measured on `evaluated_on`, into its record and its card."""
    provenance = replace(read_provenance(directory), metrics=metrics, evaluated_on=evaluated_on)
    parameters = sum(math.prod(tensor.shape) for tensor in read_shapes(directory).values())
    write_model_card(directory, settings=weights_settings(directory), provenance=provenance, parameters=parameters)


def check_target(directory: Path, format: Format) -> None:
    """UserError where `export` would refuse: told before weights are read."""
    if format == "onnx":
        require_onnx()
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file")
    for other, (_, last) in WRITERS.items():
        if other != format and (directory / last).exists():
            raise UserError(f"{directory} already holds an export in the format {other}; choose another folder")


def export_run(run: Path, directory: Path, format: Format) -> None:
    """Export the newest complete checkpoint of a run, of pre-training or fine-tuning; UserError where it has none."""
    check_target(directory, format)
    folder = find_latest(run / "checkpoints")
    if folder is None:
        raise UserError(f"no checkpoint in {run / 'checkpoints'}")
    manifest = read_manifest(folder)
    settings = TypeAdapter(ModelSettings).validate_python(manifest.settings["model"])
    state = read_tensors(folder, manifest, "weights.safetensors")
    export(state, settings, directory, provenance=of_checkpoint(run, manifest), format=format)


def export_weights(weights: Path, directory: Path, format: Format, *, quick_gelu: bool | None = None) -> None:
    """Convert any weights that `read_state` reads; `quick_gelu` says their activation where they do not."""
    check_target(directory, format)
    settings = weights_settings(weights, quick_gelu=quick_gelu)
    model = DualEncoder(settings)
    load_weights(model, read_state(weights))
    export(model.state_dict(), settings, directory, provenance=read_provenance(weights), format=format)
