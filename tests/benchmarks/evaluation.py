"""Cost of exact retrieval metrics: `python -m tests.benchmarks.evaluation` prints one JSON line.

Features of a fine-tuned model's quality, d = 512. Against two textbook versions (the whole similarity matrix, an
argsort of every row), one in torch and one in numpy: CPU seconds on one thread, medians of interleaved runs in one
process; then, each in a process of its own with the features loaded, by how much the peak of resident memory rises.
Last 1,000 queries against a gallery of a million.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pretrain.retrieval import retrieval_metrics

Case = tuple[Tensor, Tensor, Tensor, Tensor]
DIMENSIONS = 512
LIKENESS = 0.95  # correlation of the features of people of one group


def people(queries: int, gallery: int, *, quality: float = 1.0) -> Case:
    """Queries, their ids, gallery and ids: 4 to 8 images a person, about as many queries for each, in any order.

    People come in groups of five look-alikes. A feature is the person's, weighted about `quality`, plus noise, plus a
    mean that all share (the cone of CLIP); its defaults give about the R@1 and mAP of published models on CUHK-PEDES.
    """
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(4, 9, (gallery // 4,), generator=generator)
    gallery_ids = torch.arange(len(sizes)).repeat_interleave(sizes)[:gallery]
    gallery_ids = gallery_ids[torch.randperm(gallery, generator=generator)]
    query_ids = gallery_ids[torch.randint(gallery, (queries,), generator=generator)]
    groups = torch.randn(len(sizes) // 5 + 1, DIMENSIONS, generator=generator)
    persons = torch.randn(len(sizes), DIMENSIONS, generator=generator) * (1 - LIKENESS**2) ** 0.5
    persons += LIKENESS * groups[torch.arange(len(sizes)) // 5]

    def features(ids: Tensor) -> Tensor:
        result = torch.empty(len(ids), DIMENSIONS)
        for part, own in zip(result.split(10_000), ids.split(10_000), strict=True):
            weight = quality * (0.7 + 0.5 * torch.rand(len(own), 1, generator=generator))
            part.normal_(generator=generator).addcmul_(persons[own], weight).add_(0.5)
            part /= part.norm(dim=1, keepdim=True)
        return result

    return features(query_ids), query_ids, features(gallery_ids), gallery_ids


def streamed(case: Case) -> dict[str, float]:
    return retrieval_metrics(*case).as_dict()


def textbook_torch(case: Case) -> dict[str, float]:
    """The definitions on the whole matrix, as evaluation code of the field has them."""
    query, query_ids, gallery, gallery_ids = case
    similarity = (query @ gallery.T + 1) / 2
    order = similarity.argsort(dim=1, descending=True)
    match = gallery_ids[order] == query_ids[:, None]
    rank, positives = torch.arange(1, len(gallery) + 1), match.sum(dim=1)
    hits = match.cumsum(dim=1)
    ap = (hits / rank * match).sum(dim=1) / positives
    inp = positives / (match * rank).amax(dim=1)
    similarity = similarity.gather(1, order)
    matched = similarity * match
    asp = (matched.cumsum(dim=1) / similarity.cumsum(dim=1) * match).sum(dim=1) / positives
    negative = (similarity.sum(dim=1) - matched.sum(dim=1)) / (len(gallery) - positives)
    sd = (1 - torch.exp(-(matched.sum(dim=1) / positives) / negative)) * asp
    recall = {f"r{k}": hits[:, k - 1] > 0 for k in (1, 5, 10)}
    means = {**recall, "mAP": ap, "mINP": inp, "mSD": sd}
    return {name: 100 * value.double().mean().item() for name, value in means.items()}


def textbook_numpy(case: Case) -> dict[str, float]:
    """The same in numpy, whose argsort is faster where the processor has AVX-512."""
    query, query_ids, gallery, gallery_ids = (tensor.numpy() for tensor in case)
    similarity = (query @ gallery.T + 1) / 2
    order = np.argsort(-similarity, axis=1)
    match = gallery_ids[order] == query_ids[:, None]
    rank, positives = np.arange(1, len(gallery) + 1), match.sum(axis=1)
    hits = match.cumsum(axis=1)
    ap = (hits / rank * match).sum(axis=1) / positives
    inp = positives / (match * rank).max(axis=1)
    similarity = np.take_along_axis(similarity, order, axis=1)
    matched = similarity * match
    asp = (matched.cumsum(axis=1) / similarity.cumsum(axis=1) * match).sum(axis=1) / positives
    negative = (similarity.sum(axis=1) - matched.sum(axis=1)) / (len(gallery) - positives)
    sd = (1 - np.exp(-(matched.sum(axis=1) / positives) / negative)) * asp
    recall = {f"r{k}": hits[:, k - 1] > 0 for k in (1, 5, 10)}
    means = {**recall, "mAP": ap, "mINP": inp, "mSD": sd}
    return {name: 100 * float(value.mean(dtype=np.float64)) for name, value in means.items()}


METHODS: dict[str, Callable[[Case], dict[str, float]]] = {
    "streamed": streamed,
    "textbook_torch": textbook_torch,
    "textbook_numpy": textbook_numpy,
}


def cpu_seconds(case: Case, runs: int) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Median CPU seconds of each method, run in turn, and what each found; one thread, on a warm process."""
    warm_up = (case[0][:64], case[1][:64], case[0][:64], case[1][:64])
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    found = {}
    for method in METHODS.values():
        method(warm_up)
    for _ in range(runs):
        for name, method in METHODS.items():
            began = time.process_time()
            found[name] = method(case)
            seconds[name].append(time.process_time() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}, found


