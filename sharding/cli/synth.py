"""`sharding synth`: synthetic people in a raw layout."""

import argparse
from pathlib import Path
from typing import Any

from sharding.command import name_of, positive, progress_bar
from sharding.synthetic import LAYOUTS, SOURCE_OF, synthesize

EPILOG = """example:
  sharding synth --layout luperson_t --people 50 --out data/raw --seed 7

The same layout, people and seed give the same files.
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand's parser."""
    summary = "Draw synthetic people and write them out in a raw layout."
    parser = commands.add_parser("synth", help=summary, description=summary, epilog=EPILOG)
    parser.add_argument(
        "--layout", required=True, type=name_of("layout", LAYOUTS), help=f"raw layout to write: {', '.join(LAYOUTS)}"
    )
    parser.add_argument("--people", required=True, type=positive, metavar="N", help="number of identities")
    parser.add_argument("--out", required=True, type=folder, metavar="DIR", help="folder to write")
    parser.add_argument("--seed", default=0, type=int, metavar="S", help="another seed, other people (0)")
    parser.set_defaults(run=run, again="start over")


def folder(text: str) -> Path:
    """An argument that is a path of this machine."""
    if "://" in text:
        raise argparse.ArgumentTypeError(f"{text} is no folder; people are drawn into folders only")
    return Path(text)


def run(arguments: argparse.Namespace) -> None:
    """Draw the people and say how many images there are."""
    with progress_bar("drawing", "people") as progress:
        images = synthesize(
            arguments.layout, people=arguments.people, out=arguments.out, seed=arguments.seed, progress=progress
        )
    source = SOURCE_OF.get(arguments.layout, arguments.layout)
    print(
        f"{images} images of {arguments.people} people written to {arguments.out}; to be packed with --source {source}"
    )
