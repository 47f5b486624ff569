"""`finetune report`: one page that is whole, escaped, honest about its data, and looks right in a browser."""

import json
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from finetune.benchmarks import BENCHMARKS
from finetune.cli import main
from finetune.evaluate import Encoder, EvaluationSettings, features_of, measure
from finetune.report.chart import Series, line_chart, thin, ticks
from finetune.report.data import HERE, find_benchmark
from finetune.report.queries import bins, choose, query_results, similarity_samples, slices, strips
from finetune.report.record import RunRecord, selected_weights
from pretrain.config import as_tree, settings_from, settings_hash
from pretrain.model import DualEncoder
from pretrain.weights import export_open_clip
from sharding.cli import main as sharding
from sharding.dataset import open_dataset
from sharding.reader import SplitReader
from tests.page import Page

MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": [32, 16], "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
    "text_cfg": {"width": 16, "heads": 2, "layers": 1},
}
ON_VAL = {"rule": "best r1 on val", "split": "val", "metric": "r1", "value": 12.5, "step": 40}
CHROMIUM = shutil.which("chromium")
HOSTILE = """<script>alert("boo")</script> & <img src=x onerror='alert(1)'> a "man" in 'red'"""


def write_run(folder, shards, selection=ON_VAL, name="tiny"):
    """A run as training leaves it: settings, metrics of 60 steps and 4 evaluations, and exported random weights."""
    mixture = [{"path": "pretrain_110k", "weight": 3.0}, {"path": "cuhk_pedes"}]
    tree = {"run": {"name": name, "dir": str(folder)}, "data": {"root": str(shards), "mixture": mixture}}
    settings = settings_from(
        {**tree, "model": MODEL, "loss": {"sdm": 1.0}, "optim": {"steps": 60}, "eval": {"data": "cuhk_pedes"}}
    )
    folder.mkdir(parents=True)
    text = f"# settings {settings_hash(settings)}\n" + yaml.safe_dump(as_tree(settings), sort_keys=False)
    (folder / "settings.yaml").write_text(text)
    scores = [{"r1": r1, "mAP": 1.2 * r1, "chance_r1": 3.0} for r1 in (3.0, 8.0, 12.5, 11.0)]
    lines = [{"step": 20 * i, "eval": score} for i, score in enumerate(scores)]
    lines += [
        {"step": i, "loss": 5 - i / 20, "scale": 14.3, "itc": 3 - i / 30, "sdm": 2 - i / 60, "lr": 1e-4 * (1 - i / 60)}
        | {"step_s": 0.5, "data_wait_s": 0.01, "samples_per_s": 250.0 + i % 7}
        for i in range(60)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    torch.manual_seed(3)
    export_open_clip(DualEncoder(settings.model).state_dict(), settings.model, folder / "export")
    if selection:
        (folder / "export" / "selection.json").write_text(json.dumps(selection))
    return folder


def report(run, out, *arguments):
    assert main(["report", str(run), "--html", str(out), "--no-cache", *map(str, arguments)]) == 0
    return Page(out.read_text())


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "tiny", shards)


@pytest.fixture(scope="module")
def page(run):
    return report(run, run / "page.html")


@pytest.fixture(scope="module")
def reader(shards):
    return SplitReader(open_dataset(shards / "cuhk_pedes"), "test")


@pytest.fixture(scope="module")
def features(run, reader):
    return features_of(Encoder(selected_weights(run, None)[0], "fp32"), reader, EvaluationSettings())


@pytest.fixture(scope="module")
def results(features, reader):
    return query_results(features, reader)


def test_the_page_needs_nothing_but_itself(page):
    links = [a[name] for _, a in page.elements for name in ("src", "href", "srcset", "data") if name in a]
    assert links
    assert all(link.startswith(("data:image/jpeg;base64,", "#")) for link in links)
    assert {"script", "link", "iframe", "object", "base"}.isdisjoint(tag for tag, _ in page.elements)
    style = page.html[page.html.index("<style>") : page.html.index("</style>")]
    assert not re.search(r"url\(|@import|https?:", style)
    assert "default-src 'none'" in page.html
    assert len(page.html.encode()) < 5_000_000
    ids = {a["id"] for _, a in page.elements if "id" in a}
    assert {link[1:] for link in links if link.startswith("#")} <= ids


