"""What the engine trains: the dual encoder together with the losses of a run, as one module.

    images, captions -> encoder -> features -> losses over the global batch

One module, because DeepSpeed's ZeRO-3 gathers parameters for what is called inside it. Fine-tuning has an objective of
its own, with heads, in `finetune/objective.py`; the engine and the loop take either.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from pretrain.batch import Batch
from pretrain.config import LossSettings
from pretrain.losses import gather_batch, weighted_loss
from pretrain.model import DualEncoder
from pretrain.text import PackedText

Encoded = tuple[Tensor | None, Tensor | None, Tensor]
Losses = tuple[Tensor, dict[str, Tensor]]


class Objective(nn.Module, ABC):
    """A dual encoder (`encoder`) with a loss; what it trains besides are its `heads`, which no export holds."""

    def __init__(self, encoder: DualEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor | None, text: PackedText | None, batch: Batch | None = None) -> Encoded | Losses:
        """Without `batch` the encoder's features; with the batch of which they are, (loss, terms) on this rank.

        images: normalised float [B, 3, H, W]. The terms are unweighted, detached scalars by name. All ranks must call.
        """
        if batch is None:
            encoded: Encoded = self.encoder(images, text)
            return encoded
        assert images is not None
        assert text is not None
        return self.losses(images, text, batch)

    @abstractmethod
    def losses(self, images: Tensor, text: PackedText, batch: Batch) -> Losses:
        """The loss of this rank's part of the global batch, and its terms. All ranks must call."""


class ContrastiveObjective(Objective):
    """The pre-training losses on global features."""

    def __init__(self, encoder: DualEncoder, settings: LossSettings) -> None:
        super().__init__(encoder)
        self.settings = settings

    def losses(self, images: Tensor, text: PackedText, batch: Batch) -> Losses:
        """The weighted sum of the losses that count, these by name, and `scale` (1 / temperature)."""
        image, words, scale = self.encoder(images, text)
        loss, terms = weighted_loss(
            gather_batch(image, words, batch.identity),
            scale,
            self.settings.weights,
            sdm_temperature=self.settings.sdm_temperature,
        )
        return loss, {"scale": scale.detach()[0], **terms}


def load_parameters(objective: Objective, weights: dict[str, Tensor]) -> None:
    """Put a checkpoint's weights into the encoder (names as in an export) and the heads (`heads.…`)."""
    names = objective.state_dict().keys()
    objective.load_state_dict({name: weights[name.removeprefix("encoder.")] for name in names})
