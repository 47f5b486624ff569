"""What the loader hands to a training step: one rank's part of a global batch."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from pretrain.text import MaskedText, PackedText


class Skipped(NamedTuple):
    """A sample that was left out: where it stood in the plan, its key, and why, as a word and as a sentence."""

    position: int
    key: str
    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One rank's part of a global batch.

    images: uint8 [b, 3, H, W], channels last in memory. text: b packed captions. identity: int64 [b], contiguous over
    the mixture. position: the global position of the first sample of the *global* batch. keys: b sample keys.
    masked: the same captions with tokens to be predicted, where data.mlm asks for them. skipped: what was left out, and
    had others put in its place.
    """

    images: Tensor
    text: PackedText
    identity: Tensor
    position: int
    keys: tuple[str, ...]
    masked: MaskedText | None = None
    skipped: tuple[Skipped, ...] = ()

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=True),
            text=self.text.to(device),
            identity=self.identity.to(device, non_blocking=True),
            masked=self.masked.to(device) if self.masked else None,
        )

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor of the batch."""
        masked = (self.masked.ids, self.masked.places, self.masked.labels) if self.masked else ()
        return (self.images, self.text.ids, self.text.positions, self.text.boundaries, self.identity, *masked)
