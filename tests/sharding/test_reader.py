"""What the reader hands out is what was packed, or nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharding.dataset import read_index
from sharding.errors import UserError
from sharding.index import tar_name
from sharding.pack import pack
from sharding.reader import People, SplitReader


@pytest.fixture
def dataset(pretrain, tmp_path):
    return pack("pretrain_110k", pretrain(6), tmp_path / "out", shard_samples=4).dataset


def test_samples_are_the_images_and_captions_that_were_packed(dataset, picture):
    reader = SplitReader(dataset, "train")
    samples = [reader.sample(*reader.place(index)) for index in range(len(reader))]
    assert [sample.image for sample in samples] == [picture(number) for number in (0, 1, 2, 3, 5)]
    assert samples[4].captions == ("A man in coat 5.", "Person 5 walks past a café.")
    assert samples[4].identity == "IUST_PersonReID:2"


@pytest.mark.parametrize("member", ["image", "json"])
def test_one_flipped_byte_is_found_and_its_shard_and_key_are_named(dataset, member):
    shard = dataset.shards[0]
    row = read_index(dataset, shard).to_pylist()[2]
    with (dataset.directory / tar_name(shard.name)).open("r+b") as file:
        file.seek(row[f"{member}_offset"] + row[f"{member}_size"] // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    reader = SplitReader(dataset, "train")
    reader.sample(0, 1)
    with pytest.raises(UserError, match=rf"{shard.name}\.tar is damaged at sample {row['key']} \({member}\)"):
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
