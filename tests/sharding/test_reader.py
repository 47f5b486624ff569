"""What the reader hands out is what was packed, or nothing."""

import pytest

from sharding.errors import UserError
from sharding.index import read_index, tar_path
from sharding.pack import pack
from sharding.reader import SplitReader


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
    with tar_path(dataset.directory, shard.name).open("r+b") as file:
        file.seek(row[f"{member}_offset"] + row[f"{member}_size"] // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    reader = SplitReader(dataset, "train")
    reader.sample(0, 1)
    with pytest.raises(UserError, match=rf"{shard.name}\.tar is damaged at sample {row['key']} \({member}\)"):
        reader.sample(0, 2)
