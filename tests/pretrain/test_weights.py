"""Weights in: any file or folder a user may name is read, told what it is, and refused in one line where it misfits."""

import json
import logging
from dataclasses import replace

import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from pretrain.augment import normalise
from pretrain.config import ModelSettings, TextSettings, VisionSettings
from pretrain.hugging_face import square_positions, write_folder
from pretrain.model import DualEncoder
from pretrain.positions import grid_of, interpolate_grid, resize_image_positions, resize_text_positions
from pretrain.text import pack, tokenize
from pretrain.weights import (
    build_model,
    check_weights,
    export_open_clip,
    exported_settings,
    load_weights,
    read_shapes,
    read_state,
    weights_settings,
)
from sharding.errors import UserError

CAPTIONS = ["a man", "A woman in a red coat with white dots and a brown bag, walking a dog " * 9, "", "café 25€ — 日本"]


def small(image_size=(32, 32), quick_gelu=False, context=77):
    """A model whose heads have 64 channels, so that its architecture can be told from its tensors."""
    vision = VisionSettings(image_size=image_size, patch_size=8, width=128, layers=2)
    text = TextSettings(context_length=context, width=64, heads=1, layers=1)
    return ModelSettings(embed_dim=24, quick_gelu=quick_gelu, vision_cfg=vision, text_cfg=text)


def encoder(settings, seed=0):
    torch.manual_seed(seed)
    return DualEncoder(settings).eval()


def features(model, images):
    with torch.no_grad():
        image, text, _ = model(images, pack([tokenize(c, model.settings.text_cfg.context_length) for c in CAPTIONS]))
    return image, text


def assert_same_tensors(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name].reshape(-1), other[name].reshape(-1))] == []


@given(length=st.integers(3, 90), context=st.integers(1, 90), stretch=st.sampled_from([None, "linear", "keep20"]))
def test_a_context_as_long_or_shorter_takes_the_first_positions_unchanged(length, context, stretch):
    positions = torch.randn(length, 4)
    if context <= length:
        assert torch.equal(resize_text_positions(positions, context, stretch), positions[:context])


@given(length=st.integers(22, 80), more=st.integers(1, 200))
def test_keep20_keeps_twenty_and_goes_on_from_there_to_the_last_position(length, more):
    positions = torch.randn(length, 3)
    longer = resize_text_positions(positions, length + more, "keep20")
    assert longer.shape == (length + more, 3)
    assert torch.equal(longer[:20], positions[:20])
    assert (longer[[20, -1]] - positions[[20, -1]]).abs().max() < 1e-5
    straight = torch.arange(float(length))[:, None]  # linear in the position: its steps become equal, and shorter
    steps = resize_text_positions(straight, length + more, "keep20")[20:].diff(dim=0)
    assert (steps - (length - 21) / (length + more - 21)).abs().max() < 1e-3


def test_a_longer_context_must_be_asked_for(tmp_path):
    export_open_clip(encoder(small()).state_dict(), small(), tmp_path)
    longer = replace(small(context=168), init=tmp_path)
    message = r"^context_length 168 is longer than the weights' 77: .* --model.stretch_text linear\|keep20$"
    with pytest.raises(UserError, match=message):
        check_weights(tmp_path, longer)
    with pytest.raises(UserError, match=message):
        build_model(longer, seed=0)
    stretched = build_model(replace(longer, stretch_text="keep20"), seed=0)
    assert torch.equal(stretched.positional_embedding[:20], read_state(tmp_path)["positional_embedding"][:20])


def test_shorter_text_has_the_same_features_with_the_positions_cut():
    model, short = encoder(small()), encoder(small(context=30), seed=1)
    load_weights(short, model.state_dict())
    captions = pack([tokenize("a man in a red coat", 30)])
    with torch.no_grad():
        assert (model(None, captions)[1] - short(None, captions)[1]).abs().max() < 1e-6


def test_image_positions_of_a_person_shaped_grid_move_to_another():
    positions = torch.randn(1 + 24 * 8, 5)
    assert resize_image_positions(positions, (24, 8)) is positions
    assert resize_image_positions(positions, (16, 8)).shape == (129, 5)
    with pytest.raises(UserError, match="cannot resize 195 image positions"):
        resize_image_positions(torch.randn(196, 5), (4, 4))


@given(side=st.integers(1, 60), aspect=st.integers(1, 3))
def test_a_grid_is_told_by_its_number_of_patches(side, aspect):
    assert grid_of(aspect * side * side) == (aspect * side, side)


