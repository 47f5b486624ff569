"""Planning and packing many records: `python -m tests.benchmarks.packing_scale` prints one JSON line.

Records are generated, all of them naming small images inside one file, so that the figures are those of planning and
packing themselves and not of a disk: `--plan N` records are planned, `--pack N` are planned and packed.
"""

import argparse
import io
import json
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from sharding.pack import SHARD_BYTES, SHARD_SAMPLES, pack
from sharding.packing.selection import Selection
from sharding.packing.shard_plan import make_plan
from sharding.record import Extent, RawDataset, Record
from sharding.store import LocalStore

CAPTION = "A man in a dark blue jacket and grey trousers carries a black backpack on one shoulder, number {}."


def write_images(folder: Path, images: int = 64) -> list[Extent]:
    """One file of small JPEGs; returns where each lies."""
    extents, written = [], bytearray(b"head")
    for number in range(images):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 24), (number * 4 % 256, 90, 30)).save(buffer, "JPEG")
        extents.append(Extent("blob", len(written), buffer.tell()))
        written += buffer.getvalue()
    (folder / "blob").write_bytes(written)
    return extents


def generated(extents: list[Extent], records: int) -> RawDataset:
    """So many records of two captions, four to a person, a tenth of them in split val."""

    def rows():
        for row in range(records):
            captions = (CAPTION.format(row), CAPTION.format(-row))
            split = "train" if row % 10 else "val"
            yield Record(row, extents[row % 64], captions, f"made:{row // 4}", "made", split, f"{row % 97}/{row}.jpg")

    return RawDataset(annotations=(), rows=rows(), expected=records)


def plan(folder: Path, records: int) -> None:
    extents = write_images(folder)
    made = make_plan(
        generated(extents, records),
        LocalStore(folder),
        LocalStore(folder / "out"),
        name="made",
        job_hash="0",
        selection=Selection(),
        shard_bytes=SHARD_BYTES,
        shard_samples=SHARD_SAMPLES,
    )
    assert made.records == records


def plan_and_pack(folder: Path, records: int) -> None:
    extents = write_images(folder)
    packed = pack("jsonl", folder, folder / "out", reader=lambda store: generated(extents, records))
    assert packed.dataset.counts["images"] == records


def consume(folder: Path, records: int) -> None:
    """The generator alone, whose cost is not ours."""
    for _ in generated(write_images(folder), records).rows:
        pass


def measured(action, records: int) -> dict[str, float]:
    """CPU seconds and peak memory of a process of its own that does it."""
    with tempfile.TemporaryDirectory() as directory:
        reading, writing = multiprocessing.get_context("spawn").Pipe(duplex=False)
        arguments = (writing, action, Path(directory), records)
        process = multiprocessing.get_context("spawn").Process(target=_measure, args=arguments)
        process.start()
        writing.close()
        told = reading.recv()
        process.join()
        shutil.rmtree(directory)
        Path(directory).mkdir()
    return told


def _measure(writing, action, folder: Path, records: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cpu, wall = time.process_time(), time.perf_counter()
    action(folder, records)
    writing.send({
        "records": records,
        "cpu_s": round(time.process_time() - cpu, 1),
        "wall_s": round(time.perf_counter() - wall, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "before_mb": round(before / 1024),
    })  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--plan", type=int, nargs="*", default=[1_000_000, 10_000_000])
    parser.add_argument("--pack", type=int, nargs="*", default=[100_000, 1_000_000])
    options = parser.parse_args()
    print(json.dumps({
        "generator": [measured(consume, records) for records in options.plan],
        "plan": [measured(plan, records) for records in options.plan],
        "pack": [measured(plan_and_pack, records) for records in options.pack],
    }))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
