"""Person augmentation on uint8 images, drawn by (seed, global position); normalisation on the device.

The recipe is IRRA's: horizontal flip, pad and random crop, random erasing. A position always gets the same draw,
whatever rank or worker decodes it.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretrain.config import DataSettings

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

Image = NDArray[np.uint8]

ERASED_AREA = (0.02, 0.4)  # share of the image, as in IRRA
ERASED_ASPECT = (0.3, 3.3)


def augment(image: Image, settings: DataSettings, draw: np.random.Generator) -> Image:
    """One training view of `image` uint8 [H, W, 3], same shape, by the random numbers of `draw`."""
    if draw.random() < settings.flip:
        image = image[:, ::-1]
    if settings.pad:
        image = _pad_and_crop(image, settings.pad, draw)
    if draw.random() < settings.erase:
        image = _erase(image, draw)
    return image


def normalise(images: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] to float32 with CLIP's mean and standard deviation, on the images' device."""
    mean = torch.tensor(CLIP_MEAN, device=images.device).view(3, 1, 1)
    std = torch.tensor(CLIP_STD, device=images.device).view(3, 1, 1)
    return (images.float() / 255 - mean) / std


def _pad_and_crop(image: Image, pad: int, draw: np.random.Generator) -> Image:
    height, width, _ = image.shape
    top, left = draw.integers(0, 2 * pad + 1, size=2)
    padded = np.zeros((height + 2 * pad, width + 2 * pad, 3), dtype=np.uint8)
    padded[pad : pad + height, pad : pad + width] = image
    return padded[top : top + height, left : left + width]


def _erase(image: Image, draw: np.random.Generator) -> Image:
    """Fill one random rectangle with CLIP's mean colour; ten tries to fit one, as in torchvision."""
    height, width, _ = image.shape
    for _ in range(10):
        area = draw.uniform(*ERASED_AREA) * height * width
        aspect = np.exp(draw.uniform(*np.log(ERASED_ASPECT)))
        tall, wide = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if tall < height and wide < width:
            top, left = draw.integers(0, height - tall + 1), draw.integers(0, width - wide + 1)
            image = image.copy()
            image[top : top + tall, left : left + wide] = np.round(np.array(CLIP_MEAN) * 255)
            return image
    return image
