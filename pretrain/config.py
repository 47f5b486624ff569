"""Settings of a run: one YAML file, dotted overrides, frozen dataclasses; every problem is reported at once.

    settings = load_settings("pretrain/recipes/demo.yaml", ["--optim.lr", "1e-4"])

The resolved form is printed, hashed and saved beside the checkpoints. `model` has open_clip's own field names, so that
it is also the configuration of an exported model.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import MISSING, asdict, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import yaml
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from sharding.errors import UserError
from sharding.store import place_below

INITIAL = ("init", "stretch_text")  # settings of a model that only say what it begins with

HELD_OUT = "held_out"  # as eval.split: the people that data.hold_out keeps from training

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]


def _text(value: Any) -> Any:
    """Paths are places too."""
    return str(value) if isinstance(value, Path) else value


Place = Annotated[str, BeforeValidator(_text)]  # a folder, or s3://BUCKET/PREFIX


def _off(value: Any) -> Any:
    """YAML reads a bare `off` as false."""
    return "off" if value is False else value


def _pair(value: Any) -> Any:
    """open_clip writes a square image size as one number."""
    return (value, value) if isinstance(value, int) else value


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RunSettings:
    name: str = "run"
    dir: Path = Path("runs/run")  # checkpoints, metrics, curves and the export go here
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0  # of the order, the augmentation and the initial weights
    log_every: Positive = 10  # steps between two lines of progress
    stop_at: Positive | None = None  # stop after this step; the schedule is still that of optim.steps


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MixtureSettings:
    path: Place  # a packed dataset, relative to data.root; or a place of its own
    weight: Annotated[float, Field(gt=0)] = 1.0  # relative share of the samples


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CacheSettings:
    dir: Path | None = None  # a folder on a fast local disk, shared by the ranks of a machine; none means no cache
    gb: Annotated[float, Field(gt=0)] = 100.0  # at most as many 10^9 bytes of shards are kept there


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataSettings:
    root: Place = "data/shards"
    mixture: Annotated[tuple[MixtureSettings, ...], Field(min_length=1)]
    split: str = "train"
    window: Positive = 16  # shards whose samples are shuffled together
    verify: Annotated[Literal["off", "shard", "sample"], BeforeValidator(_off)] = (
        "sample"  # against which hashes what is read is checked
    )
    max_skipped: Share = 0.001  # damaged samples are left out up to this share; above it the run stops
    cache: CacheSettings = CacheSettings()  # of shards that are read from a bucket
    flip: Share = 0.5  # probability of a horizontal flip
    swap_sides: bool = False  # swap "left" and "right" in the caption of a flipped image
    pad: Annotated[int, Field(ge=0)] = 10  # pixels of padding before the random crop
    erase: Share = 0.0  # probability of random erasing
    mask_words: Share = 0.0  # of the caption's word pieces, replaced by the mask token
    replace_words: Share = 0.0  # replaced by a random word piece
    delete_words: Share = 0.0  # left out
    mlm: Share = 0.0  # masked in a second copy of the caption, to be predicted (15 % in BERT and IRRA)
    sampler: Literal["random", "identity"] = "random"  # identity: per_identity images of a person stand side by side
    per_identity: Annotated[int, Field(ge=2)] = 4
    hold_out: Annotated[float, Field(ge=0, lt=1)] = 0.0  # share of the people left out (for eval.split held_out)
    token_bucket: Positive = 1  # dummy captions fill a rank's tokens up to a multiple of it, so that shapes recur
    prefetch: Positive = 4  # batches read and decoded ahead
    threads: Positive = 1  # decoding threads of one rank
    log_samples: bool = False  # write the key of every sample of every step to samples/rank-R.jsonl

    def place(self, path: str) -> str:
        """Where a dataset lies that settings name: `path` itself where it is whole, otherwise below `root`."""
        return place_below(self.root, path)

    @model_validator(mode="after")
    def _shares(self) -> "DataSettings":
        if self.mask_words + self.replace_words + self.delete_words > 1 + 1e-9:  # sums like 0.7 + 0.2 + 0.1 round
            raise ValueError("data.mask_words, replace_words and delete_words are shares: they add up to more than 1")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class VisionSettings:
    image_size: Annotated[tuple[Positive, Positive], BeforeValidator(_pair)] = (384, 128)  # height, width in pixels
    patch_size: Positive = 16
    width: Positive = 768
    layers: Positive = 12
    head_width: Positive = 64


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TextSettings:
    context_length: Annotated[int, Field(ge=3)] = 77
    vocab_size: Positive = 49408
    width: Positive = 512
    heads: Positive = 8
    layers: Positive = 12


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelSettings:
    embed_dim: Positive = 512
    quick_gelu: bool = False  # true for OpenAI's weights
    vision_cfg: VisionSettings = VisionSettings()
    text_cfg: TextSettings = TextSettings()
    init: Path | None = None  # weights to begin with (open_clip or Hugging Face); none means random
    stretch_text: Literal["linear", "keep20"] | None = None  # how text positions are made where init has fewer

    @model_validator(mode="after")
    def _divisible(self) -> "ModelSettings":
        vision, text = self.vision_cfg, self.text_cfg
        if min(vision.image_size) < vision.patch_size:
            raise ValueError(f"image_size {list(vision.image_size)} is smaller than patch_size {vision.patch_size}")
        if vision.width % vision.head_width:
            raise ValueError(f"vision width {vision.width} is not a multiple of head_width {vision.head_width}")
        if text.width % text.heads:
            raise ValueError(f"text width {text.width} is not a multiple of heads {text.heads}")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LossSettings:
    itc: NonNegative = 1.0  # weight of InfoNCE
    sdm: NonNegative = 0.0  # weight of similarity distribution matching
    sdm_temperature: Annotated[float, Field(gt=0)] | None = 0.02  # IRRA's; none means the learned one

    @property
    def weights(self) -> dict[str, float]:
        """The losses that count, by name."""
        return {name: weight for name, weight in (("itc", self.itc), ("sdm", self.sdm)) if weight > 0}

    @model_validator(mode="after")
    def _something(self) -> "LossSettings":
        if not self.weights:
            raise ValueError("every loss has weight 0")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OptimSettings:
    steps: Positive = 1000
    batch_size: Positive = 512  # samples per step over all ranks
    lr: Annotated[float, Field(gt=0)] = 1e-4
    new_lr_scale: Annotated[float, Field(gt=0)] = 5.0  # times lr, for the heads of fine-tuning
    min_lr: NonNegative = 0.0  # where the cosine ends
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    weight_decay: NonNegative = 0.2
    betas: tuple[Decay, Decay] = (0.9, 0.98)
    eps: Annotated[float, Field(gt=0)] = 1e-6
    clip_grad: NonNegative = 1.0  # largest global gradient norm; 0 means no limit

    @model_validator(mode="after")
    def _ordered(self) -> "OptimSettings":
        if self.min_lr > self.lr:
            raise ValueError(f"optim.min_lr {self.min_lr} is more than optim.lr {self.lr}")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EngineSettings:
    zero_stage: Literal[0, 1, 2, 3] = 1
    precision: Literal["fp32", "bf16"] = "bf16"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LaunchSettings:
    backend: Literal["ray", "torchrun", "local"] = "ray"  # local: one rank in this process
    ranks: Positive = 1
    cpus_per_rank: Positive = 1
    gpus_per_rank: Literal[0, 1] = 0
    timeout_s: Positive = 1800  # how long a collective may wait for a rank


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CheckpointSettings:
    every: Positive = 500  # steps; one is always written at the end
    keep: Positive = 2  # newest ones kept


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvalSettings:
    data: Place | None = None  # a packed benchmark, as in data.mixture; none means no evaluation
    split: str = "val"  # held_out: the people that data.hold_out keeps from training
    every: Positive = 500  # steps; always at the first and the last step
    batch_size: Positive = 256
    keep: Literal["best", "last"] | None = None  # which weights go to run.dir/export: of the best R@1, or the last ones
    select_on_test: bool = False  # allow the test split to choose them, which makes its figures no held-out result


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Settings:
    run: RunSettings = RunSettings()
    data: DataSettings
    model: ModelSettings = ModelSettings()
    loss: LossSettings = LossSettings()
    optim: OptimSettings = OptimSettings()
    engine: EngineSettings = EngineSettings()
    launch: LaunchSettings = LaunchSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    eval: EvalSettings = EvalSettings()
    resume: Literal["auto", "never"] = "auto"  # auto continues from the newest complete checkpoint of run.dir
    allow_data_change: bool = False  # continue at the same position over other data, weights or seed than before

    @property
    def evaluated_split(self) -> str:
        """The split of eval.data whose people, all or those held out, are evaluated."""
        return self.data.split if self.eval.split == HELD_OUT else self.eval.split

    @model_validator(mode="after")
    def _held_out_people_exist(self) -> "Settings":
        if self.eval.split == HELD_OUT and not self.data.hold_out:
            raise ValueError(f"eval.split {HELD_OUT} needs people kept from training: set data.hold_out, e.g. 0.1")
        return self

    @model_validator(mode="after")
    def _weights_to_keep_are_evaluated(self) -> "Settings":
        if self.eval.keep == "best" and self.eval.data is None:
            raise ValueError("eval.keep best needs eval.data to tell which weights are best")
        if self.eval.keep == "best" and self.eval.split == "test" and not self.eval.select_on_test:
            raise ValueError("eval.split test would select weights on the test split: write --eval.select_on_test true")
        return self

    @model_validator(mode="after")
    def _one_local_rank(self) -> "Settings":
        if self.launch.backend == "local" and self.launch.ranks > 1:
            raise ValueError(f"launch.backend local runs one rank, not {self.launch.ranks}: ray or torchrun run more")
        return self

    @model_validator(mode="after")
    def _groups_fill_the_batch(self) -> "Settings":
        if self.data.sampler == "identity" and self.optim.batch_size % self.data.per_identity:
            raise ValueError(
                f"optim.batch_size {self.optim.batch_size} is not a multiple of "
                f"data.per_identity {self.data.per_identity}"
            )
        return self

    @model_validator(mode="after")
    def _ranks_share_the_batch(self) -> "Settings":
        if self.optim.batch_size % self.launch.ranks:
            raise ValueError(
                f"optim.batch_size {self.optim.batch_size} is not a multiple of launch.ranks {self.launch.ranks}"
            )
        return self


AnySettings = TypeVar("AnySettings", bound=Settings)


def load_settings(path: str | Path, overrides: list[str]) -> Settings:
    """The settings of `path` with dotted `overrides` (`--optim.lr 1e-4` or `--optim.lr=1e-4`) applied.

    Raises UserError naming every problem, one per line; an unknown key comes with the nearest known one.
    """
    return settings_from(override(read_tree(path), overrides, Settings), Settings)


def read_tree(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file; UserError if there is none."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no settings file {path}")
    try:
        tree = yaml.safe_load(path.read_text()) or {}
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path} must hold a mapping of settings, not a {type(tree).__name__}")
    return tree


def override(tree: dict[str, Any], overrides: list[str], settings_class: type[Settings]) -> dict[str, Any]:
    """`tree`, changed in place by dotted overrides."""
    for key, value in parse_overrides(overrides):
        _assign(tree, key, value, settings_class)
    return tree


def settings_from(
    tree: dict[str, Any],
    settings_class: type[AnySettings] = Settings,  # type: ignore[assignment]
) -> AnySettings:
    """Settings from a nested dict; raises UserError with every problem found."""
    try:
        return TypeAdapter(settings_class).validate_python(tree)
    except ValidationError as error:
        problems = [problem for problem in error.errors() if not _follows_from_another(problem, error.errors())]
        raise UserError("\n".join(_explain(problem, settings_class) for problem in problems)) from None


def _follows_from_another(problem: Any, problems: list[Any]) -> bool:
    """A list is also called too short when what is wrong is one of its items."""
    place = problem["loc"]
    inside = [p for p in problems if len(p["loc"]) > len(place) and p["loc"][: len(place)] == place]
    return problem["type"] == "too_short" and bool(inside)


def parse_overrides(arguments: list[str]) -> Iterator[tuple[str, Any]]:
    """`--a.b value` and `--a.b=value` pairs; values are read as YAML."""
    words = iter(arguments)
    for word in words:
        if not word.startswith("--"):
            raise UserError(f"expected --section.setting, not {word!r}")
        key, equals, text = word[2:].partition("=")
        value = text if equals else next(words, None)
        if value is None:
            raise UserError(f"--{key} needs a value")
        try:
            yield key, yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"--{key}: {value!r} is not valid YAML") from None


def as_tree(settings: Settings) -> dict[str, Any]:
    """The resolved settings as plain JSON/YAML values."""
    return TypeAdapter(type(settings)).dump_python(settings, mode="json")


# schedule: epochs, which optim counts in steps
INDECISIVE = ("launch", "checkpoint", "eval", "resume", "allow_data_change", "schedule")
INDECISIVE_DATA = ("root", "prefetch", "threads", "log_samples", "verify", "max_skipped", "cache", "token_bucket")


def decisive(tree: dict[str, Any]) -> dict[str, Any]:
    """The part of `as_tree` that decides the weights at a given step: data, model, losses, optim, precision and seed.

    Where the data lie, how fast they are read and which weights the run began with are left out.
    """
    kept = {name: section for name, section in tree.items() if name not in INDECISIVE}
    data = {key: value for key, value in tree["data"].items() if key not in INDECISIVE_DATA}
    model = {key: value for key, value in tree["model"].items() if key not in INITIAL}
    rest = {"engine": {"precision": tree["engine"]["precision"]}, "run": {"seed": tree["run"]["seed"]}}
    return {**kept, "data": data, "model": model, **rest}


def settings_hash(settings: Settings) -> str:
    """sha256 over the decisive settings."""
    return hashlib.sha256(json.dumps(decisive(as_tree(settings)), sort_keys=True).encode()).hexdigest()


def open_clip_config(model: ModelSettings) -> dict[str, Any]:
    """The `model_cfg` that open_clip builds the same architecture from."""
    config = {key: value for key, value in asdict(model).items() if key not in INITIAL}
    config["vision_cfg"]["image_size"] = list(model.vision_cfg.image_size)
    return config


def setting_names(settings_class: Any = Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted setting with its default, in order (for --help and for spelling hints)."""
    hints = get_type_hints(settings_class, include_extras=False)
    for field in fields(settings_class):
        hint = hints[field.name]
        if is_dataclass(hint):
            yield from setting_names(hint, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", "required" if field.default is MISSING else field.default


def _assign(tree: dict[str, Any], dotted: str, value: Any, settings_class: type[Settings]) -> None:
    *parents, last = dotted.split(".")
    node: Any = tree
    try:
        for name in parents:
            if isinstance(node, dict) and node.get(name) is None:
                node[name] = {}  # also where the file names a section and leaves it empty
            node = node[int(name) if isinstance(node, list) else name]
        node[int(last) if isinstance(node, list) else last] = value
    except (ValueError, IndexError, TypeError, AttributeError):
        raise UserError(f"unknown setting {dotted}{_nearest(dotted, settings_class)}") from None


def _explain(problem: Any, settings_class: type[Settings]) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"unknown setting {place}{_nearest(place, settings_class)}"
    if problem["type"] in ("missing", "missing_argument"):
        return f"setting {place} is missing"
    message = problem["msg"].removeprefix("Value error, ").replace("valid tuple", "list").replace("Tuple", "List")
    return (
        f"{place}: {message} (got {problem['input']!r})"
        if problem["loc"] and "Value error" not in problem["msg"]
        else message
    )


def _nearest(place: str, settings_class: type[Settings]) -> str:
    known = [name for name, _ in setting_names(settings_class)]
    sections = sorted({name.rpartition(".")[0] for name in known} - {""})
    mixture = (
        [f"data.mixture.{place.split('.')[2]}.{f.name}" for f in fields(MixtureSettings)]
        if place.startswith("data.mixture.")
        else []
    )
    match = get_close_matches(place, [*known, *sections, *mixture], n=1, cutoff=0.5)
    return f"; did you mean {match[0]}?" if match else ""
