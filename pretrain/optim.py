"""What is optimised and how fast: parameter groups and the learning rate as a pure function of the step."""

import math
from typing import Any

from torch import nn

from pretrain.config import OptimSettings


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices decay; gains, biases, embeddings of position and the temperature do not."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    decay = [p for name, p in named if decays(name, p)]
    keep = [p for name, p in named if not decays(name, p)]
    return [
        {"params": decay, "weight_decay": weight_decay},
        {"params": keep, "weight_decay": 0.0},
    ]


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies (open_clip's rule, and no decay on position and class embeddings)."""
    return parameter.ndim > 1 and not name.endswith(("positional_embedding", "class_embedding"))


def learning_rate(step: int, settings: OptimSettings) -> float:
    """The rate of step `step` (0-based): linear warm-up, then a cosine from `lr` to `min_lr` at `steps`.

    >>> learning_rate(0, OptimSettings(lr=1.0, warmup_steps=4, steps=8))
    0.25
    """
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.min_lr + (settings.lr - settings.min_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
