"""Cost of `sharding verify`: `python -m tests.benchmarks.verify_speed` prints one JSON line.

Images of 20 KB with two captions, in shards of 64 MiB. MB of tar per CPU second of one process, whole and with --fast,
against a bare sha256 of the same files; interleaved, medians. The fastest that a full verification can be is half of
that, for every byte is hashed with its tar and with its member.
"""

import argparse
import hashlib
import io
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from sharding.dataset import Dataset
from sharding.index import tar_name
from sharding.pack import pack
from sharding.verify import verify

SENTENCE = "a man in dark blue jeans and white shirt walks past the old café with his red bag over one shoulder"


def picture(draw: random.Random, size: int) -> bytes:
    """A JPEG of 128 x 384 noise, of about `size` bytes."""
    image = Image.frombytes("L", (128, 384), draw.randbytes(128 * 384)).convert("RGB")
    return next(data for quality in range(90, 0, -5) if len(data := jpeg(image, quality)) <= size)


def jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def packed(folder: Path, images: int, size: int) -> Dataset:
    """A dataset of PRETRAIN_110K's form; the same few pictures come back under other names."""
    draw = random.Random(0)
    pictures = [picture(draw, size) for _ in range(50)]
    rows = []
    (folder / "raw/imgs/IUST").mkdir(parents=True)
    for number in range(images):
        path = f"IUST/{number // 4}_1_0_{number}.jpg"
        (folder / "raw/imgs" / path).write_bytes(pictures[number % len(pictures)])
        captions = [" ".join(draw.choices(SENTENCE.split(), k=draw.randint(15, 35))) for _ in range(2)]
        row = {"file_path": path, "captions": captions, "split": "train", "source": "IUST_PersonReID", "score": 3.5}
        rows.append({**row, "ID": str(number // 4), "id": number // 4})
    (folder / "raw/PRETRAIN_110K.json").write_text(json.dumps(rows))
    return pack("pretrain_110k", folder / "raw", folder / "shards").dataset


def bare(dataset: Dataset) -> None:
    """Read and hash the tars, and nothing else."""
    for shard in dataset.shards:
        with dataset.store.open(tar_name(shard.name)) as file:
            hashlib.file_digest(file, "sha256")


def measure(images: int, size: int, runs: int) -> dict[str, object]:
    """MB per CPU second of each way, all in turns."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = packed(Path(folder), images, size)
        ways: dict[str, Callable[[], object]] = {
            "verify": lambda: verify(dataset.store),
            "fast": lambda: verify(dataset.store, fast=True),
            "sha256": lambda: bare(dataset),
        }
        assert verify(dataset.store).intact
        total = sum(shard.bytes for shard in dataset.shards)
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(runs):
            for way, call in ways.items():
                began = time.process_time()
                call()
                rates[way].append(total / (time.process_time() - began) / 1e6)
    medians = {way: statistics.median(found) for way, found in rates.items()}
    return {
        "images": images,
        "bytes": total,
        "image_bytes": dataset.counts["image_bytes"] // images,
        **{f"{way}_mb_per_cpu_s": round(rate) for way, rate in medians.items()},
        "verify_us_per_image": round(total / images / medians["verify"], 1),
        "verify_runs": [round(rate) for rate in rates["verify"]],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=20_000, help="bytes an image, about")
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    print(json.dumps(measure(options.images, options.size, options.runs)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
