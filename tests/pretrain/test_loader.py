"""Batches depend on (seed, position) alone, and hold what was packed."""

from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.augment import CLIP_MEAN, CLIP_STD, augment, normalise
from pretrain.config import DataSettings, MixtureSettings
from pretrain.loader import Loader, LoaderSettings, Mixture, decode, load_batch
from pretrain.text import pack, tokenize
from sharding.dataset import open_dataset
from sharding.errors import UserError
from sharding.pack import pack as pack_dataset
from sharding.plan import generator
from sharding.reader import People, Sample, SplitReader

SIZE = (48, 24)


@pytest.fixture(scope="module")
def data(shards):
    parts = [("pretrain_110k", 2.0), ("luperson_t", 1.0), ("syncpr", 1.0)]
    mixture = tuple(MixtureSettings(path=name, weight=weight) for name, weight in parts)
    return DataSettings(root=shards, mixture=mixture, pad=2, erase=0.5, threads=2)


@pytest.fixture(scope="module")
def mixture(data):
    return Mixture(data, seed=5)


def settings(data, *, rank=0, world_size=1):
    return LoaderSettings(
        data=data, image_size=SIZE, context_length=77, global_batch=24, rank=rank, world_size=world_size
    )


def batches(mixture, settings, position, count):
    loader = Loader(mixture, settings, position)
    taken = list(islice(loader, count))
    loader.close()
    return taken


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_the_ranks_together_see_what_one_rank_sees(mixture, data, world_size):
    whole = load_batch(mixture, settings(data), 48)
    parts = [load_batch(mixture, settings(data, rank=r, world_size=world_size), 48) for r in range(world_size)]
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert torch.equal(torch.cat([part.text.ids for part in parts]), whole.text.ids)
    assert torch.equal(torch.cat([part.identity for part in parts]), whole.identity)
    assert sum((part.keys for part in parts), ()) == whole.keys


def test_a_loader_continues_at_any_position(mixture, data):
    whole = batches(mixture, settings(data), 0, 4)
    rest = batches(mixture, settings(data), 48, 2)
    for expected, got in zip(whole[2:], rest, strict=True):
        assert (got.position, got.keys) == (expected.position, expected.keys)
        assert torch.equal(got.images, expected.images)
        assert torch.equal(got.text.ids, expected.text.ids)


