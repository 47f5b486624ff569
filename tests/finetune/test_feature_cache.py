"""The cache of features: what names an entry, and what becomes of one that is damaged or cannot be written."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from finetune.feature_cache import FeatureCache, FeatureKey, default_directory, tensors_hash
from tests.finetune.exports import TINY, VISION

KEY = FeatureKey(weights="a" * 64, model=TINY, root_hash="b" * 64, split="test", precision="fp32")
TENSORS = {"query": torch.arange(12.0).reshape(4, 3), "gallery": torch.ones(2, 3)}
ROWS = {"query": 4, "gallery": 2}


@pytest.mark.parametrize(
    "other",
    [
        replace(KEY, weights="c" * 64),
        replace(KEY, root_hash="c" * 64),
        replace(KEY, split="val"),
        replace(KEY, precision="bf16"),
        replace(KEY, model=replace(TINY, quick_gelu=True)),
        replace(KEY, model=replace(TINY, vision_cfg=replace(VISION, image_size=(16, 32)))),
        replace(KEY, model=replace(TINY, text_cfg=replace(TINY.text_cfg, context_length=168))),
    ],
)
def test_whatever_features_depend_on_makes_another_entry(other):
    assert other.hash != KEY.hash


def test_an_entry_comes_back_and_another_key_finds_nothing(tmp_path):
    cache = FeatureCache(tmp_path)
    cache.save(KEY, TENSORS)
    found = cache.load(KEY, ROWS)
    assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)
    assert cache.load(replace(KEY, split="val"), ROWS) is None
    assert [path.suffix for path in tmp_path.rglob("*.*")] == [".safetensors"]


def test_no_single_flipped_bit_goes_unnoticed(tmp_path, caplog):
    cache = FeatureCache(tmp_path)
    cache.save(KEY, TENSORS)
    path = cache.path(KEY)
    whole = path.read_bytes()
    start = len(whole) - sum(tensor.nbytes for tensor in TENSORS.values())
    for place in range(start, len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert cache.load(KEY, ROWS) is None
        assert "do not match their sha256" in caplog.messages[-1]


def test_an_entry_with_other_rows_than_the_data_is_not_used(tmp_path, caplog):
    cache = FeatureCache(tmp_path)
    cache.save(KEY, TENSORS)
    assert cache.load(KEY, {"query": 5, "gallery": 2}) is None
    assert cache.load(KEY, {"query": 4}) is None
    assert "other shapes" in caplog.text


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    FeatureCache(tmp_path / "file").save(KEY, TENSORS)
    [warning] = caplog.messages
    assert warning.startswith("the features are not kept")


def test_the_hash_of_weights_knows_names_shapes_and_values_but_not_the_order_or_the_file_type():
    state = {"a": torch.ones(2, 3), "b": torch.zeros(4)}
    same = {"b": torch.zeros(4, dtype=torch.float16), "a": torch.ones(3, 2).T}
    assert tensors_hash(same) == tensors_hash(state)
    for other in ({"a": state["a"]}, state | {"a": torch.ones(3, 2)}, {"a": state["a"], "c": state["b"]}):
        assert tensors_hash(other) != tensors_hash(state)
    assert tensors_hash(state | {"b": torch.tensor([0, 0, 0, 1e-7])}) != tensors_hash(state)


def test_features_are_kept_below_xdg_cache_home_or_dot_cache(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_directory() == Path("/somewhere/person-pretrain/features")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/somewhere")
    assert default_directory() == Path("/somewhere/.cache/person-pretrain/features")
