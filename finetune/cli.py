"""`finetune evaluate`: retrieval metrics of pre-trained weights on a benchmark."""

import argparse
import sys
from pathlib import Path

from sharding.errors import UserError

EPILOG = """examples:
  finetune evaluate --data data/shards/cuhk_pedes --weights runs/demo/export
  finetune evaluate --data data/shards/cuhk_pedes --weights runs/a/export runs/b/export --untrained --json

exit codes: 0 done, 2 wrong settings or missing input
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = argument_parser().parse_args(argv)
    from finetune.evaluate import as_json, as_table, evaluate

    try:
        rows = evaluate(
            options.data, options.split, options.weights, untrained=options.untrained, batch_size=options.batch_size
        )
    except UserError as error:
        print(f"finetune: {error}", file=sys.stderr)
        return error.exit_code
    text = as_json(rows, options.data, options.split)
    if options.out:
        options.out.write_text(text + "\n")
    print(text if options.json else as_table(rows))
    return 0


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="finetune",
        description="Evaluate dual encoders on text-based person retrieval.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    evaluate = commands.add_parser("evaluate", help="R@k, mAP, mINP and mSD, text to image, zero-shot")
    evaluate.add_argument("--data", type=Path, required=True, help="a packed benchmark")
    evaluate.add_argument("--split", default="test", help="its split (default: test)")
    evaluate.add_argument("--weights", type=Path, nargs="+", required=True, help="exported models (pretrain export)")
    evaluate.add_argument("--untrained", action="store_true", help="also a model with random weights")
    evaluate.add_argument("--batch-size", type=int, default=256, help="images or captions at a time (default: 256)")
    evaluate.add_argument("--out", type=Path, help="write the JSON there as well")
    evaluate.add_argument("--json", action="store_true", help="JSON on stdout instead of a table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
