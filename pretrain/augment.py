"""Person augmentation on uint8 images, drawn by (seed, global position); normalisation on the device.

The recipe is IRRA's: horizontal flip, pad and random crop, random erasing, in one pass from the decoded image into its
place in the batch. A position always gets the same draw, whatever rank or worker decodes it.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretrain.config import DataSettings
from pretrain.decode import Image
from sharding.draws import Integers, uniforms

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

ERASED_AREA = (0.02, 0.4)  # share of the image, as in IRRA
ERASED_ASPECT = (0.3, 3.3)
TRIES = 10  # to fit a rectangle, as in torchvision


@dataclass(frozen=True, kw_only=True)
class Views:
    """How the images of n consecutive positions are looked at.

    flip: bool [n], mirrored or not. top, left: int64 [n], where the crop begins in the padded image. erased: int64
    [n, 4], top, left, height and width of the rectangle that is blotted out, height 0 where there is none.
    """

    flip: NDArray[np.bool_]
    top: Integers
    left: Integers
    erased: Integers


def draw_views(settings: DataSettings, size: tuple[int, int], seed: int, first: int, count: int) -> Views:
    """The views of `count` positions from `first` on, for images of `size` (H, W)."""
    chance = uniforms(seed, "view", first, count, 4)
    offsets = (chance[:, 1:3] * (2 * settings.pad + 1)).astype(np.int64)
    erased = np.zeros((count, 4), np.int64)
    if settings.erase:
        erased = _rectangles(uniforms(seed, "erase", first, count, 4 * TRIES).reshape(count, TRIES, 4), size)
        erased[chance[:, 3] >= settings.erase] = 0
    return Views(flip=chance[:, 0] < settings.flip, top=offsets[:, 0], left=offsets[:, 1], erased=erased)


def _rectangles(chance: NDArray[np.float64], size: tuple[int, int]) -> Integers:
    """The first of each position's tries that fits: chance [n, tries, 4] -> top, left, height, width, int64 [n, 4].

    As torchvision's RandomErasing draws them: a share of the area, and an aspect whose logarithm is uniform.
    """
    height, width = size
    low, high = ERASED_AREA
    area = (low + chance[..., 0] * (high - low)) * height * width
    low, high = np.log(ERASED_ASPECT)
    aspect = np.exp(low + chance[..., 1] * (high - low))
    tall, wide = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (tall < height) & (wide < width)
    top, left = chance[..., 2] * (height - tall + 1), chance[..., 3] * (width - wide + 1)
    tried = np.stack([top, left, tall, wide], -1).astype(np.int64)
    chosen = tried[np.arange(len(tried)), fits.argmax(1)]
    chosen[~fits.any(1)] = 0
    return chosen


def render(image: Image, views: Views, place: int, pad: int, out: Image) -> None:
    """Write the view number `place` of `image` into `out`, both uint8 [H, W, 3].

    The flip comes first, then the crop out of the image with a black border of `pad` pixels, then the erasing.
    """
    height, width, _ = image.shape
    if views.flip[place]:
        image = _mirrored(image)
    down, right = int(views.top[place]) - pad, int(views.left[place]) - pad  # the crop begins there in the image
    top, left = min(max(0, -down), height), min(max(0, -right), width)
    bottom, end = max(top, min(height, height - down)), max(left, min(width, width - right))
    out[:top], out[bottom:], out[top:bottom, :left], out[top:bottom, end:] = 0, 0, 0, 0
    out[top:bottom, left:end] = image[top + down : bottom + down, left + right : end + right]
    y, x, tall, wide = views.erased[place].tolist()
    if tall:
        out[y : y + tall, x : x + wide] = _blot(height, width)[:tall, :wide]


def _mirrored(image: Image) -> Image:
    """Torch turns rows of pixels with vector instructions: 35 µs at 384 x 128, where numpy takes 240."""
    mirrored: Image = torch.flip(torch.from_numpy(image), [1]).numpy()
    return mirrored


@cache
def _blot(height: int, width: int) -> Image:
    """An area of CLIP's mean colour: to copy it costs a thirtieth of spreading three bytes over all pixels."""
    return np.broadcast_to(np.round(np.array(CLIP_MEAN) * 255).astype(np.uint8), (height, width, 3)).copy()


def normalise(images: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] to float32 with CLIP's mean and standard deviation, on the images' device, channels first.

    One pass to lay them out and two in place: a quarter of the time of (images / 255 - mean) / std on a CPU.
    """
    mean = torch.tensor(CLIP_MEAN, device=images.device).view(3, 1, 1)
    std = torch.tensor(CLIP_STD, device=images.device).view(3, 1, 1)
    pixels = images.to(torch.float32, memory_format=torch.contiguous_format)
    return pixels.mul_(1 / (255 * std)).sub_(mean / std)
