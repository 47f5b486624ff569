"""What CFAM's terms cost beside SDM alone: `python -m tests.benchmarks.cfam_step` prints one JSON line.

Whole training steps (forward, backward, optimizer) of a real ViT-B/16 at 384 x 128, the two engines taking turns on the
same batches in one process. Captions have the lengths of ultra-fine ones.
"""

import argparse
import json
import os
import sys
import time
from statistics import median

import numpy as np
import torch

from cluster.launch import Topology, launch_local
from finetune.config import FinetuneSettings
from finetune.objective import FinetuneObjective
from finetune.train import merged, recipe
from pretrain.batch import Batch
from pretrain.config import settings_from
from pretrain.engine import Engine
from pretrain.model import DualEncoder
from pretrain.text import pack

IDENTITIES = 11_003  # CUHK-PEDES's, for the size of the classifier
METHODS = ("sdm", "cfam")


def make_engine(method: str, options: argparse.Namespace) -> Engine:
    """The engine of a method's run, by the recipes, on the CPU."""
    model = {"quick_gelu": True, "text_cfg": {"context_length": 168}}  # the rest of ViT-B/16 is the default
    here = {"optim": {"batch_size": options.batch, "steps": 1000}, "engine": {"precision": options.precision}}
    tree = merged(recipe("base"), {"model": model, "eval": {"keep": "last"}}, recipe("methods")[method], here)
    settings = settings_from(tree, FinetuneSettings)
    torch.manual_seed(0)
    return Engine(FinetuneObjective(DualEncoder(settings.model), settings, IDENTITIES), settings, torch.device("cpu"))


def make_batch(size: int, seed: int) -> Batch:
    """Noise for images and captions of about 105 tokens, four images a person."""
    draw = np.random.default_rng(seed)
    lengths = draw.normal(105, 30, size).clip(40, 168).astype(int)
    rows = [draw.integers(0, 49_000, length).astype("<u2").tobytes() for length in lengths]
    images = torch.from_numpy(draw.integers(0, 256, (size, 3, 384, 128), dtype=np.uint8))
    return Batch(images=images, text=pack(rows), identity=torch.arange(size) // 4, position=0, keys=())


def measure(options: argparse.Namespace) -> dict[str, object]:
    """CPU seconds of each method's steps, taken in turns, and the median of their ratios."""
    torch.set_num_threads(options.threads)
    engines = {method: make_engine(method, options) for method in METHODS}
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    for step in range(options.steps + 1):
        batch = make_batch(options.batch, step)
        for method, engine in engines.items():
            began = time.process_time()
            engine.train_step(batch, step)
            seconds[method].append(time.process_time() - began)
    took = {method: times[1:] for method, times in seconds.items()}  # the first step compiles and allocates
    ratios = [ours / base for ours, base in zip(took["cfam"], took["sdm"], strict=True)]
    return {
        "model": "ViT-B/16 384x128, 168 tokens",
        "batch": options.batch,
        "precision": options.precision,
        "threads": options.threads,
        **{f"{method}_cpu_s": round(median(times), 3) for method, times in took.items()},
        "cfam_over_sdm": round(median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    options = parser.parse_args()
    os.environ["DS_ACCELERATOR"] = "cpu"  # else DeepSpeed looks for others, and says so on stdout
    launch_local(lambda _: print(json.dumps(measure(options))), {}, topology=Topology(ranks=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
