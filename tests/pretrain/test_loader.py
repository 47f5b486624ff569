"""Batches depend on (seed, position) alone, and hold what was packed."""

import gc
import shutil
import threading
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.augment import draw_views
from pretrain.buffers import Buffers
from pretrain.config import CacheSettings, DataSettings, MixtureSettings
from pretrain.loader import Loader, LoaderSettings, load_batch
from pretrain.mixture import Mixture
from pretrain.text import pack, tokenize
from sharding.bpe import swap_sides
from sharding.cli import main as sharding
from sharding.dataset import open_dataset, read_index, shards_of
from sharding.errors import UserError
from sharding.index import tar_name
from sharding.pack import pack as pack_dataset
from sharding.people import People
from sharding.reader import SplitReader

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
    dataset = open_dataset(data.place("syncpr"))
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
    whole = load_batch(mixture, settings(data), 0)
    groups = whole.identity.view(-1, 4)
    assert (groups == groups[:, :1]).all()
    assert len(groups[:, 0].unique()) == 6
    parts = [load_batch(mixture, settings(data, rank=r, world_size=2), 0) for r in range(2)]
    assert sum((part.keys for part in parts), ()) == whole.keys


def test_identity_balanced_sampling_keeps_the_mixture_in_groups(data):
    several = DataSettings(root=data.root, mixture=data.mixture, sampler="identity", per_identity=2)
    mixture = Mixture(several, seed=0)
    groups = load_batch(mixture, replace(settings(several), global_batch=2048), 0).identity.view(-1, 2)
    assert (groups[:, 0] == groups[:, 1]).all()
    counts = np.bincount(mixture.plan.locate(np.arange(2048)).stream).tolist()
    assert counts == [1024, 512, 512]


def same(first, second):
    """Whether two batches hold the same samples, pixels and words."""
    equal = all(torch.equal(a, b) for a, b in zip(first.tensors, second.tensors, strict=True))
    return equal and first.keys == second.keys


@pytest.fixture
def own_people(shards, tmp_path):
    """A copy of one dataset that a test may damage, and its settings."""
    shutil.copytree(shards / "pretrain_110k", tmp_path / "pretrain_110k")
    return DataSettings(root=tmp_path, mixture=(MixtureSettings(path="pretrain_110k"),), pad=2, max_skipped=1.0)


