"""`sharding pack`: a raw dataset to shards."""

import argparse
import json
import logging
import math
import re
from dataclasses import asdict
from functools import partial
from typing import Any

from sharding.command import byte_count, name_of, positive, progress_bar
from sharding.counts import differences
from sharding.dataset import NAME
from sharding.pack import SHARD_BYTES, SHARD_SAMPLES, Packed, pack
from sharding.packing.images import MOST_PIXELS, ImagePolicy
from sharding.packing.selection import Selection
from sharding.sources import OWN_DATA, SOURCES
from sharding.sources.published import published_sizes
from sharding.store import open_store

EPILOG = """examples:
  sharding pack --source cuhk_pedes --input CUHK-PEDES --out shards/cuhk_pedes
  sharding pack --source pretrain_110k --input raw --out shards/good --min-score 3.5 --captions longest
  sharding pack --source luperson_t --input raw --out s3://bucket/luperson_t --resize 384x128 --workers 8
  sharding pack --source syncpr --input s3://bucket/raw --out s3://bucket/syncpr --ray auto
  sharding pack --source folder --name campus --input photos --out shards/campus

Places are folders or s3://BUCKET/PREFIX; credentials, region and AWS_ENDPOINT_URL are taken from the environment.

Rows that cannot be packed are listed with row number and reason in rejects.parquet. Interrupted packing is resumed by
the same command; packing a finished dataset again changes nothing. One process, --workers and --ray write the same
bytes.

one's own data (--source; give it a --name, with which identities and keys begin):
  jsonl        data.jsonl, a JSON object a line: "image" (a path below --input), and if known "captions" (a list) or
               "caption", "identity", "split" (train; else val, test, query, gallery, all), "source" (the name; an
               identity is one person within its source only), "score", "instance_id"; other fields are not read
  folder       .jpg, .jpeg, .png and .bmp at any depth, each with its captions in a .txt of the same name beside it, one
               a line, or without; nothing says who is who, so every image is a person of its own
  webdataset   image-text tars, such as img2dataset writes, at the top of --input; not compressed
"""
SHOWN_REASONS = 10
MOST_PIXELS_A_SIDE = 65_500  # of a JPEG


def add_parser(commands: Any) -> None:
    """Add the subcommand's parser."""
    summary = "Pack a raw dataset into shards with an index."
    parser = commands.add_parser("pack", help=summary, description=summary, epilog=EPILOG)
    known = [*SOURCES, *OWN_DATA]
    parser.add_argument("--source", required=True, type=name_of("source", known), help=f"layout: {', '.join(known)}")
    parser.add_argument("--input", required=True, metavar="PLACE", help="where the raw dataset lies")
    parser.add_argument("--out", required=True, metavar="PLACE", help="where to write, new or to be resumed")
    parser.add_argument("--name", type=dataset_name, help="what keys and shards begin with (the source)")
    parser.add_argument("--endpoint", metavar="URL", help="S3 service of both places, if not Amazon's")
    _add_selection(parser.add_argument_group("which records"))
    _add_images(parser.add_argument_group("images (kept byte for byte unless resized, but BMP becomes PNG)"))
    shards = parser.add_argument_group("shards")
    size, samples = f"most bytes a shard, about ({SHARD_BYTES >> 20}M)", f"most images a shard ({SHARD_SAMPLES})"
    shards.add_argument("--shard-size", default=SHARD_BYTES, type=byte_count, metavar="SIZE", help=size)
    shards.add_argument("--shard-samples", default=SHARD_SAMPLES, type=positive, metavar="N", help=samples)
    where = parser.add_argument_group("where it runs").add_mutually_exclusive_group()
    where.add_argument("--workers", default=1, type=positive, metavar="N", help="processes of this machine (1)")
    where.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="one task a shard on a Ray cluster: its address, or auto for the one that runs on this machine",
    )
    again = parser.add_argument_group("what is there already").add_mutually_exclusive_group()
    again.add_argument("--append", action="store_true", help="add to a complete dataset; published files stay")
    again.add_argument("--overwrite", action="store_true", help="replace all that is there, once the new can be packed")
    parser.add_argument("--verbose", action="store_true", help="a line on stderr for every shard")
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    parser.set_defaults(run=run, again="resume")


def _add_selection(group: Any) -> None:
    group.add_argument("--split", action="append", default=[], metavar="SPLIT", help="only this split (repeatable)")
    group.add_argument(
        "--source-name", action="append", default=[], metavar="NAME", help="only this value of the rows' source"
    )
    group.add_argument("--min-score", type=finite, metavar="S", help="only images of at least this quality score")
    group.add_argument("--limit", type=positive, metavar="N", help="only the first N of those")
    group.add_argument("--captions", choices=("all", "first", "longest"), default="all", help="of each image (all)")


def _add_images(group: Any) -> None:
    group.add_argument("--resize", type=height_width, metavar="HxW", help="bring all to height x width, as JPEG")
    group.add_argument("--quality", type=jpeg_quality, default=95, metavar="Q", help="of those JPEGs (95)")
    group.add_argument("--max-pixels", type=positive, default=MOST_PIXELS, metavar="N", help="refuse larger (50000000)")
    group.add_argument("--decode", action="store_true", help="decode every image to the end, not its header only")


def dataset_name(text: str) -> str:
    """An argument that is a dataset's name."""
    if not NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name: up to 40 of a-z, 0-9 and _ were expected")
    return text


