"""What `sharding pack` is asked to leave out is left out, counted, and nothing else."""

import pytest

from sharding.dataset import read_index
from sharding.errors import UserError
from sharding.pack import pack
from sharding.packing.selection import Selection


def packed_rows(folder, out, **selection):
    dataset = pack("pretrain_110k", folder, out, selection=Selection(**selection)).dataset
    return sorted(row for shard in dataset.shards for row in read_index(dataset, shard)["row"].to_pylist()), dataset


@pytest.fixture
def scored(pretrain):
    """Ten images of scores 0 to 8 and one without; every fifth is of split val, the odd ones are of another source."""
    changes = {n: {"score": float(n), "source": ("IUST_PersonReID", "ENTIRe-ID")[n % 2]} for n in range(9)}
    return pretrain(10, {**changes, 9: {"score": None}})


@pytest.mark.parametrize(
    ("selection", "rows"),
    [
        ({"min_score": 3.0}, [3, 4, 5, 6, 7, 8]),
        ({"splits": ("val",)}, [4, 9]),
        ({"sources": ("ENTIRe-ID",)}, [1, 3, 5, 7]),
        ({"limit": 3}, [0, 1, 2]),
        ({"splits": ("train",), "min_score": 2.0, "limit": 4}, [2, 3, 5, 6]),
    ],
)
def test_the_rows_that_pass_are_packed_and_the_others_counted(scored, tmp_path, selection, rows):
    found, dataset = packed_rows(scored, tmp_path / "out", **selection)
    assert found == rows
    assert dataset.counts["rejects"] == 0
    assert dataset.counts["left_out"] == (10 if "limit" not in selection else max(rows) + 1) - len(rows)


@pytest.mark.parametrize(("captions", "words"), [("all", [[2, 5]]), ("first", [[2]]), ("longest", [[5]])])
def test_captions_are_all_kept_or_one(pretrain, tmp_path, captions, words):
    folder = pretrain(1, {0: {"captions": ["A man.", "A man in a coat."]}})
    _, dataset = packed_rows(folder, tmp_path / "out", captions=captions)
    assert read_index(dataset, dataset.shards[0])["caption_words"].to_pylist() == words


def test_a_selection_that_leaves_nothing_says_what_there_is(scored, tmp_path):
    with pytest.raises(UserError, match="left out 1 by no score, 9 by score; its splits: train, val; its sources"):
        packed_rows(scored, tmp_path / "out", min_score=10.0)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"splits": ("train", "vla")}, "no image is of split vla; its splits: train, val"),
        ({"sources": ("ENTIReID",)}, "no image is of source ENTIReID; its sources: ENTIRe-ID, IUST_PersonReID"),
    ],
)
def test_a_misspelt_split_or_source_is_told(scored, tmp_path, asked, told):
    with pytest.raises(UserError, match=told):
        packed_rows(scored, tmp_path / "out", **asked)
    assert not (tmp_path / "out").exists()


def test_triplets_of_images_left_out_are_left_out(write_json, picture, tmp_path):
    rows = [
        {
            "reference_caption": f"A {n}.",
            "target_caption": f"B {n}.",
            "reference_image_path": f"{n}.png",
            "target_image_path": f"{n + 1}.png",
            "edit_caption": "x",
            "cpr_id": n,
        }
        for n in range(4)
    ]
    folder = write_json("SynCPR.json", rows, {f"{n}.png": picture(n, "PNG") for n in range(5)})
    counts = pack("syncpr", folder, tmp_path / "out", selection=Selection(limit=3)).dataset.counts
    assert (counts["images"], counts["triplets"], counts["left_out"]) == (3, 2, 4)
