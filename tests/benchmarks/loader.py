"""The loader beside open_clip's own and beside bare decoding: `python -m tests.benchmarks.loader` prints a JSON line.

All read the same shards (JPEGs of 384 x 128 and about 17 KB, or of --source-size; two captions of 23 words each, the
tokens written beforehand for ours) and make batches of 256 with IRRA's augmentation. Sides are run in turns, each in a
process of its own, measured after a warm-up; medians of --runs. Ours hands out uint8, which a GPU normalises: that is
`ours`; `ours_normalised` does it on the CPU, as open_clip's workers do. --steady takes 200,000 samples and tells how
memory grew; --scale packs the same images 100 times, about 19 GB, and compares the cost of a sample of 10,240 with one
of 1,024,000.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from sharding.dataset import open_dataset
from sharding.pack import pack
from sharding.tokens import tokenize
from tests.benchmarks.packing import CAPTION, write_people

ROOT = Path(__file__).parent.parent.parent
IMAGES = 10_240
SHARDS = 4
BATCH = 256
COPIES = 100
PEER = "0.2.86"  # the newest webdataset that open_clip's own loader works with


def prepare(folder: Path, images: int, size: tuple[int, int]) -> None:
    """`folder/people`, packed and tokenized."""
    write_people(folder / "raw", images, size)
    pack("cuhk_pedes", folder / "raw", folder / "people", shard_samples=images // SHARDS)
    tokenize(open_dataset(folder / "people"))


def prepare_many(folder: Path, images: int) -> None:
    """`folder/many`: every image COPIES times, the raw files hard links to those of `people`."""
    raw = folder / "raw_many"
    raw.mkdir()
    with (raw / "many.jsonl").open("w") as file:
        for copy in range(COPIES):
            (raw / f"{copy}").mkdir()
            for number in range(images):  # a path may be given only once: repeated ones are rejected
                image = f"{copy}/{number:06d}.jpg"
                (raw / image).hardlink_to(folder / "raw" / "imgs" / "cam_a" / f"{number:06d}.jpg")
                captions = [CAPTION.format(word) for word in ("his", f"the {copy * images + number}th")]
                row = {"image": image, "captions": captions, "identity": f"{copy}_{number // 4}"}
                file.write(json.dumps(row) + "\n")
    pack("jsonl", raw, folder / "many", workers=2)
    dataset = open_dataset(folder / "many")
    assert dataset.counts["images"] == images * COPIES, dataset.counts
    tokenize(dataset, workers=2)


def install_peer(folder: Path) -> Path:
    """A folder with open_clip's webdataset, laid over what is installed."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder / "peer")]
    subprocess.run([*command, f"webdataset=={PEER}"], check=True)
    return folder / "peer"


def side(name: str, folder: Path, *options: object, path: Path | None = None) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.loader_sides", name, str(folder), *map(str, options)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | ({"PYTHONPATH": str(path)} if path else {})
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def compare(folder: Path, images: int, threads: int, runs: int) -> dict[str, Any]:
    """Over whole passes: open_clip's workers first fill their buffers, so a part of a pass reads more or less."""
    peer, passes = install_peer(folder), images // BATCH
    spent: dict[str, list[dict[str, float]]] = {}
    for _ in range(runs):
        for name, batches in (("ours", 2 * passes), ("ours_normalised", 2 * passes), ("bare", 2 * passes)):
            spent.setdefault(name, []).append(side(name, folder, "--threads", threads, "--batches", batches))
        options = ("--threads", threads, "--batches", passes, "--webdataset", PEER)
        spent.setdefault("open_clip", []).append(side("open_clip", folder, *options, path=peer))
        print(json.dumps({name: taken[-1] for name, taken in spent.items()}), file=sys.stderr, flush=True)
    result: dict[str, Any] = {}
    for name, taken in spent.items():
        found = medians(taken)
        result |= {f"{name}_cpu_us": round(found["cpu_us"], 1), f"{name}_per_s": round(found["per_s"])}
    result["busy_others"] = most_others(spent)
    result["ours_over_bare_per_s"] = ratio(spent, "per_s", "ours", "bare")
    for name in ("ours", "ours_normalised"):
        result[f"{name}_over_open_clip_per_s"] = ratio(spent, "per_s", name, "open_clip")
        result[f"open_clip_over_{name}_cpu"] = ratio(spent, "cpu_us", "open_clip", name)
    return result


def ratio(spent: dict[str, list[dict[str, float]]], figure: str, one: str, other: str) -> float:
    """The median of the ratios run by run: what slows the machine slows both."""
    return round(statistics.median(a[figure] / b[figure] for a, b in zip(spent[one], spent[other], strict=True)), 3)


def most_others(spent: dict[str, list[dict[str, float]]]) -> float:
    """Cores that other processes kept busy in the worst run: above about 0.2, samples/s say nothing."""
    return round(max(run["others"] for taken in spent.values() for run in taken), 2)


def scale(folder: Path, images: int, threads: int, runs: int) -> dict[str, Any]:
    """CPU of a sample of the small dataset and of the large, in turns."""
    spent: dict[str, list[dict[str, float]]] = {"people": [], "many": []}
    for _ in range(runs):
        for dataset, taken in spent.items():
            taken.append(side("ours", folder, "--threads", threads, "--batches", 100, "--dataset", dataset))
        print(json.dumps({name: taken[-1] for name, taken in spent.items()}), file=sys.stderr, flush=True)
    return {
        f"cpu_us_of_{images}": round(medians(spent["people"])["cpu_us"], 1),
        f"cpu_us_of_{images * COPIES}": round(medians(spent["many"])["cpu_us"], 1),
        "large_over_small": ratio(spent, "cpu_us", "many", "people"),
        "busy_others": most_others(spent),
    }


def steady(folder: Path, threads: int) -> dict[str, Any]:
    found = side("steady", folder, "--threads", threads, "--warm", 80, "--batches", 200_000 // BATCH + 1)
    return {name: round(value, 1) for name, value in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--source-size", default="384x128", help="height x width of the JPEGs")
    parser.add_argument("--directory", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--steady", action="store_true")
    parser.add_argument("--scale", action="store_true")
    options = parser.parse_args()
    if options.images % (SHARDS * BATCH):
        parser.error(f"--images must be a multiple of {SHARDS * BATCH}: open_clip decodes the rest of a pass in vain")
    height, width = map(int, options.source_size.split("x"))
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        folder = Path(directory)
        prepare(folder, options.images, (height, width))
        result: dict[str, Any] = {"images": options.images, "size": options.source_size, "threads": options.threads}
        result["bytes_per_image"] = round(open_dataset(folder / "people").counts["image_bytes"] / options.images)
        if options.scale:
            prepare_many(folder, options.images)
            result |= scale(folder, options.images, options.threads, options.runs)
        elif options.steady:
            result |= steady(folder, options.threads)
        else:
            result |= compare(folder, options.images, options.threads, options.runs)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
