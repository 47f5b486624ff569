"""`finetune train`: adapt weights to a benchmark by one of the methods, and measure them on its test split."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import ClusterError, LaunchError
from finetune.benchmarks import TRAINABLE
from finetune.cli.evaluate import seed_list
from sharding.command import positive
from sharding.errors import UserError
from sharding.files import write_durably

if TYPE_CHECKING:
    from finetune.grid import Job
    from finetune.scores import BenchmarkScores
    from finetune.train import Request

EPILOG = """examples:
  finetune train --benchmark cuhk_pedes --data shards --init ViT-B-16.safetensors --quick-gelu
  finetune train --benchmark ufine6926 --data shards --init runs/demo --hold-out 0.1 --out runs/ufine
  finetune train --benchmark rstpreid --data shards --init runs/demo --method irra --seeds 0,1,2 --jobs 3
  finetune train --benchmark cuhk_pedes --data shards --init w.pt --optim.batch_size 128 --schedule.epochs 30
  torchrun --nproc-per-node 4 -m finetune train --benchmark icfg_pedes --data shards --init w.pt \\
      --launch.backend torchrun

Weights are selected by R@1 on the benchmark's val split; where it has none, on people held out of training
(--hold-out 0.1), or the last ones are taken. The recipe is finetune/recipes/; any setting can be overridden:
--section.name VALUE (`finetune train --settings` lists them all). The same command continues an interrupted run.

A run leaves OUT/export (the selected weights, for open_clip), OUT/results.json (test figures), metrics.jsonl,
curves.png, checkpoints and settings.yaml. With --seeds, each run lies in OUT/seed-N and OUT/results.json holds mean and
deviation.

exit codes: 0 done, 1 a rank failed or the system refused, 2 wrong settings or missing input, 130 interrupted
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand's parser."""
    summary = "adapt weights to a benchmark: CFAM, IRRA, RDE, CLIP or any set of their terms"
    parser = commands.add_parser("train", help=summary, description=summary, epilog=EPILOG)
    add_request(parser)
    parser.add_argument("--method", default="cfam", help="cfam (default), irra, rde, sdm, clip, sdm_local, …")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run's folder (default: runs/BENCHMARK-METHOD)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--seed", type=int, default=0, help="of order, augmentation and new weights (default: 0)")
    which.add_argument("--seeds", type=seed_list, metavar="0,1,2", help="a run for each, and their mean")
    parser.add_argument("--json", action="store_true", help="the test figures as JSON on stdout")
    parser.add_argument("--settings", action=ListSettings, nargs=0, help="list all settings with their defaults")
    parser.set_defaults(run=run, takes_overrides=True)