def test_a_block_holds_the_mixture_in_proportion(mixture, data):
    keys = [key for batch in batches(mixture, settings(data), 0, 1024 // 24 + 1) for key in batch.keys][:1024]
    counts = [sum(key.startswith(name) for key in keys) for name in ("pretrain_110k", "luperson_t", "syncpr")]
    assert counts == [512, 256, 256]


def test_captions_and_identities_are_those_of_the_sample(mixture, data, shards):
    batch = load_batch(mixture, settings(data), 0)
    by_key = {}
    for reader in mixture.readers:
        for i in range(len(reader)):
            sample = reader.sample(*reader.place(i))
            by_key[sample.key] = sample
    bounds = batch.text.boundaries.tolist()
    for i, key in enumerate(batch.keys):
        ids = batch.text.ids[bounds[i] : bounds[i + 1]].tolist()
        assert ids in [pack([tokenize(caption, 77)]).ids.tolist() for caption in by_key[key].captions]
        assert mixture.identities[by_key[key].identity] == batch.identity[i]
    assert sorted(mixture.identities.values()) == list(range(len(mixture.identities)))


def test_a_missing_dataset_or_split_is_one_line(data, tmp_path):
    absent = DataSettings(root=tmp_path, mixture=(MixtureSettings(path="nothing"),))
    with pytest.raises(UserError, match="nothing"):
        Mixture(absent, seed=0)
    dataset = open_dataset(data.root / "syncpr")
    with pytest.raises(UserError, match="no split 'test'"):
        SplitReader(dataset, "test")


def test_images_without_captions_are_not_trained_on(tmp_path):
    (tmp_path / "raw").mkdir()
    for number in range(2):
        Image.new("RGB", (8, 16), (number, 0, 0)).save(tmp_path / "raw" / f"{number}.jpg")
    (tmp_path / "raw" / "1.txt").write_text("A man in black.")
    pack_dataset("folder", tmp_path / "raw", tmp_path / "photos")
    with pytest.raises(UserError, match="1 images of split 'train' have no caption"):
        Mixture(DataSettings(root=tmp_path, mixture=(MixtureSettings(path="photos"),)), seed=0)


def test_a_truncated_shard_is_refused(shards, tmp_path):
    import shutil

    shutil.copytree(shards / "syncpr", tmp_path / "syncpr")
    reader = SplitReader(open_dataset(tmp_path / "syncpr"), "train")
    tar = next((tmp_path / "syncpr").glob("*.tar"))
    tar.write_bytes(tar.read_bytes()[:-1024])
    with pytest.raises(UserError, match="its index says"):
        reader.sample(0, 0)


def test_augmentation_is_a_function_of_its_draw_and_keeps_the_shape():
    image = np.arange(48 * 24 * 3, dtype=np.uint8).reshape(48, 24, 3)
    strong = DataSettings(mixture=(MixtureSettings(path="x"),), flip=0.5, pad=5, erase=1.0)
    views = [augment(image, strong, generator(1, "sample", position)) for position in range(30)]
    again = [augment(image, strong, generator(1, "sample", position)) for position in range(30)]
    assert all(view.shape == image.shape and view.dtype == np.uint8 for view in views)
    assert all((a == b).all() for a, b in zip(views, again, strict=True))
    assert len({view.tobytes() for view in views}) == 30
    plain = DataSettings(mixture=(MixtureSettings(path="x"),), flip=0.0, pad=0, erase=0.0)
    assert augment(image, plain, generator(1, "sample", 0)) is image
    mirror = DataSettings(mixture=(MixtureSettings(path="x"),), flip=1.0, pad=0, erase=0.0)
    assert (augment(image, mirror, generator(1, "sample", 0)) == image[:, ::-1]).all()


def test_normalisation_is_clips():
    pixels = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    mean, std = torch.tensor(CLIP_MEAN).view(3, 1, 1), torch.tensor(CLIP_STD).view(3, 1, 1)
    assert torch.allclose(normalise(pixels) * std + mean, pixels / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("mode", "kind"), [("RGB", "JPEG"), ("L", "JPEG"), ("RGB", "PNG"), ("P", "PNG"), ("CMYK", "JPEG")]
)
def test_every_kind_of_image_comes_out_as_rgb_of_the_right_size(mode, kind, tmp_path):
    Image.new("RGB", (90, 200), (200, 40, 40)).convert(mode).save(tmp_path / "image", kind, quality=95)
    sample = Sample(key="k", image=(tmp_path / "image").read_bytes(), captions=("c",), identity="x:1")
    pixels = decode(sample, SIZE)
    assert pixels.shape == (*SIZE, 3)
    expected = (88, 88, 88) if mode == "L" else (200, 40, 40)
    assert np.abs(pixels.reshape(-1, 3).mean(0) - expected).max() < 12
    with pytest.raises(UserError, match="sample k cannot be decoded"):
        decode(Sample(key="k", image=sample.image[:40], captions=("c",), identity="x:1"), SIZE)


@pytest.fixture(scope="module")
def fine_data(shards):
    """One benchmark with every augmentation of words, people held out and masked copies."""
    words = {"mask_words": 0.2, "replace_words": 0.1, "delete_words": 0.2, "mlm": 0.3}
    return DataSettings(root=shards, mixture=(MixtureSettings(path="ufine6926"),), threads=3, hold_out=0.3, **words)


@pytest.fixture(scope="module")
def fine(fine_data):
    return Mixture(fine_data, seed=5)


def original_rows(mixture, batch):
    """Token ids of all captions of each sample of the batch."""
    by_key = {}
    for reader in mixture.readers:
        samples = (reader.sample(*reader.place(i)) for i in range(len(reader)))
        by_key |= {sample.key: sample.captions for sample in samples}
    return [[np.frombuffer(tokenize(caption, 77), "<u2").tolist() for caption in by_key[key]] for key in batch.keys]


def test_masked_captions_lie_beside_the_others_and_are_to_be_predicted_as_they_were_written(fine, fine_data):
    batch = load_batch(fine, settings(fine_data), 0)
    text, masked = batch.text, batch.masked
    assert len(masked.ids) == len(text.ids) == text.boundaries[-1]
    ends = torch.cat([text.boundaries[:-1].long(), text.ends])
    assert torch.equal(masked.ids[ends], text.ids[ends])
    assert not set(masked.places.tolist()) & set(ends.tolist())
    restored = masked.ids.clone()
    restored[masked.places] = masked.labels
    bounds = text.boundaries.tolist()
    for i, captions in enumerate(original_rows(fine, batch)):
        row = restored[bounds[i] : bounds[i + 1]].tolist()
        assert any(is_subsequence(row, caption) for caption in captions)  # words were deleted, none was changed
        assert len(row) == 2 or any(bounds[i] <= place < bounds[i + 1] for place in masked.places.tolist())


def is_subsequence(part, whole):
    rest = iter(whole)
    return all(item in rest for item in part)


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_ranks_together_see_the_words_and_labels_that_one_rank_sees(fine, fine_data, world_size):
    whole = load_batch(fine, settings(fine_data), 48)
    parts = [load_batch(fine, settings(fine_data, rank=r, world_size=world_size), 48) for r in range(world_size)]
    assert torch.equal(torch.cat([part.text.ids for part in parts]), whole.text.ids)
    assert torch.equal(torch.cat([part.text.boundaries.diff() for part in parts]), whole.text.boundaries.diff())
    assert torch.equal(torch.cat([part.masked.ids for part in parts]), whole.masked.ids)
    assert torch.equal(torch.cat([part.masked.labels for part in parts]), whole.masked.labels)
    first = np.cumsum([0, *(len(part.text.ids) for part in parts)])
    places = [part.masked.places + start for part, start in zip(parts, first[:-1], strict=True)]
    assert torch.equal(torch.cat(places), whole.masked.places)


def test_threads_change_nothing(fine, fine_data):
    for position, batch in zip(range(0, 96, 24), batches(fine, settings(fine_data), 0, 4), strict=True):
        alone = load_batch(fine, settings(fine_data), position)
        assert (batch.keys, batch.position) == (alone.keys, position)
        for got, expected in ((batch.text, alone.text), (batch.masked, alone.masked)):
            assert torch.equal(got.ids, expected.ids)
        assert torch.equal(batch.images, alone.images)


def test_only_the_words_differ_where_words_are_augmented(fine_data, fine):
    plain = DataSettings(root=fine_data.root, mixture=fine_data.mixture, hold_out=0.3)
    batch, augmented = load_batch(fine, settings(plain), 0), load_batch(fine, settings(fine_data), 0)
    assert batch.masked is None
    assert batch.keys == augmented.keys
    assert torch.equal(batch.images, augmented.images)
    assert not torch.equal(batch.text.boundaries, augmented.text.boundaries)


def test_people_held_out_are_no_part_of_the_mixture(fine, fine_data):
    everyone = Mixture(DataSettings(root=fine_data.root, mixture=fine_data.mixture), seed=5)
    held_out = SplitReader(everyone.readers[0].dataset, "train", People(share=0.3, held_out=True))
    left_out = {str(name) for names in held_out.identities for name in names}
    assert set(fine.identities) | left_out == set(everyone.identities)
    assert not set(fine.identities) & left_out
    assert sorted(fine.identities.values()) == list(range(len(fine.identities)))
    assert fine.plan.hash != everyone.plan.hash


def test_identity_balanced_batches_hold_k_images_of_each_person(fine_data):
    data = DataSettings(root=fine_data.root, mixture=fine_data.mixture, sampler="identity", per_identity=4)
    mixture = Mixture(data, seed=5)
    whole = load_batch(mixture, settings(data), 24)
    groups = whole.identity.view(-1, 4)
    assert (groups == groups[:, :1]).all()
    assert len(groups[:, 0].unique()) == 6
    parts = [load_batch(mixture, settings(data, rank=r, world_size=2), 24) for r in range(2)]
    assert sum((part.keys for part in parts), ()) == whole.keys


def test_identity_balanced_sampling_of_several_datasets_is_refused(data):
    with pytest.raises(UserError, match=r"data\.sampler identity takes one dataset, data\.mixture names 3"):
        Mixture(DataSettings(root=data.root, mixture=data.mixture, sampler="identity"), seed=0)