def peak_rise(name: str, queries: int, gallery: int) -> tuple[float, float]:
    """(GB by which one run of a method lifts the peak of resident memory, its CPU seconds), in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_rise, (name, queries, gallery))


def _peak_rise(name: str, queries: int, gallery: int) -> tuple[float, float]:
    torch.set_num_threads(1)
    case = people(queries, gallery)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is now what is resident: libraries and features
    before, began = _peak_bytes(), time.process_time()
    METHODS[name](case)
    return (_peak_bytes() - before) / 1e9, time.process_time() - began


def _peak_bytes() -> int:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return 1024 * int(line.split()[1])


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=3, help="of each method, for the median of its seconds")
    runs = parser.parse_args().runs
    torch.set_num_threads(1)
    case = people(15_000, 8_000)
    seconds, found = cpu_seconds(case, runs)
    order = torch.randperm(8_000, generator=torch.Generator().manual_seed(1))
    shuffled = retrieval_metrics(*case[:2], case[2][order], case[3][order], tile=700).as_dict()
    memory = {name: peak_rise(name, 15_000, 8_000)[0] for name in METHODS}
    million_gb, million_s = peak_rise("streamed", 1_000, 1_000_000)
    report = {
        "case": "15000 x 8000, d 512, one thread",
        "runs": runs,
        "metrics": {name: round(value, 3) for name, value in found["streamed"].items()},
        "cpu_s": {name: round(value, 2) for name, value in seconds.items()},
        "extra_gb": {name: round(value, 3) for name, value in memory.items()},
    }
    for name in ("textbook_torch", "textbook_numpy"):
        report[f"times_faster_than_{name}"] = round(seconds[name] / seconds["streamed"], 1)
        report[f"percent_of_the_memory_of_{name}"] = round(100 * memory["streamed"] / memory[name], 1)
        report[f"largest_difference_from_{name}"] = _difference(found["streamed"], found[name])
    report["largest_difference_after_shuffling_the_gallery"] = _difference(found["streamed"], shuffled)
    report["untrained_cpu_s"] = round(_untrained_seconds(), 2)
    report["1000 x 1000000"] = {"extra_gb": round(million_gb, 3), "cpu_s": round(million_s, 1)}
    print(json.dumps(report))
    return 0


def _untrained_seconds() -> float:
    """CPU seconds on features that say nothing of the person: the most images to look at twice."""
    case = people(15_000, 8_000, quality=0.0)
    began = time.process_time()
    streamed(case)
    return time.process_time() - began


def _difference(some: dict[str, float], others: dict[str, float]) -> float:
    """The largest difference of a metric, in percentage points."""
    return float(f"{max(abs(some[name] - others[name]) for name in others):.1e}")


if __name__ == "__main__":
    sys.exit(main())
