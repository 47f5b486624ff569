"""Hugging Face `CLIPModel` folders and the dual encoder: names, architecture and files, in both directions.

`CLIPModel` knows square images only. Another shape is kept as transformers itself can compute it: on a square grid as
long as the image's longer side, whose positions give the trained ones exactly when the forward call interpolates them
(`interpolate_pos_encoding=True`). The true size stands in `preprocessor_config.json`, where transformers' image
processor reads it.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from pretrain.augment import CLIP_MEAN, CLIP_STD
from pretrain.config import ModelSettings, TextSettings, VisionSettings
from pretrain.positions import interpolate_grid
from pretrain.text import VOCABULARY
from pretrain.weight_files import HF_NAME, State
from sharding.errors import UserError

START, END = VOCABULARY - 2, VOCABULARY - 1  # the token ids around every caption
RESAMPLE = 3  # bicubic, in Pillow's numbering

BLOCKS = {
    "text_model.encoder.layers.": "transformer.resblocks.",
    "vision_model.encoder.layers.": "visual.transformer.resblocks.",
}
IN_A_BLOCK = {
    "layer_norm1.": "ln_1.",
    "layer_norm2.": "ln_2.",
    "mlp.fc1.": "mlp.c_fc.",
    "mlp.fc2.": "mlp.c_proj.",
    "self_attn.out_proj.": "attn.out_proj.",
}
OUTSIDE = {
    "logit_scale": "logit_scale",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",  # transformers' own spelling
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "visual_projection.weight": "visual.proj",
    "text_projection.weight": "text_projection",
}
PROJECTIONS = ("visual.proj", "text_projection")  # open_clip multiplies from the other side: transposed
QKV = ("q_proj", "k_proj", "v_proj")  # in the order of open_clip's in_proj


def from_hugging_face(state: State, settings: ModelSettings) -> State:
    """open_clip's tensors of a CLIPModel's; the image positions are those of `settings`' image size.

    Names that are not CLIPModel's stay as they are, for the fit to complain of. UserError for a block without all of
    q, k and v.
    """
    converted = {}
    for name, tensor in state.items():
        if name.endswith("position_ids"):  # a constant that older files hold
            continue
        ours = _renamed(name)
        if ".self_attn.q_proj." in name:
            parts = [name.replace("q_proj", part) for part in QKV]
            if missing := [part for part in parts if part not in state]:
                raise UserError(f"the weights do not fit the model: {missing[0]} is missing")
            tensor = torch.cat([state[part] for part in parts])
        elif ".self_attn.k_proj." in name or ".self_attn.v_proj." in name:
            continue
        converted[ours] = tensor.T if ours in PROJECTIONS else tensor
    positions, grid = converted.get("visual.positional_embedding"), _grid(settings)
    if positions is not None and grid[0] != grid[1]:
        side = round((len(positions) - 1) ** 0.5)
        converted["visual.positional_embedding"] = interpolate_grid(positions, (side, side), grid, antialias=False)
    return converted


def to_hugging_face(state: State, settings: ModelSettings) -> State:
    """A CLIPModel's tensors of open_clip's: what `from_hugging_face` undoes."""
    names = {ours: theirs for theirs, ours in OUTSIDE.items()}
    converted = {}
    for name, tensor in state.items():
        prefix = next((prefix for prefix, ours in BLOCKS.items() if name.startswith(ours)), None)
        if prefix is None:
            converted[names[name]] = tensor.T if name in PROJECTIONS else tensor
            continue
        number, _, rest = name.removeprefix(BLOCKS[prefix]).partition(".")
        if rest.startswith("attn.in_proj_"):
            kind = rest.removeprefix("attn.in_proj_")
            for part, rows in zip(QKV, tensor.chunk(3), strict=True):
                converted[f"{prefix}{number}.self_attn.{part}.{kind}"] = rows
        else:
            theirs, ours = next(pair for pair in IN_A_BLOCK.items() if rest.startswith(pair[1]))
            converted[f"{prefix}{number}.{rest.replace(ours, theirs)}"] = tensor
    converted["logit_scale"] = converted["logit_scale"].reshape(())
    place = "vision_model.embeddings.position_embedding.weight"
    converted[place] = square_positions(converted[place], _grid(settings))
    return {name: tensor.contiguous().clone() for name, tensor in converted.items()}


def square_positions(embedding: Tensor, grid: tuple[int, int]) -> Tensor:
    """Positions [1 + s * s, C], s = max(grid), that transformers interpolates to `embedding` [1 + h * w, C].

    Its interpolation is a linear map along each axis, bicubic without antialiasing, onto as few or fewer points: it can
    be inverted. Of all square grids that give the trained positions, the one nearest to their enlargement is taken.
    """
    if grid[0] == grid[1]:
        return embedding
    side = max(grid)
    down, across = (_interpolation(side, length) for length in grid)  # [h, s] and [w, s]
    trained = embedding[1:].double().reshape(*grid, -1).permute(2, 0, 1)  # [C, h, w]
    enlarged = F.interpolate(trained[None], size=(side, side), mode="nearest")[0]
    error = trained - down @ enlarged @ across.T
    square = enlarged + torch.linalg.pinv(down) @ error @ torch.linalg.pinv(across).T
    return torch.cat([embedding[:1], square.permute(1, 2, 0).reshape(side * side, -1).to(embedding.dtype)])


def read_settings(folder: Path) -> ModelSettings:
    """The architecture of a CLIPModel folder; UserError for another model, or one that this project cannot build."""
    config = _json(folder / "config.json")
    if config.get("model_type") != "clip":
        raise UserError(
            f"{folder} holds a {config.get('model_type')!r} model of Hugging Face, not a CLIPModel ('clip')"
        )
    from huggingface_hub.errors import StrictDataclassError
    from transformers.models.clip import CLIPConfig  # late: seconds; it knows the defaults a file leaves out

    try:
        clip: Any = CLIPConfig.from_dict(config)
        return _settings(clip, _true_size(folder, clip.vision_config.image_size))
    except (StrictDataclassError, ValueError, TypeError) as error:
        problem = str(error).splitlines()[-1].strip()[:200]
        raise UserError(f"{folder} is not a model this project can build: {problem}") from None


def write_folder(state: State, settings: ModelSettings, folder: Path) -> None:
    """Write a folder that `CLIPModel`, `CLIPImageProcessor` and `CLIPTokenizer` open offline. One rank calls."""
    from transformers.models.clip import CLIPConfig

    vision, text = settings.vision_cfg, settings.text_cfg
    activation = "quick_gelu" if settings.quick_gelu else "gelu"
    shared = {"hidden_act": activation, "projection_dim": settings.embed_dim}
    CLIPConfig(
        architectures=["CLIPModel"],
        projection_dim=settings.embed_dim,
        text_config=shared
        | _transformer(text.width, text.layers, text.heads)
        | {
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.context_length,
            "bos_token_id": START,
            "eos_token_id": END,
            "pad_token_id": END,
        },
        vision_config=shared
        | _transformer(vision.width, vision.layers, vision.width // vision.head_width)
        | {"image_size": max(vision.image_size), "patch_size": vision.patch_size},
    ).save_pretrained(folder)
    _write_preprocessors(settings, folder)
    save_file(to_hugging_face(state, settings), folder / HF_NAME, metadata={"format": "pt"})


def _renamed(name: str) -> str:
    for prefix, ours in BLOCKS.items():
        if name.startswith(prefix):
            number, _, rest = name.removeprefix(prefix).partition(".")
            rest = rest.replace("self_attn.q_proj.", "attn.in_proj_")
            for theirs, mine in IN_A_BLOCK.items():
                rest = rest.replace(theirs, mine)
            return f"{ours}{number}.{rest}"
    return OUTSIDE.get(name, name)


def _grid(settings: ModelSettings) -> tuple[int, int]:
    height, width = settings.vision_cfg.image_size
    return height // settings.vision_cfg.patch_size, width // settings.vision_cfg.patch_size


def _interpolation(before: int, after: int) -> Tensor:
    """The matrix [after, before] of bicubic interpolation along one axis, in double precision."""
    points = torch.eye(before, dtype=torch.float64)[:, None, :, None]  # one image of before x 1 for every point
    return F.interpolate(points, size=(after, 1), mode="bicubic", align_corners=False)[:, 0, :, 0].T


def _transformer(width: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }


def _settings(clip: Any, image_size: tuple[int, int]) -> ModelSettings:
    """The settings of a CLIPConfig; ValueError where they cannot say what it says."""
    text, vision = clip.text_config, clip.vision_config
    for part in (text, vision):
        if part.intermediate_size != 4 * part.hidden_size:
            raise ValueError(f"intermediate_size {part.intermediate_size} is not 4 x {part.hidden_size}")
        if part.layer_norm_eps != 1e-5:
            raise ValueError(f"layer_norm_eps {part.layer_norm_eps} is not 1e-5")
    if text.hidden_act != vision.hidden_act or text.hidden_act not in ("gelu", "quick_gelu"):
        raise ValueError(f"hidden_act {text.hidden_act} and {vision.hidden_act}: gelu or quick_gelu for both is wanted")
    return ModelSettings(
        embed_dim=clip.projection_dim,
        quick_gelu=text.hidden_act == "quick_gelu",
        vision_cfg=VisionSettings(
            image_size=image_size,
            patch_size=vision.patch_size,
            width=vision.hidden_size,
            layers=vision.num_hidden_layers,
            head_width=vision.hidden_size // vision.num_attention_heads,
        ),
        text_cfg=TextSettings(
            context_length=text.max_position_embeddings,
            vocab_size=text.vocab_size,
            width=text.hidden_size,
            heads=text.num_attention_heads,
            layers=text.num_hidden_layers,
        ),
    )


def _true_size(folder: Path, side: Any) -> tuple[int, int]:
    """Height and width of the images: the image processor's, where it names such a pair for a model of this size."""
    if not isinstance(side, int):
        raise ValueError(f"image_size {side} is not one number")
    path = folder / "preprocessor_config.json"
    size = _json(path).get("size") if path.is_file() else None
    if isinstance(size, dict) and isinstance(size.get("height"), int) and isinstance(size.get("width"), int):
        pair = size["height"], size["width"]
        if max(pair) == side:
            return pair
    return side, side


def _write_preprocessors(settings: ModelSettings, folder: Path) -> None:
    """The image processor and the tokenizer, from what open_clip brings along: nothing is downloaded."""
    from open_clip.tokenizer import SimpleTokenizer
    from transformers import CLIPTokenizer

    height, width = settings.vision_cfg.image_size
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": RESAMPLE,
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(CLIP_MEAN),
        "image_std": list(CLIP_STD),
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
    bpe = SimpleTokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}  # open_clip's, transformers'
    vocabulary = {names.get(word, word): number for word, number in bpe.encoder.items()}
    tokenizer = CLIPTokenizer(
        vocab=vocabulary, merges=list(bpe.bpe_ranks), model_max_length=settings.text_cfg.context_length
    )
    tokenizer.save_pretrained(folder)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    return content if isinstance(content, dict) else {}
