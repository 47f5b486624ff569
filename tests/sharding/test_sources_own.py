"""One's own data: JSON lines and plain folders."""

import json
import os

import pytest

from sharding.errors import UserError
from sharding.record import Extent, Record, Reject
from sharding.sources import OWN_DATA
from sharding.store import LocalStore
from tests.sharding.raw import records, rejected


def read(kind, folder):
    return list(OWN_DATA[kind](LocalStore(folder), "mine").rows)


@pytest.fixture
def jsonl(tmp_path):
    """A function (records or lines) → the rows read."""

    def rows(*lines, name="data.jsonl", end="\n"):
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (tmp_path / name).write_bytes("".join(text + end for text in texts).encode("utf-8", "surrogatepass"))
        return read("jsonl", tmp_path)

    return rows


def test_an_image_is_all_that_a_record_needs(jsonl):
    assert jsonl({"image": "a/1.jpg"}) == [
        Record(0, Extent("a/1.jpg"), (), "mine:a/1.jpg", "mine", "train", "a/1.jpg"),
    ]


def test_a_record_may_say_all_that_a_shard_holds(jsonl):
    line = {
        "image": "1.jpg", "captions": ["a", "b", "c", " "], "identity": 12, "split": "gallery", "source": "lobby",
        "score": 3, "instance_id": -1, "camera": "passed over",
    }  # fmt: skip
    (row,) = jsonl(line)
    assert row == Record(
        0, Extent("1.jpg"), ("a", "b", "c"), "lobby:12", "lobby", "gallery", "1.jpg", 3.0, -1, dropped_captions=1
    )


def test_ids_are_unique_within_their_source_alone(jsonl):
    rows = jsonl(
        {"image": "1.jpg", "identity": "7"},
        {"image": "2.jpg", "identity": 7},
        {"image": "3.jpg", "identity": 7, "source": "lobby"},
        {"image": "4.jpg", "identity": "lobby:7", "source": "lobby"},
        {"image": "5.jpg", "source": "lobby"},
    )
    assert [r.identity for r in rows] == ["mine:7", "mine:7", "lobby:7", "lobby:7", "lobby:5.jpg"]


@pytest.mark.parametrize(
    ("line", "captions", "reason"),
    [
        ({"caption": "one"}, ("one",), None),
        ({"captions": "bare"}, ("bare",), None),
        ({"captions": []}, (), None),
        ({"captions": None, "caption": None}, (), None),
        ({"captions": [""]}, None, "captions: empty"),
        ({"caption": " "}, None, "caption: empty"),
        ({"captions": ["\ud800"]}, None, "captions: not valid Unicode text"),
        ({"captions": ["a"], "caption": "b"}, None, "caption: given beside captions"),
        ({"captions": {"en": "a"}}, None, "captions: a list of strings was expected, found object"),
    ],
)
def test_captions_are_a_list_a_string_or_none_at_all(jsonl, line, captions, reason):
    (row,) = jsonl({"image": "1.jpg", **line})
    assert row.reason == reason if isinstance(row, Reject) else (row.captions, reason) == (captions, None)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"file_path": "1.jpg"}, "image: missing"),
        ({"image": "../1.jpg"}, "image: leads out of the input folder"),
        ({"image": "first.jpg"}, "image: already given by an earlier row"),
        ({"image": "./first.jpg"}, "image: already given by an earlier row"),
        ({"image": "1.jpg", "split": "trian"}, "split: none of train, val, test, query, gallery, all"),
        ({"image": "1.jpg", "identity": ["7"]}, "identity: a string was expected, found list"),
        ({"image": "1.jpg", "source": "a:b"}, "source: a colon would make its identities ambiguous"),
        ({"image": "1.jpg", "score": "high"}, "score: a number was expected, found string"),
        ({"image": "1.jpg", "instance_id": 2**63}, "instance_id: beyond 64 bits"),
        ("[1]", "row: an object was expected, found list"),
        ('{"image": "1.jpg"', "row: not valid JSON"),
        ('{"image": "1.jpg"} 2', "row: not valid JSON"),
        ("[" * 100_000, "row: not valid JSON"),
        ('{"image": "\ud800"}', "row: not valid UTF-8"),
    ],
)
def test_a_bad_line_is_refused_by_its_number_alone(jsonl, line, reason):
    rows = jsonl({"image": "first.jpg"}, "", line, {"image": "last.jpg"})
    assert rejected(rows) == {2: reason}
    assert [r.row for r in records(rows)] == [0, 3]


