"""`finetune evaluate`: the numbers of the shared metrics, and one line for what it cannot do."""

import json

import pytest
import torch

from finetune.cli import main
from finetune.evaluate import evaluate
from pretrain.config import ModelSettings, TextSettings, VisionSettings
from pretrain.model import DualEncoder
from pretrain.weights import export_open_clip
from sharding.index import open_dataset
from sharding.reader import SplitReader


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    vision = VisionSettings(image_size=(32, 16), patch_size=8, width=16, layers=1, head_width=8)
    settings = ModelSettings(embed_dim=16, vision_cfg=vision, text_cfg=TextSettings(width=16, heads=2, layers=1))
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("model") / "export"
    export_open_clip(DualEncoder(settings).state_dict(), settings, folder)
    return folder


def test_every_caption_is_a_query_and_every_image_is_in_the_gallery_once(shards, export):
    [row] = evaluate(shards / "cuhk_pedes", "test", [export], untrained=False, batch_size=7)
    reader = SplitReader(open_dataset(shards / "cuhk_pedes"), "test")
    samples = [reader.sample(*reader.place(i)) for i in range(len(reader))]
    assert row.metrics.gallery == len(samples)
    assert row.metrics.queries == sum(len(sample.captions) for sample in samples)
    owners = [sample.identity for sample in samples for _ in sample.captions]
    sizes = [sum(sample.identity == owner for sample in samples) for owner in owners]
    assert row.metrics.chance_r1 == pytest.approx(100 * sum(sizes) / len(sizes) / len(samples))


def test_the_batch_size_does_not_change_the_metrics(shards, export):
    rows = [evaluate(shards / "cuhk_pedes", "val", [export], untrained=False, batch_size=size)[0] for size in (3, 100)]
    assert rows[0].metrics.mAP == pytest.approx(rows[1].metrics.mAP, abs=1e-3)


def test_several_models_and_an_untrained_one_are_rows_of_one_table(shards, export, capsys):
    arguments = ["evaluate", "--data", str(shards / "cuhk_pedes"), "--split", "val", "--weights", str(export)]
    assert main([*arguments, str(export), "--untrained"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["chance", "untrained", str(export), str(export)]
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["split"] == "val"


@pytest.mark.parametrize(
    ("data", "split", "weights", "message"),
    [
        ("nothing", "test", None, "nothing"),
        ("cuhk_pedes", "nope", None, "no split 'nope'"),
        ("cuhk_pedes", "test", "nowhere", "not an exported model"),
    ],
)
def test_missing_input_is_one_line_and_code_2(shards, export, tmp_path, capsys, data, split, weights, message):
    folder = tmp_path / weights if weights else export
    out = tmp_path / "results.json"
    arguments = ["--data", str(shards / data), "--split", split, "--weights", str(folder), "--out", str(out)]
    assert main(["evaluate", *arguments]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("finetune: ")
    assert message in line
    assert not out.exists()
