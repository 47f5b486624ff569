"""`finetune evaluate`: retrieval metrics of weights on packed benchmarks, or of features from files."""

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.benchmarks import BENCHMARKS, open_benchmark
from finetune.scores import COLUMNS, DIRECTIONS, BenchmarkScores, as_json, require
from finetune.tables import as_latex, as_markdown, tables
from finetune.train import weights_of
from pretrain.torchrun import on_all_ranks, rank
from sharding.command import positive
from sharding.dataset import Dataset, open_dataset, shards_of
from sharding.errors import UserError
from sharding.files import write_durably
from sharding.store import place_below

if TYPE_CHECKING:
    from finetune.evaluate import EvaluationSettings, Model
    from pretrain.config import ModelSettings

EPILOG = """examples:
  finetune evaluate --data shards/cuhk_pedes --weights runs/demo ViT-B-16.safetensors --quick-gelu --untrained
  finetune evaluate --benchmarks cuhk_pedes,icfg_pedes,ufine3c --root shards --weights runs/a runs/b --format latex
  finetune evaluate --data shards/rstpreid --weights 'runs/cfam-{seed}' --seeds 0,1,2 --direction both
  finetune evaluate --data shards/cuhk_pedes --weights runs/demo --json --require r1=70 --require mAP=62
  finetune evaluate --query-features q.npy --query-ids q_ids.npy --gallery-features g.npy --gallery-ids g_ids.npy
  torchrun --nproc-per-node 2 -m finetune evaluate --data shards/cuhk_pedes --weights runs/demo

--weights takes folders of `pretrain export` or of open_clip, .pt and .safetensors files, Hugging Face CLIPModel
folders, and runs (RUN/export is meant). With --seeds, {} or {seed} in a path stands for each seed; the row is the mean
± sample standard deviation.

Queries are captions and the gallery images, unless --direction says otherwise. From files, features are float arrays
[rows, width] and ids one whole number or string a row (negative: matches nothing); a .parquet file holds both, in
columns `feature` (list of floats) and `id`.

Features are kept in ~/.cache/person-pretrain/features (below $XDG_CACHE_HOME where that is set), by weights, data and
precision: a second evaluation reads no image.

exit codes: 0 done, 1 the system refused (disk, memory), 2 wrong settings or missing input, 4 a figure is below
--require, 130 interrupted (torchrun itself exits 1 whatever its ranks return)
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand's parser."""
    summary = "R@k, mAP, mINP and mSD of weights on benchmarks, zero-shot or fine-tuned"
    parser = commands.add_parser("evaluate", help=summary, description=summary, epilog=EPILOG)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", metavar="PLACE", help="a packed benchmark")
    known = ",".join(BENCHMARKS)
    source.add_argument("--benchmarks", type=_names, metavar="A,B", help=f"several, below --root: all, or of {known}")
    source.add_argument("--query-features", type=Path, metavar="FILE", help="features instead of weights")
    parser.add_argument("--root", metavar="PLACE", help="where --benchmarks lie, each in a folder of its name")
    parser.add_argument("--split", default="test", help="which split (default: test)")
    parser.add_argument("--weights", nargs="+", default=[], metavar="PATH", help="models, a row each")
    parser.add_argument("--untrained", action="store_true", help="also a row with random weights")
    parser.add_argument(
        "--seeds", type=seed_list, metavar="0,1,2", help="mean ± std over weights with {seed} in the path"
    )
    parser.add_argument("--quick-gelu", action="store_true", help="weights files are OpenAI's or use their QuickGELU")
    parser.add_argument("--query-ids", type=Path, metavar="FILE", help="whose the queries are (.npy)")
    parser.add_argument("--gallery-features", type=Path, metavar="FILE", help="the features to rank")
    parser.add_argument("--gallery-ids", type=Path, metavar="FILE", help="whose they are (.npy)")
    parser.add_argument("--direction", choices=DIRECTIONS, default="t2i", help="text to image (default), i2t, or both")
    parser.add_argument("--msd-minmax", action="store_true", help="also mSD on similarities scaled min to max")
    parser.add_argument(
        "--msd-legacy", action="store_true", help="also mSD as UFineBench's released code computes it, for comparison"
    )
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="bf16: autocast (default: fp32)")
    parser.add_argument("--batch-size", type=positive, default=256, help="samples at a time (default: 256)")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep features there")
    parser.add_argument("--no-cache", action="store_true", help="neither read nor keep features")
    parser.add_argument(
        "--require", type=_requirement, action="append", default=[], metavar="r1=70", help="exit 4 if the last is lower"
    )
    parser.add_argument("--format", choices=("table", "latex", "json"), default="table", help="on stdout")
    parser.add_argument("--json", dest="format", action="store_const", const="json", help="the same as --format json")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON there as well")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Evaluate, print and write on rank 0. Whatever can be wrong with the input is found before any image is read."""
    try:
        _check(options)
        evaluate = _from_files(options) if options.query_features else _from_weights(options)
    except UserError as error:  # every rank finds the same: one tells it
        if rank() == 0:
            raise
        sys.exit(error.exit_code)
    import torch

    scores = on_all_ranks(evaluate, gpu=torch.cuda.is_available())
    if scores is None:
        return
    text = as_json(scores)
    if options.out:
        write_durably(options.out, (text + "\n").encode())
    if options.format == "json":
        print(text)
    else:
        render = as_latex if options.format == "latex" else as_markdown
        shown = tables(scores, minmax=options.msd_minmax, legacy=options.msd_legacy)
        print("\n\n".join(render(table) for table in shown))
    require(scores, dict(options.require))