def test_captions_and_names_are_shown_as_text_whatever_they_hold(shards, tmp_path):
    raw = tmp_path / "raw"
    shutil.copytree(shards.parent / "raw" / "cuhk_pedes", raw)
    rows = json.loads((raw / "reid_raw.json").read_text())
    for row in rows:
        row["captions"] = [HOSTILE for _ in row["captions"]]
    (raw / "reid_raw.json").write_text(json.dumps(rows))
    packed = tmp_path / "cuhk_pedes"
    assert sharding(["pack", "--source", "cuhk_pedes", "--input", str(raw), "--out", str(packed)]) == 0
    run = write_run(tmp_path / "run", shards, name='<u>&\'"run"')
    page = report(run, tmp_path / "page.html", "--data", packed)
    assert page.count("script") == page.count("u") == 0
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert page.text.count(HOSTILE) == page.count("article", "strip") > 0
    assert '<u>&\'"run"' in page.text


def test_the_page_and_the_json_show_the_metrics_of_evaluation_in_both_directions(run, tmp_path, capsys, features):
    both = EvaluationSettings(directions=("text_to_image", "image_to_text"))
    expected = measure(features, both)
    page = report(run, tmp_path / "page.html", "--json")
    summary = json.loads(capsys.readouterr().out)
    assert summary["bytes"] == len(page.html.encode())
    for name, metrics in expected.items():
        assert summary["metrics"][name] == metrics.as_dict()
        for key in ("r1", "r5", "r10", "mAP", "mINP", "mSD"):
            assert f"{getattr(metrics, key):.2f}" in page.text


def test_without_html_the_page_goes_into_the_run(run, capsys):
    assert main(["report", str(run), "--no-cache"]) == 0
    assert capsys.readouterr().out.startswith(f"{run / 'report.html'}: ")
    assert (run / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("selection", "badge", "words"),
    [
        (ON_VAL, "selected on val", "best R@1 on val (12.50 %), step 40"),
        ({**ON_VAL, "rule": "best r1 on test", "split": "test"}, "SELECTED ON TEST", "not held-out results"),
        ({"rule": "last step", "split": None, "metric": None, "value": None, "step": 60}, "not selected", "last step"),
        ({**ON_VAL, "rule": "best r1 on held_out", "split": "held_out"}, "selected on held-out people", "step 40"),
        (None, "not selected", "newest checkpoint when it was exported"),
    ],
)
def test_the_page_says_loudly_how_the_weights_were_selected(shards, tmp_path, selection, badge, words):
    page = report(write_run(tmp_path / "run", shards, selection), tmp_path / "page.html")
    assert badge in page.text
    assert words in page.text
    assert (page.count("li", "loud") == 1) == (badge == "SELECTED ON TEST")


def test_on_synthetic_people_the_comparison_is_marked_as_layout_only(page):
    rows = json.loads((HERE / "published.json").read_text())["benchmarks"]["cuhk_pedes"]["rows"]
    assert "layout only" in page.text
    assert "not the published data" in page.text
    assert page.count("tr", "ours") == 1
    assert all(f"{row['r1']:.2f}" in page.text for row in rows)


def test_published_rows_are_of_known_benchmarks_and_name_their_source():
    content = json.loads((HERE / "published.json").read_text())
    assert set(content["benchmarks"]) == set(BENCHMARKS)
    rows = [row for entry in content["benchmarks"].values() for row in entry["rows"]]
    for row in rows:
        assert row["paper"] is None or row["paper"] in content["papers"]
        recalls = [row[key] for key in ("r1", "r5", "r10") if row[key] is not None]
        assert recalls == sorted(recalls)
        assert all(0 < value < 100 for value in (*recalls, row["mAP"] or 1, row["mSD"] or 1))
    figures = [(row["r1"], row["mAP"], row["mSD"]) for row in rows if row["backbone"] == "CLIP ViT-L/14"]
    assert figures == [  # UFineBench, Tables 5, 6, 7 and 4
        (76.71, 68.47, 52.93),
        (66.58, 40.46, 31.78),
        (63.54, 50.48, 37.96),
        (89.61, 88.19, 69.45),
        (64.62, 61.13, 48.34),
    ]


