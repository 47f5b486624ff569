"""A checkpoint is complete or invisible, and damage is found before a tensor is used."""

import pytest
import torch

from pretrain.checkpoint import find_latest, keep_newest, only_writer, read_manifest, read_tensors, write_checkpoint
from sharding.errors import UserError

WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1.5])}
MOMENTS = {"a.exp_avg": torch.ones(2, 3)}


def write(directory, step):
    facts = {"position": step * 8, "plan_hash": "p", "plan": {"seed": 0}, "settings_hash": "s", "settings": {"x": 1}}
    return write_checkpoint(directory, WEIGHTS, MOMENTS, step=step, **facts)


def test_what_is_written_is_read_again(tmp_path):
    folder = write(tmp_path, 3)
    manifest = read_manifest(folder)
    assert (manifest.step, manifest.position, manifest.plan_hash, manifest.settings) == (3, 24, "p", {"x": 1})
    weights = read_tensors(folder, manifest, "weights.safetensors")
    assert all(torch.equal(weights[name], tensor) for name, tensor in WEIGHTS.items())
    assert torch.equal(read_tensors(folder, manifest, "moments.safetensors")["a.exp_avg"], MOMENTS["a.exp_avg"])


def test_the_newest_complete_one_is_found_and_old_ones_go(tmp_path):
    assert find_latest(tmp_path) is None
    for step in (2, 10, 9):
        write(tmp_path, step)
    assert find_latest(tmp_path).name == "step-00000010"
    (tmp_path / "step-00000010" / "manifest.json").unlink()  # as a kill before the manifest leaves it
    assert find_latest(tmp_path).name == "step-00000009"
    keep_newest(tmp_path, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000009", "step-00000010"]
    write(tmp_path, 11)
    keep_newest(tmp_path, 2)  # what was never finished goes once a newer one is complete
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000009", "step-00000011"]


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    facts = {"position": 8, "plan_hash": "p", "plan": {"seed": 0}, "settings_hash": "s", "settings": {}}
    with pytest.raises(FloatingPointError, match="a is not finite at step 1"):
        write_checkpoint(tmp_path, {"a": torch.tensor([float("nan")])}, {}, step=1, **facts)
    assert find_latest(tmp_path) is None


def test_two_runs_cannot_write_to_one_folder(tmp_path):
    with only_writer(tmp_path), pytest.raises(UserError, match="another run is writing"), only_writer(tmp_path):
        pass
    with only_writer(tmp_path):
        pass


def test_only_unfinished_checkpoints_are_an_error_not_step_0(tmp_path):
    (write(tmp_path, 1) / "manifest.json").unlink()
    with pytest.raises(UserError, match="no complete checkpoint"):
        find_latest(tmp_path)


@pytest.mark.parametrize("name", ["weights.safetensors", "moments.safetensors"])
def test_damage_is_found(tmp_path, name):
    folder = write(tmp_path, 1)
    whole = (folder / name).read_bytes()
    manifest = read_manifest(folder)
    (folder / name).write_bytes(whole[:-1])
    with pytest.raises(UserError, match="its manifest says"):
        read_manifest(folder)
    (folder / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match="is damaged"):
        read_tensors(folder, manifest, name)


def test_a_manifest_of_another_kind_is_refused(tmp_path):
    folder = write(tmp_path, 1)
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"format": 2', '"format": 99'))
    with pytest.raises(UserError, match="format 99"):
        read_manifest(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        read_manifest(folder)
