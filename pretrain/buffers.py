"""Memory for the pixels of batches, used again and again.

A fresh array of the size of a batch costs a page fault for every 4 KB that is written to it, 10 µs a sample at
384 x 128, and pinning one costs milliseconds.
"""

import weakref

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Pixels = NDArray[np.uint8]


class Buffers:
    """uint8 arrays of one shape; thread-safe. `pinned` ones can be copied to a GPU while it computes."""

    def __init__(self, shape: tuple[int, ...], *, pinned: bool = False) -> None:
        self._shape, self._pinned = shape, pinned
        self._free: list[Tensor] = []

    def take(self) -> Pixels:
        """An array of any content, which comes back by itself when nobody holds it, or a tensor made of it.

        A slice does not hold it: numpy lets slices refer to the memory behind the array.
        """
        try:
            memory = self._free.pop()
        except IndexError:
            memory = torch.empty(self._shape, dtype=torch.uint8, pin_memory=self._pinned)
        pixels: Pixels = memory.numpy()[:]  # a view of its own: the array that numpy() makes is shared with `memory`
        weakref.finalize(pixels, self._free.append, memory).atexit = False
        return pixels


def channels_first(pixels: Pixels) -> Tensor:
    """Pixels uint8 [B, H, W, 3] as a tensor uint8 [B, 3, H, W] over the same memory (channels last)."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)