def finite(text: str) -> float:
    """An argument that is a finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is no number")
    return value


def height_width(text: str) -> tuple[int, int]:
    """An argument such as 384x128."""
    found = re.fullmatch(r"(\d{1,5})[x×](\d{1,5})", text)
    if not found or not all(1 <= int(side) <= MOST_PIXELS_A_SIDE for side in found.groups()):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; height x width was expected, such as 384x128")
    return int(found[1]), int(found[2])


def jpeg_quality(text: str) -> int:
    """An argument that is a JPEG quality."""
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is no quality; 1 to 100 was expected")
    return int(text)


def run(arguments: argparse.Namespace) -> None:
    """Pack and print the summary."""
    if arguments.verbose:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    selection = Selection(
        min_score=arguments.min_score,
        splits=tuple(sorted(set(arguments.split))),
        sources=tuple(sorted(set(arguments.source_name))),
        limit=arguments.limit,
        captions=arguments.captions,
    )
    images = ImagePolicy(
        resize=arguments.resize,
        quality=arguments.quality,
        most_pixels=arguments.max_pixels,
        decode=arguments.decode,
    )
    with progress_bar("packing", "images") as progress:
        packed = pack(
            arguments.source,
            open_store(arguments.input, endpoint=arguments.endpoint),
            open_store(arguments.out, endpoint=arguments.endpoint),
            name=arguments.name,
            selection=selection,
            images=images,
            shard_bytes=arguments.shard_size,
            shard_samples=arguments.shard_samples,
            workers=arguments.workers,
            ray_address=arguments.ray,
            append=arguments.append,
            overwrite=arguments.overwrite,
            planning=progress and partial(progress, label="planning"),
            progress=progress,
        )
    print(json.dumps(summary(packed)) if arguments.json else table(packed))


def summary(packed: Packed) -> dict[str, Any]:
    """The outcome as plain JSON values."""
    dataset = packed.dataset
    published = published_sizes(dataset.source, dataset.counts["splits"])
    return {
        "place": str(dataset.store),
        "name": dataset.name,
        "root_hash": dataset.root_hash,
        "already_complete": packed.already_complete,
        **dataset.counts,
        "published": {split: size._asdict() for split, size in published.items()},
        "as_published": bool(published) and not differences(dataset.counts, published),
        "reject_reasons": packed.reject_reasons,
        "generations": len(dataset.generations),
        "shards": [asdict(shard) for shard in dataset.shards],
        "bytes": sum(shard.bytes for shard in dataset.shards),
        "images_written": packed.images_written,
        "seconds": round(packed.seconds, 3),
        "images_per_second": round(packed.images_written / packed.seconds, 1) if packed.seconds else None,
    }


def table(packed: Packed) -> str:
    """The outcome for people."""
    dataset, counts = packed.dataset, packed.dataset.counts
    columns = ("images", "captions", "identities")
    lines = [f"{'split':<11}" + "".join(f"{column:>12}" for column in columns)]
    for split, numbers in {**counts["splits"], "all splits": counts}.items():
        lines.append(f"{split:<11}" + "".join(f"{numbers[column]:>12,}" for column in columns))
    lines.append("")
    lines += _left_over(packed)
    size = sum(shard.bytes for shard in dataset.shards)
    if len(dataset.generations) > 1:
        lines.append(f"of         {len(dataset.generations)} packings, one after the other")
    lines.append(f"shards     {len(dataset.shards):,}, {size:,} bytes")
    if counts["image_bytes"] != counts["source_image_bytes"]:
        read, written = counts["source_image_bytes"], counts["image_bytes"]
        lines.append(f"images     {read:,} bytes read, {written:,} packed ({written / read:.0%})")
    lines.append(f"root hash  {dataset.root_hash}")
    if counts["captions"] < counts["images"]:
        lines.append("note       some images have no caption")
    if (different := differences(counts, published_sizes(dataset.source, counts["splits"]))) and not _is_selection(
        packed
    ):
        lines.append(f"note       not the published dataset: {'; '.join(different)}")
    if packed.already_complete:
        lines.append(f"{dataset.store} was already complete; nothing was written")
    else:
        rate = packed.images_written / packed.seconds
        lines.append(f"wrote      {packed.images_written:,} images in {packed.seconds:.1f} s, {rate:,.0f} images/s")
    return "\n".join(lines)


def _is_selection(packed: Packed) -> bool:
    """Whether less than the whole dataset was asked for."""
    settings = packed.dataset.generations[0].settings
    return any(settings[name] for name in ("min_score", "splits", "sources", "limit"))


def _left_over(packed: Packed) -> list[str]:
    """What is not among the samples, or not a sample."""
    counts = packed.dataset.counts
    lines = [f"triplets   {counts['triplets']:,}"] if "triplets" in counts else []
    if counts["left_out"]:
        lines.append(f"left out   {counts['left_out']:,} by the selection")
    lines.append(f"rejects    {counts['rejects']:,}" + ("   (rejects.parquet)" if counts["rejects"] else ""))
    if counts["dropped_captions"]:
        lines.append(f"dropped    {counts['dropped_captions']:,} unusable captions of packed images (rejects.parquet)")
    lines += [f"{number:>12,}  {reason}" for reason, number in list(packed.reject_reasons.items())[:SHOWN_REASONS]]
    if (hidden := len(packed.reject_reasons) - SHOWN_REASONS) > 0:
        lines.append(f"{'…':>12}  and {hidden} more reasons (rejects.parquet)")
    return lines
