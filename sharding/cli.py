"""`sharding`: the command line of this package. It parses, calls one function per subcommand and prints the outcome.

What it imports leaves heavy libraries to the functions that need them, so that `sharding --help` answers at once.
"""

import argparse
import difflib
import json
import sys
from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sharding.command import OneLineParser, exit_code, positive, progress_bar
from sharding.pack import SHARD_BYTES, SHARD_SAMPLES, Packed, pack
from sharding.sources import SOURCES
from sharding.synthetic import LAYOUTS, synthesize

EPILOG = """\
examples:
  sharding synth --layout pretrain_110k --people 200 --out data/raw
  sharding pack --source pretrain_110k --input data/raw --out data/shards

exit codes: 0 done; 1 the system refused (disk full, no permission); 2 bad input or settings;
130 interrupted, to be resumed by the same command
"""
PACK_EPILOG = """\
example:
  sharding pack --source cuhk_pedes --input CUHK-PEDES --out shards/cuhk_pedes

Rows that cannot be packed are listed with row number and reason in rejects.parquet. Interrupted
packing is resumed by the same command; packing a finished dataset again changes nothing.
"""
SYNTH_EPILOG = """\
example:
  sharding synth --layout luperson_t --people 50 --out data/raw --seed 7

The same layout, people and seed give the same files.
"""
SHOWN_REASONS = 10
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code. Results go to stdout, one line on failure to stderr."""
    arguments = build_parser().parse_args(argv)
    again = f"interrupted; run the same command again to {arguments.again}"
    return exit_code("sharding", lambda: arguments.run(arguments), interrupted=again)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    parser = OneLineParser(prog="sharding", description="Raw person datasets to verified shards.", epilog=EPILOG)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    summary = "Pack a raw dataset into shards with an index."
    packer = commands.add_parser("pack", help=summary, description=summary, epilog=PACK_EPILOG)
    packer.add_argument(
        "--source", required=True, type=name_of("source", SOURCES), help=f"raw layout: {', '.join(SOURCES)}"
    )
    packer.add_argument("--input", required=True, type=Path, metavar="DIR", help="folder of the raw dataset")
    packer.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to write, new or to be resumed")
    size, samples = f"most bytes a shard ({SHARD_BYTES >> 20}M)", f"most images a shard ({SHARD_SAMPLES})"
    packer.add_argument("--shard-size", default=SHARD_BYTES, type=byte_count, metavar="SIZE", help=size)
    packer.add_argument("--shard-samples", default=SHARD_SAMPLES, type=positive, metavar="N", help=samples)
    packer.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    packer.set_defaults(run=run_pack, again="resume")

    summary = "Draw synthetic people and write them out in a raw layout."
    synth = commands.add_parser("synth", help=summary, description=summary, epilog=SYNTH_EPILOG)
    synth.add_argument(
        "--layout", required=True, type=name_of("layout", LAYOUTS), help=f"raw layout to write: {', '.join(LAYOUTS)}"
    )
    synth.add_argument("--people", required=True, type=positive, metavar="N", help="number of identities")
    synth.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to write")
    synth.add_argument("--seed", default=0, type=int, metavar="S", help="another seed, other people (0)")
    synth.set_defaults(run=run_synth, again="start over")
    return parser


def run_pack(arguments: argparse.Namespace) -> None:
    """`sharding pack`."""
    with progress_bar("packing", "images") as progress:
        packed = pack(
            arguments.source,
            arguments.input,
            arguments.out,
            shard_bytes=arguments.shard_size,
            shard_samples=arguments.shard_samples,
            progress=progress,
        )
    print(json.dumps(pack_summary(packed)) if arguments.json else pack_table(packed))


def run_synth(arguments: argparse.Namespace) -> None:
    """`sharding synth`."""
    with progress_bar("drawing", "people") as progress:
        images = synthesize(
            arguments.layout, people=arguments.people, out=arguments.out, seed=arguments.seed, progress=progress
        )
    print(f"{images} images of {arguments.people} people written to {arguments.out}")


def pack_summary(packed: Packed) -> dict[str, Any]:
    """The outcome of packing as plain JSON values."""
    dataset = packed.dataset
    return {
        "directory": str(dataset.directory),
        "name": dataset.name,
        "root_hash": dataset.root_hash,
        "already_complete": packed.already_complete,
        **dataset.counts,
        "reject_reasons": packed.reject_reasons,
        "shards": [asdict(shard) for shard in dataset.shards],
        "bytes": sum(shard.bytes for shard in dataset.shards),
        "images_written": packed.images_written,
        "seconds": round(packed.seconds, 3),
        "images_per_second": round(packed.images_written / packed.seconds, 1) if packed.seconds else None,
    }


def pack_table(packed: Packed) -> str:
    """The outcome of packing for people."""
    dataset, counts = packed.dataset, packed.dataset.counts
    columns = ("images", "captions", "identities")
    lines = [f"{'split':<11}" + "".join(f"{column:>12}" for column in columns)]
    for split, numbers in {**counts["splits"], "all splits": counts}.items():
        lines.append(f"{split:<11}" + "".join(f"{numbers[column]:>12,}" for column in columns))
    lines.append("")
    if "triplets" in counts:
        lines.append(f"triplets   {counts['triplets']:,}")
    lines.append(f"rejects    {counts['rejects']:,}" + ("   (rejects.parquet)" if counts["rejects"] else ""))
    if counts["dropped_captions"]:
        lines.append(f"dropped    {counts['dropped_captions']:,} unusable captions of packed images (rejects.parquet)")
    lines += [f"{number:>12,}  {reason}" for reason, number in list(packed.reject_reasons.items())[:SHOWN_REASONS]]
    if (hidden := len(packed.reject_reasons) - SHOWN_REASONS) > 0:
        lines.append(f"{'…':>12}  and {hidden} more reasons (rejects.parquet)")
    size = sum(shard.bytes for shard in dataset.shards)
    lines.append(f"shards     {len(dataset.shards):,}, {size:,} bytes")
    lines.append(f"root hash  {dataset.root_hash}")
    if packed.already_complete:
        lines.append(f"{dataset.directory} was already complete; nothing was written")
    else:
        rate = packed.images_written / packed.seconds
        lines.append(f"wrote      {packed.images_written:,} images in {packed.seconds:.1f} s, {rate:,.0f} images/s")
    return "\n".join(lines)


def name_of(what: str, known: Collection[str]) -> Callable[[str], str]:
    """An argument type: one of the `known` names; the error names the nearest one."""

    def check(value: str) -> str:
        if value in known:
            return value
        nearest = difflib.get_close_matches(value.lower().replace("-", "_"), known, n=1, cutoff=0.4)
        hint = f"did you mean {nearest[0]}? " if nearest else ""
        raise argparse.ArgumentTypeError(f"there is no {what} {value!r}; {hint}known: {', '.join(known)}")

    return check


def byte_count(value: str) -> int:
    """A size such as 67108864, 64M or 1G (powers of 1024)."""
    number, unit = (value[:-1], value[-1].upper()) if value[-1:].isalpha() else (value, "")
    if not number.isdecimal() or int(number) < 1 or unit not in UNITS:
        raise argparse.ArgumentTypeError(f"a size such as 64M or 1G was expected, found {value!r}")
    return int(number) * UNITS[unit]


if __name__ == "__main__":
    sys.exit(main())
