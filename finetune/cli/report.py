"""`finetune report`: one self-contained HTML page about a run."""

import argparse
import json
from pathlib import Path
from typing import Any

from sharding.command import positive
from sharding.errors import UserError

SUMMARY = "one HTML page about a run: metrics beside published ones, curves, queries, data, settings"
EPILOG = """examples:
  finetune report runs/cfam --html cfam.html
  finetune report runs/demo --benchmark cuhk_pedes --data data/shards --json

The page needs nothing but itself. It shows the weights in RUN/export, by the rule that selected them, or the newest
checkpoint; published figures stand beside them, with a warning where the data are not the published ones.
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand's parser."""
    parser = commands.add_parser("report", help=SUMMARY, description=SUMMARY, epilog=EPILOG)
    parser.add_argument("directory", metavar="RUN", type=Path, help="the run's directory")
    parser.add_argument("--html", type=Path, help="the page to write (default: RUN/report.html)")
    parser.add_argument(
        "--benchmark", metavar="NAME", help="measure on this benchmark (default: the settings' eval.data)"
    )
    parser.add_argument(
        "--data", metavar="PLACE", help="the packed benchmark, or the folder that holds it under its name"
    )
    parser.add_argument("--split", default="test", help="the benchmark's split to measure on (default: test)")
    parser.add_argument(
        "--weights", type=Path, help="an exported model (default: RUN/export, or the newest checkpoint)"
    )
    parser.add_argument("--batch-size", type=positive, default=256, help="samples at a time (default: 256)")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep features there (default: as finetune evaluate)")
    parser.add_argument("--no-cache", action="store_true", help="neither read nor keep features")
    parser.add_argument("--json", action="store_true", help="what was written and the metrics as JSON on stdout")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Write the page and say where; the output's folder is checked first, so that no evaluation is lost to a typo."""
    html: Path = options.html or options.directory / "report.html"
    if options.directory.is_dir() and not html.absolute().parent.is_dir():
        raise UserError(f"--html: there is no folder {html.absolute().parent}")
    if html.is_dir():
        raise UserError(f"--html: {html} is a folder")
    from finetune.feature_cache import default_directory  # late: torch
    from finetune.report import write_report

    summary = write_report(
        options.directory,
        html,
        benchmark=options.benchmark,
        data=options.data,
        split=options.split,
        weights=options.weights,
        batch_size=options.batch_size,
        cache=None if options.no_cache else options.cache or default_directory(),
    )
    print(json.dumps(summary, indent=1) if options.json else f"{html}: {summary['bytes'] / 1e6:.1f} MB")
