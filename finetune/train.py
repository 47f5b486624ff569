"""Fine-tuning: settings from recipes, benchmark, method and initial weights; the checks; the loop on every rank.

    base.yaml < architecture of --init < benchmarks.yaml < methods.yaml < --config < command line < --section.name

Everything from the loader to the checkpoints is pre-training's; only the objective is this package's.
"""

import hashlib
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from finetune.benchmarks import BENCHMARKS, open_benchmark
from finetune.config import FinetuneSettings, with_epochs
from pretrain.config import HELD_OUT, override, read_tree, settings_from
from pretrain.run import absolute, absolute_place, check_inputs, launch, torchrun_ranks
from sharding.dataset import Dataset
from sharding.errors import UserError
from sharding.files import fingerprint

RECIPE_IMAGE = [384, 128]  # height, width; what square weights are resized to


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asks for. `data` holds the benchmark's shards, or the folder `benchmark` in it does."""

    benchmark: str
    data: str | Path
    init: Path
    method: str
    run_dir: Path
    from_scratch: bool = False  # the architecture of init with random weights
    quick_gelu: bool = False  # what a bare state dict does not say
    seed: int = 0
    hold_out: float = 0.0
    select_on_test: bool = False
    config: Path | None = None
    overrides: tuple[str, ...] = ()


@cache
def recipe(name: str) -> dict[str, Any]:
    """One of the YAML files in finetune/recipes; callers do not change it."""
    with (files("finetune") / "recipes" / f"{name}.yaml").open() as file:
        return read_tree(Path(file.name))


def build_settings(request: Request) -> FinetuneSettings:
    """The settings of a run, epochs turned into steps.

    Raises UserError in one line (or one for each wrong setting) for shards of another benchmark, a missing split,
    unreadable weights or an unknown method.
    """
    if request.method not in recipe("methods"):
        raise UserError(f"there is no method {request.method!r}; known: {', '.join(recipe('methods'))}")
    for name, option in (("run.dir", "--out"), ("run.seed", "--seed")):
        if name in named(request.overrides):
            raise UserError(f"--{name}: say it with {option}")
    selection = selection_of(request)
    splits = ["train", "test", *([selection["split"]] if selection.get("split") == "val" else [])]
    dataset = open_benchmark(request.data, request.benchmark, splits)
    config = read_tree(request.config) if request.config else {}
    parts = [recipe("base"), architecture(request), recipe("benchmarks")[request.benchmark]]
    parts += [recipe("methods")[request.method], config, place(request, dataset, selection)]
    tree = merged(*parts)
    if chosen_context(config, request.overrides) and not (config.get("model") or {}).get("stretch_text"):
        tree["model"]["stretch_text"] = None  # the recipe stretches to its own context, not to one the user chose
    tree = override(tree, [*request.overrides, *torchrun_ranks()], FinetuneSettings)
    settings = settings_from(tree, FinetuneSettings)
    train = dataset.counts["splits"]["train"]["captions"]
    return with_epochs(settings, round(train * (1 - settings.data.hold_out)))


def place(request: Request, dataset: Dataset, selection: dict[str, Any]) -> dict[str, Any]:
    """The settings that say where a run lies, what it begins with and what selects its weights: no file's to decide."""
    shards = absolute_place(str(dataset.store))
    root, _, name = shards.rpartition("/")
    if root in ("", "s3:/"):  # at the top of the file system, or a whole bucket: nothing stands above it
        root = name = shards
    init = None if request.from_scratch else weights_of(request.init)
    return {
        "run": {"name": request.run_dir.name, "dir": str(request.run_dir), "seed": request.seed},
        "data": {"root": root, "mixture": [{"path": name}], "hold_out": request.hold_out},
        "eval": {"data": name if "split" in selection else None, **selection},
        "model": {"init": str(init) if init else None},
        "init_sha256": content_of(init) if init else None,
    }


def weights_of(path: Path) -> Path:
    """Where the weights are that `path` means: of a run, in its export. UserError for a run that has none."""
    if (path / "export").is_dir():
        return path / "export"
    if (path / "checkpoints").is_dir():
        raise UserError(f"{path} is a run without weights to load: `pretrain export --run {path} --out {path}/export`")
    return path


def content_of(weights: Path) -> str:
    """The sha256 (hex) of what the weights are, wherever they lie: of the file, or of the folder's files of weights."""
    if not weights.is_dir():
        return fingerprint(weights)
    files = sorted(path for path in weights.iterdir() if path.suffix in (".safetensors", ".bin", ".pt"))
    return hashlib.sha256("".join(map(fingerprint, files)).encode()).hexdigest()


def named(overrides: tuple[str, ...]) -> list[str]:
    """The settings that dotted overrides name."""
    return [word[2:].partition("=")[0] for word in overrides if word.startswith("--")]


def chosen_context(config: dict[str, Any], overrides: tuple[str, ...]) -> bool:
    """Whether the user, not the recipe, says how many tokens a caption may have."""
    file = (config.get("model") or {}).get("text_cfg") or {}
    return "context_length" in file or "model.text_cfg.context_length" in named(overrides)


def selection_of(request: Request) -> dict[str, Any]:
    """The settings of `eval` that say how weights are selected: on val, on held-out people, or not at all.

    On the test split only where that is written out: a figure selected there is no held-out result.
    """
    if request.select_on_test:
        return {"split": "test", "keep": "best", "select_on_test": True}
    if request.hold_out:
        return {"split": HELD_OUT, "keep": "best"}
    if BENCHMARKS[request.benchmark].has_val:
        return {"split": "val", "keep": "best"}
    return {"keep": "last"}


def architecture(request: Request) -> dict[str, Any]:
    """The settings of `model` that the initial weights decide; square images become the recipe's 384 x 128."""
    from pretrain.weights import weights_settings  # late: torch

    model = asdict(weights_settings(weights_of(request.init), quick_gelu=True if request.quick_gelu else None))
    height, width = model["vision_cfg"]["image_size"]
    model["vision_cfg"]["image_size"] = RECIPE_IMAGE if height == width else [height, width]
    return {"model": model}


def merged(*trees: dict[str, Any]) -> dict[str, Any]:
    """Nested mappings put over each other, later ones on top; a copy through and through.

    >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
    {'a': {'b': 3, 'c': 2}}
    """
    result: dict[str, Any] = {}
    for tree in trees:
        for key, value in tree.items():
            below = result.get(key)
            result[key] = (
                merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else deepcopy(value)
            )
    return result


def train(settings: FinetuneSettings) -> None:
    """Check the inputs, then train on every rank and wait for all of them.

    Raises UserError before any rank starts, LaunchError where one fails.
    """
    settings = absolute(settings)
    check_inputs(settings)
    launch(settings, train_rank)


def train_rank(tree: dict[str, Any]) -> None:
    """The loop on one rank."""
    from finetune.objective import FinetuneObjective  # late: torch
    from pretrain.loop import train_objective

    settings = settings_from(tree, FinetuneSettings)
    train_objective(settings, lambda encoder, identities: FinetuneObjective(encoder, settings, identities))
