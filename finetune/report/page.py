"""From gathered facts to one HTML page: what is drawn, in which words, and the rendering with autoescape on.

Everything that comes from data or settings reaches the page through Jinja's escaping or `markupsafe.escape`.
"""

import platform
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from numpy.typing import NDArray

from finetune.benchmarks import difference_from_published
from finetune.report.chart import Chart, Series, histogram, line_chart
from finetune.report.data import DatasetFacts, Published, published
from finetune.report.queries import Slice, Strip
from finetune.report.record import RunRecord, Selection, split_words
from pretrain.config import ModelSettings
from pretrain.retrieval import RetrievalMetrics
from sharding.dataset import Dataset
from sharding.store import place_below

HERE = Path(__file__).parent
COLUMNS = {"r1": "R@1", "r5": "R@5", "r10": "R@10", "mAP": "mAP", "mINP": "mINP", "mSD": "mSD"}
DIRECTIONS = {"text_to_image": "text → image", "image_to_text": "image → text"}
KINDS = (
    ("best", "Best", "greatest average precision, one query a person"),
    ("worst", "Worst", "least average precision, one query a person"),
    ("random", "Random", "drawn with a fixed seed"),
)
NOT_LOSSES = {"step", "loss", "lr", "scale", "step_s", "data_wait_s", "samples_per_s"}
MATCHING_UP_TO = 50
FEW = 20  # a slice with fewer queries than this is too noisy to be called the weakest


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that the page shows."""

    record: RunRecord
    selection: Selection
    model: ModelSettings
    weights_path: Path
    weights_sha256: str  # over the tensors
    benchmark: Dataset
    split: str
    metrics: dict[str, RetrievalMetrics]
    strips: dict[str, list[Strip]]
    similarities: tuple[NDArray[np.float64], NDArray[np.float64]]  # cosines of matching and of other pairs
    first_rank: NDArray[np.int64]  # of each query's first match
    slices: dict[str, list[Slice]]
    datasets: Sequence[DatasetFacts]


def render(report: Report) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    record, benchmark = report.record, report.benchmark
    matching, others = report.similarities
    literature = published(benchmark.source)
    return environment.get_template("report.html.jinja").render(
        run={
            "name": record.name,
            "steps": record.steps[-1]["step"] + 1,
            "settings_hash": record.settings_hash,
            "directory": record.directory,
            "duration": duration(record),
        },
        benchmark={"title": literature.title if literature else benchmark.name, "split": report.split},
        selection=report.selection,
        model=architecture(report.model),
        difference=difference_from_published(benchmark, report.split),
        tiles=tiles(report.metrics["text_to_image"]),
        columns=COLUMNS,
        directions=[(DIRECTIONS[name], metrics) for name, metrics in report.metrics.items()],
        comparison=comparison(report),
        papers=[f"{paper['short']}: {paper['cite']}" for paper in literature.papers.values()] if literature else [],
        curves=curves(record, report.selection.step),
        kinds=KINDS,
        strips=report.strips,
        similarities=[
            histogram("Similarity", [("same person", matching), ("other people", others)], label="cosine similarity"),
            matching_curve(report.first_rank),
        ],
        slices=report.slices,
        weakest=weakest(report.slices),
        datasets=report.datasets,
        settings=settings_rows(record.settings),
        commands=[shlex.join(command) for command in commands(report)],
        facts=facts(report),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def tiles(metrics: RetrievalMetrics) -> list[tuple[str, float, str]]:
    """(name, value, note) of the figures at the top."""
    values = metrics.as_dict()
    times = metrics.r1 / metrics.chance_r1
    notes = {"r1": f"{times:.1f} × chance ({metrics.chance_r1:.2f} %)" if times < 10 else f"{times:.0f} × chance"}
    return [(name, values[key], notes.get(key, "")) for key, name in COLUMNS.items()]


def comparison(report: Report) -> list[tuple[str, list[dict[str, Any]]]]:
    """The published rows and this run's among them, best R@1 first: fine-tuned, then zero-shot. [] without any.

    The run counts as fine-tuned if its mixture holds the benchmark's source.
    """
    literature = published(report.benchmark.source)
    if literature is None:
        return []
    values = report.metrics["text_to_image"].as_dict()
    trained_on = {facts.dataset.source for facts in report.datasets if facts.dataset and facts.role != "benchmark"}
    ours = {
        **{key: values[key] for key in COLUMNS},
        "method": f"this run, {report.record.name}",
        "backbone": tower(report.model),
        "zero_shot": not report.record.fine_tuned and report.benchmark.source not in trained_on,
        "ours": True,
        "source": "measured here",
    }
    rows = sorted([*literature.rows, ours], key=lambda row: -row["r1"])
    filled = [
        {"ours": False, "note": "", "zero_shot": False, "source": _source(row, literature), **row} for row in rows
    ]
    groups = [
        ("Fine-tuned on the benchmark's training split", [row for row in filled if not row["zero_shot"]]),
        ("Zero-shot: the benchmark was not trained on", [row for row in filled if row["zero_shot"]]),
    ]
    return [(name, rows) for name, rows in groups if rows]


def _source(row: dict[str, Any], literature: Published) -> str:
    paper = literature.papers.get(row.get("paper") or "")
    return ", ".join(filter(None, [paper["short"] if paper else "paper not recorded", row.get("table")]))


def curves(record: RunRecord, selected: int | None) -> list[Chart]:
    """Loss, retrieval, learning rate and throughput over the steps."""
    steps, evaluations = record.steps, record.evaluations
    at = [line["step"] + 1 for line in steps]

    def column(name: str) -> list[float]:
        return [line.get(name, float("nan")) for line in steps]

    terms = [name for name in steps[-1] if name not in NOT_LOSSES]
    loss = [Series(name="total", x=at, y=column("loss"))]
    if len(terms) > 1:
        loss += [Series(name=name, x=at, y=column(name)) for name in terms[:7]]
    charts = [line_chart("Loss", loss)]
    if evaluations:
        split = split_words(record.section("eval").get("split", "val"))
        when = [line["step"] for line in evaluations]
        retrieval = [
            Series(name=name, x=when, y=[line["eval"][key] for line in evaluations])
            for key, name in (("r1", "R@1"), ("mAP", "mAP"))
        ]
        chance = [line["eval"]["chance_r1"] for line in evaluations]
        retrieval.append(Series(name="chance R@1", x=when, y=chance, reference=True))
        charts.append(line_chart(f"Retrieval on {split}", retrieval, unit="percent", zero=True, mark=selected))
    charts.append(line_chart("Learning rate", [Series(name="learning rate", x=at, y=column("lr"))], zero=True))
    speed = Series(name="samples/s", x=at, y=column("samples_per_s"))
    charts.append(line_chart("Throughput", [speed], unit="samples per second", zero=True))
    return charts


def matching_curve(first_rank: NDArray[np.int64]) -> Chart:
    """The cumulative matching characteristic: the share of the queries whose first match is among the first k."""
    k = np.arange(1, MATCHING_UP_TO + 1)
    share = 100 * (first_rank[:, None] <= k).mean(axis=0)
    line = Series(name="R@k", x=k.tolist(), y=share.tolist())
    return line_chart("Cumulative matching", [line], unit="R@k, percent", label="k", zero=True)


def duration(record: RunRecord) -> str:
    """How long the steps took, and the share of it spent waiting for data."""
    seconds = sum(line["step_s"] for line in record.steps)
    waiting = sum(line["data_wait_s"] for line in record.steps)
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{hours} h"] * bool(hours) + [f"{minutes} min"] * bool(hours or minutes) + [f"{rest} s"]
    return (
        f"{len(record.steps):,} steps in {' '.join(parts)}, evaluation aside; "
        f"{100 * waiting / seconds:.1f} % of it waiting for data."
    )


def weakest(slices: dict[str, list[Slice]]) -> str:
    """The slice of enough queries with the lowest R@1, in words; "" where no kind of slice has two to compare."""
    candidates = [
        (one, title)
        for title, rows in slices.items()
        if sum(row.queries >= FEW for row in rows) > 1
        for one in rows
        if one.queries >= FEW
    ]
    if not candidates:
        return ""
    one, title = min(candidates, key=lambda pair: pair[0].r1)
    return f"Lowest R@1: {one.r1:.1f} % ({title[0].lower() + title[1:]}: {one.label}; {one.queries:,} queries)."


def architecture(model: ModelSettings) -> str:
    """The encoder and what it takes, in a few words."""
    height, width = model.vision_cfg.image_size
    return f"{tower(model)}, {height} × {width}, {model.text_cfg.context_length} tokens"


def tower(model: ModelSettings) -> str:
    """The image tower: CLIP's name where it has one for these sizes, else the sizes."""
    vision = model.vision_cfg
    known = {(16, 768, 12): "ViT-B/16", (14, 1024, 24): "ViT-L/14"}
    sizes = f"ViT {vision.layers} × {vision.width}, patch {vision.patch_size}"
    return known.get((vision.patch_size, vision.width, vision.layers), sizes)


