"""`finetune ablate`: the rows of CFAM's ablation, or any methods, trained alike and shown in one table."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.cli.evaluate import seed_list
from finetune.cli.train import add_request, gather, job, report, run_grid

if TYPE_CHECKING:
    from finetune.grid import Job

SCRATCH = "-scratch"
TABLE_8 = ("clip", "sdm", "sdm_local", "sdm_local_match", "cfam")
EPILOG = """examples:
  finetune ablate --benchmark cuhk_pedes --data shards --init ViT-B-16.safetensors --quick-gelu --seeds 0,1,2
  finetune ablate --benchmark ufine6926 --data shards --init runs/demo --methods cfam-scratch,clip,cfam --jobs 2

Without --methods, the rows of UFineBench's Table 8: InfoNCE, global SDM, + local SDM, + matcher, + identities. All
rows share recipe, data, seeds and budget; only the terms of the loss differ. METHOD-scratch begins with random weights
instead of --init: what is without pre-training. OUT/METHOD/seed-N are the runs and
OUT/results.json the table. An interrupted ablation is continued by the same command.

exit codes: 0 done, 1 a run failed or the system refused, 2 wrong settings or missing input, 130 interrupted
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand's parser."""
    summary = "train several methods alike, over several seeds, and print the table"
    parser = commands.add_parser("ablate", help=summary, description=summary, epilog=EPILOG)
    add_request(parser)
    parser.add_argument("--methods", type=names, default=TABLE_8, metavar="A,B", help="rows (default: Table 8's)")
    parser.add_argument("--seeds", type=seed_list, default=(0,), metavar="0,1,2", help="a run for each (default: 0)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/BENCHMARK-ablation")
    parser.add_argument("--json", action="store_true", help="the table as JSON on stdout")
    parser.set_defaults(run=run, takes_overrides=True)


def run(options: argparse.Namespace) -> None:
    """Train what is missing and report."""
    out = options.out or Path("runs") / f"{options.benchmark}-ablation"
    # Seed by seed, so that a table can be read early from an interrupted grid.
    run_grid(options, [row_job(options, row, out, seed) for seed in options.seeds for row in options.methods])
    report(options, gather({row: out / row for row in options.methods}, options.seeds), out)


def row_job(options: argparse.Namespace, row: str, out: Path, seed: int) -> "Job":
    """One run of a row."""
    scratch = argparse.Namespace(**{**vars(options), "from_scratch": options.from_scratch or row.endswith(SCRATCH)})
    return job(scratch, row.removesuffix(SCRATCH), out / row / f"seed-{seed}", seed)


def names(text: str) -> tuple[str, ...]:
    """An argument such as clip,cfam."""
    return tuple(dict.fromkeys(text.split(",")))
