"""Each raw layout, with the traps its corpus is known for, becomes the right records and rejects."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from sharding.errors import UserError
from sharding.record import Record, Reject, Triplet
from sharding.sources import SOURCES
from sharding.sources.annotation import clean_caption


def read(source, folder):
    return list(SOURCES[source](folder).rows)


def rejected(rows):
    return {row.row: row.reason for row in rows if isinstance(row, Reject)}


def test_pretrain_identities_are_unique_over_sources_and_survive_odd_integers(pretrain):
    folder = pretrain(3, {0: {"ID": "0", "id": 900}, 1: {"ID": "0", "id": 5, "source": "ENTIRe-ID"}})
    records = read("pretrain_110k", folder)
    assert [r.identity for r in records] == ["IUST_PersonReID:0", "ENTIRe-ID:0", "IUST_PersonReID:1"]
    assert records[0].image == folder / "imgs" / "IUSTPersonReID/0_1_0_0.jpg"
    assert (records[0].score, records[0].split, len(records[0].captions)) == (3.5, "train", 2)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"captions": "One caption."}, None),
        ({"captions": ["", "Still here."]}, None),
        ({"score": None}, None),
        ({"captions": []}, "captions: empty"),
        ({"captions": [" \n"]}, "captions: empty"),
        ({"captions": ["\ud800"]}, "captions: not valid Unicode text"),
        ({"captions": ["\u200b \0"]}, "captions: empty"),
        ({"captions": ["fine", 3]}, "captions: strings were expected, found integer"),
        ({"captions": None}, "captions: a list of strings was expected, found null"),
        ({"file_path": 7}, "file_path: a string was expected, found integer"),
        ({"file_path": "../../etc/passwd"}, "file_path: leads out of the input folder"),
        ({"file_path": "/etc/passwd"}, "file_path: leads out of the input folder"),
        ({"file_path": "a\0b"}, "file_path: holds a control character"),
        ({"file_path": "\udcff.jpg"}, "file_path: not valid Unicode text"),
        ({"split": "trian"}, "split: none of train, val, test"),
        ({"file_path": "IUSTPersonReID/0_1_0_0.jpg"}, "file_path: already given by an earlier row"),
        ({"ID": 12}, "ID: a string was expected, found integer"),
        ({"source": "a:b"}, "source: a colon would make its identities ambiguous"),
        ({"score": True}, "score: a number was expected, found boolean"),
        ({"score": float("nan")}, "score: not a finite number"),
    ],
)
def test_a_bad_field_rejects_its_row_by_number_and_a_harmless_one_does_not(pretrain, change, reason):
    rows = read("pretrain_110k", pretrain(3, {1: change}))
    assert rejected(rows) == ({1: reason} if reason else {})
    assert len(rows) == 3


def test_rows_that_are_no_objects_or_lack_a_field_are_rejected(write_json):
    rows = read("cuhk_pedes", write_json("reid_raw.json", [None, [], {"file_path": "a.jpg", "captions": "x"}], {}))
    assert rejected(rows) == {
        0: "row: an object was expected, found null",
        1: "row: an object was expected, found list",
        2: "id: missing",
    }


def test_captions_are_nfc_with_single_spaces():
    assert clean_caption("  a cafe\u0301\n\tterrace ") == "a café terrace"
    assert clean_caption("a \udc80 b") == ""


def test_cuhk_pedes_takes_any_number_of_captions_and_one_based_ids(write_json):
    row = {"split": "train", "file_path": "cam_a/1.bmp", "id": 1, "processed_tokens": [["a"]]}
    rows = [
        row | {"captions": list("abcd")},
        row | {"captions": "bare", "split": "test", "id": 2, "file_path": "b.jpg"},
    ]
    records = read("cuhk_pedes", write_json("reid_raw.json", rows, {}))
    assert [(r.identity, r.captions, r.split) for r in records] == [
        ("cuhk_pedes:1", ("a", "b", "c", "d"), "train"),
        ("cuhk_pedes:2", ("bare",), "test"),
    ]


def test_cuhk_pedes_refuses_a_repeated_image(write_json):
    row = {"split": "train", "file_path": "1.bmp", "id": 1, "captions": ["a"]}
    rows = read("cuhk_pedes", write_json("reid_raw.json", [row | {"split": "?"}, row, row], {}))
    assert rejected(rows) == {0: "split: none of train, val, test", 2: "file_path: already given by an earlier row"}


def test_cuhk_pedes_without_splits_never_becomes_training_data(write_json):
    folder = write_json("caption_all.json", [{"file_path": "x.jpg", "id": 1, "captions": ["a"]}], {})
    assert [r.split for r in read("cuhk_pedes", folder)] == ["all"]


def test_icfg_pedes_takes_both_names_ids_from_0_and_the_split_from_its_field_alone(write_json):
    row = {"split": "test", "file_path": "train/0000/a.jpg", "id": 0, "processed_tokens": [["a"]], "captions": ["a b"]}
    rows = [row, row | {"split": "train", "file_path": "test/0001/b.jpg", "id": 1, "captions": "bare"}]
    for name in ("ICFG_PEDES.json", "ICFG-PEDES.json"):
        folder = write_json(name, rows, {})
        records = read("icfg_pedes", folder)
        assert [(r.identity, r.captions, r.split) for r in records] == [
            ("icfg_pedes:0", ("a b",), "test"),
            ("icfg_pedes:1", ("bare",), "train"),
        ]
        assert records[0].image == folder / "imgs/train/0000/a.jpg"
        (folder / name).unlink()


def test_rstpreid_names_its_images_img_path_in_records_and_rejects(write_json):
    row = {"id": 0, "img_path": "0000_c14_0031.jpg", "captions": ["a", "b"], "split": "val"}
    rows = [row, row, row | {"img_path": "../x.jpg"}, row | {"img_path": "y.jpg", "id": "0"}, {"file_path": "z.jpg"}]
    folder = write_json("data_captions.json", rows, {})
    out = read("rstpreid", folder)
    assert [(r.identity, r.file_path, r.image) for r in out if isinstance(r, Record)] == [
        ("rstpreid:0", "0000_c14_0031.jpg", folder / "imgs/0000_c14_0031.jpg")
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
    folder = write_json(name, [row, row | {"split": "test", "id": 2, "file_path": "2.jpg"}], {})
    records = read("ufine6926", folder)
    assert [(r.identity, r.split, r.source) for r in records] == [
        ("ufine6926:1", "train", "ufine6926"),
        ("ufine6926:2", "test", "ufine6926"),
    ]
    assert records[0].image == folder / "images/00001/1.jpg"


@pytest.mark.parametrize("source", ["ufine6926", "ufine3c"])
def test_two_json_files_are_listed_rather_than_one_guessed(write_json, source):
    write_json("a.json", [], {})
    with pytest.raises(UserError, match=r"holds 2 \*\.json files \(a\.json, b\.json\); expected one"):
        SOURCES[source](write_json("b.json", [], {}))


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
    assert [(r.identity, r.source, r.split, len(r.captions)) for r in out if isinstance(r, Record)] == [
        ("CUHK-PEDES:7", "CUHK-PEDES", "test", 3),
        ("ICFG-PEDES:7", "ICFG-PEDES", "test", 3),
    ]
    assert rejected(out) == {
        2: "split: UFine3C is for evaluation only, test was expected",
        3: "source: a colon would make its identities ambiguous",
        4: "source: missing",
    }


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
        syncpr_row("r1.png", "l1.png", 1, ("In blue.", "In red.")),
        syncpr_row("l2.png", "r2.png", 0),
        syncpr_row("l3.png", "r3.png", 6, ("A hat.", "No hat.")),
        syncpr_row("l3.png", 5, 6),
    ]
    out = read("syncpr", write_json("SynCPR.json", rows, {}))
    records = [row for row in out if isinstance(row, Record)]
    assert [(r.file_path, r.identity, r.captions[0], r.row) for r in records] == [
        ("l1.png", "syncpr:0-reference", "In red.", 0),
        ("r1.png", "syncpr:0-target", "In blue.", 0),
        ("l2.png", "syncpr:0-reference", "In red.", 2),
        ("r2.png", "syncpr:0-target", "In blue.", 2),
        ("l3.png", "syncpr:6-reference", "A hat.", 3),
        ("r3.png", "syncpr:6-target", "No hat.", 3),
    ]
    triplets = [(t.reference, t.target, t.cpr_id) for t in out if isinstance(t, Triplet)]
    assert triplets == [(0, 1, 0), (1, 0, 1), (2, 3, 0), (4, 5, 6)]
    assert rejected(out) == {4: "target_image_path: a string was expected, found integer"}


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


def write_arrow(path: Path, images, captions, ids, splits):
    table = pa.table({"image": images, "caption": captions, "image_id": ids, "split": splits})
    path.parent.mkdir(exist_ok=True)
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)


def test_luperson_t_gives_every_image_its_own_identity_over_all_its_arrow_files(tmp_path, picture):
    folder = tmp_path / "raw"
    write_arrow(folder / "LUPerson_train.arrow", [picture(1), b""], [["a", "b"], ["c"]], ["x", "y"], ["train"] * 2)
    write_arrow(folder / "LUPerson_restval.arrow", [picture(2), picture(3)], [["d"], []], ["z", "u"], ["restval"] * 2)
    write_arrow(folder / "LUPerson_test.arrow", [picture(4), None], [["e"], ["f"]], ["x", "v"], ["test"] * 2)
    rows = read("luperson_t", folder)
    identities = [(r.row, r.identity, r.split) for r in rows if isinstance(r, Record)]
    assert identities == [(n, f"luperson_t:{i}", "train") for n, i in enumerate("xyz")]
    assert rejected(rows) == {
        3: "captions: empty",
        4: "image_id: already given by an earlier row",
        5: "image: bytes were expected, found null",
    }


def test_luperson_t_takes_integer_image_ids(tmp_path, picture):
    path = tmp_path / "raw" / "LUPerson_train.arrow"
    write_arrow(path, [picture()] * 2, ["a", "b"], [7, 7], ["train"] * 2)
    rows = read("luperson_t", path.parent)
    assert rows[0].identity == "luperson_t:7"
    assert rejected(rows) == {1: "image_id: already given by an earlier row"}


def test_luperson_t_survives_arrow_strings_that_are_not_utf8(tmp_path, picture):
    ids = pa.array([b"ok", b"\xff\xfe", b"fine"]).cast(pa.binary()).view(pa.string())
    path = tmp_path / "raw" / "LUPerson_val.arrow"
    write_arrow(path, [picture()] * 3, [["a"]] * 3, ids, ["val"] * 3)
    rows = read("luperson_t", path.parent)
    assert rejected(rows) == {1: "row: not valid Unicode text"}
    assert [r.row for r in rows if isinstance(r, Record)] == [0, 2]


def test_luperson_t_is_also_read_from_a_json_list(write_json):
    row = {"file_path": "a/b.jpg", "captions": ["x", "y"]}
    rows = [row, row | {"file_path": "c.jpg", "split": "restval"}, row, row | {"file_path": "d.jpg", "split": None}]
    out = read("luperson_t", write_json("LUPerson-T.json", rows, {}))
    assert [(r.identity, r.split, r.captions) for r in out if isinstance(r, Record)] == [
        ("luperson_t:a/b.jpg", "train", ("x", "y")),
        ("luperson_t:c.jpg", "train", ("x", "y")),
    ]
    assert rejected(out) == {
        2: "file_path: already given by an earlier row",
        3: "split: a string was expected, found null",
    }


def test_luperson_t_refuses_two_columns_of_one_name(tmp_path):
    table = pa.table([[b""], ["a"], ["x"], ["y"], ["train"]], ["image", "caption", "image_id", "image_id", "split"])
    with pa.ipc.new_file(str(tmp_path / "LUPerson_train.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(UserError, match="more than one column image_id"):
        SOURCES["luperson_t"](tmp_path)


def test_an_annotation_that_may_not_be_read_is_not_called_invalid(pretrain, monkeypatch):
    folder = pretrain(1)
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: (_ for _ in ()).throw(PermissionError(13, "Permission denied"))
    )
    with pytest.raises(UserError, match=r"PRETRAIN_110K\.json cannot be read: Permission denied"):
        SOURCES["pretrain_110k"](folder)


@pytest.mark.parametrize("text", ["{", "3", "\x80", "[" * 100_000], ids=["cut", "number", "bytes", "deep"])
@pytest.mark.parametrize(("source", "name"), [("pretrain_110k", "PRETRAIN_110K.json"), ("syncpr", "SynCPR.json")])
def test_a_broken_annotation_is_one_line(tmp_path, source, name, text):
    (tmp_path / name).write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=name) as error:
        SOURCES[source](tmp_path)
    assert "\n" not in str(error.value)


def test_a_cut_arrow_file_is_one_line(tmp_path, picture):
    path = tmp_path / "raw" / "LUPerson_train.arrow"
    write_arrow(path, [picture()] * 9, ["a"] * 9, range(9), ["train"] * 9)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="not an Arrow IPC file"):
        SOURCES["luperson_t"](path.parent)


@pytest.mark.parametrize("source", SOURCES)
def test_an_empty_folder_is_told_which_file_is_missing(tmp_path, source):
    with pytest.raises(UserError, match=r"\.json|\.arrow"):
        SOURCES[source](tmp_path)


def test_a_byte_order_mark_is_harmless(tmp_path):
    row = {"file_path": "x.jpg", "id": 1, "captions": ["a"], "split": "val"}
    (tmp_path / "reid_raw.json").write_text("\ufeff" + json.dumps([row]))
    assert [r.identity for r in read("cuhk_pedes", tmp_path)] == ["cuhk_pedes:1"]
