"""Settings of fine-tuning: those of a pre-training run, with more losses, heads and a schedule in epochs."""

from dataclasses import replace
from math import ceil
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from pretrain.config import STRICT, LossSettings, NonNegative, Positive, Settings, Share

TERMS = ("itc", "sdm", "local", "match", "cid", "id", "mlm", "tal", "token_tal")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FinetuneLossSettings(LossSettings):
    """Weights of the terms. CFAM is sdm + local + match + cid; IRRA sdm + id + mlm; RDE tal + token_tal."""

    itc: NonNegative = 0.0
    sdm: NonNegative = 0.0
    local: NonNegative = 0.0  # SDM over the granularity queries (UFineBench Eq. 4)
    match: NonNegative = 0.0  # matched or not, over hard negatives (Eq. 5)
    cid: NonNegative = 0.0  # identity of positives and hard negatives, both modalities
    id: NonNegative = 0.0  # identity, both modalities
    mlm: NonNegative = 0.0  # masked words from the image (IRR)
    tal: NonNegative = 0.0  # triplet alignment of global features
    token_tal: NonNegative = 0.0  # triplet alignment of selected tokens
    hardness: Literal["local", "global"] = "local"  # by which similarity a negative is hard (global: without a decoder)
    tal_margin: NonNegative = 0.1
    tal_temperature: Annotated[float, Field(gt=0)] = 0.015

    @property
    def trains_decoder(self) -> bool:
        """Whether a term teaches the granularity decoder; without one, local similarity would be noise."""
        return self.local > 0 or self.match > 0

    @property
    def weights(self) -> dict[str, float]:
        """The terms that count, by name."""
        return {name: getattr(self, name) for name in TERMS if getattr(self, name) > 0}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class HeadSettings:
    """Sizes of the heads; the defaults are the papers'."""

    width: Positive = 512  # of granularity decoder and matcher
    heads: Positive = 8
    layers: Positive = 2
    queries: Positive = 16
    mlm_layers: Positive = 4  # of the masked-word head, which is as wide as the embedding
    mlm_heads: Positive = 8
    token_share: Annotated[Share, Field(gt=0)] = 0.3  # of the tokens that RDE's selection keeps

    @model_validator(mode="after")
    def _divisible(self) -> "HeadSettings":
        if self.width % self.heads:
            raise ValueError(f"heads.width {self.width} is not a multiple of heads.heads {self.heads}")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ScheduleSettings:
    """Lengths in epochs; one epoch is one image-caption pair for every caption of the training split."""

    epochs: Annotated[float, Field(gt=0)] | None = None  # none: optim.steps, warmup_steps and eval.every count
    warmup_epochs: NonNegative = 0.0
    eval_epochs: Annotated[float, Field(gt=0)] = 1.0  # between two evaluations, and between two checkpoints

    @model_validator(mode="after")
    def _warm_up_ends(self) -> "ScheduleSettings":
        if self.epochs is not None and self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"schedule.warmup_epochs {self.warmup_epochs:g} leaves nothing of schedule.epochs {self.epochs:g}"
            )
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FinetuneSettings(Settings):
    loss: FinetuneLossSettings
    heads: HeadSettings = HeadSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    init_sha256: str | None = None  # of what model.init holds: a run does not continue from other initial weights

    @model_validator(mode="after")
    def _text_is_what_the_heads_read(self) -> "FinetuneSettings":
        if self.loss.mlm and not self.data.mlm:
            raise ValueError("loss.mlm needs masked words: set data.mlm, e.g. 0.15")
        if self.data.token_bucket > 1:
            raise ValueError("data.token_bucket is for pre-training: the heads of fine-tuning know no dummy captions")
        if self.loss.mlm and self.model.embed_dim % self.heads.mlm_heads:
            raise ValueError(f"model.embed_dim {self.model.embed_dim} is not a multiple of heads.mlm_heads")
        return self


def with_epochs(settings: FinetuneSettings, pairs: int) -> FinetuneSettings:
    """The settings with the schedule's epochs turned into steps, for `pairs` image-caption pairs of training."""
    schedule = settings.schedule
    if schedule.epochs is None:
        return settings
    per_epoch = pairs / settings.optim.batch_size
    steps = max(1, round(schedule.epochs * per_epoch))
    evaluations = max(1, round(schedule.epochs / schedule.eval_epochs))  # the last of them at the end
    every: dict[str, Any] = {"every": ceil(steps / evaluations)}
    return replace(
        settings,
        optim=replace(settings.optim, steps=steps, warmup_steps=round(schedule.warmup_epochs * per_epoch)),
        eval=replace(settings.eval, **every),
        checkpoint=replace(settings.checkpoint, **every),
    )
