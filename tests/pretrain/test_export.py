"""Exports: every format gives the features of the model that was written, with a card that says what is known."""

import json
import logging
import re
from dataclasses import replace

import numpy as np
import onnxruntime
import open_clip
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image

from pretrain import export as exporting
from pretrain.augment import normalise
from pretrain.checkpoint import write_checkpoint
from pretrain.cli import main as pretrain
from pretrain.config import DataSettings, ModelSettings, TextSettings, VisionSettings, as_tree, settings_from
from pretrain.export import export
from pretrain.loader import Mixture
from pretrain.model import DualEncoder
from pretrain.provenance import Provenance, TrainingData, of_training, read_provenance, training_data
from pretrain.text import pack, tokenize
from pretrain.weights import read_state
from sharding.errors import UserError

CAPTIONS = ["a man in a red coat", "A woman with white dots and a brown bag, walking a dog " * 9, "", "café 25€ — 日本"]
FORMATS = ["open_clip", "pt", "hf", "onnx"]
SETTINGS = ModelSettings(
    embed_dim=24,
    vision_cfg=VisionSettings(image_size=(48, 24), patch_size=8, width=64, layers=2, head_width=32),
    text_cfg=TextSettings(width=64, heads=2, layers=1),
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return DualEncoder(SETTINGS).eval()


@pytest.fixture(scope="module")
def folders(model, tmp_path_factory):
    """The model in every format, with a provenance."""
    root = tmp_path_factory.mktemp("exports")
    data = (TrainingData(name="pre|train", split="train", share=0.75, root_hash="ab" * 32),)
    provenance = Provenance(
        name="tiny",
        step=12,
        settings_hash="cd" * 32,
        settings={"loss": {"itc": 1.0}},
        data=data,
        metrics={"r1": 12.344},
    )
    state = model.state_dict() | {"heads.matcher.weight": torch.ones(3)}
    for format in FORMATS:
        export(state, SETTINGS, root / format, provenance=provenance, format=format)
    return root


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    pixels = np.random.default_rng(0).integers(0, 256, (48, 24, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("photo") / "person.png"
    Image.fromarray(pixels).save(path)
    return path


def reference(model, images, captions):
    with torch.no_grad():
        return model(normalise(images), pack([tokenize(caption, 77) for caption in captions]))[:2]


@pytest.mark.parametrize("format", FORMATS)
def test_the_code_of_the_card_gives_the_similarity_of_the_model(folders, format, photo, model):
    card = (folders / format / "README.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    names = {}
    exec(code.replace("path/to/this/folder", str(folders / format)).replace("person.jpg", str(photo)), names)
    images = torch.from_numpy(np.asarray(Image.open(photo)).copy()).permute(2, 0, 1)[None]
    image, text = reference(model, images, CAPTIONS[:1])
    assert abs(names["similarity"].item() - (image @ text.T).item()) < 1e-5


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_onnx_gives_the_features_for_any_batch_size_and_length(folders, model, batch):
    images = torch.randint(0, 256, (batch, 3, 48, 24), dtype=torch.uint8)
    captions = (CAPTIONS * 2)[:batch]
    image, text = reference(model, images, captions)
    ids = open_clip.SimpleTokenizer()(captions).numpy()
    shorter = ids[:, : max(len(tokenize(caption, 77)) // 2 for caption in captions)]
    for name, inputs, expected in [
        ("image", {"images": images.numpy()}, image),
        ("text", {"ids": ids}, text),
        ("text", {"ids": shorter}, text),
    ]:
        [got] = onnxruntime.InferenceSession(str(folders / "onnx" / f"{name}.onnx")).run(None, inputs)
        assert np.abs(got - expected.numpy()).max() <= 1e-4


def test_towers_too_large_for_one_file_keep_their_weights_beside_it(model, tmp_path, monkeypatch):
    monkeypatch.setattr("pretrain.onnx_export.ONE_FILE", 0)
    export(model.state_dict(), SETTINGS, tmp_path / "out", provenance=Provenance(name="x"), format="onnx")
    assert (tmp_path / "out" / "image.onnx.data").stat().st_size > (tmp_path / "out" / "image.onnx").stat().st_size
    images = torch.zeros(1, 3, 48, 24, dtype=torch.uint8)
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "image.onnx"))
    [got] = session.run(None, {"images": images.numpy()})
    assert np.abs(got - reference(model, images, CAPTIONS)[0].numpy()).max() <= 1e-4


@pytest.mark.parametrize("format", FORMATS[:3])
def test_every_format_that_holds_tensors_is_read_again_without_the_heads(folders, format, model):
    state = read_state(folders / format)
    assert state.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        # Image positions of 6 x 3 patches pass through transformers' interpolation.
        tolerance = 1e-6 if (format, name) == ("hf", "visual.positional_embedding") else 0
        assert (state[name].reshape(tensor.shape) - tensor).abs().max() <= tolerance


def test_a_torch_export_is_read_without_unpickling_objects_and_opens_in_open_clip(folders, model):
    assert (
        torch.load(folders / "pt" / "open_clip_pytorch_model.bin", weights_only=True).keys()
        == model.state_dict().keys()
    )
    loaded = open_clip.create_model(f"local-dir:{folders / 'pt'}")
    assert torch.equal(loaded.state_dict()["visual.proj"], model.visual.proj)


@pytest.mark.parametrize("format", FORMATS)
def test_the_card_is_one_that_the_hub_reads_and_tells_what_is_known(folders, format):
    card = ModelCard.load(folders / format / "README.md")
    assert card.data.library_name == {"hf": "transformers", "onnx": "onnx"}.get(format, "open_clip")
    [result] = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("recall_at_1", 12.34)
    parameters = f"{sum(p.numel() for p in DualEncoder(SETTINGS).parameters()):,}"
    row = rf"| pre\|train | train | 75.0 % | `{'ab' * 32}` |"
    for fact in (
        row,
        parameters,
        "cd" * 32,
        "| R@1 | 12.34 |",
        "48 × 24",
        "itc: 1.0",
        "## Prohibited use",
        "## Limits",
    ):
        assert fact in card.content
    assert ("interpolate_pos_encoding=True" in card.content) == (format == "hf")


def test_a_card_without_a_record_says_so_and_a_conversion_hands_the_record_on(folders, tmp_path):
    export(read_state(folders / "pt"), SETTINGS, tmp_path / "bare", provenance=Provenance(name="x"))
    card = (tmp_path / "bare" / "README.md").read_text()
    assert card.count("Not known: the weights came without a record of it.") == 2
    assert "None were recorded for these weights." in card
    assert pretrain(["export", "--weights", str(folders / "hf"), "--out", str(tmp_path / "again")]) == 0
    assert read_provenance(tmp_path / "again") == read_provenance(folders / "hf") != read_provenance(tmp_path / "bare")


def test_a_chain_of_conversions_ends_with_the_tensors_it_began_with(tmp_path):
    square = replace(SETTINGS, vision_cfg=replace(SETTINGS.vision_cfg, image_size=(32, 32)), quick_gelu=True)
    export(DualEncoder(square).state_dict(), square, tmp_path / "0", provenance=Provenance(name="x"))
    for step, format in enumerate(["hf", "pt", "hf", "open_clip"]):
        arguments = ["--weights", str(tmp_path / str(step)), "--out", str(tmp_path / str(step + 1)), "--format", format]
        assert pretrain(["export", *arguments]) == 0
    names = ["open_clip_model.safetensors", "open_clip_config.json", "README.md"]
    assert all((tmp_path / "0" / name).read_bytes() == (tmp_path / "4" / name).read_bytes() for name in names)


def test_openai_weights_are_converted_with_their_activation(tmp_path, caplog):
    wide = replace(SETTINGS, vision_cfg=replace(SETTINGS.vision_cfg, head_width=64), quick_gelu=True)
    wide = replace(wide, text_cfg=replace(wide.text_cfg, heads=1))
    torch.save(DualEncoder(wide).state_dict() | {"context_length": torch.tensor(77)}, tmp_path / "openai.pt")
    arguments = ["export", "--weights", str(tmp_path / "openai.pt"), "--format", "hf", "--out"]
    with caplog.at_level(logging.WARNING):
        assert pretrain([*arguments, str(tmp_path / "hf"), "--quick-gelu"]) == 0
    assert not caplog.text
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["text_config"]["hidden_act"] == "quick_gelu"


@pytest.fixture
def run(shards, tmp_path):
    """A run of two steps as its directory would look, without the training."""
    tree = {
        "run": {"name": "two steps", "dir": str(tmp_path / "run")},
        "data": {"root": str(shards), "mixture": [{"path": "syncpr", "weight": 3}, {"path": "pretrain_110k"}]},
        "model": {
            "embed_dim": 24,
            "vision_cfg": {**vars(SETTINGS.vision_cfg)},
            "text_cfg": {**vars(SETTINGS.text_cfg)},
        },
        "eval": {"data": "cuhk_pedes"},
    }
    settings = settings_from(tree)
    state, plan = DualEncoder(settings.model).state_dict(), Mixture(settings.data, 0).plan
    facts = {"plan_hash": plan.hash, "plan": plan.facts, "settings_hash": "ef" * 32, "settings": as_tree(settings)}
    write_checkpoint(tmp_path / "run" / "checkpoints", state, {}, step=2, position=1024, **facts)
    lines = [{"step": step, "eval": {"r1": 10.0 + step, "queries": 60}} for step in (0, 2, 4)]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "run"


def test_the_card_of_a_run_names_data_settings_and_the_last_evaluation_of_these_weights(run, shards, tmp_path, capsys):
    assert pretrain(["export", "--run", str(run), "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}\n"
    provenance = read_provenance(tmp_path / "out")
    assert [(data.name, data.share) for data in provenance.data] == [("syncpr", 0.75), ("pretrain_110k", 0.25)]
    hashes = [
        json.loads((shards / name / "dataset.json").read_text())["root_hash"] for name in ("syncpr", "pretrain_110k")
    ]
    assert [data.root_hash for data in provenance.data] == hashes
    assert (provenance.step, provenance.settings_hash, provenance.metrics) == (
        2,
        "ef" * 32,
        {"r1": 12.0, "queries": 60.0},
    )
    assert provenance.evaluated_on == "cuhk_pedes val, after step 2"
    card = (tmp_path / "out" / "README.md").read_text()
    assert str(shards) not in card
    assert yaml.safe_load(re.findall(r"```yaml\n(.*?)```", card, re.DOTALL)[0]) == provenance.settings


def test_data_that_changed_since_the_training_are_not_named(run, tmp_path):
    [path] = run.glob("checkpoints/*/manifest.json")
    for change, note in [({"plan_hash": "0" * 64}, "Packed anew"), ({"root": "/nonexistent"}, "Not at hand")]:
        manifest = json.loads(path.read_text())
        manifest |= {key: value for key, value in change.items() if key in manifest}
        manifest["settings"]["data"] |= {key: value for key, value in change.items() if key not in manifest}
        path.write_text(json.dumps(manifest))
        assert pretrain(["export", "--run", str(run), "--out", str(tmp_path / "out")]) == 0
        assert note in (tmp_path / "out" / "README.md").read_text()
        assert read_provenance(tmp_path / "out").data == ()


def test_a_training_loop_can_tell_its_own_data_and_metrics(shards):
    settings = settings_from({"data": {"root": str(shards), "mixture": [{"path": "syncpr"}]}})
    streams = Mixture(DataSettings(root=shards, mixture=settings.data.mixture), 0).plan.streams
    told = of_training(
        as_tree(settings), "ab", 3, training_data(streams), metrics={"r1": 5, "note": "x"}, evaluated_on="rstpreid val"
    )
    assert (told.data[0].name, told.data[0].share, told.metrics) == ("syncpr", 1.0, {"r1": 5.0})


def test_an_export_that_fails_leaves_nothing_or_what_was_there(model, tmp_path, monkeypatch):
    def write():
        export(model.state_dict(), SETTINGS, tmp_path / "out", provenance=Provenance(name="x"))

    def fail(*_, **__):
        raise OSError("disk full")

    def files():
        return {path.name: path.stat().st_ino for path in tmp_path.rglob("*") if path.is_file()}

    with monkeypatch.context() as patch:
        patch.setattr(exporting, "write_model_card", fail)
        with pytest.raises(OSError, match="disk full"):
            write()
    assert list(tmp_path.iterdir()) == []
    write()
    before = files()
    monkeypatch.setattr(exporting, "write_model_card", fail)
    with pytest.raises(OSError, match="disk full"):
        write()
    assert files() == before != {}


def test_another_format_is_not_mixed_into_a_folder(folders, model):
    with pytest.raises(UserError, match="already holds an export in the format hf"):
        export(model.state_dict(), SETTINGS, folders / "hf", provenance=Provenance(name="x"))
    export(model.state_dict(), SETTINGS, folders / "pt", provenance=Provenance(name="again"), format="pt")
    assert read_provenance(folders / "pt").name == "again"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run", "{tmp}", "--out", "{tmp}/out"], "no checkpoint in"),
        (["--weights", "{tmp}/none", "--out", "{tmp}/out"], "no weights at"),
        (["--weights", "{tmp}/none", "--run", "{tmp}", "--out", "{tmp}/out"], "not allowed with argument"),
        (["--out", "{tmp}/out"], "one of the arguments --run --weights is required"),
        (["--run", "{tmp}", "--out", "{tmp}/out", "--format", "tflite"], "invalid choice: 'tflite'"),
        (["--run", "{tmp}", "--out", "{tmp}/out", "--quick-gelu"], "--quick-gelu goes with --weights"),
        (["--run", "{tmp}", "--out", "README.md"], "README.md is a file"),
    ],
)
def test_bad_input_is_one_line_and_code_2(tmp_path, capsys, arguments, message):
    try:
        code = pretrain(["export", *(word.format(tmp=tmp_path) for word in arguments)])
    except SystemExit as error:
        code = error.code
    assert code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("pretrain: ")
    assert message in line
    assert not (tmp_path / "out").exists()


def test_onnx_without_its_packages_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pretrain.onnx_export.find_spec", lambda name: None)
    assert pretrain(["export", "--weights", str(tmp_path), "--out", str(tmp_path / "out"), "--format", "onnx"]) == 2
    assert capsys.readouterr().err == "pretrain: ONNX needs onnx and onnxscript: pip install person-pretrain[onnx]\n"
