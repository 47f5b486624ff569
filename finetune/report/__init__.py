"""One self-contained page about a run: `write_report` gathers, measures, renders and writes it.

record.py (what the run left)  data.py (datasets, published.json)  queries.py (how every query fared)
    ->  page.py (words, chart.py)  ->  report.html.jinja + report.css  ->  one HTML file
"""

from pathlib import Path
from typing import Any

from finetune.evaluate import Encoder, EvaluationSettings, features_of
from finetune.report.data import datasets_of, find_benchmark
from finetune.report.page import Report, render
from finetune.report.queries import image_to_text, query_results, similarity_samples, slices, strips
from finetune.report.record import read_run, selected_weights
from finetune.scores import IMAGE_TO_TEXT, TEXT_TO_IMAGE
from sharding.files import write_durably
from sharding.reader import SplitReader


def write_report(
    run: Path,
    html: Path,
    *,
    benchmark: str | None,
    data: str | None,
    split: str,
    weights: Path | None,
    batch_size: int,
    cache: Path | None,
) -> dict[str, Any]:
    """Measure the run's selected weights on the benchmark's split and write the page to `html`; returns a summary.

    `cache` is where features are kept, None to keep none. The summary holds the path, its bytes, the benchmark and the
    metrics of both directions, ready for JSON. One process calls. Raises UserError for a missing run, benchmark, split
    or model.
    """
    record = read_run(run)
    dataset = find_benchmark(record, benchmark, data)
    reader = SplitReader(dataset, split)
    chosen, selection = selected_weights(run, weights)
    encoder = Encoder(chosen, "fp32")
    features = features_of(encoder, reader, EvaluationSettings(batch_size=batch_size, cache=cache))
    weights_path = chosen.path
    assert features is not None, "one process calls"
    assert weights_path is not None, "selected_weights names a file"
    results = query_results(features, reader)
    metrics = {TEXT_TO_IMAGE: results.metrics.mean(), IMAGE_TO_TEXT: image_to_text(features)}
    page = render(
        Report(
            record=record,
            selection=selection,
            model=chosen.settings,
            weights_path=weights_path,
            weights_sha256=encoder.hash,
            benchmark=dataset,
            split=split,
            metrics=metrics,
            strips=strips(results, reader),
            similarities=similarity_samples(features),
            first_rank=results.first_rank,
            slices=slices(results, reader),
            datasets=datasets_of(record, dataset, weights_path),
        )
    ).encode()
    write_durably(html, page)
    return {
        "html": str(html),
        "bytes": len(page),
        "benchmark": dataset.source,
        "split": split,
        "selection": selection.words,
        "metrics": {name: values.as_dict() for name, values in metrics.items()},
    }
