"""What the reader hands out is what was packed, or nothing."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharding.cache import BlockCache
from sharding.dataset import open_dataset, read_index
from sharding.errors import UserError
from sharding.index import index_name, tar_name
from sharding.pack import pack
from sharding.people import People
from sharding.reader import Damage, SplitReader
from sharding.store import LocalStore
from tests.sharding.bucket import in_bucket
from tests.sharding.s3_servers import fresh_place

BOTH = ("image", "json")


@pytest.fixture
def dataset(pretrain, tmp_path):
    return pack("pretrain_110k", pretrain(6), tmp_path / "out", shard_samples=4).dataset


def test_samples_are_the_images_and_captions_that_were_packed(dataset, picture):
    reader = SplitReader(dataset, "train")
    samples = [reader.sample(*reader.place(index)) for index in range(len(reader))]
    assert [sample.image for sample in samples] == [picture(number) for number in (0, 1, 2, 3, 5)]
    assert samples[4].captions == ("A man in coat 5.", "Person 5 walks past a café.")
    assert samples[4].identity == "IUST_PersonReID:2"


@pytest.fixture(params=["folder", "bucket", "bucket with cache"])
def opened(request, dataset, tmp_path):
    """A function (settings) -> a reader of the training split, wherever the dataset lies."""

    def open_reader(**settings):
        cache = BlockCache(tmp_path / "cache", 1 << 30) if "cache" in request.param else None
        place = dataset if request.param == "folder" else in_bucket(dataset)
        return SplitReader(place, "train", cache=cache, **settings)

    return open_reader


def everything(reader):
    """(shards, rows) of all samples, mixed."""
    order = np.random.default_rng(0).permutation(len(reader))
    return np.array([reader.place(index) for index in order]).T


def flip_a_byte(dataset, shard, row, member):
    entry = read_index(dataset, dataset.shards[shard]).to_pylist()[row]
    with (dataset.directory / tar_name(dataset.shards[shard].name)).open("r+b") as file:
        file.seek(entry[f"{member}_offset"] + entry[f"{member}_size"] // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    return entry["key"]


def test_what_is_read_in_bulk_is_what_was_packed_in_the_order_asked_for(opened, dataset):
    plain, reader = SplitReader(dataset, "train"), opened()
    shards, rows = everything(reader)
    samples = [plain.sample(shard, row) for shard, row in zip(shards, rows, strict=True)]
    assert [image for image, _ in reader.read(shards, rows, BOTH)] == [sample.image for sample in samples]
    assert reader.read(shards, rows) == [(sample.image,) for sample in samples]
    assert reader.keys(shards, rows) == [sample.key for sample in samples]
    assert [reader.sample(*place) for place in zip(shards, rows, strict=True)] == samples


def test_threads_share_a_reader(opened):
    reader = opened(verify="shard")
    shards, rows = everything(reader)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: reader.read(shards, rows, BOTH), range(32)))
    assert found == [reader.read(shards, rows, BOTH)] * 32


@pytest.mark.parametrize("verify", ["sample", "shard"])
@pytest.mark.parametrize("member", BOTH)
def test_a_flipped_byte_costs_its_own_sample_alone(opened, dataset, verify, member):
    plain = SplitReader(dataset, "train")
    shards, rows = everything(plain)
    whole = plain.read(shards, rows, BOTH)
    key = flip_a_byte(dataset, 0, 2, member)
    found = opened(verify=verify).read(shards, rows, BOTH)
    ((place, lost),) = [(i, sample) for i, sample in enumerate(found) if isinstance(sample, Damage)]
    assert (lost.key, lost.reason) == (key, "damaged")
    assert f"damaged at sample {key} ({member}); restore" in lost.detail
    assert (shards[place], rows[place]) == (0, 2)
    assert found[:place] + found[place + 1 :] == whole[:place] + whole[place + 1 :]


def test_nothing_is_hashed_where_that_is_switched_off(opened, dataset):
    flip_a_byte(dataset, 0, 2, "image")
    assert not any(isinstance(sample, Damage) for sample in opened(verify="off").read([0, 0, 0], [0, 1, 2]))


def test_a_tar_is_hashed_once_by_all_threads_together(opened, monkeypatch):
    hashed, hash_tar = [], SplitReader._hash_tar
    monkeypatch.setattr(SplitReader, "_hash_tar", lambda self, shard: hashed.append(shard) or hash_tar(self, shard))
    reader = opened(verify="shard")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: reader.read(*everything(reader)), range(32)))
    assert sorted(hashed) == [0, 1]


@pytest.mark.parametrize("verify", ["off", "shard", "sample"])
def test_what_lies_beyond_the_end_of_a_cut_tar_is_lost_and_nothing_else(opened, dataset, verify):
    index = read_index(dataset, dataset.shards[0]).to_pylist()
    whole = SplitReader(dataset, "train").read([0, 0], [0, 1], BOTH)
    os.truncate(dataset.directory / tar_name(dataset.shards[0].name), index[2]["image_offset"] + 5)
    reader = opened(verify=verify)
    found = reader.read([0, 0, 0, 0, 1], [3, 0, 2, 1, 0], BOTH)
    assert [found[1], found[3]] == whole
    assert [(found[i].key, found[i].reason) for i in (0, 2)] == [(index[i]["key"], "unreadable") for i in (3, 2)]
    assert "ends before byte" in found[0].detail
    assert not isinstance(found[4], Damage)


def test_the_samples_of_a_missing_tar_are_lost(opened, dataset):
    reader = opened()
    (dataset.directory / tar_name(dataset.shards[0].name)).unlink()
    lost, found = reader.read([0, 1], [0, 0])
    assert (lost.reason, isinstance(found, tuple)) == ("unreadable", True)
    with pytest.raises(UserError, match="No such file"):
        reader.sample(0, 0)


def test_a_damaged_index_is_refused(opened, dataset):
    reader = opened()
    (dataset.directory / index_name(dataset.shards[0].name)).write_bytes(b"PAR1")
    with pytest.raises(UserError, match="does not match the sha256"):
        reader.read([0], [0])


@pytest.mark.parametrize("service", ["moto_server", "radosgw"])
def test_a_bucket_is_read_in_few_requests(service, dataset, request, tmp_path):
    store = copied(dataset, fresh_place(request.getfixturevalue(service)))
    for cache in (None, BlockCache(tmp_path / "cache", 1 << 30)):
        reader = SplitReader(open_dataset(store), "train", cache=cache)
        assert reader.read(*everything(reader), BOTH) == SplitReader(dataset, "train").read(*everything(reader), BOTH)
    counted = SplitReader(in_bucket(dataset), "train")
    counted.read(*everything(counted), BOTH)
    assert len(counted.dataset.store.requests) == len(counted.shards)


def test_a_service_is_asked_again_and_if_it_does_not_answer_that_is_no_damage(dataset, faulty):
    store = copied(dataset, fresh_place(faulty.url))
    reader = SplitReader(open_dataset(store), "train")
    faulty.fail("503", times=2, pattern=r"\.tar")
    faulty.fail("short", times=1, pattern=r"\.tar")
    assert not any(isinstance(sample, Damage) for sample in reader.read(*everything(reader)))
    faulty.fail("503", times=1000, pattern=r"\.tar")
    with pytest.raises(OSError, match="503"):
        reader.read(*everything(reader))


def copied(dataset, store):
    """Upload a dataset, as it lies, into a bucket."""
    for name, _ in LocalStore(dataset.directory).names():
        store.write(name, LocalStore(dataset.directory).read(name))
    return store


def test_people_captions_and_rows_are_those_of_the_index(pretrain, tmp_path):
    dataset = pack("pretrain_110k", pretrain(24), tmp_path / "out", shard_samples=4).dataset
    for people in (None, *both_sides(0.5)):
        reader = SplitReader(in_bucket(dataset), "train", people)
        index = reader.index(["key", "identity", "caption_words"]).to_pylist()
        assert [name for names in reader.identities for name in names] == [row["identity"] for row in index]
        names, codes = reader.identity_names, np.concatenate(reader.identity_codes)
        assert [names[code] for code in codes] == [row["identity"] for row in index]
        assert reader.captions.tolist() == [len(row["caption_words"]) for row in index]
        keys = [read_index(dataset, shard)["key"].take(reader.rows(i)) for i, shard in enumerate(reader.shards)]
        assert [key.as_py() for of_shard in keys for key in of_shard] == [row["key"] for row in index]


@pytest.mark.parametrize("member", ["image", "json"])
def test_one_flipped_byte_is_found_and_its_shard_and_key_are_named(dataset, member):
    shard = dataset.shards[0]
    key = flip_a_byte(dataset, 0, 2, member)
    reader = SplitReader(dataset, "train")
    reader.sample(0, 1)
    with pytest.raises(UserError, match=rf"{shard.name}\.tar is damaged at sample {key} \({member}\)"):
        reader.sample(0, 2)


identities = st.lists(st.text(max_size=3).map("source:{}".format), max_size=30)
shares = st.floats(0, 1, exclude_max=True)


@given(identities, shares)
def test_everyone_is_either_held_out_or_not(names, share):
    rows = np.array(names, dtype=object)
    held_out, others = (People(share=share, held_out=side).chosen(rows) for side in (True, False))
    assert (held_out != others).all()
    assert len({name for name, held in zip(names, held_out, strict=True) if held} & set(rows[others])) == 0


@given(identities, identities, shares)
def test_who_is_held_out_depends_on_the_person_alone(names, more, share):
    people = People(share=share, held_out=True)
    alone = people.chosen(np.array(names, dtype=object))
    together = people.chosen(np.array([*more, *names], dtype=object))
    assert (together[len(more) :] == alone).all()


@given(identities, shares, shares)
def test_a_larger_share_holds_out_the_same_people_and_more(names, share, other):
    rows = np.array(names, dtype=object)
    fewer, more = (People(share=x, held_out=True).chosen(rows) for x in sorted((share, other)))
    assert (fewer <= more).all()


def test_the_held_out_are_about_the_share_asked_for():
    rows = np.array([f"source:{number}" for number in range(20_000)], dtype=object)
    for share in (0.0, 0.1, 0.5):
        assert People(share=share, held_out=True).chosen(rows).mean() == pytest.approx(share, abs=0.01)


def test_a_split_is_its_held_out_samples_and_the_others(pretrain, tmp_path):
    dataset = pack("pretrain_110k", pretrain(24), tmp_path / "out", shard_samples=4).dataset
    readers = [SplitReader(dataset, "train", people) for people in (None, *both_sides(0.5))]
    keys = [[reader.sample(*reader.place(i)).key for i in range(len(reader))] for reader in readers]
    people = [{str(name) for names in reader.identities for name in names} for reader in readers]
    assert sorted(keys[1] + keys[2]) == sorted(keys[0])
    assert people[1] | people[2] == people[0]
    assert not people[1] & people[2]
    assert all(keys)
    assert all(reader.sample(*reader.place(0)).identity in own for reader, own in zip(readers, people, strict=True))


def both_sides(share):
    return People(share=share, held_out=True), People(share=share, held_out=False)


def test_a_split_in_which_nobody_is_chosen_is_refused(dataset):
    with pytest.raises(UserError, match="split 'train' has nobody among the held-out 0 % of the people"):
        SplitReader(dataset, "train", People(share=0.0, held_out=True))