@given(height=st.integers(1, 26), width=st.integers(1, 26))
def test_transformers_interpolates_the_square_positions_back_to_the_trained_ones(height, width):
    positions = torch.randn(1 + height * width, 2)
    side = max(height, width)
    square = square_positions(positions, (height, width))
    assert len(square) == 1 + side * side
    back = interpolate_grid(square, (side, side), (height, width), antialias=False)
    assert (back - positions).abs().max() < 1e-4  # of values a hundred times those of trained positions


@pytest.mark.parametrize("quick_gelu", [True, False])
@pytest.mark.parametrize("image_size", [(32, 32), (96, 48), (96, 32)])
def test_open_clip_ours_and_hugging_face_give_the_same_features(tmp_path, image_size, quick_gelu):
    settings = small(image_size, quick_gelu)
    model = encoder(settings)
    export_open_clip(model.state_dict(), settings, tmp_path / "clip")
    (tmp_path / "hf").mkdir()
    write_folder(read_state(tmp_path / "clip"), exported_settings(tmp_path / "clip"), tmp_path / "hf")
    images = torch.randn(3, 3, *image_size)
    ids = open_clip.SimpleTokenizer()(CAPTIONS)
    theirs = open_clip.create_model(f"local-dir:{tmp_path / 'clip'}").eval()
    hugging, loading = CLIPModel.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(loading.values())
    with torch.no_grad():
        hf = hugging.eval()(ids, images, interpolate_pos_encoding=image_size[0] != image_size[1])
        clip = theirs.encode_image(images, normalize=True), theirs.encode_text(ids, normalize=True)
    ours = features(model, images)
    for mine, his, its in zip(ours, clip, (hf.image_embeds, hf.text_embeds), strict=True):
        assert (mine - his).abs().max() < 1e-5
        assert (mine - its).abs().max() < 1e-5

    assert weights_settings(tmp_path / "hf") == settings
    check_weights(tmp_path / "hf", settings)
    back = build_model(replace(settings, init=tmp_path / "hf"), seed=3)
    for mine, again in zip(ours, features(back.eval(), images), strict=True):
        assert (mine - again).abs().max() < 1e-5
    if image_size != (96, 48):  # where positions lie between those of the square grid, they come back rounded
        export_open_clip(back.state_dict(), settings, tmp_path / "again")
        assert_same_tensors(read_state(tmp_path / "clip"), read_state(tmp_path / "again"))


def test_a_model_made_by_transformers_has_its_features_here(tmp_path):
    torch.manual_seed(0)
    part = {"hidden_size": 32, "intermediate_size": 128, "num_attention_heads": 2, "num_hidden_layers": 2}
    text, vision = part | {"eos_token_id": 49407}, part | {"image_size": 32, "patch_size": 8}
    hugging = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)).eval()
    hugging.save_pretrained(tmp_path, max_shard_size="3MB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    settings = weights_settings(tmp_path)
    assert (settings.quick_gelu, settings.text_cfg.heads, settings.vision_cfg.head_width) == (True, 2, 16)
    model = build_model(replace(settings, init=tmp_path), seed=0).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        theirs = hugging(open_clip.SimpleTokenizer()(CAPTIONS), images)
    image, text = features(model, images)
    assert (image - theirs.image_embeds).abs().max() < 1e-5
    assert (text - theirs.text_embeds).abs().max() < 1e-5


def test_an_older_hugging_face_folder_with_a_torch_file_is_read_too(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "old").mkdir()
    write_folder(encoder(small()).state_dict(), small(), tmp_path / "new")
    (tmp_path / "new" / "config.json").rename(tmp_path / "old" / "config.json")
    state = load_file(tmp_path / "new" / "model.safetensors")
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    torch.save(state, tmp_path / "old" / "pytorch_model.bin")
    assert_same_tensors(read_state(tmp_path / "old"), encoder(small()).state_dict())


def test_the_processors_of_a_hugging_face_folder_do_what_ours_do(tmp_path):
    write_folder(encoder(small((96, 48))).state_dict(), small((96, 48)), tmp_path)
    captions = ["a man in a red coat", "Two dogs, one leash!", "café au lait", CAPTIONS[1]]
    ids = CLIPTokenizer.from_pretrained(tmp_path)(captions, truncation=True).input_ids
    assert ids == [pack([tokenize(caption, 77)]).ids.tolist() for caption in captions]
    image = torch.randint(0, 256, (3, 96, 48), dtype=torch.uint8)
    pixels = CLIPImageProcessor.from_pretrained(tmp_path)(image, return_tensors="pt").pixel_values
    assert (pixels - normalise(image[None])).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["clip.pt", "clip.safetensors"])
