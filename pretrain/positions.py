"""Position embeddings on other grids and lengths: how weights of one image or context size begin another.

Shapes: L positions, C channels, (h, w) patches of an image from top to bottom and left to right.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from sharding.errors import UserError

Stretch = Literal["linear", "keep20"]

KEPT = 20  # positions that Long-CLIP leaves alone: most captions CLIP was trained on end there


def grid_of(patches: int) -> tuple[int, int] | None:
    """The (height, width) of a grid of `patches`, where that is a square or a person's 2 : 1 or 3 : 1; else None.

    No number is two of these: the ratios would make the root of 2, 3 or 6 rational.

    >>> grid_of(196), grid_of(192), grid_of(128), grid_of(195)
    ((14, 14), (24, 8), (16, 8), None)
    """
    for aspect in (1, 2, 3):
        side = round((patches / aspect) ** 0.5)
        if side and aspect * side * side == patches:
            return aspect * side, side
    return None


def resize_image_positions(embedding: Tensor, grid: tuple[int, int]) -> Tensor:
    """Position embeddings [1 + L, C] on another grid (height, width), bicubic and antialiased as open_clip does.

    The CLS position is kept. Equal length means equal grid and returns the input. UserError where `grid_of` does not
    know the grid that the embeddings come from.
    """
    patches = len(embedding) - 1
    if patches == grid[0] * grid[1]:
        return embedding
    before = grid_of(patches)
    if before is None:
        raise UserError(f"cannot resize {patches} image positions: not a square grid, nor twice or thrice as high")
    return interpolate_grid(embedding, before, grid, antialias=True)


def interpolate_grid(embedding: Tensor, before: tuple[int, int], after: tuple[int, int], *, antialias: bool) -> Tensor:
    """Position embeddings [1 + h * w, C] of the grid `before` on the grid `after`, bicubic; CLS is kept."""
    patches = embedding[1:].reshape(1, *before, -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=after, mode="bicubic", antialias=antialias, align_corners=False)
    return torch.cat([embedding[:1], patches.permute(0, 2, 3, 1).reshape(after[0] * after[1], -1)])


def resize_text_positions(embedding: Tensor, context_length: int, stretch: Stretch | None) -> Tensor:
    """Position embeddings [L, C] on another context length.

    A shorter one takes the first positions, which is exact: causal text never looks further. A longer one needs
    positions that were never trained, so it must be asked for: `linear` spreads all of them, as open_clip does;
    `keep20` keeps the first 20 and spreads the others, the last one staying last (Long-CLIP, Zhang et al. 2024, 3.1).
    UserError without `stretch`.
    """
    length = len(embedding)
    if context_length <= length:
        return embedding[:context_length]
    if stretch is None:
        raise UserError(
            f"context_length {context_length} is longer than the weights' {length}: "
            "shorten model.text_cfg.context_length, or set --model.stretch_text linear|keep20"
        )
    if stretch == "linear":
        return _spread(embedding, context_length, align_corners=False)
    if length < KEPT + 2:
        raise UserError(f"stretch_text keep20 needs weights of at least {KEPT + 2} text positions, not {length}")
    # In fp64: in fp32 the last position, which is to stay, is missed by up to 1e-5.
    spread = _spread(embedding[KEPT:].double(), context_length - KEPT, align_corners=True)
    return torch.cat([embedding[:KEPT], spread.to(embedding.dtype)])


def _spread(embedding: Tensor, length: int, *, align_corners: bool) -> Tensor:
    return F.interpolate(embedding.T[None], size=length, mode="linear", align_corners=align_corners)[0].T
