"""Weights in and out: open_clip files (safetensors or .pt) into the dual encoder, and open_clip-loadable exports.

Names need no conversion. Position embeddings are resized where the image grid or the context differs; nothing is ever
unpickled beyond plain tensors (`weights_only`).
"""

import json
import logging
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from pretrain.augment import CLIP_MEAN, CLIP_STD
from pretrain.config import ModelSettings, open_clip_config
from pretrain.model import DualEncoder
from sharding.errors import UserError

log = logging.getLogger(__name__)

CONFIG_NAME = "open_clip_config.json"  # what open_clip expects beside the weights in a local-dir
WEIGHTS_NAME = "open_clip_model.safetensors"


def build_model(settings: ModelSettings, seed: int) -> DualEncoder:
    """The dual encoder in fp32 on the CPU: from `settings.init`, or at random by `seed`, which is said loudly."""
    torch.manual_seed(seed)
    model = DualEncoder(settings)
    if settings.init is None:
        log.warning("model.init is not set: RANDOM weights (seed %d), nothing pre-trained is loaded", seed)
    else:
        load_weights(model, read_state(settings.init))
        log.info("weights from %s", settings.init)
    return model


def read_state(path: Path) -> dict[str, Tensor]:
    """The open_clip state dict of a .safetensors or .pt file, or of an exported folder; UserError if it is none."""
    path = path / WEIGHTS_NAME if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"no weights at {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
        return {name.removeprefix("module."): tensor.float() for name, tensor in state.items()}
    except Exception as error:  # the readers raise a dozen types; to the user it is one thing
        raise UserError(f"cannot read weights {path}: {str(error).splitlines()[0][:200]}") from None


def load_weights(model: DualEncoder, state: dict[str, Tensor]) -> None:
    """Put an open_clip state dict into `model`, resizing position embeddings; UserError if the architecture differs."""
    state = {name: tensor.float() for name, tensor in state.items()}
    state["logit_scale"] = state.get("logit_scale", model.logit_scale.detach()).reshape(1)
    vision = model.settings.vision_cfg
    grid = (vision.image_size[0] // vision.patch_size, vision.image_size[1] // vision.patch_size)
    for name, resize in (
        ("visual.positional_embedding", lambda x: resize_image_positions(x, grid)),
        ("positional_embedding", lambda x: resize_text_positions(x, model.settings.text_cfg.context_length)),
    ):
        if name in state:
            state[name] = resize(state[name])
    ours = model.state_dict()
    wrong = [f"{name} is missing" for name in ours if name not in state]
    wrong += [
        f"{name} is {list(state[name].shape)}, the model has {list(ours[name].shape)}"
        for name in ours
        if name in state and state[name].shape != ours[name].shape
    ]
    wrong += [f"{name} is not in the model" for name in state if name not in ours and name != "attn_mask"]
    if wrong:
        raise UserError(
            f"the weights do not fit the model: {wrong[0]}" + (f" (and {len(wrong) - 1} more)" if wrong[1:] else "")
        )
    model.load_state_dict({name: state[name] for name in ours})


def resize_image_positions(embedding: Tensor, grid: tuple[int, int]) -> Tensor:
    """Position embeddings [1 + h * w, C] of a square grid on another grid (height, width), bicubic as open_clip does.

    The CLS position is kept. Equal length means equal grid and returns the input.
    """
    if len(embedding) == 1 + grid[0] * grid[1]:
        return embedding
    side = round((len(embedding) - 1) ** 0.5)
    if side * side != len(embedding) - 1:
        raise UserError(f"cannot resize {len(embedding) - 1} image positions: not a square grid")
    patches = embedding[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=grid, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([embedding[:1], patches.permute(0, 2, 3, 1).reshape(grid[0] * grid[1], -1)])


def resize_text_positions(embedding: Tensor, context_length: int) -> Tensor:
    """Position embeddings [L, C] on another context length, linear along the positions as open_clip does."""
    if len(embedding) == context_length:
        return embedding
    return F.interpolate(embedding.T[None], size=context_length, mode="linear", align_corners=False)[0].T


def export_open_clip(state: dict[str, Tensor], settings: ModelSettings, directory: Path) -> None:
    """Write a folder that `open_clip.create_model("local-dir:DIRECTORY")` loads. One rank calls.

    state: fp32 tensors by parameter name. The weights come last, by rename: a folder with weights is whole.
    """
    directory.mkdir(parents=True, exist_ok=True)
    preprocess = {"mean": CLIP_MEAN, "std": CLIP_STD, "interpolation": "bicubic", "resize_mode": "squash"}
    config = {"model_cfg": open_clip_config(settings), "preprocess_cfg": preprocess}
    (directory / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n")
    state = {name: tensor.contiguous() for name, tensor in state.items()} | {
        "logit_scale": state["logit_scale"].reshape(())
    }
    temporary = directory / f".{WEIGHTS_NAME}.tmp"
    save_file(state, temporary, metadata={"format": "pt"})
    temporary.replace(directory / WEIGHTS_NAME)


def exported_settings(directory: Path) -> ModelSettings:
    """The architecture that a folder's open_clip configuration names; UserError if it is not a plain ViT."""
    path = directory / CONFIG_NAME
    if not path.is_file():
        raise UserError(f"no {CONFIG_NAME} in {directory}: not an exported model")
    try:
        return TypeAdapter(ModelSettings).validate_python(json.loads(path.read_text())["model_cfg"])
    except ValidationError as error:
        problem = error.errors()[0]
        raise UserError(f"{path} is not a model this project can build: {problem['loc']} {problem['msg']}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not an open_clip configuration: {error!r}") from None