def settings_rows(tree: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The settings by section, each value at its dotted name below it; what stands outside a section comes last."""
    sections = [(name, _flat(section)) for name, section in tree.items() if isinstance(section, dict)]
    rest = [(name, _text(value)) for name, value in tree.items() if not isinstance(value, dict)]
    return [*sections, *([("other", rest)] if rest else [])]


def commands(report: Report) -> list[list[str]]:
    """The command lines that train again, measure again, and make this page again."""
    run, where = report.record.directory, ["--data", str(report.benchmark.store), "--split", report.split]
    return [
        training_command(report.record),
        ["finetune", "evaluate", *where, "--weights", str(report.weights_path), "--direction", "both"],
        ["finetune", "report", str(run), *where],
    ]


def training_command(record: RunRecord) -> list[str]:
    """The run again, from its own settings, in a directory beside it."""
    run, data = record.directory, record.section("data")
    config = ["--config", str(run / "settings.yaml")]
    if not record.fine_tuned:
        return ["python", "-m", "pretrain.run", *config, "--run.dir", f"{run}-again"]
    shards = place_below(data["root"], data["mixture"][0]["path"])
    init = record.section("model").get("init")
    initial = ["--init", str(init)] if init else ["--init", str(run / "export"), "--from-scratch"]
    chosen = ["--hold-out", str(data["hold_out"])] if data.get("hold_out") else []
    chosen += ["--select-on-test"] if record.section("eval").get("select_on_test") else []
    place = ["--out", f"{run}-again", "--seed", str(record.section("run").get("seed", 0))]
    return ["finetune", "train", "--benchmark", Path(shards).name, "--data", shards, *initial, *chosen, *config, *place]


def facts(report: Report) -> list[tuple[str, str]]:
    """What identifies the run and the machine that made this page."""
    record = report.record
    finished = datetime.fromtimestamp((record.directory / "metrics.jsonl").stat().st_mtime, UTC)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    rows = [
        ("last step recorded", finished.strftime("%Y-%m-%d %H:%M UTC")),
        ("settings hash", record.settings_hash or "not recorded"),
        ("plan hash", record.plan_hash or "no checkpoint left"),
        ("seed", _text(record.section("run").get("seed"))),
        ("weights, sha256 of the tensors", report.weights_sha256),
        ("benchmark, root hash", report.benchmark.root_hash),
        ("measured with", f"Python {platform.python_version()}, torch {torch.__version__}, {device}"),
    ]
    return rows


def _flat(section: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in section.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            for number, item in enumerate(value):
                rows += _flat(item, f"{prefix}{name}.{number}.")
        else:
            rows.append((prefix + name, _text(value)))
    return rows


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)
