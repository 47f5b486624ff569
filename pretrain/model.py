"""The dual encoder: a ViT for images and a causal transformer for packed text, with open_clip's parameter names.

Its state dict is open_clip's `CLIP`, so that open_clip weights load and ours export without conversion; the one
difference is that logit_scale has shape [1] here, because DeepSpeed cannot partition a 0-dim parameter.

Shapes: B samples, N image tokens (patches + CLS), T tokens of a packed text batch, C channels, E embed_dim.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretrain.attention import attend_image, attend_text
from pretrain.config import ModelSettings, TextSettings, VisionSettings
from pretrain.text import PackedText

MAX_SCALE = 100.0  # CLIP's ceiling on 1 / temperature
INITIAL_SCALE = 1 / 0.07

Attend = Callable[[Tensor], Tensor]  # [..., 3, H, D] -> [..., H * D]
Look = Callable[[PackedText | None, Tensor], None]  # text (none for images), qkv of a tower's last block


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x): the activation of OpenAI's CLIP weights."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class SelfAttention(nn.Module):
    """Projections of multi-head self-attention, named as torch.nn.MultiheadAttention names them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        return self.out_proj(attend(qkv.unflatten(-1, (3, self.heads, -1))))


class Block(nn.Module):
    """Pre-norm transformer block over [..., C]; `attend` knows how the leading dimensions are to be read."""

    def __init__(self, width: int, heads: int, quick_gelu: bool) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = SelfAttention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        gelu = QuickGELU() if quick_gelu else nn.GELU()
        layers = [("c_fc", nn.Linear(width, 4 * width)), ("gelu", gelu), ("c_proj", nn.Linear(4 * width, width))]
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        x = x + self.attn(self.ln_1(x), attend)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """A stack of blocks, named as open_clip names it."""

    def __init__(self, width: int, layers: int, heads: int, quick_gelu: bool) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads, quick_gelu) for _ in range(layers))
        reset_blocks(self, width, layers)

    def forward(self, x: Tensor, attend: Attend, look: Callable[[Tensor], None] | None = None) -> Tensor:
        """`look` is shown the queries, keys and values [..., 3, H, D] of the last block."""

        def attend_seen(qkv: Tensor) -> Tensor:
            if look is not None:
                look(qkv)
            return attend(qkv)

        *blocks, last = self.resblocks
        for block in blocks:
            x = block(x, attend)
        return last(x, attend_seen)


def reset_blocks(blocks: nn.Module, width: int, layers: int) -> None:
    """CLIP's initialisation of `layers` transformer blocks: residual branches scaled down by the depth."""
    inward, outward, hidden = width**-0.5, (2 * layers * width) ** -0.5, (2 * width) ** -0.5
    deviation = {
        "in_proj_weight": inward,
        "query.weight": inward,
        "key_value.weight": inward,
        "out_proj.weight": outward,
        "c_fc.weight": hidden,
        "c_proj.weight": outward,
    }
    for name, parameter in blocks.named_parameters():
        for ending, std in deviation.items():
            if name.endswith(ending):
                nn.init.normal_(parameter, std=std)
        if name.endswith("bias"):
            nn.init.zeros_(parameter)


class VisionTower(nn.Module):
    """ViT with a CLS token, pooled there. Normalised images [B, 3, H, W] -> features [B, E]."""

    def __init__(self, settings: VisionSettings, embed_dim: int, quick_gelu: bool) -> None:
        super().__init__()
        width, scale = settings.width, settings.width**-0.5
        height, breadth = (side // settings.patch_size for side in settings.image_size)
        self.conv1 = nn.Conv2d(3, width, settings.patch_size, settings.patch_size, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(height * breadth + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, settings.layers, width // settings.head_width, quick_gelu)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(scale * torch.randn(width, embed_dim))

    def forward(self, images: Tensor, all_tokens: bool = False, look: Callable[[Tensor], None] | None = None) -> Tensor:
        """Features [B, E] of the CLS token; of `all_tokens`, that one first, [B, N, E]."""
        patches_BNC = self.conv1(images).flatten(2).transpose(1, 2)
        cls_B1C = self.class_embedding.to(patches_BNC.dtype).expand(images.shape[0], 1, -1)
        x_BNC = torch.cat([cls_B1C, patches_BNC], 1) + self.positional_embedding
        x_BNC = self.transformer(self.ln_pre(x_BNC), attend_image, look)
        return self.ln_post(x_BNC if all_tokens else x_BNC[:, 0]) @ self.proj


class DualEncoder(nn.Module):
    """Image and text tower with one embedding space."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        text = settings.text_cfg
        self.settings = settings
        self.visual = VisionTower(settings.vision_cfg, settings.embed_dim, settings.quick_gelu)
        self.transformer = Transformer(text.width, text.layers, text.heads, settings.quick_gelu)
        self.token_embedding = nn.Embedding(text.vocab_size, text.width)
        self.positional_embedding = nn.Parameter(torch.empty(text.context_length, text.width))
        self.ln_final = nn.LayerNorm(text.width)
        self.text_projection = nn.Parameter(torch.empty(text.width, settings.embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor([math.log(INITIAL_SCALE)]))
        self._reset_text_parameters(text)

    def _reset_text_parameters(self, text: TextSettings) -> None:
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=text.width**-0.5)

    def forward(
        self, images: Tensor | None, text: PackedText | None, all_tokens: bool = False, look: Look | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """L2-normalised image features [B, E], text features [B, E] (None where not asked for), 1 / temperature [1].

        images: normalised float [B, 3, H, W]. Features are fp32. With `all_tokens` the first two are the embeddings of
        every token instead, image [B, N, E] (CLS first) and text [T, E], not normalised: `pool` makes features of them.
        `look` is called inside each tower's last block, where ZeRO-3 still holds the projections, with what it attends
        with. Under ZeRO-3 all ranks must call, and always this method: it is what gathers the parameters.
        """
        image = None if images is None else self.visual(images, all_tokens, look and partial(look, None))
        words = None if text is None else self._encode_text(text, all_tokens, look and partial(look, text))
        scale = self.logit_scale.exp()
        # Limited in value but not in gradient: a plain clamp would hold a temperature at the limit for ever, and
        # OpenAI's weights begin there.
        scale = scale - (scale - scale.clamp(max=MAX_SCALE)).detach()
        if not all_tokens:
            image, words = (None if x is None else F.normalize(x.float(), dim=-1) for x in (image, words))
        return image, words, scale

    def _encode_text(self, text: PackedText, all_tokens: bool, look: Callable[[Tensor], None] | None) -> Tensor:
        context_length = self.positional_embedding.shape[0]

        def attend(qkv_T3HD: Tensor) -> Tensor:
            return attend_text(qkv_T3HD, text, context_length)

        x_TC = self.token_embedding(text.ids) + self.positional_embedding[text.positions]
        x_TC = self.transformer(x_TC, attend, look)
        return self.ln_final(x_TC if all_tokens else x_TC[text.ends]) @ self.text_projection


def pool(image_BNE: Tensor, text_TE: Tensor, text: PackedText) -> tuple[Tensor, Tensor]:
    """L2-normalised fp32 features [B, E] of images and captions from the embeddings of all their tokens."""
    return F.normalize(image_BNE[:, 0].float(), dim=-1), F.normalize(text_TE[text.ends].float(), dim=-1)
