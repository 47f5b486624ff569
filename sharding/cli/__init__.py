"""`sharding`: the command line of this package; one file a subcommand, each with `add_parser` and `run`.

What is imported here leaves heavy libraries to the functions that need them, so that `sharding --help` answers at once.
"""

import sys

from sharding.cli import pack, pseudo_text, show, stats, synth, tokenize, verify
from sharding.command import OneLineParser, exit_code

EPILOG = """examples:
  sharding synth --layout pretrain_110k --people 200 --out data/raw
  sharding pack --source pretrain_110k --input data/raw --out data/shards
  sharding verify data/shards
  sharding stats data/shards --fail-on-leak
  sharding show data/shards --count 40 --out samples.html

exit codes: 0 done; 1 the system refused (disk full, no permission, no answer from S3); 2 bad input or settings;
3 `verify` found damage, or `stats --fail-on-leak` a leak; 130 interrupted
"""
COMMANDS = (synth, pack, verify, stats, show, pseudo_text, tokenize)


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code. Results go to stdout, one line on failure to stderr."""
    parser = OneLineParser(prog="sharding", description="Raw person datasets to verified shards.", epilog=EPILOG)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    arguments = parser.parse_args(argv)
    again = f"interrupted; run the same command again to {arguments.again}"
    return exit_code("sharding", lambda: arguments.run(arguments), interrupted=again)


if __name__ == "__main__":
    sys.exit(main())
