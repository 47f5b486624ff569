"""`finetune evaluate`: retrieval metrics of pre-trained weights on a benchmark."""

import argparse
import sys
from pathlib import Path

from sharding.command import OneLineParser, exit_code, positive
from sharding.errors import UserError
from sharding.index import write_durably

EPILOG = """examples:
  finetune evaluate --data data/shards/cuhk_pedes --weights runs/demo/export
  finetune evaluate --data data/shards/cuhk_pedes --weights runs/a/export runs/b/export --untrained --json

exit codes: 0 done, 1 the system refused (disk, memory), 2 wrong settings or missing input, 130 interrupted
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = argument_parser().parse_args(argv)
    return exit_code("finetune", lambda: run(options))


def run(options: argparse.Namespace) -> None:
    """Evaluate and print; the output's folder is checked first, so that no evaluation is lost to a typing error."""
    if options.out and not options.out.absolute().parent.is_dir():
        raise UserError(f"--out: there is no folder {options.out.absolute().parent}")
    from finetune.evaluate import as_json, as_table, evaluate  # late: torch

    rows = evaluate(
        options.data, options.split, options.weights, untrained=options.untrained, batch_size=options.batch_size
    )
    text = as_json(rows, options.data, options.split)
    print(text if options.json else as_table(rows))
    if options.out:
        write_durably(options.out, (text + "\n").encode())


def argument_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    description = "Evaluate dual encoders on text-based person retrieval."
    parser = OneLineParser(prog="finetune", description=description, epilog=EPILOG)
    commands = parser.add_subparsers(dest="command", required=True)
    evaluate = commands.add_parser("evaluate", help="R@k, mAP, mINP and mSD, text to image, zero-shot")
    evaluate.add_argument("--data", type=Path, required=True, help="a packed benchmark")
    evaluate.add_argument("--split", default="test", help="its split (default: test)")
    evaluate.add_argument("--weights", type=Path, nargs="+", required=True, help="exported models (pretrain export)")
    evaluate.add_argument("--untrained", action="store_true", help="also a model with random weights")
    evaluate.add_argument("--batch-size", type=positive, default=256, help="samples at a time (default: 256)")
    evaluate.add_argument("--out", type=Path, help="write the JSON there as well")
    evaluate.add_argument("--json", action="store_true", help="JSON on stdout instead of a table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