@pytest.mark.parametrize("image_size", [(32, 32), (96, 48), (96, 32)])
def test_the_architecture_of_bare_tensors_is_inferred_and_the_activation_said_to_be_assumed(
    tmp_path, caplog, name, image_size
):
    state = open_clip_model(small(image_size), tmp_path).state_dict()
    path = tmp_path / name
    torch.save({"state_dict": state}, path) if name.endswith("pt") else save_file(state, path)
    with caplog.at_level(logging.INFO):
        assert weights_settings(path) == small(image_size)
    assert "quick_gelu false is assumed" in caplog.text
    assert weights_settings(path, quick_gelu=True) == small(image_size, quick_gelu=True)
    check_weights(path, small(image_size))


def open_clip_model(settings, folder):
    export_open_clip(encoder(settings).state_dict(), settings, folder / "export")
    return open_clip.create_model(f"local-dir:{folder / 'export'}")


def test_only_the_headers_of_safetensors_are_read(tmp_path):
    export_open_clip(encoder(small()).state_dict(), small(), tmp_path)
    shapes = read_shapes(tmp_path)
    assert {tensor.device.type for tensor in shapes.values()} == {"meta"}
    assert {name: x.shape for name, x in shapes.items()} == {name: x.shape for name, x in read_state(tmp_path).items()}


def test_heads_of_fine_tuning_are_no_part_of_the_encoder_nor_of_an_export(tmp_path):
    model = encoder(small())
    trained = model.state_dict() | {"heads.decoder.weight": torch.ones(3)}
    export_open_clip(trained, small(), tmp_path)
    assert_same_tensors(read_state(tmp_path), model.state_dict())
    load_weights(encoder(small(), seed=1), trained)


WIDER = ModelSettings(embed_dim=24, vision_cfg=small().vision_cfg, text_cfg=TextSettings(width=128, heads=2, layers=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state | {"visual.extra": torch.ones(1)}, "visual.extra is not in the model"),
        (lambda state: {k: v for k, v in state.items() if k != "ln_final.bias"}, "ln_final.bias is missing"),
        (lambda state: DualEncoder(WIDER).state_dict(), r"\[77, 128\], the model has \[77, 64\] \(and 16 more\)"),
        (lambda state: state | {"positional_embedding": torch.ones(77)}, r"positional_embedding is \[77\]"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line_by_their_shapes(tmp_path, change, message):
    save_file(change(encoder(small()).state_dict()), tmp_path / "w.safetensors")
    for refused in (
        lambda: check_weights(tmp_path / "w.safetensors", small()),
        lambda: load_weights(DualEncoder(small()), read_state(tmp_path / "w.safetensors")),
    ):
        with pytest.raises(UserError, match=f"^the weights do not fit the model: .*{message}") as caught:
            refused()
        assert "\n" not in str(caught.value)


def test_the_same_tensors_with_another_activation_or_other_heads_are_another_model(tmp_path):
    export_open_clip(encoder(small(quick_gelu=True)).state_dict(), small(quick_gelu=True), tmp_path)
    with pytest.raises(UserError, match=r"made with quick_gelu True, model\.quick_gelu is False"):
        check_weights(tmp_path / "open_clip_model.safetensors", small())
    heads = replace(small(quick_gelu=True), vision_cfg=replace(small().vision_cfg, head_width=32))
    with pytest.raises(UserError, match=r"made with vision_cfg\.head_width 64"):
        check_weights(tmp_path, heads)


def hugging_face_config(folder, **vision):
    config = {"model_type": "clip", "vision_config": vision}
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"logit_scale": torch.ones(1)}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "no weights at"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'), "no weights at"),
        (lambda folder: hugging_face_config(folder, intermediate_size=5), "intermediate_size 5 is not 4 x 768"),
        (lambda folder: hugging_face_config(folder, hidden_act="relu"), "hidden_act quick_gelu and relu"),
        (lambda folder: hugging_face_config(folder, image_size=[32, 16]), r"image_size \[32, 16\] is not one number"),
        (lambda folder: hugging_face_config(folder, hidden_size="wide"), "not a model this project can build"),
        (lambda folder: hugging_face_config(folder), "is missing"),
    ],
)
def test_a_folder_that_holds_no_such_model_is_one_line(tmp_path, prepare, message):
    prepare(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        check_weights(tmp_path, small())
    assert "\n" not in str(caught.value)


def test_junk_is_one_line(tmp_path):
    (tmp_path / "junk.pt").write_bytes(b"not a checkpoint")
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    for path, message in [
        ("junk.pt", "cannot read weights"),
        ("absent.pt", "no weights at"),
        ("other.safetensors", "no open_clip dual encoder"),
    ]:
        with pytest.raises(UserError, match=message):
            weights_settings(tmp_path / path)
