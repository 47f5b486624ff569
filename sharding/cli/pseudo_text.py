"""`sharding pseudo-text`: texts for the bare images of a packed dataset, packed again with them."""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

from sharding.cli import pack as packing
from sharding.command import byte_count, positive, progress_bar
from sharding.pack import SHARD_BYTES, SHARD_SAMPLES, pack
from sharding.store import open_store

SUMMARY = "Write texts about bare images from scores of their attributes, and pack the images again with them."
EPILOG = """examples:
  pretrain score-phrases --data shards/bare --weights runs/demo/export --out scores.parquet
  sharding pseudo-text --data shards/bare --scores scores.parquet --out shards/texts
  sharding pseudo-text --data shards/bare --scores scores.parquet --out s3://bucket/texts --threshold 0.95 --seed 1

Of age, gender, upper clothes, lower clothes, action and hair length the phrase that fits best is told; of bag, glasses,
cigarette, hat, cellphone, umbrella, gloves and vehicle only what is there with a probability above the threshold. Words
and templates are drawn by the seed and the key of each image: the same command gives the same bytes. What can be asked
and told stands in three files to read and edit: attributes, wording and templates (.yaml) in sharding/pseudo_text.

Only images with scores are packed. They keep identity, source, split and path; captions they had are left behind.
distinct-2, the share of different pairs of neighbouring words, is that of the first 10,000 images' texts.
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand's parser."""
    parser = commands.add_parser("pseudo-text", help=SUMMARY, description=SUMMARY, epilog=EPILOG)
    parser.add_argument("--data", required=True, metavar="PLACE", help="the packed dataset that was scored")
    parser.add_argument("--scores", required=True, type=Path, metavar="FILE", help="of `pretrain score-phrases`")
    parser.add_argument("--out", required=True, metavar="PLACE", help="where to write, new or to be resumed")
    parser.add_argument("--name", type=packing.dataset_name, help="what keys and shards begin with (pseudo_text)")
    parser.add_argument("--endpoint", metavar="URL", help="S3 service of both places, if not Amazon's")
    parser.add_argument("--seed", default=0, type=int, metavar="S", help="another seed, other words (0)")
    parser.add_argument("--threshold", default=0.9, type=float, metavar="P", help="least probability to be told (0.9)")
    parser.add_argument("--texts", default=2, type=positive, metavar="N", help="texts an image (2)")
    parser.add_argument("--shard-size", default=SHARD_BYTES, type=byte_count, metavar="SIZE", help="as in pack")
    parser.add_argument("--shard-samples", default=SHARD_SAMPLES, type=positive, metavar="N", help="as in pack")
    parser.add_argument("--workers", default=1, type=positive, metavar="N", help="processes of this machine (1)")
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    parser.set_defaults(run=run, again="resume")


def run(arguments: argparse.Namespace) -> None:
    """Write the texts, pack, and print the summary with their diversity."""
    from sharding.pseudo_text.source import SOURCE, TextSettings, check, diversity, open_pseudo_text

    data = open_store(arguments.data, endpoint=arguments.endpoint)
    settings = TextSettings(
        scores=arguments.scores, seed=arguments.seed, threshold=arguments.threshold, texts=arguments.texts
    )
    check(data, settings)
    with progress_bar("packing", "images") as progress:
        packed = pack(
            SOURCE,
            data,
            open_store(arguments.out, endpoint=arguments.endpoint),
            name=arguments.name,
            reader=partial(open_pseudo_text, settings=settings),
            reader_settings=settings.deciding(),
            shard_bytes=arguments.shard_size,
            shard_samples=arguments.shard_samples,
            workers=arguments.workers,
            planning=progress and partial(progress, label="writing texts"),
            progress=progress,
        )
    measured = diversity(data, settings)
    if arguments.json:
        print(json.dumps({**packing.summary(packed), **measured}))
    else:
        print(packing.table(packed))
        print(f"distinct-2 {measured['distinct_2']:.4f} over {measured['distinct_2_texts']:,} texts")
