"""The datasets of a run and the published figures of its benchmark."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune.benchmarks import open_benchmark
from finetune.report.record import RunRecord
from pretrain.provenance import read_provenance
from sharding.dataset import Dataset, open_dataset
from sharding.errors import UserError
from sharding.store import place_below

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """One packed dataset as the page shows it; `dataset` is None where it could not be opened.

    `problem` says why, or that it is not the data the weights were trained on; "" where all is well.
    """

    role: str
    place: str
    dataset: Dataset | None
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A benchmark in the literature: its title, rows of results, and the papers they are from, by the rows' `paper`."""

    title: str
    rows: list[dict[str, Any]]
    papers: dict[str, dict[str, str]]


def published(source: str) -> Published | None:
    """The published figures of a benchmark by its source's name, None for one that has none."""
    content = json.loads((HERE / "published.json").read_text())
    entry = content["benchmarks"].get(source)
    if entry is None:
        return None
    cited = {row["paper"] for row in entry["rows"]}
    papers = {name: paper for name, paper in content["papers"].items() if name in cited}
    return Published(title=entry["title"], rows=entry["rows"], papers=papers)


def find_benchmark(record: RunRecord, benchmark: str | None, data: str | None) -> Dataset:
    """The packed benchmark: `data` (the dataset, or the folder that holds `benchmark`), else what the settings name.

    Raises UserError where neither names one, or the shards are missing or of another benchmark than asked for.
    """
    if benchmark is not None:
        return open_benchmark(data or _root(record), benchmark)
    if data is not None:
        return open_dataset(data)
    name = record.section("eval").get("data")
    if name is None and record.fine_tuned:  # nothing was evaluated meanwhile: the benchmark is what it was trained on
        name = record.section("data")["mixture"][0]["path"]
    if name is None:
        raise UserError("the run's settings name no benchmark (eval.data): give --benchmark NAME or --data DIR")
    return open_dataset(place_below(_root(record), name))


def datasets_of(record: RunRecord, benchmark: Dataset, weights: Path) -> list[DatasetFacts]:
    """Every dataset of the run's mixture, then the benchmark. One that has gone or changed is told, not an error.

    What the weights were trained on is known where their folder keeps a provenance.
    """
    trained_on = {data.name: data.root_hash for data in read_provenance(weights).data}
    parts = record.section("data").get("mixture") or []
    total = sum(float(part.get("weight", 1.0)) for part in parts)
    facts = [
        _facts(
            f"training, weight {100 * float(part.get('weight', 1.0)) / total:.3g} %",
            place_below(_root(record), part["path"]),
        )
        for part in parts
    ]
    checked = [replace(one, problem=one.problem or _changed(one, trained_on)) for one in facts]
    return [*checked, DatasetFacts(role="benchmark", place=str(benchmark.store), dataset=benchmark)]


def _facts(role: str, place: str) -> DatasetFacts:
    try:
        return DatasetFacts(role=role, place=place, dataset=open_dataset(place))
    except UserError as error:
        return DatasetFacts(role=role, place=place, dataset=None, problem=str(error))


def _changed(facts: DatasetFacts, trained_on: dict[str, str]) -> str:
    assert facts.dataset is not None
    recorded = trained_on.get(facts.dataset.name, facts.dataset.root_hash)
    if recorded == facts.dataset.root_hash:
        return ""
    return f"packed anew since the training, which saw {recorded}"


def _root(record: RunRecord) -> str:
    return str(record.section("data").get("root", "."))
