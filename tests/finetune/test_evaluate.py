"""`finetune evaluate`: the numbers of the shared metrics, and one line for what it cannot do."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import fmean, stdev

import pytest

from finetune.cli import main
from pretrain.retrieval import retrieval_metrics
from sharding.dataset import open_dataset
from sharding.reader import SplitReader
from tests.finetune.exports import tiny_export
from tests.test_imports import ROOT

METRICS = ("r1", "r5", "r10", "mAP", "mINP", "mSD")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A run with an export, and exports of three seeds."""
    folder = tmp_path_factory.mktemp("models")
    tiny_export(folder / "run" / "export", 3)
    for seed in (0, 1, 2):
        tiny_export(folder / f"seed-{seed}", seed)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "person-pretrain" / "features"


@pytest.fixture
def evaluate(capsys):
    """Run the command; returns its JSON's benchmarks."""

    def run(*arguments):
        capsys.readouterr()
        assert main(["evaluate", *map(str, arguments), "--json"]) == 0
        return json.loads(capsys.readouterr().out)["benchmarks"]

    return run


def test_every_caption_is_a_query_and_every_image_is_in_the_gallery_once(shards, root, evaluate):
    [found] = evaluate("--data", shards / "cuhk_pedes", "--weights", root / "run", "--batch-size", 7)
    reader = SplitReader(open_dataset(shards / "cuhk_pedes"), "test")
    samples = [reader.sample(*reader.place(i)) for i in range(len(reader))]
    assert found["gallery"] == len(samples)
    assert found["queries"] == sum(len(sample.captions) for sample in samples)
    assert found["root_hash"] == reader.dataset.root_hash
    owners = [sample.identity for sample in samples for _ in sample.captions]
    sizes = [sum(sample.identity == owner for sample in samples) for owner in owners]
    assert found["chance_r1"] == pytest.approx(100 * sum(sizes) / len(sizes) / len(samples))


def test_the_batch_size_does_not_change_the_metrics(shards, root, evaluate):
    found = [
        evaluate("--data", shards / "cuhk_pedes", "--weights", root / "run", "--no-cache", "--batch-size", size)
        for size in (3, 100)
    ]
    few, many = (one[0]["models"][0]["text_to_image"] for one in found)
    assert few == pytest.approx(many, abs=1e-3)


