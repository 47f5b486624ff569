"""Pseudo-texts packed: the same images with texts of ours, from scores that belong to them."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from sharding.cli import main as sharding
from sharding.dataset import open_dataset, read_index
from sharding.index import tar_name
from sharding.pseudo_text import scores
from sharding.pseudo_text.compose import distinct
from sharding.pseudo_text.vocabulary import vocabulary

WORDS = vocabulary()


@pytest.fixture
def bare(pretrain, tmp_path):
    """A packed dataset of twelve images in four shards, and scores of all of them."""
    out = tmp_path / "bare"
    raw = ["--source", "pretrain_110k", "--input", str(pretrain(12))]
    assert sharding(["pack", *raw, "--out", str(out), "--shard-samples", "4"]) == 0
    write_scores(out, tmp_path / "scores.parquet")
    return out, tmp_path / "scores.parquet"


def write_scores(data, path, split=None, leave_out=(), **changes):
    """Random scores; `changes` are made to their origin."""
    dataset, dice = open_dataset(data), np.random.default_rng(0)
    facts = {
        "root_hash": dataset.root_hash,
        "split": split,
        "weights": "w",
        "phrases": WORDS.phrases_hash,
        "scale": 50.0,
    }
    origin, columns = scores.Origin(**{**facts, **changes}), sum(len(a.columns) for a in WORDS.attributes)
    with pq.ParquetWriter(path, scores.schema(WORDS, origin)) as writer:
        for shard in dataset.shards:
            keys = [key for key in read_index(dataset, shard, ["key"])["key"].to_pylist() if key not in leave_out]
            if split in (None, shard.split):
                writer.write_table(
                    scores.table(WORDS, origin, keys, dice.uniform(-0.2, 0.4, (len(keys), columns)).astype(np.float32))
                )


def write_texts(data, path, out, *more):
    return sharding(["pseudo-text", "--data", str(data), "--scores", str(path), "--out", str(out), *more])


def rows(place):
    """The samples of a dataset by path: (image, what is kept, captions)."""
    dataset, found = open_dataset(place), {}
    for shard in dataset.shards:
        for row in read_index(dataset, shard).to_pylist():
            image, meta = (
                dataset.store.read(tar_name(shard.name), row[f"{member}_offset"], row[f"{member}_size"])
                for member in ("image", "json")
            )
            kept = {name: row[name] for name in ("identity", "source", "split", "score", "width", "height")}
            found[row["file_path"]] = image, kept, json.loads(meta)["captions"]
    return found


def test_images_are_packed_again_with_two_texts_each_and_nothing_else_changes(bare, tmp_path, capsys):
    assert write_texts(*bare, tmp_path / "texts", "--json") == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    before, after = rows(bare[0]), rows(tmp_path / "texts")
    assert {path: row[:2] for path, row in after.items()} == {path: row[:2] for path, row in before.items()}
    texts = [text for *_, captions in after.values() for text in captions]
    assert all(len(set(captions)) == 2 for *_, captions in after.values())
    assert (summary["images"], summary["captions"], summary["rejects"]) == (12, 24, 0)
    assert summary["distinct_2"] == pytest.approx(distinct(texts), abs=1e-6)
    assert summary["distinct_2_texts"] == 24
    assert open_dataset(tmp_path / "texts").source == "pseudo_text"


def test_the_same_command_gives_the_same_dataset_and_another_seed_another(bare, tmp_path):
    hashes = []
    for number, seed in enumerate("001"):
        assert write_texts(*bare, tmp_path / f"texts{number}", "--seed", seed) == 0
        hashes.append(open_dataset(tmp_path / f"texts{number}").root_hash)
    assert hashes[0] == hashes[1] != hashes[2]
    assert write_texts(*bare, tmp_path / "texts0", "--seed", "1") == 2


def test_only_the_split_that_was_scored_is_packed(bare, tmp_path):
    write_scores(*bare, split="val")
    assert write_texts(*bare, tmp_path / "texts", "--texts", "3") == 0
    found = rows(tmp_path / "texts")
    assert {kept["split"] for _, kept, _ in found.values()} == {"val"}
    assert {len(captions) for *_, captions in found.values()} == {3}


def test_the_threshold_decides_how_much_is_told(bare, tmp_path):
    words = []
    for threshold in ("0.99999", "0.5"):
        assert write_texts(*bare, tmp_path / threshold, "--threshold", threshold) == 0
        words.append(
            sum(len(text.split()) for *_, captions in rows(tmp_path / threshold).values() for text in captions)
        )
    assert words[0] < words[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"root_hash": "0" * 64}, "of another dataset"),
        ({"phrases": "0" * 64}, "with other phrases"),
        ({"leave_out": ("pretrain_110k-000000002",)}, "lacks scores of pretrain_110k-000000000"),
    ],
)
def test_scores_of_something_else_are_refused_in_one_line(bare, tmp_path, capsys, change, words):
    write_scores(*bare, **change)
    assert write_texts(*bare, tmp_path / "texts") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert words in line


def test_what_is_no_file_of_scores_is_refused_in_one_line(bare, tmp_path, capsys):
    data, path = bare
    (tmp_path / "text").write_text("key")
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), tmp_path / "foreign")
    (tmp_path / "short").write_bytes(path.read_bytes()[:-100])
    for name in ("missing", "text", "foreign", "short"):
        assert write_texts(data, tmp_path / name, tmp_path / "texts") == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert write_texts(data, path, tmp_path / "texts", "--threshold", "1.5") == 2
    assert "probability" in capsys.readouterr().err
