"""The engine: the dual encoder and its losses under DeepSpeed ZeRO 0 to 3, with a configuration made from ours.

The only file that imports deepspeed. Weights stay in fp32 and bf16 is autocast, so that one world-size-free checkpoint
(fp32 weights and Adam moments by parameter name) serves every stage and precision.
"""

import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretrain.augment import normalise
from pretrain.batch import Batch
from pretrain.config import Settings
from pretrain.features import encode
from pretrain.objective import Objective
from pretrain.optim import learning_rate, parameter_groups
from pretrain.text import PackedText

MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's state by torch's names

State = dict[str, Tensor]


def deepspeed_config(settings: Settings, world_size: int) -> dict[str, Any]:
    """DeepSpeed's configuration for our settings."""
    config: dict[str, Any] = {
        "train_batch_size": settings.optim.batch_size,
        "train_micro_batch_size_per_gpu": settings.optim.batch_size // world_size,
        "gradient_clipping": settings.optim.clip_grad,
        "zero_optimization": {"stage": settings.engine.zero_stage},
        "zero_allow_untested_optimizer": True,  # torch's fused AdamW: DeepSpeed's own compiles for minutes on a CPU
        "steps_per_print": 1_000_000_000,
    }
    if settings.engine.precision == "bf16":
        # No "safe" modules: those would have their gradients reduced in bf16 as well.
        config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    return config


def compute_dtype(settings: Settings) -> torch.dtype:
    """The dtype in which matrix products and attention run."""
    return torch.bfloat16 if settings.engine.precision == "bf16" else torch.float32


class Engine:
    """One training run's model and optimizer. All ranks must construct it and call its methods together."""

    def __init__(self, objective: Objective, settings: Settings, device: torch.device) -> None:
        import deepspeed

        self.settings, self.device = settings, device
        self.world_size = torch.distributed.get_world_size()
        self.parameters = sum(parameter.numel() for parameter in objective.parameters())
        objective.to(device)
        optim = settings.optim
        groups = parameter_groups(objective, optim)
        self._adam = torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)
        # DeepSpeed builds a small operator with ninja, which a virtual environment keeps in its own bin.
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        with redirect_stdout(sys.stderr):  # it prints what it builds, and stdout is for results
            deepspeed.init_distributed(dist_backend=torch.distributed.get_backend())
            self._engine, *_ = deepspeed.initialize(
                model=objective, optimizer=self._adam, config=deepspeed_config(settings, self.world_size)
            )
        # A checkpoint names the encoder's parameters as an export does, and the heads' `heads.…`.
        named = self._engine.module.named_parameters()
        self._names = {parameter: name.removeprefix("encoder.") for name, parameter in named}
        self._start_adam()

    def train_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """One optimizer step on this rank's part of global step `step`; returns this rank's losses, detached.

        Keys: `loss` (the weighted sum), one per loss, and `scale` (1 / temperature). The mean over ranks is the loss
        of the global batch.
        """
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.settings.optim) * group["lr_scale"]
        self._engine.train()
        loss, terms = self._engine(normalise(batch.images), batch.text, batch)
        self._engine.backward(loss)
        self._engine.step()
        if not self._engine.was_step_applied():  # ZeRO skips a step with such gradients in silence
            raise FloatingPointError(f"a gradient is not finite at step {step}: lower optim.lr, or use fp32")
        return {"loss": loss.detach(), **{name: term.detach() for name, term in terms.items()}}

    def encode(self, images: Tensor | None, text: PackedText | None) -> tuple[Tensor, Tensor]:
        """Normalised features fp32 [B, E] of uint8 images and of packed captions; all ranks must call under ZeRO-3."""
        return encode(self._engine, self.device, images, text)

    def weights(self) -> State:
        """fp32 weights by parameter name on the CPU. All ranks must call; only rank 0 gets them, others none."""
        keep = torch.distributed.get_rank() == 0
        full = ((name, self._full(parameter, None)) for parameter, name in self._names.items())
        return {name: tensor.detach().cpu().clone() for name, tensor in full if keep}

    def state(self) -> tuple[State, State]:
        """fp32 weights by parameter name, and Adam moments by `NAME.exp_avg` and `NAME.exp_avg_sq`, on the CPU.

        All ranks must call; only rank 0 gets the tensors, the others empty dicts.
        """
        weights: State = {}
        moments: State = {}
        keep = torch.distributed.get_rank() == 0
        for parameter, name in self._names.items():
            full = {name: self._full(parameter, None)}
            full |= {f"{name}.{moment}": self._full(parameter, moment) for moment in MOMENTS}
            if keep:
                weights[name] = full.pop(name).detach().cpu().clone()
                moments |= {key: tensor.detach().cpu().clone() for key, tensor in full.items()}
        return weights, moments

    def load_moments(self, moments: State, step: int) -> None:
        """Continue the optimizer where `moments` (as from `state`, on every rank) left it after `step` steps.

        The weights are loaded into the model before the engine is made. All ranks must call.
        """
        for parameter, name in self._names.items():
            for moment in MOMENTS:
                self._set_moment(parameter, moment, moments[f"{name}.{moment}"])
        for state in self._adam.state.values():
            state["step"].fill_(step)

    def _start_adam(self) -> None:
        """Give Adam its state before its first step, so that it can be read and written by parameter name at any time.

        DeepSpeed 0.19.8 links names to states after the first *group* has stepped, which leaves every later group
        without moments for good; linked here, when all groups have their state, it is right.
        """
        for part in self._master_parts():
            step = torch.zeros((), device=part.device)
            self._adam.state[part] = {"step": step} | {moment: torch.zeros_like(part) for moment in MOMENTS}
        if self.settings.engine.zero_stage in (1, 2):
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _master_parts(self) -> list[Tensor]:
        """The fp32 tensors that this rank's Adam updates: parameters, or flat partitions of them."""
        if self.settings.engine.zero_stage == 0:
            return [parameter for group in self._adam.param_groups for parameter in group["params"]]
        if self.settings.engine.zero_stage == 3:
            return self._engine.optimizer.fp32_partitioned_groups_flat
        return self._engine.optimizer.single_partition_of_fp32_groups

    def _full(self, parameter: Tensor, moment: str | None) -> Tensor:
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        if self.settings.engine.zero_stage == 0:
            return parameter if moment is None else self._adam.state[parameter][moment]
        if moment is None:
            return safe_get_full_fp32_param(parameter)
        return safe_get_full_optimizer_state(parameter, moment)

    def _set_moment(self, parameter: Tensor, moment: str, value: Tensor) -> None:
        from deepspeed.utils import safe_get_local_optimizer_state, safe_set_full_optimizer_state

        value = value.to(self.device)
        if self.settings.engine.zero_stage == 0:
            self._adam.state[parameter][moment].copy_(value)
        elif self.settings.engine.zero_stage == 3:
            # The full setter fails where the last rank's part is padding (a parameter not divisible by the ranks).
            part = safe_get_local_optimizer_state(parameter, moment)
            begin = part.numel() * torch.distributed.get_rank()
            piece = value.flatten()[begin : begin + part.numel()]
            part[: piece.numel()].copy_(piece)
        else:
            safe_set_full_optimizer_state(parameter, value, moment)
