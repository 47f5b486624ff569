"""Zero-shot evaluation of exported weights on a packed benchmark: a row of retrieval metrics for each model."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from pretrain.features import Shapes, encode, extract_features
from pretrain.model import DualEncoder
from pretrain.retrieval import RetrievalMetrics
from pretrain.weights import build_model, exported_settings, load_weights, read_state
from sharding.index import open_dataset
from sharding.reader import SplitReader

COLUMNS = {"r1": "R@1", "r5": "R@5", "r10": "R@10", "mAP": "mAP", "mINP": "mINP", "mSD": "mSD"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model's metrics under the name it is shown by."""

    name: str
    metrics: RetrievalMetrics


def evaluate(data: Path, split: str, weights: list[Path], *, untrained: bool, batch_size: int) -> list[Row]:
    """Text -> image metrics of each exported model, after one of the same architecture with random weights if asked.

    Raises UserError for a missing dataset, split or model, and for a query without a relevant image.
    """
    benchmark = SplitReader(open_dataset(data), split)
    rows = []
    if untrained:
        model = build_model(exported_settings(weights[0]), seed=0)
        rows.append(Row(name="untrained", metrics=_metrics(model, benchmark, batch_size)))
    for folder in weights:
        model = DualEncoder(exported_settings(folder))
        load_weights(model, read_state(folder))
        rows.append(Row(name=str(folder), metrics=_metrics(model, benchmark, batch_size)))
    return rows


def _metrics(model: DualEncoder, benchmark: SplitReader, batch_size: int) -> RetrievalMetrics:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shapes = Shapes.of(model.settings, batch_size)
    return extract_features(partial(encode, model.to(device), device), benchmark, shapes).metrics()


def as_json(rows: list[Row], data: Path, split: str) -> str:
    """The rows as one JSON object; every figure is percent but the counts."""
    models = [{"name": row.name, **row.metrics.as_dict()} for row in rows]
    return json.dumps({"data": str(data), "split": split, "models": models}, indent=1)


def as_table(rows: list[Row]) -> str:
    """The rows as a Markdown table, with the R@1 of a random ranking first."""
    first = rows[0].metrics
    names = ["model", *COLUMNS.values()]
    cells = [["chance", f"{first.chance_r1:.2f}", *[""] * (len(COLUMNS) - 1)]]
    for row in rows:
        values = row.metrics.as_dict()
        cells.append([row.name, *(f"{values[key]:.2f}" for key in COLUMNS)])
    widths = [max(len(line[i]) for line in [names, *cells]) for i in range(len(names))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [_line(names, widths), _line(rule, widths), *(_line(line, widths) for line in cells)]
    return "\n".join([*lines, f"\n{first.queries} queries, {first.gallery} gallery images; percent"])


def _line(cells: list[str], widths: list[int]) -> str:
    padded = [
        cells[0].ljust(widths[0]),
        *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)),
    ]
    return "| " + " | ".join(padded) + " |"
