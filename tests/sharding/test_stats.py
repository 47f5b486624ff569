"""`sharding stats`: figures equal counts by hand; leaks, duplicates and shared captions are found and told."""

import json
from dataclasses import asdict, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharding.cli import main
from sharding.members import GAP, WINDOW, windows
from sharding.stats import stats
from sharding.stats.overlaps import count_distinct
from sharding.stats.samples import vocabulary
from tests.sharding.handmade import Made, write_dataset
from tests.sharding.s3_servers import fresh_place

RED, GREEN, BLUE, GREY = (200, 0, 0), (0, 200, 0), (0, 0, 200), (9, 9, 9)
SAMPLES = [
    Made(person="1", captions=("A man in red.", "Red T-shirt, red shoes; a man"), colour=RED, score=2.0),
    Made(person="1", captions=("One two three four five",), colour=GREEN, size=(30, 70), score=4.0),
    Made(person="2", captions=("A man in red.",), colour=RED, source="lobby"),
    Made(person="3", colour=BLUE, score=3.0),
    Made(person="1", split="val", captions=("A man in red.",), colour=GREY, source="lobby", score=3.0),
    Made(person="3", split="test", captions=("word " * 80,), colour=BLUE, size=(40, 90)),
    Made(person="4", split="test", captions=("a café",), colour=GREEN, size=(30, 70), score=1.0),
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("made"), SAMPLES, missing=3, shard_samples=2)


@pytest.fixture(scope="module")
def found(dataset):
    return stats(dataset.store)


def test_images_captions_and_people_are_counted_by_split_by_source_and_in_total(found):
    counts = {
        name: (one.images, one.captions, one.identities, one.without_captions)
        for name, one in {**found.splits, **found.sources, "total": found.total}.items()
    }
    assert counts == {
        "train": (4, 4, 3, 1), "val": (1, 1, 1, 0), "test": (2, 2, 2, 0),
        "street": (5, 5, 3, 1), "lobby": (2, 2, 2, 0), "total": (7, 7, 5, 1),
    }  # fmt: skip
    assert found.total.image_bytes == sum(len(sample.image) for sample in SAMPLES)


def test_words_are_measured(found):
    assert asdict(found.splits["train"].words) == {
        "least": 4, "mean": 4.75, "median": 4.5, "p95": pytest.approx(5.85), "greatest": 6, "long": 0,
    }  # fmt: skip
    assert found.total.words.greatest == 80
    assert (found.total.words.long, found.splits["test"].words.long) == (1, 1)
    # a man in red t-shirt shoes one two three four five; word café
    assert [one.unique_words for one in (found.splits["train"], found.sources["lobby"], found.total)] == [11, 4, 13]


def test_sizes_and_scores_are_measured(found):
    assert (asdict(found.total.width), asdict(found.total.height)) == (
        {"least": 20, "median": 20.0, "greatest": 40},
        {"least": 50, "median": 50.0, "greatest": 90},
    )
    assert found.total.sizes == ((20, 50, 4), (30, 70, 2), (40, 90, 1))
    train, total = found.splits["train"].score, found.total.score
    assert (train.images, train.least, train.mean, train.greatest) == (3, 2.0, 3.0, 4.0)
    assert total.images == sum(total.counts) == 5
    assert (total.edges[0], total.edges[-1], len(total.edges)) == (1.0, 4.0, 11)
    assert train.edges == total.edges
    assert found.splits["test"].score.counts[0] == 1


def test_every_pair_of_splits_that_shares_people_or_images_is_a_leak(found):
    leaks = {leak.splits: (leak.identities, leak.images) for leak in found.leaks}
    assert leaks == {("train", "test"): (1, 1)}
    [leak] = found.leaks
    assert [[one.key for one in pair] for pair in leak.identity_examples] == [["made-000000003", "made-000000005"]]
    assert [one.identity for one in leak.identity_examples[0]] == ["street:3", "street:3"]
    assert [[one.key[-1] for one in pair] for pair in leak.image_examples] == [["1", "6"]]


def test_people_of_query_and_gallery_are_meant_to_be_the_same(tmp_path):
    samples = [Made(person="1", split=split, colour=RED) for split in ("query", "gallery", "train")]
    leaks = stats(write_dataset(tmp_path, samples).store).leaks
    assert [leak.splits for leak in leaks] == [("train", "query"), ("train", "gallery")]


def test_images_of_equal_bytes_are_found_whoever_they_are_said_to_show(found):
    same = found.duplicates
    assert (same.groups, same.images, same.across_splits, same.across_identities) == (2, 4, 1, 2)
    assert [[one.key[-1] for one in group] for group in same.examples] == [["6", "1"], ["0", "2"]]


