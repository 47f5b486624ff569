"""The dual encoder equals open_clip's with the same weights, packed text equals padded text."""

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from pretrain.config import ModelSettings, TextSettings, VisionSettings
from pretrain.model import DualEncoder
from pretrain.text import pack, tokenize
from pretrain.weights import build_model, export_open_clip, exported_settings, load_weights, read_state

CAPTIONS = [
    "a man",
    "A woman in a red coat with white dots, black trousers and a brown shoulder bag, walking a dog " * 6,
    "",
    "Ünïcode café 25€ — 日本 &amp; <b>bold</b>   spaces\n and\ttabs",
    "someone wearing a yellow rain jacket, blue jeans and grey trainers",
]


@pytest.fixture(scope="module")
def reference():
    torch.manual_seed(0)
    return open_clip.create_model("ViT-B-16", pretrained=None).eval()


def features(model, images, captions, context=77):
    with torch.no_grad():
        image, text, _ = model(images, pack([tokenize(c, context) for c in captions]))
    return image, text


def reference_features(model, images, captions, context=77):
    tokens = open_clip.SimpleTokenizer()(captions, context_length=context)
    with torch.no_grad():
        return model.encode_image(images, normalize=True), model.encode_text(tokens, normalize=True)


def assert_close(ours, theirs):
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine - other).abs().max() < 1e-5


def test_vit_b16_at_224_equals_open_clip(reference, tmp_path):
    save_file({k: v.contiguous() for k, v in reference.state_dict().items()}, tmp_path / "clip.safetensors")
    square = ModelSettings(vision_cfg=VisionSettings(image_size=(224, 224)), init=tmp_path / "clip.safetensors")
    model = build_model(square, seed=1).eval()
    images = torch.randn(2, 3, 224, 224)
    assert_close(features(model, images, CAPTIONS), reference_features(reference, images, CAPTIONS))


def test_vit_b16_resized_to_384x128_equals_open_clip(reference, tmp_path):
    torch.save({"state_dict": reference.state_dict()}, tmp_path / "clip.pt")
    model = DualEncoder(ModelSettings(text_cfg=TextSettings(context_length=168), stretch_text="linear")).eval()
    load_weights(model, read_state(tmp_path / "clip.pt"))
    resized = open_clip.create_model(
        "ViT-B-16", pretrained=None, force_image_size=(384, 128), force_context_length=168
    ).eval()
    state = reference.state_dict()
    open_clip.model.resize_pos_embed(state, resized)
    open_clip.model.resize_text_pos_embed(state, resized)
    resized.load_state_dict(state)
    images = torch.randn(2, 3, 384, 128)
    assert_close(features(model, images, CAPTIONS, 168), reference_features(resized, images, CAPTIONS, 168))


def tiny(**text):
    vision = VisionSettings(image_size=(32, 16), patch_size=8, width=32, layers=2, head_width=16)
    return ModelSettings(
        embed_dim=16, vision_cfg=vision, text_cfg=TextSettings(width=32, heads=2, layers=2, **text), quick_gelu=True
    )


def test_an_export_loads_in_open_clip_with_the_same_features(tmp_path):
    model = DualEncoder(tiny()).eval()
    export_open_clip(model.state_dict(), model.settings, tmp_path / "export")
    loaded = open_clip.create_model(f"local-dir:{tmp_path / 'export'}").eval()
    images = torch.randn(3, 3, 32, 16)
    assert_close(features(model, images, CAPTIONS), reference_features(loaded, images, CAPTIONS))
    assert exported_settings(tmp_path / "export") == model.settings
    again = build_model(tiny_with_init(tmp_path / "export"), seed=5)
    assert all((again.state_dict()[name] == tensor).all() for name, tensor in model.state_dict().items())


def tiny_with_init(path):
    settings = tiny()
    return ModelSettings(
        embed_dim=16, vision_cfg=settings.vision_cfg, text_cfg=settings.text_cfg, quick_gelu=True, init=path
    )


def test_token_ids_equal_open_clips():
    tokens = open_clip.SimpleTokenizer()(CAPTIONS, context_length=77)
    for caption, row in zip(CAPTIONS, tokens, strict=True):
        ours = pack([tokenize(caption, 77)]).ids
        assert torch.equal(row[: len(ours)], ours)
        assert not row[len(ours) :].any()


def test_text_features_do_not_depend_on_the_other_captions_of_the_batch():
    model = DualEncoder(tiny()).eval()
    images = torch.randn(1, 3, 32, 16)
    _, together = features(model, images, CAPTIONS)
    alone = torch.cat([features(model, images, [caption])[1] for caption in CAPTIONS])
    assert (together - alone).abs().max() < 1e-6


def test_a_temperature_at_its_limit_can_still_come_back():
    model = DualEncoder(tiny())
    model.logit_scale.data.fill_(5.0)  # exp(5) = 148
    *_, scale = model(None, pack([tokenize("a man", 77)]))
    assert scale.item() == pytest.approx(100)
    scale.sum().backward()
    assert model.logit_scale.grad.item() > 0