def test_data_settings_and_hashes_are_on_the_page(page, run, shards):
    for name in ("pretrain_110k", "cuhk_pedes"):
        assert open_dataset(shards / name).root_hash in page.text
    assert (run / "settings.yaml").read_text().split()[2] in page.text
    for words in ("vision_cfg.patch_size", "training, weight 75 %", f"{run / 'settings.yaml'}", "60 steps in 30 s"):
        assert words in page.text


def test_a_dataset_that_has_gone_is_told_on_the_page(shards, tmp_path):
    run = write_run(tmp_path / "run", shards)
    root = tmp_path / "elsewhere"
    (run / "settings.yaml").write_text((run / "settings.yaml").read_text().replace(str(shards), str(root)))
    page = report(run, tmp_path / "page.html", "--data", shards, "--benchmark", "cuhk_pedes")
    assert f"{root / 'pretrain_110k'} is not a directory" in page.text


def test_frames_are_green_for_the_querys_person_and_only_for_them(results, reader):
    similarity = results.features.query.double() @ results.features.gallery.double().T
    names = np.concatenate(reader.identities)
    chosen = choose(results)
    for kind, shown in strips(results, reader).items():
        for query, strip in zip(chosen[kind], shown, strict=True):
            owner = reader.sample(*reader.place(int(results.image[query])))
            order = similarity[query].argsort(descending=True, stable=True)[:10]
            assert strip.identity == owner.identity
            assert strip.caption in owner.captions
            assert [item.match for item in strip.shown] == (names[order] == owner.identity).tolist()
            assert [item.similarity for item in strip.shown] == pytest.approx(
                similarity[query, order].tolist(), abs=1e-6
            )


def test_best_and_worst_are_the_extremes_and_nobody_is_shown_twice(results):
    chosen = choose(results)
    assert results.ap[chosen["best"][0]] == results.ap.max()
    assert results.ap[chosen["worst"][0]] == results.ap[np.isin(results.image, results.image[chosen["worst"]])].min()
    people = [int(results.features.query_ids[query]) for queries in chosen.values() for query in queries]
    assert len(people) == len(set(people)) >= 6


def test_sampled_similarities_are_of_matching_and_of_other_pairs(features):
    matching, others = similarity_samples(features)
    similarity = (features.query @ features.gallery.T).double().numpy()
    same = features.query_ids.numpy()[:, None] == features.gallery_ids.numpy()
    for sampled, true in ((matching, similarity[same]), (others, similarity[~same])):
        assert np.abs(np.sort(true)[:, None] - sampled[:200]).min(axis=0).max() < 1e-6
        assert sampled.mean() == pytest.approx(true.mean(), abs=0.1 * true.std())


def test_every_query_falls_into_one_slice_of_each_kind(results, reader):
    overall = results.metrics.mean()
    for rows in slices(results, reader).values():
        weights = [row.queries for row in rows]
        assert sum(weights) == overall.queries
        assert np.average([row.r1 for row in rows], weights=weights) == pytest.approx(overall.r1)
        assert np.average([row.mAP for row in rows], weights=weights) == pytest.approx(overall.mAP)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=200), st.integers(1, 8))
def test_bins_hold_every_number_once(values, most):
    groups = bins(np.array(values), most)
    assert len(groups) <= most
    assert all(low <= high < following for (low, high), (following, _) in pairwise(groups))
    assert all(sum(low <= value <= high for low, high in groups) == 1 for value in values)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=400), st.integers(1, 50))
def test_a_thinned_line_keeps_its_range_and_its_mean(values, most):
    y = np.array(values)
    _, mean, least, greatest = thin(np.arange(len(y), dtype=float), y, most)
    assert len(mean) <= most or len(y) <= most
    assert (least.min(), greatest.max()) == (y.min(), y.max())
    assert ((least - 1e-6 <= mean) & (mean <= greatest + 1e-6)).all()


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e6))
def test_ticks_lie_in_the_range_at_equal_distances(low, span):
    values = ticks(low, low + span)
    assert 1 <= len(values) <= 7
    assert all(low - 1e-6 * span <= value <= low + span * (1 + 1e-6) for value in values)
    assert len({round((b - a) / span, 6) for a, b in pairwise(values)}) <= 1


