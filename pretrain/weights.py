"""Weights in and out: open_clip and Hugging Face weights into the dual encoder, and open_clip-loadable exports.

    files -> tensors with open_clip's names (read_state) -> positions of this model's sizes (load_weights) -> model

What any weights are (`weights_settings`) and whether they fit (`check_weights`) is told without building a model.
"""

import json
import logging
from dataclasses import replace
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import save_file

from pretrain import hugging_face
from pretrain.augment import CLIP_MEAN, CLIP_STD
from pretrain.config import ModelSettings, TextSettings, VisionSettings, open_clip_config
from pretrain.model import DualEncoder
from pretrain.positions import grid_of, resize_image_positions, resize_text_positions
from pretrain.weight_files import TORCH_NAME, WEIGHTS_NAME, State, hugging_face_files, open_clip_file, read_file
from sharding.errors import UserError

log = logging.getLogger(__name__)

CONFIG_NAME = "open_clip_config.json"  # what open_clip expects beside the weights in a local-dir
HEADS = "heads."  # what fine-tuning trains beside the encoder: no part of it, and of no export
CONSTANTS = ("attn_mask", "input_resolution", "context_length", "vocab_size")  # in some files, beside the weights


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


def read_state(path: Path) -> State:
    """The fp32 state dict, with open_clip's names, of a .safetensors or torch file, an open_clip folder (ours too) or
    a Hugging Face CLIPModel folder; UserError if it is none of them."""
    return _read(path, shapes_only=False)


def read_shapes(path: Path) -> State:
    """`read_state` with tensors on the meta device: of safetensors no more than the headers is read."""
    return _read(path, shapes_only=True)


def encoder_state(state: State) -> State:
    """`state` without what is no weight of the encoder: the heads of fine-tuning, and constants."""
    return {name: x for name, x in state.items() if not name.startswith(HEADS) and name not in CONSTANTS}


def load_weights(model: DualEncoder, state: State) -> None:
    """Put an open_clip state dict into `model`, positions resized; UserError, in one line, where it does not fit."""
    model.load_state_dict(_fitted(state, model))


def check_weights(path: Path, settings: ModelSettings) -> None:
    """UserError, in one line, where the weights at `path` cannot begin a model of `settings`. Cheap: shapes only.

    Also where the configuration beside them says that the same tensors mean another model: its activation, its heads.
    """
    with torch.device("meta"):
        model = DualEncoder(settings)
    _fitted(read_shapes(path), model)
    given = _described(path)
    if given is None:
        return
    for name, theirs, ours in (
        ("quick_gelu", given.quick_gelu, settings.quick_gelu),
        ("vision_cfg.head_width", given.vision_cfg.head_width, settings.vision_cfg.head_width),
        ("text_cfg.heads", given.text_cfg.heads, settings.text_cfg.heads),
    ):
        if theirs != ours:
            raise UserError(f"the weights {path} were made with {name} {theirs}, model.{name} is {ours}")


def weights_settings(path: Path, *, quick_gelu: bool | None = None) -> ModelSettings:
    """The architecture of weights that `read_state` reads; `quick_gelu` overrides what is found or assumed.

    The configuration beside them says it. From tensors alone it is inferred, with heads of 64 channels as CLIP has them
    and without quick_gelu, which leaves no trace in the weights: the log says so. UserError where it cannot be.
    """
    settings = _described(path)
    if settings is None:
        settings = _inferred(read_shapes(path), path)
        if quick_gelu is None:
            log.warning(
                "%s does not say its activation: quick_gelu false is assumed (OpenAI's weights need true)", path
            )
    return settings if quick_gelu is None else replace(settings, quick_gelu=quick_gelu)


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


def export_open_clip(state: State, settings: ModelSettings, directory: Path) -> None:
    """Write a folder that `open_clip.create_model("local-dir:DIRECTORY")` loads. One rank calls.

    state: fp32 tensors by parameter name; heads of fine-tuning are left out. The weights come last, by rename: a folder
    with weights is whole.
    """
    directory.mkdir(parents=True, exist_ok=True)
    write_open_clip_config(settings, directory)
    temporary = directory / f".{WEIGHTS_NAME}.tmp"
    save_file(open_clip_state(state), temporary, metadata={"format": "pt"})
    temporary.replace(directory / WEIGHTS_NAME)


def open_clip_state(state: State) -> State:
    """The encoder's tensors in the shapes that open_clip's own model has them."""
    state = {name: tensor.contiguous() for name, tensor in encoder_state(state).items()}
    return state | {"logit_scale": state["logit_scale"].reshape(())}


