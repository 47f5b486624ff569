"""CPU cost of packing beside webdataset's ShardWriter: `python -m tests.benchmarks.packing` prints one JSON line.

Both read the same CUHK-PEDES layout (two captions of 23 words an image, JPEGs of 384 x 128 and about 19 KB) and write
jpg, txt and json of every image; ours also checks each image and hashes every member and every tar. Runs are taken in
turns. The wall time of two processes over that of one is told beside them, and means something on a quiet machine only.
"""

import argparse
import io
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from sharding.pack import pack

CAPTION = (
    "The man wears a dark blue jacket over a white shirt and grey trousers and carries a black backpack on {} left arm."
)
SAMPLES_PER_SHARD = 3_300  # about 64 MB


def write_people(folder: Path, images: int, size: tuple[int, int] = (384, 128)) -> None:
    """`reid_raw.json` and `imgs/`: smooth noise, which compresses about like a photograph of that size (H, W)."""
    dice = np.random.default_rng(0)
    rows = []
    for number in range(images):
        path = f"cam_a/{number:06d}.jpg"
        if number % 500 == 0:
            (folder / "imgs" / "cam_a").mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(dice.integers(0, 256, (32, 11, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize(size[::-1], Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=95)
        (folder / "imgs" / path).write_bytes(buffer.getvalue())
        captions = [CAPTION.format(word) for word in ("his", f"the {number}th")]
        rows.append({"split": "train", "captions": captions, "file_path": path, "id": number // 4 + 1})
    (folder / "reid_raw.json").write_text(json.dumps(rows))


def pack_ours(folder: Path, out: Path, workers: int) -> None:
    pack("cuhk_pedes", folder, out, shard_samples=SAMPLES_PER_SHARD, workers=workers)


def pack_by_webdataset(folder: Path, out: Path) -> None:
    import webdataset

    out.mkdir()
    rows = json.loads((folder / "reid_raw.json").read_bytes())
    with webdataset.ShardWriter(str(out / "train-%06d.tar"), maxcount=SAMPLES_PER_SHARD, verbose=0) as writer:
        for number, row in enumerate(rows):
            writer.write({
                "__key__": f"cuhk_pedes-{number:09d}",
                "jpg": (folder / "imgs" / row["file_path"]).read_bytes(),
                "txt": row["captions"][0],
                "json": row,
            })  # fmt: skip


def timed(action, out: Path) -> tuple[float, float]:
    """(CPU seconds of this process, wall seconds); what is written is removed."""
    cpu, wall = time.process_time(), time.perf_counter()
    action(out)
    spent = time.process_time() - cpu, time.perf_counter() - wall
    shutil.rmtree(out)
    return spent


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        folder, out = Path(directory) / "raw", Path(directory) / "out"
        write_people(folder, options.images)
        actions = {
            "ours": lambda out: pack_ours(folder, out, 1),
            "webdataset": lambda out: pack_by_webdataset(folder, out),
            "two_processes": lambda out: pack_ours(folder, out, 2),
        }
        timed(actions["ours"], out)  # imports, and the files into the page cache
        spent = {name: [] for name in actions}
        for _ in range(options.runs):
            for name, action in actions.items():
                spent[name].append(timed(action, out))
        image_bytes = sum(path.stat().st_size for path in folder.rglob("*.jpg")) / options.images
    cpu = {name: statistics.median(run[0] for run in runs) / options.images * 1e6 for name, runs in spent.items()}
    wall = {name: statistics.median(run[1] for run in runs) for name, runs in spent.items()}
    print(json.dumps({
        "images": options.images,
        "bytes_per_image": round(image_bytes),
        "cpu_us_per_image": round(cpu["ours"], 1),
        "webdataset_cpu_us_per_image": round(cpu["webdataset"], 1),
        "webdataset_over_ours": round(cpu["webdataset"] / cpu["ours"], 2),
        "one_process_wall_s": round(wall["ours"], 2),
        "two_processes_wall_s": round(wall["two_processes"], 2),
        "one_over_two_wall": round(wall["ours"] / wall["two_processes"], 2),
    }))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