@pytest.mark.parametrize("y", [[], [2.0], [0.0, 0.0], [float("nan"), 1.0]])
def test_a_chart_of_few_or_odd_values_is_still_drawn(y):
    chart = line_chart("<loss>", [Series(name="a&b", x=list(range(len(y))), y=y)])
    assert "nan" not in chart.svg
    assert "&lt;loss&gt;" in chart.svg


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (lambda run: shutil.rmtree(run), [], "no run at"),
        (lambda run: (run / "metrics.jsonl").unlink(), [], "holds no training step"),
        (lambda run: (run / "settings.yaml").write_text("[]"), [], "must hold a mapping"),
        (lambda run: shutil.rmtree(run / "export"), [], "no export and no checkpoint"),
        (lambda run: (run / "export" / "selection.json").write_text("{"), [], "selection.json cannot be read"),
        (None, ["--split", "nope"], "no split 'nope'"),
        (None, ["--data", "nowhere"], "nowhere is not a directory"),
        (None, ["--benchmark", "market"], "no benchmark 'market'"),
        (None, ["--html", "nowhere/page.html"], "there is no folder"),
    ],
)
def test_what_is_missing_is_one_line_and_code_2(shards, tmp_path, capsys, change, arguments, message):
    run = write_run(tmp_path / "run", shards)
    if change:
        change(run)
    assert main(["report", str(run), "--no-cache", *arguments]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("finetune: ")
    assert message in line
    assert not (run / "report.html").exists()


def browse(page: Path, *options: str) -> subprocess.CompletedProcess:
    """Chromium without a window on a page of this machine; stdout is the DOM if asked for, stderr its console."""
    quiet = ["--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
    quiet += ["--disable-sync", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
    command = [CHROMIUM, "--headless", "--no-sandbox", *quiet, f"--user-data-dir={page.parent / 'chromium'}"]
    return subprocess.run([*command, *options, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_shows_the_page_in_light_in_dark_and_on_a_phone(run, page, results, tmp_path):
    file = tmp_path / "page.html"
    file.write_text(page.html)
    seen = browse(file, "--dump-dom")
    assert "CONSOLE" not in seen.stderr
    dom = Page(seen.stdout)
    queries = sum(len(kind) for kind in choose(results).values())
    assert dom.count("article", "strip") == queries
    assert dom.count("li", "match") + dom.count("li", "miss") == 10 * queries
    assert dom.count("figure", "chart") == dom.count("svg") == 6
    assert dom.count("li", "match") > 0

    shades = {}
    for name, size, options in (
        ("light", (1280, 5200), []),
        ("dark", (1280, 5200), ["--blink-settings=preferredColorScheme=0"]),
        ("phone", (500, 3000), []),
    ):
        shot = tmp_path / f"{name}.png"
        browse(file, f"--screenshot={shot}", f"--window-size={size[0]},{size[1]}", *options)
        image = np.asarray(Image.open(shot).convert("RGB")).astype(int)
        assert image.shape[:2] == size[::-1]
        assert len(np.unique(image[::4, ::4].reshape(-1, 3), axis=0)) > 500, "blank, or without its images"
        shades[name] = image
    assert np.median(shades["light"]) > 225
    assert np.median(shades["dark"]) < 40
    for colour in ((0x16, 0x89, 0x4D), (0xCF, 0x3F, 0x3A)):  # --match and --miss
        assert (shades["light"] == colour).all(axis=2).sum() > 1000


def test_a_run_of_fine_tuning_without_evaluations_is_measured_on_what_it_was_trained_on(tmp_path, shards):
    record = RunRecord(
        directory=tmp_path,
        settings={
            "heads": {},
            "data": {"root": str(shards), "mixture": [{"path": "ufine6926"}]},
            "eval": {"data": None},
        },
        settings_hash="",
        plan_hash="",
        metrics=[],
    )
    assert find_benchmark(record, None, None).name == "ufine6926"
