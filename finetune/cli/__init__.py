"""`finetune`: the command line of this package; one file a subcommand, each with `add_parser` and `run`.

What is imported here leaves torch to the functions that need it, so that `finetune --help` answers at once.
"""

import sys

from finetune.cli import ablate, evaluate, report, train
from sharding.command import OneLineParser, exit_code

EPILOG = """examples:
  finetune evaluate --data data/shards/cuhk_pedes --weights runs/demo/export
  finetune evaluate --data data/shards/cuhk_pedes --weights runs/a/export runs/b/export --untrained --json

exit codes: 0 done, 1 the system refused (disk, memory), 2 wrong settings or missing input, 4 a figure is below
`evaluate --require`, 130 interrupted
"""
COMMANDS = (train, evaluate, ablate, report)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argument_parser()
    options, overrides = parser.parse_known_args(argv)
    if overrides and not getattr(options, "takes_overrides", False):
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    options.overrides = overrides
    return exit_code("finetune", lambda: options.run(options))


def argument_parser() -> OneLineParser:
    """The parser of all subcommands."""
    description = "Adapt a dual encoder to a benchmark of text-based person retrieval, and evaluate it."
    parser = OneLineParser(prog="finetune", description=description, epilog=EPILOG)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
