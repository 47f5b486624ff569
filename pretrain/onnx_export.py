"""The two towers as ONNX files: pixels to features, padded token ids to features; needs the packages of `[onnx]`.

`image.onnx` takes uint8 images already scaled to the model's size and normalises them itself, so that nobody has to
repeat CLIP's mean and deviation. `text.onnx` takes ids padded with 0 behind the end token, of any length up to the
context. Both give L2-normalised fp32 features, for any batch size.
"""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretrain.augment import normalise
from pretrain.config import ModelSettings
from pretrain.hugging_face import END, START
from pretrain.model import DualEncoder
from pretrain.weight_files import State
from sharding.errors import UserError

IMAGE_NAME = "image.onnx"
TEXT_NAME = "text.onnx"
IMAGES, IDS, FEATURES = "images", "ids", "features"  # names of the inputs and of the output
ONE_FILE = 3 << 29  # bytes; protobuf ends at 2 GiB, larger towers get a second file for their weights


class ImageTower(nn.Module):
    """uint8 images [B, 3, H, W] to normalised features [B, E]."""

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.visual = model.visual

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(self.visual(normalise(images)), dim=-1)


class TextTower(nn.Module):
    """Padded ids [B, L] int64 to normalised features [B, E]: the packed text tower's blocks, over rectangles.

    Pooled at the first end token, found by a cast and an argmax. What stands behind it is never seen: attention is
    causal.
    """

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.transformer, self.token_embedding, self.ln_final = model.transformer, model.token_embedding, model.ln_final
        self.positional_embedding, self.text_projection = model.positional_embedding, model.text_projection

    def forward(self, ids: Tensor) -> Tensor:
        x_BLC = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        x_BLC = self.transformer(x_BLC, attend_causally)
        end_B11 = (ids == END).to(torch.int32).argmax(-1)[:, None, None]
        x_BC = x_BLC.gather(1, end_B11.expand(-1, 1, x_BLC.shape[-1])).squeeze(1)
        return F.normalize(self.ln_final(x_BC) @ self.text_projection, dim=-1)


def attend_causally(qkv_BL3HD: Tensor) -> Tensor:
    """Causal self-attention over rows of equal length. [B, L, 3, H, D] -> [B, L, H * D]."""
    query, key, value = qkv_BL3HD.permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2).flatten(2)


def require_onnx() -> None:
    """UserError unless the packages that write ONNX are installed."""
    if missing := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]:
        raise UserError(f"ONNX needs {' and '.join(missing)}: pip install person-pretrain[onnx]")


def write_onnx(state: State, settings: ModelSettings, folder: Path) -> None:
    """Write `image.onnx` and `text.onnx` of an encoder's open_clip state dict. One rank calls."""
    model = DualEncoder(settings).eval()
    model.load_state_dict(state | {"logit_scale": state["logit_scale"].reshape(1)})
    context = settings.text_cfg.context_length
    batch = torch.export.Dim("batch")
    length = torch.export.Dim("length", min=2, max=context)
    images = torch.zeros(2, 3, *settings.vision_cfg.image_size, dtype=torch.uint8)
    ids = torch.zeros(2, context, dtype=torch.int64)
    ids[:, 0], ids[:, 1] = START, END
    _write(ImageTower(model), images, {0: batch}, IMAGES, folder / IMAGE_NAME)
    _write(TextTower(model), ids, {0: batch, 1: length}, IDS, folder / TEXT_NAME)


def _write(tower: nn.Module, example: Tensor, dynamic: dict[int, torch.export.Dim], name: str, path: Path) -> None:
    program = torch.onnx.export(
        tower.eval(),
        (example,),
        dynamo=True,
        verbose=False,
        input_names=[name],
        output_names=[FEATURES],
        dynamic_shapes=(dynamic,),
    )
    assert program is not None
    size = sum(parameter.numel() * parameter.element_size() for parameter in tower.parameters())
    program.save(path, external_data=size > ONE_FILE)