def test_lines_may_end_as_windows_ends_them_after_a_byte_order_mark(jsonl):
    rows = jsonl('\ufeff{"image": "1.jpg"}', '{"image": "2.jpg"}', end="\r\n")
    assert [r.file_path for r in rows] == ["1.jpg", "2.jpg"]


def test_the_only_jsonl_file_may_have_any_name_and_two_are_not_guessed_from(jsonl, tmp_path):
    assert len(jsonl({"image": "1.jpg"}, name="people.jsonl")) == 1
    (tmp_path / "b.jsonl").touch()
    with pytest.raises(UserError, match=r"holds 2 \*\.jsonl files \(b\.jsonl, people\.jsonl\); expected data\.jsonl"):
        read("jsonl", tmp_path)
    assert len(jsonl({"image": "1.jpg"}, {"image": "2.jpg"})) == 2


@pytest.mark.parametrize("line", ["[", '[{"image": "1.jpg"}]', "image,caption", "\x00"])
def test_a_file_that_is_no_json_lines_is_told_on_opening(tmp_path, line):
    (tmp_path / "data.jsonl").write_text(f"\n{line}\n")
    with pytest.raises(UserError, match=r"data\.jsonl holds no JSON object in line 2 .*; one record a line"):
        OWN_DATA["jsonl"](LocalStore(tmp_path), "mine")


def test_a_line_without_an_end_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("sharding.sources.jsonl.LARGEST_ROW", 1 << 20)
    (tmp_path / "data.jsonl").write_text("[" + "1, " * (1 << 20))
    with pytest.raises(UserError, match="a line 1 of more than 1 MiB"):
        OWN_DATA["jsonl"](LocalStore(tmp_path), "mine")


def write(folder, **files):
    for name, data in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def test_a_folder_gives_every_image_at_any_depth_as_its_own_person_of_split_train(tmp_path):
    write(tmp_path, a_jpg=b"1", test__val__b_PNG=b"2", test__c_jpeg=b"3", d_bmp=b"4", e_pdf=b"5")
    rows = read("folder", tmp_path)
    assert [(r.row, r.file_path, r.split, r.captions) for r in rows] == [
        (0, "a.jpg", "train", ()),
        (1, "d.bmp", "train", ()),
        (2, "test/c.jpeg", "train", ()),
        (3, "test/val/b.PNG", "train", ()),
    ]
    assert [r.identity for r in rows] == [f"mine:{r.file_path}" for r in rows]


def test_captions_lie_beside_their_image_one_a_line(tmp_path):
    text = "\ufeffA man.\r\n\r\n  A tall  man. \r\n\u200b\r\n".encode()
    write(tmp_path, a_jpg=b"1", a_txt=text, b__a_jpg=b"2", c_jpg=b"3", c_txt=b" \n")
    rows = read("folder", tmp_path)
    assert [(r.file_path, r.captions, r.dropped_captions) for r in rows] == [
        ("a.jpg", ("A man.", "A tall man."), 1),
        ("b/a.jpg", (), 0),
        ("c.jpg", (), 0),
    ]


def test_nothing_of_a_folder_is_lost_without_a_word(tmp_path):
    write(tmp_path, a_jpg=b"1", a_txt=b"\xff", b_webp=b"2", c_txt=b"alone", d_jpg=b"3", d_txt=bytes((1 << 20) + 1))
    (tmp_path / os.fsdecode(b"\xff.jpg")).write_bytes(b"4")
    rows = read("folder", tmp_path)
    assert [(r.file_path, r.reason) for r in rows] == [
        ("a.jpg", "captions: not valid UTF-8"),
        ("b.webp", "image: one of .jpg, .jpeg, .png, .bmp was expected, found .webp"),
        ("d.jpg", "captions: more than 1 MiB"),
        ("\\udcff.jpg", "image: the file's name is not valid Unicode text"),
        ("c.txt", "captions: no image of that name beside them"),
    ]
    assert [r.row for r in rows] == [0, 1, 2, 3, 4]


def test_a_folder_without_images_is_told_on_opening(tmp_path):
    write(tmp_path, a_txt=b"1", b_webp=b"2")
    with pytest.raises(UserError, match=r"holds no images \(\.jpg, \.jpeg, \.png, \.bmp\)"):
        OWN_DATA["folder"](LocalStore(tmp_path), "mine")
