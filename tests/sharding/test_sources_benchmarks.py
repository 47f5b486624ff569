"""The benchmarks' layouts, with the traps each of them is known for."""

import pytest

from sharding.errors import UserError
from sharding.record import Reject, Size
from sharding.sources import SOURCES
from sharding.sources.published import published_sizes
from sharding.store import LocalStore
from tests.sharding.raw import read, records, rejected


def test_cuhk_pedes_takes_any_number_of_captions_and_one_based_ids(write_json):
    row = {"split": "train", "file_path": "cam_a/1.bmp", "id": 1, "processed_tokens": [["a"]]}
    rows = [
        row | {"captions": list("abcd")},
        row | {"captions": "bare", "split": "test", "id": 2, "file_path": "b.jpg"},
    ]
    out = read("cuhk_pedes", write_json("reid_raw.json", rows, {}))
    assert [(r.identity, r.captions, r.split) for r in out] == [
        ("cuhk_pedes:1", ("a", "b", "c", "d"), "train"),
        ("cuhk_pedes:2", ("bare",), "test"),
    ]


def test_cuhk_pedes_refuses_a_repeated_image(write_json):
    row = {"split": "train", "file_path": "1.bmp", "id": 1, "captions": ["a"]}
    rows = read("cuhk_pedes", write_json("reid_raw.json", [row | {"split": "?"}, row, row], {}))
    assert rejected(rows) == {0: "split: none of train, val, test", 2: "file_path: already given by an earlier row"}


def test_cuhk_pedes_without_splits_never_becomes_training_data(write_json):
    folder = write_json("caption_all.json", [{"file_path": "x.jpg", "id": 1, "captions": ["a"]}], {})
    raw = SOURCES["cuhk_pedes"](LocalStore(folder))
    sizes = {"all": Size(34_054 + 3_078 + 3_074, 68_126 + 6_158 + 6_156, 13_003)}
    assert published_sizes("cuhk_pedes", ["all"]) == sizes
    assert [r.split for r in raw.rows] == ["all"]


def test_cuhk_pedes_prefers_the_annotation_with_splits(write_json):
    write_json("caption_all.json", [], {})
    raw = SOURCES["cuhk_pedes"](LocalStore(write_json("reid_raw.json", [], {})))
    assert raw.annotations == ("reid_raw.json",)


def test_icfg_pedes_takes_both_names_ids_from_0_and_the_split_from_its_field_alone(write_json):
    row = {"split": "test", "file_path": "train/0000/a.jpg", "id": 0, "processed_tokens": [["a"]], "captions": ["a b"]}
    rows = [row, row | {"split": "train", "file_path": "test/0001/b.jpg", "id": 1, "captions": "bare"}]
    for name in ("ICFG_PEDES.json", "ICFG-PEDES.json"):
        folder = write_json(name, rows, {})
        out = read("icfg_pedes", folder)
        assert [(r.identity, r.captions, r.split) for r in out] == [
            ("icfg_pedes:0", ("a b",), "test"),
            ("icfg_pedes:1", ("bare",), "train"),
        ]
        assert out[0].image.path == "imgs/train/0000/a.jpg"
        (folder / name).unlink()


def test_rstpreid_names_its_images_img_path_in_records_and_rejects(write_json):
    row = {"id": 0, "img_path": "0000_c14_0031.jpg", "captions": ["a", "b"], "split": "val"}
    rows = [row, row, row | {"img_path": "../x.jpg"}, row | {"img_path": "y.jpg", "id": "0"}, {"file_path": "z.jpg"}]
    out = read("rstpreid", write_json("data_captions.json", rows, {}))
    assert [(r.identity, r.file_path, r.image.path) for r in records(out)] == [
        ("rstpreid:0", "0000_c14_0031.jpg", "imgs/0000_c14_0031.jpg")
    ]
    assert [(r.row, r.file_path, r.reason) for r in out if isinstance(r, Reject)] == [
        (1, "0000_c14_0031.jpg", "img_path: already given by an earlier row"),
        (2, "../x.jpg", "img_path: leads out of the input folder"),
        (3, "y.jpg", "id: an integer was expected, found string"),
        (4, "", "img_path: missing"),
    ]


@pytest.mark.parametrize("name", ["UFine6926.json", "annotations.json"])
def test_ufine6926_takes_its_only_json_whatever_the_name_and_images_below_images(write_json, name):
    row = {"split": "train", "id": 1, "file_path": "00001/1.jpg", "captions": ["a", "b"]}
    rows = [row, row | {"split": "test", "id": 2, "file_path": "2.jpg"}]
    out = read("ufine6926", write_json(name, rows, {"images/other.json": b"[]"}))
    assert [(r.identity, r.split, r.source) for r in out] == [
        ("ufine6926:1", "train", "ufine6926"),
        ("ufine6926:2", "test", "ufine6926"),
    ]
    assert out[0].image.path == "images/00001/1.jpg"


@pytest.mark.parametrize("source", ["ufine6926", "ufine3c"])
def test_two_json_files_are_listed_rather_than_one_guessed(write_json, source):
    write_json("a.json", [], {})
    with pytest.raises(UserError, match=r"holds 2 \*\.json files \(a\.json, b\.json\); expected one"):
        SOURCES[source](LocalStore(write_json("b.json", [], {})))


def test_ufine3c_tells_the_people_of_its_sources_apart_and_is_never_training_data(write_json):
    row = {"id": 7, "source": "CUHK-PEDES", "split": "test", "file_path": "a.jpg", "captions": ["a", "b", "c"]}
    rows = [
        row,
        row | {"source": "ICFG-PEDES", "file_path": "b.jpg"},
        row | {"split": "train", "file_path": "c.jpg"},
        row | {"source": "a:b", "file_path": "d.jpg"},
        {name: value for name, value in row.items() if name != "source"},
    ]
    out = read("ufine3c", write_json("UFine3C.json", rows, {}))
    assert [(r.identity, r.source, r.split, len(r.captions)) for r in records(out)] == [
        ("CUHK-PEDES:7", "CUHK-PEDES", "test", 3),
        ("ICFG-PEDES:7", "ICFG-PEDES", "test", 3),
    ]
    assert rejected(out) == {
        2: "split: UFine3C is for evaluation only, test was expected",
        3: "source: a colon would make its identities ambiguous",
        4: "source: missing",
    }
