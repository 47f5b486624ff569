"""`python -m pretrain.run --config FILE`: parse and check the settings, then start the training loop on every rank.

The same line starts a local Ray, runs on the cluster it is submitted to (`ray job submit -- python -m pretrain.run …`),
or, with `--launch.backend torchrun`, is one rank that torchrun started.
"""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError, LaunchError
from cluster.launch import Topology, Worker, launch_local, launch_ray, launch_torchrun
from pretrain.config import AnySettings, Settings, as_tree, load_settings, setting_names
from sharding.command import OneLineParser
from sharding.dataset import open_dataset, shards_of
from sharding.errors import UserError

EPILOG = """examples:
  python -m pretrain.run --config pretrain/recipes/demo.yaml
  python -m pretrain.run --config pretrain/recipes/demo.yaml --optim.lr 5e-4 --launch.ranks 1
  torchrun --nproc-per-node 2 -m pretrain.run --config pretrain/recipes/demo.yaml --launch.backend torchrun
  ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
      python -m pretrain.run --config pretrain/recipes/demo.yaml --data.root $PWD/data/shards --run.dir $PWD/runs/demo

exit codes: 0 done, 1 a rank failed or the system refused, 2 wrong settings or missing input, 130 interrupted
(torchrun itself exits 1 whatever its ranks return)
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments, overrides = argument_parser().parse_known_args(argv)
    try:
        if arguments.allow_data_change:
            overrides += ["--allow_data_change", "true"]
        settings = absolute(load_settings(arguments.config, [*overrides, *torchrun_ranks()]))
        check_inputs(settings)
        launch(settings, train_rank)
    except (UserError, ClusterError, LaunchError) as error:
        tell(str(error))
        return error.exit_code
    except OSError as error:
        tell(str(error))
        return 1
    except KeyboardInterrupt:
        tell("interrupted; the same command continues from the last checkpoint")
        return 130
    return 0


def tell(message: str) -> None:
    """One line on stderr for each line of the message, from one rank."""
    if os.environ.get("RANK", "0") == "0":
        for line in message.splitlines():
            print(f"pretrain: {line}", file=sys.stderr)


def argument_parser() -> argparse.ArgumentParser:
    """The parser of `--config`; every other argument is an override."""
    parser = OneLineParser(
        prog="pretrain run",
        description="Pre-train the dual encoder. Any setting of the file can be overridden: --section.name VALUE",
        epilog="settings and defaults:\n" + "\n".join(_setting_lines()) + "\n\n" + EPILOG,
    )
    parser.add_argument("--config", required=True, type=Path, help="the run's settings (YAML)")
    parser.add_argument(
        "--allow-data-change", action="store_true", help="continue a run over other data, weights or seed than it had"
    )
    return parser


def torchrun_ranks() -> list[str]:
    """Inside torchrun, the number of ranks is torchrun's and not the file's."""
    return ["--launch.ranks", os.environ["WORLD_SIZE"]] if "TORCHELASTIC_RUN_ID" in os.environ else []


def absolute(settings: AnySettings) -> AnySettings:
    """The settings with paths that mean the same in every process of the run."""
    init, cache = settings.model.init, settings.data.cache
    if cache.dir is not None:
        cache = replace(cache, dir=cache.dir.absolute())
    return replace(
        settings,
        run=replace(settings.run, dir=settings.run.dir.absolute()),
        data=replace(settings.data, root=absolute_place(settings.data.root), cache=cache),
        model=replace(settings.model, init=init.absolute() if init else None),
    )


def absolute_place(place: str) -> str:
    """A folder by its whole path; a place in a bucket as it is."""
    return place if "://" in place else str(Path(place).absolute())


def check_inputs(settings: Settings) -> None:
    """UserError for missing or unfit data, weights or checkpoints: before any rank starts or anything is written."""
    for part in settings.data.mixture:
        shards_of(open_dataset(settings.data.place(part.path)), settings.data.split)
    if settings.eval.data is not None:
        shards_of(open_dataset(settings.data.place(settings.eval.data)), settings.evaluated_split)
    for name, folder in (("run.dir", settings.run.dir), ("data.cache.dir", settings.data.cache.dir)):
        if folder is not None and "s3:" in folder.parts:
            raise UserError(f"{name} is a folder of this machine, not a place in a bucket")
    if settings.run.dir.exists() and not settings.run.dir.is_dir():
        raise UserError(f"run.dir {settings.run.dir} is a file")
    from pretrain.mixture import Mixture, open_evaluated  # late: torch, after what is found without it
    from pretrain.resume import find_checkpoint
    from pretrain.text import VOCABULARY
    from pretrain.weights import check_weights

    if settings.model.text_cfg.vocab_size < VOCABULARY:
        raise UserError(f"model.text_cfg.vocab_size must be at least {VOCABULARY}, the tokenizer's")
    open_evaluated(settings)
    find_checkpoint(settings, Mixture(settings.data, settings.run.seed, cached=False).plan)
    if settings.model.init is not None:
        check_weights(settings.model.init, settings.model)


def launch(settings: Settings, worker: Worker) -> None:
    """Run `worker` with the settings' tree on every rank and wait for all of them."""
    topology = Topology(
        ranks=settings.launch.ranks,
        cpus_per_rank=settings.launch.cpus_per_rank,
        gpus_per_rank=settings.launch.gpus_per_rank,
        timeout_s=settings.launch.timeout_s,
    )
    if settings.launch.backend == "torchrun":
        launch_torchrun(worker, as_tree(settings), topology=topology)
    elif settings.launch.backend == "local":
        launch_local(worker, as_tree(settings), topology=topology)
    else:
        launch_ray(worker, as_tree(settings), topology=topology, name="ray", storage=settings.run.dir)


def train_rank(tree: dict[str, Any]) -> None:
    """The loop on one rank; the import waits until a rank needs it, so that bad settings are told at once."""
    from pretrain.loop import train

    train(tree)


def _setting_lines() -> list[str]:
    return [f"  --{name:32} {default}" for name, default in setting_names(Settings)]


if __name__ == "__main__":
    sys.exit(main())
