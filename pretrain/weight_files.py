"""Tensors from files that could come from anywhere: safetensors, or torch files read with `weights_only`.

`shapes_only` gives tensors on the meta device: of safetensors only the header is read.
"""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from sharding.errors import UserError

State = dict[str, Tensor]

WEIGHTS_NAME = "open_clip_model.safetensors"  # the names that open_clip looks for in a folder
TORCH_NAME = "open_clip_pytorch_model.bin"
HF_NAME = "model.safetensors"  # the names that transformers looks for
HF_INDEX = "model.safetensors.index.json"
HF_TORCH_NAME = "pytorch_model.bin"


def open_clip_file(path: Path) -> Path | None:
    """The file with open_clip's tensors: `path` itself, or the one in the folder `path`; None if there is none."""
    names = [path / WEIGHTS_NAME, path / TORCH_NAME] if path.is_dir() else [path]
    return next((name for name in names if name.is_file()), None)


def hugging_face_files(folder: Path) -> list[Path]:
    """The files with the tensors of a Hugging Face folder, one or as many as its index names; none if it is not one."""
    if not (folder / "config.json").is_file():
        return []
    if (folder / HF_INDEX).is_file():
        try:
            names = sorted(set(json.loads((folder / HF_INDEX).read_text())["weight_map"].values()))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError(f"{folder / HF_INDEX} cannot be read: {error!r}") from None
        # An index comes with the folder: it must not lead out of it.
        return [folder / Path(str(name)).name for name in names]
    return [path for path in (folder / HF_NAME, folder / HF_TORCH_NAME) if path.is_file()][:1]


def read_file(path: Path, *, shapes_only: bool) -> State:
    """The tensors of one file by name, as fp32; UserError if it is missing or no such file.

    Of a torch file, `state_dict` inside is taken where there is one, and `module.` before the names is dropped.
    """
    if not path.is_file():
        raise UserError(f"no weights at {path}")
    try:
        if path.suffix == ".safetensors":
            state = _headers(path) if shapes_only else load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            state = state.get("state_dict", state)
        state = {name.removeprefix("module."): tensor.float() for name, tensor in state.items()}
    except Exception as error:  # the readers raise a dozen types; to the user it is one thing
        raise UserError(f"cannot read weights {path}: {(str(error).splitlines() or ['?'])[0][:200]}") from None
    return {name: tensor.to("meta") for name, tensor in state.items()} if shapes_only else state


def _headers(path: Path) -> State:
    with safe_open(path, framework="pt") as file:
        return {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in file.keys()}  # noqa: SIM118