def _check(options: argparse.Namespace) -> None:
    """UserError for options that contradict each other or lack their partner."""
    files = {"--gallery-features": options.gallery_features, "--query-ids": options.query_ids}
    files["--gallery-ids"] = options.gallery_ids
    if options.out and not options.out.absolute().parent.is_dir():
        raise UserError(f"--out: there is no folder {options.out.absolute().parent}")
    if options.out and options.out.is_dir():
        raise UserError(f"--out: {options.out} is a folder")
    if not options.msd_legacy and any(name == "mSD_legacy" for name, _ in options.require):
        raise UserError("--require mSD_legacy needs --msd-legacy")
    if options.query_features:
        if not options.gallery_features:
            raise UserError("--query-features needs --gallery-features")
        if options.weights or options.untrained or options.seeds:
            raise UserError("--weights, --untrained and --seeds have no meaning beside --query-features")
        return
    for name, value in files.items():
        if value:
            raise UserError(f"{name} has no meaning without --query-features")
    if not options.weights:
        raise UserError("--weights names no model")
    if (options.root is None) != (options.benchmarks is None):
        raise UserError("--benchmarks and --root need each other")
    if options.seeds and not (options.untrained or any(map(_has_place, options.weights))):
        raise UserError("--seeds needs weights with {seed} in their path, such as 'runs/cfam-{seed}'")


def _from_files(options: argparse.Namespace) -> Callable[[], list[BenchmarkScores] | None]:
    """The evaluation of features from files: rank 0's alone."""
    from finetune.evaluate import scores_of_files  # late: torch
    from finetune.feature_files import read_pair

    pair = read_pair(options.query_features, options.query_ids, options.gallery_features, options.gallery_ids)
    name, data = options.query_features.name, str(options.query_features)
    return lambda: [scores_of_files(pair, name, data, _settings(options))] if rank() == 0 else None


def _from_weights(options: argparse.Namespace) -> Callable[[], list[BenchmarkScores] | None]:
    """The evaluation of weights on packed benchmarks, all of which are there and fit."""
    datasets = _datasets(options)
    from finetune.evaluate import evaluate  # late: torch, after what is found without it

    logging.basicConfig(level=logging.ERROR if rank() else logging.INFO, format="%(message)s")
    models, settings = _models(options), _settings(options)
    return lambda: evaluate(models, datasets, options.split, settings)


def _datasets(options: argparse.Namespace) -> list[Dataset]:
    if options.benchmarks:
        return [open_benchmark(place_below(options.root, name), name, [options.split]) for name in options.benchmarks]
    dataset = open_dataset(options.data)
    shards_of(dataset, options.split)
    return [dataset]


def _settings(options: argparse.Namespace) -> "EvaluationSettings":
    from finetune.evaluate import EvaluationSettings
    from finetune.feature_cache import default_directory

    return EvaluationSettings(
        batch_size=options.batch_size,
        precision=options.precision,
        directions=DIRECTIONS[options.direction],
        legacy=options.msd_legacy,
        cache=None if options.no_cache else options.cache or default_directory(),
    )


def _models(options: argparse.Namespace) -> list["Model"]:
    """The rows, random weights first; UserError for weights that are missing or fit no architecture."""
    from finetune.evaluate import Model, Weights

    models = []
    for given in options.weights:
        paths = _paths(given, options.seeds)
        weights = tuple(Weights(path=path, settings=_architecture(path, options.quick_gelu)) for path in paths)
        seeds = options.seeds if _has_place(given) else None
        models.append(Model(name=given, given=given, weights=weights, seeds=seeds))
    if options.untrained:
        first = models[0].weights[0].settings
        random = tuple(Weights(path=None, settings=first, seed=seed) for seed in options.seeds or (0,))
        models.insert(0, Model(name="untrained", given=None, weights=random, seeds=options.seeds))
    return models


def _paths(given: str, seeds: tuple[int, ...] | None) -> list[Path]:
    """The weights that one argument means: one for each seed where it has a place for it; of a run, its export."""
    if not _has_place(given):
        return [weights_of(Path(given))]
    if seeds is None:
        raise UserError(f"{given} has a place for seeds: name them with --seeds 0,1,2")
    return [weights_of(Path(given.replace("{seed}", str(seed)).replace("{}", str(seed)))) for seed in seeds]


def _has_place(given: str) -> bool:
    return "{}" in given or "{seed}" in given


def _architecture(path: Path, quick_gelu: bool) -> "ModelSettings":
    """Of the weights at `path`, which are there and fit it; only a bare file leaves its activation open."""
    from pretrain.weights import check_weights, weights_settings

    settings = weights_settings(path, quick_gelu=True if quick_gelu and path.is_file() else None)
    check_weights(path, settings)
    return settings


def _names(text: str) -> list[str]:
    """Benchmarks, by name and separated by commas; `all` is every one."""
    names = list(BENCHMARKS) if text == "all" else text.split(",")
    for name in names:
        if name not in BENCHMARKS:
            raise argparse.ArgumentTypeError(f"there is no benchmark {name!r}; known: {', '.join(BENCHMARKS)}")
    return names


def seed_list(text: str) -> tuple[int, ...]:
    """Whole numbers separated by commas, each once."""
    parts = text.split(",")
    if not all(part.isdecimal() for part in parts) or len(set(map(int, parts))) < len(parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of different seeds such as 0,1,2")
    return tuple(int(part) for part in parts)


def _requirement(text: str) -> tuple[str, float]:
    """METRIC=PERCENT."""
    name, _, figure = text.partition("=")
    try:
        value = float(figure)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not METRIC=PERCENT such as r1=70") from None
    if name not in COLUMNS:
        raise argparse.ArgumentTypeError(f"there is no metric {name!r}; known: {', '.join(COLUMNS)}")
    return name, value