def damage(data, key):
    """Flip a bit in the middle of a sample's image."""
    dataset = open_dataset(data.place("pretrain_110k"))
    [shard] = shards_of(dataset, "train")
    [row] = [row for row in read_index(dataset, shard).to_pylist() if row["key"] == key]
    flip_byte(dataset.directory / tar_name(shard.name), row["image_offset"] + row["image_size"] // 2)


def flip_byte(path, offset):
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def test_a_damaged_sample_is_named_and_another_stands_in_whatever_the_ranks(own_people):
    before = load_batch(Mixture(own_people, seed=5), settings(own_people), 0)
    damage(own_people, before.keys[7])
    mixture = Mixture(own_people, seed=5)
    whole = load_batch(mixture, settings(own_people), 0)
    [skipped] = whole.skipped
    assert (skipped.position, skipped.key, skipped.reason) == (7, before.keys[7], "damaged")
    assert before.keys[7] in skipped.detail
    changed = [old != new for old, new in zip(before.keys, whole.keys, strict=True)]
    assert changed == [place == 7 for place in range(24)]
    parts = [load_batch(mixture, settings(own_people, rank=rank, world_size=3), 0) for rank in range(3)]
    assert sum((part.keys for part in parts), ()) == whole.keys
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert [len(part.skipped) for part in parts] == [1, 0, 0]


def test_a_run_stops_where_too_many_samples_are_damaged(own_people, caplog):
    mixture = Mixture(own_people, seed=5)
    damaged = load_batch(mixture, settings(own_people), 0).keys[:2]
    for key in damaged:
        damage(own_people, key)
    [batch] = batches(Mixture(own_people, seed=5), settings(own_people), 0, 1)
    assert len(batch.skipped) == 2
    assert all(key in caplog.text for key in damaged)
    strict = replace(own_people, max_skipped=0.001)  # 1 of the first 1,000
    with pytest.raises(UserError, match=r"2 damaged of 24 samples, more than data\.max_skipped 0\.001 allows"):
        batches(Mixture(strict, seed=5), settings(strict), 0, 1)


def test_what_the_hash_cannot_find_the_decoder_does(tmp_path):
    """A packed image whose end is there, but not the tables without which nothing can be decoded."""
    (tmp_path / "raw").mkdir()
    for number in range(4):
        Image.new("RGB", (8, 16), (number, 0, 0)).save(tmp_path / "raw" / f"{number}.jpg")
        (tmp_path / "raw" / f"{number}.txt").write_text(f"Person {number}.")
    picture = (tmp_path / "raw" / "2.jpg").read_bytes()
    (tmp_path / "raw" / "2.jpg").write_bytes(picture.replace(b"\xff\xdb", b"\xff\xe9"))  # of quantisation
    pack_dataset("folder", tmp_path / "raw", tmp_path / "photos")
    data = DataSettings(root=tmp_path, mixture=(MixtureSettings(path="photos"),), max_skipped=1.0)
    batch = load_batch(Mixture(data, seed=0), settings(data), 0)
    assert {(one.key, one.reason) for one in batch.skipped} == {("folder-000000002", "undecodable")}
    assert len(batch.skipped) >= 6  # in 24 positions it stands six times
    assert "folder-000000002" not in batch.keys


def test_tokens_written_beforehand_change_nothing(own_people):
    words = replace(own_people, mask_words=0.2, delete_words=0.1, mlm=0.3)
    before = load_batch(Mixture(words, seed=5), settings(words), 48)
    assert sharding(["tokenize", "--data", own_people.place("pretrain_110k")]) == 0
    mixture = Mixture(words, seed=5)
    assert mixture.tokens[0] is not None
    assert same(load_batch(mixture, settings(words), 48), before)


def test_left_and_right_follow_the_flip(own_people):
    swapping = replace(own_people, swap_sides=True, flip=0.5)
    mixture = Mixture(swapping, seed=5)
    plain, swapped = (load_batch(mixture, settings(data), 0) for data in (replace(own_people, flip=0.5), swapping))
    assert torch.equal(plain.images, swapped.images)
    views = draw_views(swapping, SIZE, 5, 0, 24)
    bounds = plain.text.boundaries.tolist()
    for place, flipped in enumerate(views.flip):
        row = slice(bounds[place], bounds[place + 1])
        ids = plain.text.ids[row].numpy().astype(np.uint16)
        assert (swapped.text.ids[row].numpy() == (swap_sides(ids) if flipped else ids)).all()


def test_dummy_captions_fill_the_tokens_to_a_multiple(data, mixture):
    padded = replace(data, token_bucket=256, mlm=0.3)
    text, plain = (load_batch(mixture, settings(d), 0) for d in (padded, replace(data, mlm=0.3)))
    count = len(plain.text.ids)
    assert len(text.text.ids) % 256 == 0
    assert len(text.text.ids) == len(text.masked.ids) == len(text.text.positions) == text.text.boundaries[-1]
    assert text.text.captions == plain.text.captions == 24
    assert torch.equal(text.text.ids[:count], plain.text.ids)
    assert torch.equal(text.text.ends, plain.text.ends)
    assert torch.equal(text.masked.places, plain.masked.places)
    assert text.text.boundaries.diff().max() <= 77


def test_a_buffer_is_used_again_when_nobody_holds_it():
    buffers = Buffers((2, 4, 4, 3))
    first, second = buffers.take(), buffers.take()
    address, image = first.ctypes.data, torch.from_numpy(first).permute(0, 3, 1, 2)
    del first
    assert buffers.take().ctypes.data not in (address, second.ctypes.data)  # a tensor still looks at it
    del image
    gc.collect()
    assert buffers.take().ctypes.data == address


def test_batches_that_are_kept_stay_as_they_were(mixture, data):
    kept = batches(mixture, settings(data), 0, 12)
    for batch in kept:
        assert torch.equal(batch.images, load_batch(mixture, settings(data), batch.position).images)


@pytest.fixture(scope="module")
def bucket(shards, moto_server):
    """The address of a place in a bucket that holds the three pre-training sources, as `data.root`."""
    from tests.sharding.s3_servers import fresh_place

    store = fresh_place(moto_server)
    for path in sorted(shards.rglob("*")):
        if path.is_file() and path.relative_to(shards).parts[0] in ("pretrain_110k", "luperson_t", "syncpr"):
            store.write(str(path.relative_to(shards)), path.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", moto_server)
        yield str(store)


@pytest.mark.parametrize("cached", [False, True])
def test_a_bucket_gives_the_batches_of_a_folder(bucket, data, mixture, tmp_path, cached):
    cache = CacheSettings(dir=tmp_path / "cache" if cached else None)
    remote = replace(data, root=bucket, cache=cache, prefetch=2)
    for batch in batches(Mixture(remote, seed=5), settings(remote), 24, 5):
        assert same(batch, load_batch(mixture, settings(data), batch.position))


def test_a_mixture_says_how_it_reads(bucket, data, own_people, tmp_path):
    assert Mixture(data, 5).describe() == "reading from folders; captions of 3 datasets encoded meanwhile"
    assert Mixture(replace(data, root=bucket), 5).describe().startswith("reading from buckets, without a cache;")
    cached = Mixture(replace(data, root=bucket, cache=CacheSettings(dir=tmp_path / "cache", gb=2.5)), 5)
    assert f"reading from buckets, through {tmp_path}/cache (2.5 GB);" in cached.describe()
    assert cached.working_set == sum(shard.bytes for reader in cached.readers for shard in reader.shards)
    assert sharding(["tokenize", "--data", own_people.place("pretrain_110k")]) == 0
    assert Mixture(own_people, 5).describe() == "reading from folders; captions encoded beforehand"
    assert Mixture(own_people, 5).working_set == 0


def test_a_loader_whose_data_are_all_in_the_cache_rests_and_leaves_no_threads(bucket, data, tmp_path):
    before = set(threading.enumerate())
    remote = replace(data, root=bucket, cache=CacheSettings(dir=tmp_path / "cache"), prefetch=2)
    mixture = Mixture(remote, seed=5)
    batches(mixture, settings(remote), 0, 150)
    loader = Loader(mixture, settings(remote), 0)
    next(iter(loader))
    time.sleep(0.3)
    began = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - began < 0.3  # nothing spins while nobody asks
    loader.close()
    left = {thread for thread in set(threading.enumerate()) - before if not thread.name.startswith("read shard")}
    assert not {thread.name for thread in left} & {"read ahead", "next uses"}
    assert not [thread for thread in left if thread.name.startswith(("decode", "batch"))]


def test_an_error_in_a_thread_is_raised_and_the_loader_can_be_closed(own_people):
    mixture = Mixture(own_people, seed=5)
    for path in Path(own_people.place("pretrain_110k")).glob("*.parquet"):
        path.write_bytes(b"")  # after the split's indexes were read, before those of the shards are
    loader = Loader(mixture, settings(own_people), 0)
    with pytest.raises(UserError, match="does not match the sha256"):
        next(iter(loader))
    loader.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("decode", "batch"))]


def test_dummy_captions_change_no_feature_and_no_gradient(data, mixture):
    from pretrain.config import ModelSettings, TextSettings, VisionSettings
    from pretrain.model import DualEncoder

    vision = VisionSettings(image_size=SIZE, patch_size=8, width=16, layers=1, head_width=8)
    torch.manual_seed(0)
    model = DualEncoder(
        ModelSettings(embed_dim=16, vision_cfg=vision, text_cfg=TextSettings(width=16, heads=2, layers=2))
    )
    found = []
    for bucket_size in (1, 512):
        text = load_batch(mixture, settings(replace(data, token_bucket=bucket_size)), 0).text
        model.zero_grad()
        features = model(None, text)[1]
        features.pow(3).sum().backward()
        found.append((features.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    (plain, gradients), (padded, others) = found
    assert plain.shape == padded.shape == (24, 16)
    assert torch.allclose(plain, padded, atol=1e-6)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(gradients, others, strict=True))