class ListSettings(argparse.Action):
    """Prints every setting and ends, whatever else the command line says."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from finetune.config import FinetuneSettings
        from pretrain.config import setting_names

        print("\n".join(f"--{name:32} {default}" for name, default in setting_names(FinetuneSettings)))
        parser.exit()


def add_request(parser: argparse.ArgumentParser) -> None:
    """The arguments that `train` and `ablate` share."""
    parser.add_argument("--benchmark", required=True, choices=TRAINABLE, help="what to adapt to")
    parser.add_argument("--data", required=True, metavar="PLACE", help="its packed folder, or the one above")
    parser.add_argument(
        "--init", type=Path, required=True, metavar="WEIGHTS", help="a run, an export, .pt, .safetensors or HF folder"
    )
    parser.add_argument("--from-scratch", action="store_true", help="the architecture of --init with random weights")
    parser.add_argument("--quick-gelu", action="store_true", help="--init is of OpenAI's kind and does not say so")
    parser.add_argument("--hold-out", type=share, default=0.0, metavar="X", help="share of people to select on")
    parser.add_argument("--select-on-test", action="store_true", help="as the field's code does; said in every report")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings (YAML) over the recipe's")
    parser.add_argument(
        "--jobs", type=positive, default=1, metavar="N", help="runs at a time, with several (default: 1)"
    )


def run(options: argparse.Namespace) -> None:
    """Train and report."""
    folder = options.out or Path("runs") / f"{options.benchmark}-{options.method}"
    if options.seeds is None:
        if train_one(options, options.method, folder, options.seed):
            report(options, measure(options, options.method, folder), folder)
        return
    run_grid(options, [job(options, options.method, folder / f"seed-{seed}", seed) for seed in options.seeds])
    report(options, gather({options.method: folder}, options.seeds), folder)


def train_one(options: argparse.Namespace, method: str, folder: Path, seed: int) -> bool:
    """One run, on Ray, in this process or below torchrun. Whether it is for this process to measure the outcome."""
    from finetune.train import build_settings, train

    first = "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["RANK"] == "0"
    try:
        settings = build_settings(request(options, method, folder, seed))
        train(settings)
    except (UserError, ClusterError, LaunchError) as error:
        if not first:  # below torchrun every rank finds the same: one tells it
            sys.exit(error.exit_code)
        failure = UserError(str(error))
        failure.exit_code = error.exit_code
        raise failure from None
    return first and settings.run.stop_at is None


def run_grid(options: argparse.Namespace, jobs: "list[Job]") -> None:
    """Run the jobs in processes of their own. UserError where that makes no sense."""
    from finetune.grid import run_jobs

    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise UserError("several runs start processes of their own: leave torchrun out, and use --launch.backend ray")
    if any(word.startswith("--run.stop_at") for word in options.overrides):
        raise UserError("--run.stop_at leaves nothing to compare: it is for a single run")
    run_jobs(jobs, options.jobs)


def request(options: argparse.Namespace, method: str, folder: Path, seed: int) -> "Request":
    """What the arguments ask for, for one run."""
    from finetune.train import Request

    return Request(
        benchmark=options.benchmark,
        data=options.data,
        init=options.init,
        method=method,
        run_dir=folder,
        from_scratch=options.from_scratch,
        quick_gelu=options.quick_gelu,
        seed=seed,
        hold_out=options.hold_out,
        select_on_test=options.select_on_test,
        config=options.config,
        overrides=tuple(options.overrides),
    )


def job(options: argparse.Namespace, method: str, folder: Path, seed: int) -> "Job":
    """The same for a process of its own; UserError for what is wrong with its settings."""
    from finetune.benchmarks import open_benchmark
    from finetune.grid import Job
    from finetune.train import build_settings
    from pretrain.config import settings_hash

    settings = build_settings(request(options, method, folder, seed))
    root_hash = open_benchmark(options.data, options.benchmark).root_hash
    words = ["train", "--benchmark", options.benchmark, "--data", options.data, "--init", options.init]
    words += ["--method", method, "--out", folder, "--seed", seed, "--hold-out", options.hold_out]
    for flag in ("from_scratch", "quick_gelu", "select_on_test"):
        words += [f"--{flag.replace('_', '-')}"] if getattr(options, flag) else []
    words += ["--config", options.config] if options.config else []
    arguments = tuple(map(str, [*words, *options.overrides]))
    return Job(run_dir=folder, arguments=arguments, settings_hash=settings_hash(settings), root_hash=root_hash)


def measure(options: argparse.Namespace, name: str, folder: Path) -> "BenchmarkScores":
    """The test scores of a run's selected weights, in both directions; their card gets them too."""
    from finetune.benchmarks import open_benchmark
    from finetune.evaluate import EvaluationSettings, Model, Weights, evaluate
    from finetune.scores import IMAGE_TO_TEXT, TEXT_TO_IMAGE
    from pretrain.export import record_metrics
    from pretrain.weights import weights_settings

    export = folder / "export"
    weights = Weights(path=export, settings=weights_settings(export))
    model = Model(name=name, given=str(folder), weights=(weights,), seeds=None)
    dataset = open_benchmark(options.data, options.benchmark, ["test"])
    scores = evaluate([model], [dataset], "test", EvaluationSettings(directions=(TEXT_TO_IMAGE, IMAGE_TO_TEXT)))
    assert scores is not None  # one process
    record_metrics(export, scores[0].models[0].mean(TEXT_TO_IMAGE), f"{options.benchmark} test")
    return scores[0]


def gather(folders: dict[str, Path], seeds: tuple[int, ...]) -> "BenchmarkScores":
    """The test scores that the runs in `folder/seed-N` left, a row for each method."""
    from finetune.scores import over_seeds

    results = {
        name: [(folder / f"seed-{seed}" / "results.json").read_text() for seed in seeds]
        for name, folder in folders.items()
    }
    return over_seeds(results, seeds)


def report(options: argparse.Namespace, scores: "BenchmarkScores", folder: Path) -> None:
    """Keep the test scores as the run's results, and print them."""
    from finetune.scores import as_json
    from finetune.tables import as_markdown, tables

    text = as_json([scores])
    write_durably(folder / "results.json", (text + "\n").encode())
    print(
        text
        if options.json
        else "\n\n".join(as_markdown(table) for table in tables([scores], minmax=False, legacy=False))
    )


def share(text: str) -> float:
    """An argument between 0 and 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share of at least 0 and less than 1")
    return value
