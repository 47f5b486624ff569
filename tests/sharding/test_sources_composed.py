"""Composed person retrieval: SynCPR's triplets over images stored once, ITCPR's queries and gallery."""

import json
import tracemalloc

import pytest

from sharding.errors import UserError
from sharding.record import Triplet
from sharding.sources import SOURCES
from sharding.store import LocalStore
from tests.sharding.raw import read, records, rejected


def syncpr_row(left, right, cpr_id, captions=("In red.", "In blue."), edit="Wearing blue."):
    return {
        "reference_caption": captions[0],
        "target_caption": captions[1],
        "reference_image_path": left,
        "target_image_path": right,
        "edit_caption": edit,
        "cpr_id": cpr_id,
    }


def test_syncpr_stores_each_image_once_and_keeps_all_triplets(write_json):
    rows = [
        syncpr_row("l1.png", "r1.png", 0),
        syncpr_row("r1.png", "l1.png", 1, ("In blue.", "In red."), edit="Wearing red."),
        syncpr_row("l2.png", "r2.png", 0),
        syncpr_row("l3.png", "r3.png", 6, ("A hat.", "No hat.")),
        syncpr_row("l3.png", 5, 6),
    ]
    out = read("syncpr", write_json("SynCPR.json", rows, {}))
    assert [(r.file_path, r.identity, r.captions[0], r.row) for r in records(out)] == [
        ("l1.png", "syncpr:0-reference", "In red.", 0),
        ("r1.png", "syncpr:0-target", "In blue.", 0),
        ("l2.png", "syncpr:0-reference", "In red.", 2),
        ("r2.png", "syncpr:0-target", "In blue.", 2),
        ("l3.png", "syncpr:6-reference", "A hat.", 3),
        ("r3.png", "syncpr:6-target", "No hat.", 3),
    ]
    triplets = [row for row in out if isinstance(row, Triplet)]
    assert triplets == [
        Triplet(0, 0, 1, "Wearing blue.", 0),
        Triplet(1, 1, 0, "Wearing red.", 1),
        Triplet(2, 2, 3, "Wearing blue.", 0),
        Triplet(3, 4, 5, "Wearing blue.", 6),
    ]
    assert out[-len(triplets) :] == triplets
    assert rejected(out) == {4: "target_image_path: a string was expected, found integer"}


def test_syncpr_keeps_every_caption_of_an_image_and_the_smallest_place_of_the_first(write_json):
    rows = [
        syncpr_row("a.png", "b.png", 9, ("Red.", "Blue.")),
        syncpr_row("a.png", "c.png", 8, ("Green.", "Red.")),
        syncpr_row("a.png", "b.png", 7, ("Green.", "Blue.")),
        syncpr_row("b.png", "a.png", 2**63 - 1, ("Blue.", "Black.")),
    ]
    out = records(read("syncpr", write_json("SynCPR.json", rows, {})))
    assert [(r.file_path, r.captions, r.identity) for r in out] == [
        ("a.png", ("Red.", "Green.", "Black."), "syncpr:8-target"),
        ("b.png", ("Blue.",), "syncpr:7-target"),
        ("c.png", ("Red.",), "syncpr:8-target"),
    ]


@pytest.mark.parametrize("field", ["edit_caption", "reference_caption", "target_caption"])
def test_syncpr_captions_are_plain_strings(write_json, field):
    row = syncpr_row("l.png", "r.png", 0)
    changed = [row | {field: value} for value in (["In red."], 3, "")] + [{k: row[k] for k in row if k != field}]
    assert rejected(read("syncpr", write_json("SynCPR.json", changed, {}))) == {
        0: f"{field}: a string was expected, found list",
        1: f"{field}: a string was expected, found integer",
        2: f"{field}: empty",
        3: f"{field}: missing",
    }


def test_syncpr_holds_a_million_triplets_in_300_megabytes(tmp_path):
    """Every quadruple has two captions and two edits of ~13 words and four pairs of images, each told both ways."""
    words = "the young woman with black hair is wearing an ebony black blouse and"
    with (tmp_path / "SynCPR.json").open("w") as file:
        for number in range(1000):
            told = [f"{words} {4 * number + part}" for part in range(4)]
            for pair in range(4):
                left = f"test2/sub_img/img_left/{number}-{pair}_left.png"
                right = left.replace("left", "right")
                both = [
                    syncpr_row(left, right, 2 * number, (told[0], told[1]), told[2]),
                    syncpr_row(right, left, 2 * number + 1, (told[1], told[0]), told[3]),
                ]
                file.write("[" if not (number or pair) else ", ")
                file.write(", ".join(map(json.dumps, both)))
        file.write("]")
    rows = SOURCES["syncpr"](LocalStore(tmp_path)).rows
    tracemalloc.start()
    next(rows)
    held = tracemalloc.get_traced_memory()[0] - (4 << 20)  # the window
    tracemalloc.stop()
    assert held / 8_000 * 1e6 < 300e6