def write_open_clip_config(settings: ModelSettings, directory: Path) -> None:
    """What open_clip builds the model and its preprocessing from."""
    preprocess = {"mean": CLIP_MEAN, "std": CLIP_STD, "interpolation": "bicubic", "resize_mode": "squash"}
    config = {"model_cfg": open_clip_config(settings), "preprocess_cfg": preprocess}
    (directory / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n")


def _read(path: Path, *, shapes_only: bool) -> State:
    file = open_clip_file(path)
    if file is not None:
        return read_file(file, shapes_only=shapes_only)
    files = hugging_face_files(path) if path.is_dir() else []
    if not files:
        raise UserError(f"no weights at {path / WEIGHTS_NAME if path.is_dir() else path}")
    state = {name: tensor for file in files for name, tensor in read_file(file, shapes_only=shapes_only).items()}
    return hugging_face.from_hugging_face(state, hugging_face.read_settings(path))


def _described(path: Path) -> ModelSettings | None:
    """The architecture that a configuration beside the tensors names, or None where there are only tensors."""
    folder = path.parent if path.name in (WEIGHTS_NAME, TORCH_NAME) else path
    if (folder / CONFIG_NAME).is_file():
        return exported_settings(folder)
    if path.is_dir() and open_clip_file(path) is None and hugging_face_files(path):
        return hugging_face.read_settings(path)
    return None


def _fitted(state: State, model: DualEncoder) -> State:
    """`state` as `model` loads it, on the state's device; UserError where a tensor lacks, is too much or of a shape."""
    state = encoder_state(state)
    settings, ours = model.settings, model.state_dict()
    state["logit_scale"] = state.get("logit_scale", ours["logit_scale"]).reshape(1)
    vision = settings.vision_cfg
    grid = vision.image_size[0] // vision.patch_size, vision.image_size[1] // vision.patch_size
    wrong = [f"{name} is missing" for name in ours if name not in state]
    wrong += [
        f"{name} is {list(state[name].shape)}, the model has {list(ours[name].shape)}"
        for name in ours
        if name in state and not _alike(name, state[name], ours[name])
    ]
    wrong += [f"{name} is not in the model" for name in state if name not in ours]
    if wrong:
        raise UserError(
            f"the weights do not fit the model: {wrong[0]}" + (f" (and {len(wrong) - 1} more)" if wrong[1:] else "")
        )
    return {name: state[name].float() for name in ours} | {
        "visual.positional_embedding": resize_image_positions(state["visual.positional_embedding"].float(), grid),
        "positional_embedding": resize_text_positions(
            state["positional_embedding"].float(), settings.text_cfg.context_length, settings.stretch_text
        ),
    }


def _alike(name: str, theirs: torch.Tensor, ours: torch.Tensor) -> bool:
    """Whether a tensor fits as it is, or, for positions, once they are resized along the first dimension."""
    if name.endswith("positional_embedding"):
        return theirs.ndim == 2 and theirs.shape[1:] == ours.shape[1:]
    return theirs.shape == ours.shape


def _inferred(state: State, path: Path) -> ModelSettings:
    """The architecture from the shapes of open_clip tensors."""
    try:
        width, _, patch, _ = state["visual.conv1.weight"].shape
        patches = len(state["visual.positional_embedding"]) - 1
        vocabulary, text_width = state["token_embedding.weight"].shape
        context, embed_dim = len(state["positional_embedding"]), state["text_projection"].shape[1]
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} holds no open_clip dual encoder with a plain ViT: {error}") from None
    grid = grid_of(patches)
    if grid is None:
        raise UserError(f"{path} has {patches} image positions, whose grid cannot be told; add its {CONFIG_NAME}")
    try:
        settings = ModelSettings(
            embed_dim=embed_dim,
            vision_cfg=VisionSettings(
                image_size=(grid[0] * patch, grid[1] * patch),
                patch_size=patch,
                width=width,
                layers=_layers(state, "visual.transformer.resblocks."),
            ),
            text_cfg=TextSettings(
                context_length=context,
                vocab_size=vocabulary,
                width=text_width,
                heads=text_width // 64,
                layers=_layers(state, "transformer.resblocks."),
            ),
        )
    except ValidationError as error:
        raise UserError(f"{path} is not a model this project can build: {error.errors()[0]['msg']}") from None
    log.info("%s: architecture inferred from its tensors, with heads of 64 channels", path)
    return settings


def _layers(state: State, prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})
