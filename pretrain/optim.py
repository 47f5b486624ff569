"""What is optimised and how fast: parameter groups and the learning rate as a pure function of the step."""

import math
from typing import Any

from torch import nn

from pretrain.config import OptimSettings


def parameter_groups(model: nn.Module, settings: OptimSettings) -> list[dict[str, Any]]:
    """Up to four groups: matrices decay; gains, biases, embeddings of position and the temperature do not; the
    parameters of new modules, named `heads.…`, learn `new_lr_scale` times as fast as the others (`lr_scale`).
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name.startswith("heads."), decays(name, parameter)), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": settings.weight_decay if decaying else 0.0,
            "lr_scale": settings.new_lr_scale if new else 1.0,
        }
        for (new, decaying), parameters in sorted(groups.items(), key=lambda item: (item[0][0], not item[0][1]))
    ]


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies (open_clip's rule, and no decay on embeddings of position, class and query)."""
    return parameter.ndim > 1 and not name.endswith("_embedding")


def learning_rate(step: int, settings: OptimSettings) -> float:
    """The rate of step `step` (0-based): linear warm-up, then a cosine from `lr` to `min_lr` at `steps`.

    >>> learning_rate(0, OptimSettings(lr=1.0, warmup_steps=4, steps=8))
    0.25
    """
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.min_lr + (settings.lr - settings.min_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