def test_captions_of_several_people_are_found(found):
    [shared] = found.shared_captions.examples
    assert found.shared_captions.captions == 1
    assert (shared.caption, shared.identities) == ("A man in red.", 3)
    assert [one.identity for one in shared.examples] == ["street:1", "lobby:2", "lobby:1"]


def test_without_captions_all_but_the_vocabulary_and_shared_captions_is_the_same(dataset, found, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("sharding.stats.samples.read_members", None)
        bare = stats(dataset.store, captions=False)
    assert bare.shared_captions is None
    assert bare.total.unique_words is None
    assert bare.total.words == found.total.words
    assert (bare.leaks, bare.duplicates) == (found.leaks, found.duplicates)


def test_a_bucket_gives_the_figures_of_a_folder(found, moto_server):
    bucket = write_dataset(fresh_place(moto_server), SAMPLES, missing=3, shard_samples=2).store
    assert stats(bucket) == replace(found, place=str(bucket))


def test_the_table_tells_it_all_and_a_leak_is_code_3_only_where_asked(dataset, capsys):
    place = str(dataset.directory)
    assert main(["stats", place]) == 0
    output = capsys.readouterr().out
    for words in (
        "LEAK       train and test share 1 identity and 1 image",
        "duplicates 4 images in 2 groups",
        "captions   1 given to several identities",
        "rejects    3   (rejects.parquet)",
        "           3  image: missing file",
        f"root hash  {dataset.root_hash}",
    ):
        assert words in output
    assert main(["stats", place, "--fail-on-leak"]) == 3
    [line] = capsys.readouterr().err.splitlines()
    assert line == f"sharding: {place}: train and test share 1 identity and 1 image"
    assert main(["stats", place, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(asdict(stats(place))))


def test_a_dataset_without_leaks_or_captions_says_so(tmp_path, capsys):
    write_dataset(tmp_path, [Made(person="1", colour=RED), Made(person="2", split="val", colour=BLUE)])
    assert main(["stats", str(tmp_path), "--fail-on-leak"]) == 0
    output = capsys.readouterr().out
    assert "leaks      none" in output
    assert "duplicates none" in output
    assert "words a caption" not in output


def test_captions_reach_the_terminal_as_text(tmp_path, capsys):
    escape = "\x1b[31mred\x1b[0m"
    write_dataset(tmp_path, [Made(person=str(n), colour=(n, 0, 0), captions=(escape,)) for n in range(2)])
    assert main(["stats", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "\x1b" not in output
    assert r"\x1b[31mred" in output


def test_an_edited_caption_is_one_line_that_names_the_sample(tmp_path, capsys):
    write_dataset(tmp_path, SAMPLES)
    tar = tmp_path / "made-train-000000.tar"
    tar.write_bytes(tar.read_bytes().replace(b"One two three", b"One two thief"))
    assert main(["stats", str(tmp_path)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "damaged at sample made-000000001 (json)" in line
    assert main(["stats", str(tmp_path / "nowhere")]) == 2


def test_words_are_runs_of_letters_digits_and_inner_hyphens_in_composed_form():
    assert vocabulary([{"T-shirt,", "t-shirt!", "«cafe\u0301»", "café", "--", "man's", "a_b", "3/4-length"}]) == {
        "t-shirt", "café", "man", "s", "a", "b", "3", "4-length",
    }  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 3 * GAP), st.integers(0, WINDOW))))
def test_windows_hold_every_extent_once_and_are_neither_too_wide_nor_full_of_gaps(steps):
    starts = np.cumsum([gap for gap, _ in steps]) + np.cumsum([0, *(size for _, size in steps)])[: len(steps)]
    begin, end = starts.astype(np.int64), starts.astype(np.int64) + np.array([size for _, size in steps], np.int64)
    groups = list(windows(begin, end))
    assert [row for first, last in groups for row in range(first, last)] == list(range(len(steps)))
    for first, last in groups:
        assert last - first == 1 or end[last - 1] - begin[first] <= WINDOW
        assert all(begin[first + 1 : last] - end[first : last - 1] <= GAP)
    for (first, last), _ in pairwise(groups):
        assert begin[last] - end[last - 1] > GAP or end[last] - begin[first] > WINDOW, "another request for nothing"


@given(st.lists(st.integers(0, 5)))
def test_distinct_hashes_are_counted(values):
    assert count_distinct(np.array(values, dtype=np.uint64)) == len(set(values))
