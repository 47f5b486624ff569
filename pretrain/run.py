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

import yaml

from cluster.errors import ClusterError, LaunchError
from cluster.launch import Topology, launch_ray, launch_torchrun
from pretrain.config import Settings, as_tree, load_settings, setting_names, settings_hash
from sharding.errors import UserError
from sharding.index import open_dataset, shards_of, write_durably

EPILOG = """examples:
  python -m pretrain.run --config pretrain/recipes/demo.yaml
  python -m pretrain.run --config pretrain/recipes/demo.yaml --optim.lr 5e-4 --launch.ranks 1
  torchrun --nproc-per-node 2 -m pretrain.run --config pretrain/recipes/demo.yaml --launch.backend torchrun
  ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
      python -m pretrain.run --config pretrain/recipes/demo.yaml --data.root $PWD/data/shards --run.dir $PWD/runs/demo

exit codes: 0 done, 1 a rank failed, 2 wrong settings or missing input, 130 interrupted
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argument_parser()
    arguments, overrides = parser.parse_known_args(argv)
    try:
        settings = absolute(read_settings(arguments.config, overrides))
        check_inputs(settings)
        if os.environ.get("RANK", "0") == "0":
            record(settings)
        launch(settings)
    except (UserError, ClusterError, LaunchError) as error:
        for line in str(error).splitlines():
            print(f"pretrain: {line}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("pretrain: interrupted; the same command continues from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pretrain run",
        description="Pre-train the dual encoder. Any setting of the file can be overridden: --section.name VALUE",
        epilog="settings and defaults:\n" + "\n".join(_setting_lines()) + "\n\n" + EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, type=Path, help="the run's settings (YAML)")
    return parser


def read_settings(config: Path, overrides: list[str]) -> Settings:
    """The settings of the command line; inside torchrun, the number of ranks is torchrun's."""
    settings = load_settings(config, overrides)
    if settings.launch.backend == "torchrun" and "WORLD_SIZE" in os.environ:
        return load_settings(config, [*overrides, "--launch.ranks", os.environ["WORLD_SIZE"]])
    return settings


def absolute(settings: Settings) -> Settings:
    """The settings with paths that mean the same in every process of the run."""
    init = settings.model.init
    return replace(
        settings,
        run=replace(settings.run, dir=settings.run.dir.absolute()),
        data=replace(settings.data, root=settings.data.root.absolute()),
        model=replace(settings.model, init=init.absolute() if init else None),
    )


def check_inputs(settings: Settings) -> None:
    """UserError if a dataset, a split or the initial weights are missing, or the checkpoint is another run's.

    Here, before any rank starts; only what needs the data plan is left to the ranks.
    """
    splits = [(part.path, settings.data.split) for part in settings.data.mixture]
    if settings.eval.data is not None:
        splits.append((settings.eval.data, settings.eval.split))
    for path, split in splits:
        shards_of(open_dataset(settings.data.root / path), split)
    if settings.model.init is not None and not settings.model.init.exists():
        raise UserError(f"no weights at {settings.model.init}")
    from pretrain.resume import find_checkpoint  # late: torch

    find_checkpoint(settings)


def record(settings: Settings) -> None:
    """Print the resolved settings and keep them beside the checkpoints."""
    text = f"# settings {settings_hash(settings)}\n" + yaml.safe_dump(as_tree(settings), sort_keys=False)
    print(text, file=sys.stderr, end="")
    settings.run.dir.mkdir(parents=True, exist_ok=True)
    write_durably(settings.run.dir / "settings.yaml", text.encode())


def launch(settings: Settings) -> None:
    """Run the loop on every rank and wait for all of them."""
    topology = Topology(
        ranks=settings.launch.ranks,
        cpus_per_rank=settings.launch.cpus_per_rank,
        gpus_per_rank=settings.launch.gpus_per_rank,
        timeout_s=settings.launch.timeout_s,
    )
    if settings.launch.backend == "torchrun":
        launch_torchrun(train_rank, as_tree(settings), topology=topology)
    else:
        launch_ray(train_rank, as_tree(settings), topology=topology, name="ray", storage=settings.run.dir)


def train_rank(tree: dict[str, Any]) -> None:
    """The loop on one rank; the import waits until a rank needs it, so that bad settings are told at once."""
    from pretrain.loop import train

    train(tree)


def _setting_lines() -> list[str]:
    return [f"  --{name:32} {default}" for name, _, default in setting_names()]


if __name__ == "__main__":
    sys.exit(main())
