"""Images of samples as the encoder takes them, without augmentation: for evaluation and scoring."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from pretrain.buffers import channels_first
from pretrain.decode import Image, Undecodable, decode
from sharding.errors import UserError
from sharding.reader import Sample


def picture(sample: Sample, size: tuple[int, int]) -> Image:
    """The sample's image, resized to `size` (height, width), uint8 [H, W, 3]; UserError if it cannot be decoded.

    Its bytes are those that were packed, so what libjpeg warns of is the photo's own: a gallery is not to lack it.
    """
    try:
        return decode(sample.image, size, strict=False).copy()
    except Undecodable as error:
        raise UserError(f"sample {sample.key} cannot be decoded: {error}") from None


def stacked(images: Sequence[Image]) -> Tensor:
    """Images of one size as the encoder's batch, uint8 [B, 3, H, W]."""
    return channels_first(np.stack(images))
