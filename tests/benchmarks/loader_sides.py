"""One side of the loader's comparison in a process of its own; called by tests/benchmarks/loader.py.

    python -m tests.benchmarks.loader_sides ours|ours_normalised|open_clip|bare|steady FOLDER OPTIONS

Each warms up, then takes wall and CPU time (its own and its workers') over whole batches, and prints a JSON line.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path

SIZE = (384, 128)
BATCH = 256
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds() -> float:
    """Of this process and of its living children, kernel time included."""
    me, total = os.getpid(), 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(path.parent.name) == me or int(fields[1]) == me:
            total += int(fields[11]) + int(fields[12])
    return total / TICKS


def machine_seconds() -> float:
    """CPU time that all processes of the machine have taken: user, nice and system."""
    return sum(map(int, Path("/proc/stat").read_text().split()[1:4])) / TICKS


class Meter:
    """Wall and CPU time from its making on. `others`: how many cores other processes kept busy, or the run is void."""

    def __init__(self) -> None:
        self.wall, self.cpu, self.machine = time.perf_counter(), cpu_seconds(), machine_seconds()

    def read(self, samples: int) -> dict[str, float]:
        wall, cpu = time.perf_counter() - self.wall, cpu_seconds() - self.cpu
        others = (machine_seconds() - self.machine - cpu) / wall
        return {"cpu_us": cpu / samples * 1e6, "per_s": samples / wall, "others": others}


def resident_mb() -> float:
    """Memory of this process's own: pages of mapped shards are the system's, which takes them back when it likes."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon:")]
    return int(line.split()[1]) * 1024 / 1e6


def measured(batches: Iterator[object], warm: int, count: int) -> dict[str, float]:
    """µs of CPU a sample, samples/s and busy neighbours over `count` batches, after `warm` more."""
    for _ in islice(batches, warm):
        pass
    meter = Meter()
    taken = sum(1 for _ in islice(batches, count))
    found = meter.read(count * BATCH)
    assert taken == count, f"{taken} batches instead of {count}"
    return found


def our_loader(options: argparse.Namespace):
    import torch

    from pretrain.config import DataSettings, MixtureSettings
    from pretrain.loader import Loader, LoaderSettings
    from pretrain.mixture import Mixture

    torch.set_num_threads(1)
    mixture = (MixtureSettings(path=options.dataset),)
    data = DataSettings(root=options.folder, mixture=mixture, flip=0.5, pad=10, erase=0.5, threads=options.threads)
    settings = LoaderSettings(data=data, image_size=SIZE, context_length=77, global_batch=BATCH, rank=0, world_size=1)
    return Loader(Mixture(data, seed=0), settings, 0)


def ours(options: argparse.Namespace) -> dict[str, float]:
    """uint8 images, as a GPU is handed them."""
    with closing(our_loader(options)) as loader:
        return measured(iter(loader), options.warm, options.batches)


def ours_normalised(options: argparse.Namespace) -> dict[str, float]:
    """Floats, as open_clip's workers hand them out: normalised on the CPU by whoever takes the batches."""
    from pretrain.augment import normalise

    with closing(our_loader(options)) as loader:
        return measured((normalise(batch.images) for batch in loader), options.warm, options.batches)


def steady(options: argparse.Namespace) -> dict[str, float]:
    """Memory after the warm-up and at the end."""
    with closing(our_loader(options)) as loader:
        batches = iter(loader)
        measured(batches, options.warm, 1)
        before = resident_mb()
        found = measured(batches, 0, options.batches)
        return {**found, "before_mb": before, "growth_mb": resident_mb() - before}


def open_clip(options: argparse.Namespace) -> dict[str, float]:
    """open_clip's own training loader with IRRA's transforms and as many workers as we have threads."""
    import torch
    import webdataset
    from open_clip import get_tokenizer
    from open_clip_train.data import get_data
    from open_clip_train.params import parse_args
    from torchvision import transforms

    assert webdataset.__version__ == options.webdataset
    torch.set_num_threads(1)
    shards = sorted((options.folder / options.dataset).glob("*-train-*.tar"))
    pattern = "{" + ",".join(str(shard) for shard in shards) + "}"
    args = parse_args([
        "--train-data", pattern, "--dataset-type", "webdataset", "--batch-size", str(BATCH),
        "--workers", str(options.threads), "--train-num-samples", str((options.warm + options.batches) * BATCH * 2),
    ])  # fmt: skip
    args.distributed, args.rank, args.world_size = False, 0, 1
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    irra = transforms.Compose(
        [
            transforms.Resize(SIZE, interpolation=3),
            transforms.RandomHorizontalFlip(0.5),
            transforms.Pad(10),
            transforms.RandomCrop(SIZE),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
            transforms.RandomErasing(scale=(0.02, 0.4), value=mean),
        ]
    )
    data = get_data(args, (irra, irra), epoch=0, tokenizer=get_tokenizer("ViT-B-16"))
    return measured(iter(data["train"].dataloader), options.warm, options.batches)


def bare(options: argparse.Namespace) -> dict[str, float]:
    """libjpeg-turbo alone, into memory that is used again, of images in memory."""
    import numpy as np
    import simplejpeg

    from sharding.dataset import open_dataset
    from sharding.reader import SplitReader

    reader = SplitReader(open_dataset(options.folder / options.dataset), "train")
    places = [reader.place(i) for i in range(len(reader))]
    images = [image for (image,) in reader.read([shard for shard, _ in places], [row for _, row in places])]

    def decode(part: list[bytes]) -> None:
        memory = np.empty((1 << 20) + 64, np.uint8)
        memory = memory[(1 - memory.ctypes.data) % 32 :]  # not aligned: its fastest (see pretrain/decode.py)
        for image in part:
            simplejpeg.decode_jpeg(image, "RGB", buffer=memory)

    images *= max(1, options.batches * BATCH // len(images))
    parts = [images[start :: options.threads] for start in range(options.threads)]
    with ThreadPoolExecutor(options.threads) as pool:
        list(pool.map(decode, [part[:500] for part in parts]))
        meter = Meter()
        list(pool.map(decode, parts))
        return meter.read(len(images))


SIDES: dict[str, Callable[[argparse.Namespace], dict[str, float]]] = {
    "ours": ours,
    "ours_normalised": ours_normalised,
    "steady": steady,
    "open_clip": open_clip,
    "bare": bare,
}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dataset", default="people")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--warm", type=int, default=12)
    parser.add_argument("--batches", type=int, required=True)
    parser.add_argument("--webdataset", help="the version that open_clip's loader has to find")
    options = parser.parse_args()
    print(json.dumps(SIDES[options.side](options)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
