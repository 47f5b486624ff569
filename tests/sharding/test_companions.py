"""The companions hold what the tools that read them expect, byte for byte."""

import json

from hypothesis import given
from hypothesis import strategies as st

from sharding.companions import offsets_name, sizes_json, tar_offsets, wids_json
from sharding.index import Shard


def shard(name, samples, size=10240):
    return Shard(name=name, split="train", samples=samples, bytes=size, sha256="0" * 64, index_sha256="1" * 64)


SHARDS = (shard("people-train-000000", 3), shard("people-train-000001", 2, 7168))


def test_energons_index_is_one_little_endian_u64_a_sample_and_one_for_the_end():
    assert tar_offsets([0, 3072], 7168).hex() == "0000000000000000000c000000000000001c000000000000"
    assert offsets_name("people-train-000000") == "people-train-000000.tar.idx"


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1))
def test_energons_index_holds_any_offset(offsets):
    data = tar_offsets(offsets[:-1], offsets[-1])
    assert [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)] == offsets


def test_sizes_name_the_tars_with_their_samples():
    assert json.loads(sizes_json(SHARDS)) == {"people-train-000000.tar": 3, "people-train-000001.tar": 2}


def test_wids_index_names_the_tars_relative_to_itself():
    assert json.loads(wids_json("people", SHARDS)) == {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "name": "people",
        "shardlist": [
            {"url": "people-train-000000.tar", "nsamples": 3, "filesize": 10240},
            {"url": "people-train-000001.tar", "nsamples": 2, "filesize": 7168},
        ],
    }