QUERY = {
    "file_path": "Celeb-reID/001/1_1_0.jpg", "datasets": "Celeb-reID", "person_id": 1, "instance_id": 1,
    "caption": "Wearing a brown plaid shirt",
}  # fmt: skip
IMAGE = {"file_path": "Celeb-reID/001/1_2_0.jpg", "datasets": "Celeb-reID", "person_id": 1, "instance_id": 1}


@pytest.fixture
def itcpr(tmp_path):
    """A function (queries, gallery) → the rows read."""

    def rows(queries, gallery):
        (tmp_path / "query.json").write_text(json.dumps(queries))
        (tmp_path / "gallery.json").write_text(json.dumps(gallery))
        return read("itcpr", tmp_path)

    return rows


def test_itcpr_has_queries_with_captions_and_a_gallery_without(itcpr):
    distractor = {"file_path": "PRCC/train/a.jpg", "datasets": "PRCC", "person_id": 1, "instance_id": -1}
    query, target, other = itcpr([QUERY], [IMAGE, distractor])
    assert query[1:9] == (
        ("Celeb-reID/001/1_1_0.jpg", 0, -1), ("Wearing a brown plaid shirt",), "Celeb-reID:1", "Celeb-reID",
        "query", "Celeb-reID/001/1_1_0.jpg", None, 1,
    )  # fmt: skip
    assert [(r.row, r.split, r.identity, r.captions, r.instance_id) for r in (target, other)] == [
        (1, "gallery", "Celeb-reID:1", (), 1),
        (2, "gallery", "PRCC:1", (), -1),
    ]


def test_itcpr_keeps_a_repeated_gallery_image_once_where_its_rows_agree(itcpr):
    assert rejected(itcpr([QUERY], [IMAGE, IMAGE])) == {2: "file_path: already given by an earlier row"}


def test_itcpr_keeps_a_repeated_gallery_image_as_the_target_of_each_instance(itcpr):
    rows = itcpr([QUERY], [IMAGE, IMAGE | {"instance_id": 2}])
    assert [(r.file_path, r.instance_id) for r in rows[1:]] == [(IMAGE["file_path"], 1), (IMAGE["file_path"], 2)]


@pytest.mark.parametrize("distractor", [1, 2])
def test_itcpr_never_takes_a_target_for_a_distractor_as_well(itcpr, distractor):
    gallery = [IMAGE]
    gallery.insert(distractor - 1, IMAGE | {"instance_id": -1})
    rows = itcpr([QUERY], gallery)
    assert rejected(rows) == {distractor: "file_path: a distractor here, but a target in another row"}
    assert [r.instance_id for r in records(rows)] == [1, 1]


def test_itcpr_keeps_a_distractor_whose_row_as_a_target_is_of_no_use(itcpr):
    rows = itcpr([QUERY], [IMAGE | {"person_id": None}, IMAGE | {"instance_id": -1}])
    assert rejected(rows) == {1: "person_id: a string was expected, found null"}
    assert rows[2].instance_id == -1


def test_itcpr_asks_of_one_image_more_than_once_but_never_the_same(itcpr):
    rows = itcpr([QUERY, QUERY | {"caption": "In red"}, QUERY | {"instance_id": 2}, QUERY], [])
    assert rejected(rows) == {3: "file_path: already given by an earlier row"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"instance_id": -1}, "instance_id: a query asks for one, -1 is none"),
        ({"instance_id": -2}, "instance_id: below -1"),
        ({"instance_id": "1"}, "instance_id: an integer was expected, found string"),
        ({"datasets": "a:b"}, "datasets: a colon would make its identities ambiguous"),
        ({"caption": None}, "caption: a list of strings was expected, found null"),
        ({"file_path": "../a.jpg"}, "file_path: leads out of the input folder"),
    ],
)
def test_itcpr_refuses_odd_queries(itcpr, change, reason):
    assert rejected(itcpr([QUERY | change], [IMAGE])) == {0: reason}


def test_itcpr_needs_both_files(itcpr, tmp_path):
    itcpr([QUERY], [IMAGE])
    raw = SOURCES["itcpr"](LocalStore(tmp_path))
    assert raw.annotations == ("query.json", "gallery.json")
    (tmp_path / "gallery.json").unlink()
    with pytest.raises(UserError, match=r"holds no gallery\.json"):
        SOURCES["itcpr"](LocalStore(tmp_path))
