"""The table of benchmarks: what it says of each, and what it refuses."""

import shutil

import pytest

from finetune.benchmarks import BENCHMARKS, difference_from_published, open_benchmark
from sharding.dataset import open_dataset
from sharding.errors import UserError


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_opens_below_a_root_and_by_itself(shards, name):
    below, alone = open_benchmark(shards, name, ["test"]), open_benchmark(shards / name, name)
    assert below == alone == open_dataset(shards / name)
    assert set(BENCHMARKS[name].splits) == set(below.counts["splits"])


def test_only_cuhk_pedes_and_rstpreid_have_a_val_split():
    assert {name for name, benchmark in BENCHMARKS.items() if benchmark.has_val} == {"cuhk_pedes", "rstpreid"}


@pytest.mark.parametrize(
    ("below", "name", "splits", "message"),
    [
        ("cuhk_pedes", "ufine6926", (), "holds cuhk_pedes, not ufine6926"),
        (".", "cuhk", (), "there is no benchmark 'cuhk'; known: cuhk_pedes"),
        (".", "icfg_pedes", ("val",), "icfg_pedes has no split 'val'; it has: train, test"),
        (".", "ufine3c", ("train",), "ufine3c has no split 'train'; it has: test"),
        ("nowhere", "rstpreid", (), "nowhere/rstpreid is not a directory"),
    ],
)
def test_the_wrong_shards_are_refused_in_one_line(shards, below, name, splits, message):
    with pytest.raises(UserError) as error:
        open_benchmark(shards / below, name, splits)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_of_another_benchmark_under_its_name_is_refused(shards, tmp_path):
    shutil.copytree(shards / "rstpreid", tmp_path / "cuhk_pedes")
    with pytest.raises(UserError, match="cuhk_pedes holds rstpreid, not cuhk_pedes"):
        open_benchmark(tmp_path, "cuhk_pedes")


def test_a_split_of_another_size_than_the_published_one_is_told(shards):
    dataset = open_dataset(shards / "rstpreid")
    assert "the published one 1,000 and 2,000" in difference_from_published(dataset, "test")
    dataset.counts["splits"]["test"] |= {"images": 1000, "captions": 2000}
    assert difference_from_published(dataset, "test") is None
    assert difference_from_published(open_dataset(shards / "pretrain_110k"), "val") is None