def test_several_models_and_an_untrained_one_are_rows_of_one_table(shards, root, capsys):
    arguments = ["evaluate", "--data", str(shards / "cuhk_pedes"), "--split", "val", "--weights", str(root / "run")]
    assert main([*arguments, str(root / "seed-0"), "--untrained"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in lines[0].split("|")[1:-1]] == ["model", "R@1", "R@5", "R@10", "mAP", "mINP", "mSD"]
    rows = ["chance", "untrained", str(root / "run"), str(root / "seed-0")]
    assert [line.split("|")[1].strip() for line in lines[2:]] == rows


def test_seeds_make_one_row_of_mean_and_sample_deviation(shards, root, evaluate, capsys):
    data = ("--data", shards / "cuhk_pedes")
    alone = evaluate(*data, "--weights", *(root / f"seed-{seed}" for seed in (0, 1, 2)))[0]["models"]
    seeded = ("--weights", root / "seed-{seed}", root / "run", "--seeds", "0,1,2")
    row, plain = evaluate(*data, *seeded)[0]["models"]
    assert row["seeds"] == [0, 1, 2]
    assert row["weights_sha256"] == [model["weights_sha256"] for model in alone]
    for name in METRICS:
        values = [model["text_to_image"][name] for model in alone]
        assert row["text_to_image"][name] == pytest.approx(fmean(values))
        assert row["std"]["text_to_image"][name] == pytest.approx(stdev(values))
    assert plain["seeds"] is None
    assert "std" not in plain
    assert main(["evaluate", *map(str, (*data, *seeded))]) == 0
    shown = row["text_to_image"]["mAP"], row["std"]["text_to_image"]["mAP"]
    assert "{:.2f} ± {:.2f}".format(*shown) in capsys.readouterr().out


def test_image_to_text_ranks_captions_for_every_image(shards, root, evaluate, monkeypatch):
    seen = []

    def spy(*arguments, **options):
        seen.append(arguments)
        return retrieval_metrics(*arguments, **options)

    monkeypatch.setattr("finetune.evaluate.retrieval_metrics", spy)
    [found] = evaluate("--data", shards / "cuhk_pedes", "--weights", root / "run", "--direction", "both")
    [model] = found["models"]
    captions, owners, images, ids = seen[0]
    expected = retrieval_metrics(images, ids, captions, owners)
    assert model["image_to_text"]["mAP"] == expected.mAP
    assert found["chance_r1_image_to_text"] == expected.chance_r1
    [other] = evaluate("--data", shards / "cuhk_pedes", "--weights", root / "run", "--direction", "i2t")
    assert other["models"][0]["image_to_text"] == model["image_to_text"]
    assert "text_to_image" not in other["models"][0]


def test_benchmarks_below_a_root_are_a_matrix(shards, root, evaluate, capsys):
    names = ["cuhk_pedes", "icfg_pedes", "ufine3c"]
    matrix = ("--benchmarks", ",".join(names), "--root", shards, "--weights", root / "run", root / "seed-0")
    found = evaluate(*matrix)
    assert [benchmark["name"] for benchmark in found] == names
    [single] = evaluate("--data", shards / "icfg_pedes", "--weights", root / "run")
    assert found[1]["models"][0] == single["models"][0]
    assert main(["evaluate", *map(str, matrix)]) == 0
    head = capsys.readouterr().out.splitlines()[0]
    assert all(f"{name} {column}" in head for name in names for column in ("R@1", "mAP", "mSD"))


def test_a_second_evaluation_reads_no_image(shards, root, evaluate, tmp_path, monkeypatch):
    data = shutil.copytree(shards / "rstpreid", tmp_path / "rstpreid")
    first = evaluate("--data", data, "--weights", root / "run")
    for tar in data.glob("*.tar"):
        tar.write_bytes(bytes(tar.stat().st_size))
    assert evaluate("--data", data, "--weights", root / "run") == first
    assert main(["evaluate", "--data", str(data), "--weights", str(root / "run"), "--no-cache"]) == 2


def test_other_weights_precision_or_split_are_other_entries(shards, root, evaluate, cache):
    data = ("--data", shards / "cuhk_pedes", "--weights")
    evaluate(*data, root / "run")
    evaluate(*data, root / "run", "--split", "val")
    evaluate(*data, root / "run", "--precision", "bf16")
    evaluate(*data, root / "seed-0")
    evaluate(*data, root / "seed-0", "--direction", "i2t")
    assert len(list(cache.rglob("*.safetensors"))) == 4
    assert not list(cache.rglob(".tmp*"))


def test_a_damaged_cache_is_computed_again_with_a_warning(shards, root, evaluate, cache, caplog):
    arguments = ("--data", shards / "cuhk_pedes", "--weights", root / "run")
    first = evaluate(*arguments)
    [path] = cache.rglob("*.safetensors")
    whole = path.read_bytes()
    # A bit of a value, the last values, everything: the header alone would not tell the first.
    flipped = whole[:-40] + bytes([whole[-40] ^ 64]) + whole[-39:]
    for damaged in (flipped, whole[:-40], b""):
        path.write_bytes(damaged)
        caplog.clear()
        assert evaluate(*arguments) == first
        [warning] = [record.message for record in caplog.records if record.levelname == "WARNING"]
        assert "computing them again" in warning
        caplog.clear()
        assert evaluate(*arguments) == first
        assert "computing" not in caplog.text


def test_bf16_is_close_to_fp32_and_not_the_same(shards, root, evaluate):
    data = ("--data", shards / "cuhk_pedes", "--weights", root / "run", "--precision")
    full, half = (evaluate(*data, name)[0]["models"][0]["text_to_image"] for name in ("fp32", "bf16"))
    assert full["mAP"] == pytest.approx(half["mAP"], abs=2)
    assert full["mSD"] != half["mSD"]


def test_two_torchrun_ranks_find_what_one_process_finds(shards, root, evaluate, tmp_path):
    models = ["--weights", root / "run", root / "run", "--untrained", "--batch-size", 16]
    arguments = ["--benchmarks", "cuhk_pedes,rstpreid", "--root", shards, *models]
    alone = evaluate(*arguments, "--no-cache")
    code = "from torch.distributed.run import main; main()"
    command = [sys.executable, "-c", code, "--nproc-per-node", "2", "-m", "finetune", "evaluate", *arguments, "--json"]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "ranks"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    together = json.loads(done.stdout)["benchmarks"]  # one object: only rank 0 prints
    assert done.stderr.count("encoding") == 4  # the second row finds the features of the first, on both benchmarks
    for one, two in zip(alone, together, strict=True):
        for model, other in zip(one["models"], two["models"], strict=True):
            assert other["weights_sha256"] == model["weights_sha256"]
            assert other["text_to_image"] == pytest.approx(model["text_to_image"], abs=1e-3)
        assert two["models"][1] == two["models"][2]


def test_below_torchrun_only_rank_0_tells_what_is_wrong(shards, capsys, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        code = None
        try:
            code = main(["evaluate", "--data", str(shards / "nothing"), "--weights", "x"])
        except SystemExit as exit_info:
            code = exit_info.code
        assert code == 2
        assert len(capsys.readouterr().err.splitlines()) == lines


def test_the_other_forms_of_msd_are_columns_when_asked_for(shards, root, evaluate, capsys):
    data = ("--data", shards / "cuhk_pedes", "--weights", root / "run")
    assert main(["evaluate", *map(str, data), "--msd-minmax", "--msd-legacy"]) == 0
    head = capsys.readouterr().out.splitlines()[0]
    assert all(name in head for name in ("mSD (min–max, row)", "mSD (min–max, matrix)", "mSD (legacy)"))
    metrics = evaluate(*data)[0]["models"][0]["text_to_image"]
    assert {"mSD_row", "mSD_matrix"} <= set(metrics)
    assert "mSD_legacy" not in metrics


def test_a_requirement_that_is_not_met_is_code_4(shards, root, tmp_path, capsys):
    arguments = ["evaluate", "--data", str(shards / "cuhk_pedes"), "--weights", str(root / "run"), "--json"]
    assert main([*arguments, "--require", "r1=0", "--require", "mSD=0.1"]) == 0
    out = tmp_path / "results.json"
    assert main([*arguments, "--require", "r1=100", "--require", "mAP=0", "--out", str(out)]) == 4
    captured = capsys.readouterr()
    [line] = [line for line in captured.err.splitlines() if line.startswith("finetune: ")]
    r1 = json.loads(out.read_text())["benchmarks"][0]["models"][0]["text_to_image"]["r1"]
    assert f"{100 - r1:.3g} below the required 100" in line


def test_latex_goes_to_stdout_and_json_to_the_file(shards, root, tmp_path, capsys):
    out = tmp_path / "results.json"
    arguments = ["--data", shards / "cuhk_pedes", "--weights", root / "run", "--format", "latex", "--out", out]
    assert main(["evaluate", *map(str, arguments)]) == 0
    assert r"\begin{tabular}" in capsys.readouterr().out
    assert json.loads(out.read_text())["benchmarks"][0]["name"] == "cuhk_pedes"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--data {shards}/nothing --weights {root}/run", "nothing"),
        ("--data {shards}/cuhk_pedes --split nope --weights {root}/run", "no split 'nope'"),
        ("--data {shards}/cuhk_pedes --weights {root}/nowhere", "nowhere"),
        ("--data {shards}/cuhk_pedes", "--weights names no model"),
        ("--data {shards}/cuhk_pedes --weights {root}/seed-{{}}", "--seeds"),
        ("--data {shards}/cuhk_pedes --weights {root}/seed-{{}} --seeds 0,9", "seed-9"),
        ("--data {shards}/cuhk_pedes --weights {root}/run --seeds 0,1", "{seed} in their path"),
        ("--data {shards}/cuhk_pedes --weights {root}/half", "is a run without weights to load"),
        ("--data {shards}/cuhk_pedes --weights {root}/run --require mSD_legacy=1", "needs --msd-legacy"),
        ("--data {shards}/cuhk_pedes --weights {root}/run --query-ids q.npy", "no meaning without --query-features"),
        ("--benchmarks cuhk_pedes --weights {root}/run", "need each other"),
        ("--benchmarks rstpreid --root {root}/wrong --weights {root}/run", "holds cuhk_pedes, not rstpreid"),
        ("--benchmarks icfg_pedes --root {shards} --split val --weights {root}/run", "icfg_pedes has no split 'val'"),
        ("--query-features q.npy", "needs --gallery-features"),
        ("--query-features q.npy --gallery-features g.npy --weights x", "no meaning beside"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(shards, root, tmp_path, capsys, arguments, message):
    (root / "half" / "checkpoints").mkdir(parents=True, exist_ok=True)
    if not (root / "wrong").exists():
        shutil.copytree(shards / "cuhk_pedes", root / "wrong" / "rstpreid")
    out = tmp_path / "results.json"
    words = arguments.format(shards=shards, root=root).split()
    assert main(["evaluate", *words, "--out", str(out)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("finetune: ")
    assert message in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "required"),
        ("--data x --benchmarks cuhk_pedes", "not allowed with"),
        ("--benchmarks cuhk --root x --weights y", "there is no benchmark 'cuhk'"),
        ("--data x --weights y --seeds 0,0", "different seeds"),
        ("--data x --weights y --require r1", "is not METRIC=PERCENT"),
        ("--data x --weights y --require r2=3", "there is no metric 'r2'"),
    ],
)
def test_an_argument_that_makes_no_sense_is_one_line_and_code_2(capsys, arguments, message):
    with pytest.raises(SystemExit) as exit_info:
        main(["evaluate", *arguments.split()])
    assert exit_info.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


def test_no_folder_for_the_output_is_found_before_the_evaluation(shards, root, tmp_path, capsys):
    arguments = ["--data", shards / "cuhk_pedes", "--weights", root / "run", "--out", tmp_path / "no" / "r.json"]
    assert main(["evaluate", *map(str, arguments)]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert not Path(tmp_path / "no").exists()
