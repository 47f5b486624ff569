"""`sharding show`: samples of a packed dataset on one page or in one picture."""

import argparse
import json
from pathlib import Path
from typing import Any

from sharding.command import positive
from sharding.show import FORMS, Choice, check_output, show
from sharding.store import open_store

EPILOG = """\
examples:
  sharding show shards/cuhk_pedes --out sheet.html
  sharding show s3://bucket/luperson_t --split train --count 60 --seed 7 --out sheet.png --columns 10
  sharding show shards/cuhk_pedes --by identity --count 4 --out people.jpg
  sharding show shards/cuhk_pedes --identity cuhk_pedes:17 cuhk_pedes:18 --out two.html

The page needs nothing but itself: images lie in it, and captions are shown as text whatever they hold. The picture has
the captions below the images; a row of one person has the first. Only the indexes and what is shown are read. The same
dataset, choice and seed show the same samples.
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand's parser."""
    summary = "Show samples with their captions, on an HTML page or as a contact sheet."
    parser = commands.add_parser("show", help=summary, description=summary, epilog=EPILOG)
    parser.add_argument("place", metavar="PLACE", help="what `sharding pack` wrote: a folder or s3://BUCKET/PREFIX")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help=f"to write: {', '.join(FORMS)}")
    parser.add_argument("--split", metavar="SPLIT", help="only this split (all)")
    parser.add_argument("--count", default=24, type=positive, metavar="N", help="images, or people, to show (24)")
    parser.add_argument("--seed", default=0, type=int, metavar="S", help="another seed, others of them (0)")
    parser.add_argument("--by", choices=("image", "identity"), default="image", help="what is drawn at random (image)")
    named = parser.add_mutually_exclusive_group()
    named.add_argument("--identity", action="extend", nargs="+", default=[], metavar="ID", help="these people")
    named.add_argument("--key", action="extend", nargs="+", default=[], metavar="KEY", help="these samples")
    columns = "pictures in a row, and the most of each person (6)"
    parser.add_argument("--columns", default=6, type=positive, metavar="N", help=columns)
    parser.add_argument("--endpoint", metavar="URL", help="S3 service, if not Amazon's")
    parser.add_argument("--json", action="store_true", help="print what is shown as one JSON object")
    parser.set_defaults(run=run, again="start over")


def run(arguments: argparse.Namespace) -> None:
    """Write the page or picture and say what is on it."""
    out: Path = arguments.out
    check_output(out)
    choice = Choice(
        split=arguments.split,
        count=arguments.count,
        seed=arguments.seed,
        by_identity=arguments.by == "identity",
        identities=tuple(arguments.identity),
        keys=tuple(arguments.key),
        most=arguments.columns,
    )
    place = open_store(arguments.place, endpoint=arguments.endpoint)
    groups = show(place, out, choice, columns=arguments.columns)
    pictures = [picture for shown in groups.values() for picture in shown]
    summary = {
        "out": str(out),
        "bytes": out.stat().st_size,
        "images": len(pictures),
        "identities": len({picture.identity for picture in pictures}),
        "keys": [picture.key for picture in pictures],
    }
    told = f"{out}: {summary['images']:,} images of {summary['identities']:,} people, {summary['bytes']:,} bytes"
    print(json.dumps(summary) if arguments.json else told)
