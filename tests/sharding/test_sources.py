"""What holds for every raw layout: odd fields refuse their row alone, odd files are told in one line, on opening."""

import codecs
import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharding.errors import UserError
from sharding.record import Size
from sharding.sources import OWN_DATA, SOURCES
from sharding.sources.annotation import INVISIBLE, clean_caption, is_utf8
from sharding.sources.published import ALL_SPLITS, PUBLISHED, published_sizes
from sharding.store import LocalStore
from tests.sharding.raw import read, records, rejected

LISTS = {  # the sources whose annotation is a JSON list, and what it is called
    "pretrain_110k": "PRETRAIN_110K.json", "syncpr": "SynCPR.json", "cuhk_pedes": "reid_raw.json",
    "ufine6926": "any.json", "luperson_t": "any.json",
}  # fmt: skip


def test_pretrain_identities_are_unique_over_sources_and_survive_odd_integers(pretrain):
    folder = pretrain(3, {0: {"ID": "0", "id": 900}, 1: {"ID": "0", "id": 5, "source": "ENTIRe-ID"}})
    rows = read("pretrain_110k", folder)
    assert [r.identity for r in rows] == ["IUST_PersonReID:0", "ENTIRe-ID:0", "IUST_PersonReID:1"]
    assert rows[0].image == ("imgs/IUSTPersonReID/0_1_0_0.jpg", 0, -1)
    assert (rows[0].score, rows[0].split, len(rows[0].captions)) == (3.5, "train", 2)


def test_both_versions_of_pretrain_give_a_person_one_identity(pretrain):
    folder = pretrain(4)
    larger = read("pretrain_110k", folder)
    (folder / "PRETRAIN_110K.json").rename(folder / "PRETRAIN_41K.json")
    assert read("pretrain_41k", folder) == larger


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"captions": "One caption."}, None),
        ({"captions": ["", "Still here."]}, None),
        ({"captions": list("abcde")}, None),
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
        ({"file_path": "a..b/..c.jpg"}, None),
        ({"split": "trian"}, "split: none of train, val, test"),
        ({"split": ["train"]}, "split: a string was expected, found list"),
        ({"file_path": "IUSTPersonReID/0_1_0_0.jpg"}, "file_path: already given by an earlier row"),
        ({"file_path": "./IUSTPersonReID//0_1_0_0.jpg"}, "file_path: already given by an earlier row"),
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


def test_captions_lost_on_the_way_are_counted(pretrain):
    (row,) = read("pretrain_110k", pretrain(1, {0: {"captions": ["kept", "\ud800", " ", "kept too"]}}))
    assert (row.captions, row.dropped_captions) == (("kept", "kept too"), 2)


def test_captions_are_nfc_with_single_spaces():
    assert clean_caption("  a cafe\u0301\n\tterrace ") == "a café terrace"
    assert clean_caption("a \udc80 b") == ""


@given(st.text(st.one_of(st.characters(codec=None), st.sampled_from(" \t\r\n\0aé\u0301\ud800\u200b")), max_size=12))
def test_a_clean_caption_is_the_same_whichever_way_it_was_found_to_be_clean(caption):
    words = unicodedata.normalize("NFC", caption.replace("\0", " ")).split()
    visible = any(unicodedata.category(character) not in INVISIBLE for character in "".join(words))
    assert clean_caption(caption) == (" ".join(words) if visible and is_utf8(caption) else "")
    assert clean_caption(clean_caption(caption)) == clean_caption(caption)


def test_one_image_spelt_in_both_unicode_forms_is_one_image(pretrain):
    rows = read("pretrain_110k", pretrain(2, {0: {"file_path": "caf\u00e9.jpg"}, 1: {"file_path": "cafe\u0301.jpg"}}))
    assert rejected(rows) == {1: "file_path: already given by an earlier row"}
    assert (rows[0].image.path, rows[0].file_path) == ("imgs/caf\u00e9.jpg", "caf\u00e9.jpg")


@pytest.mark.parametrize(
    "text", ["{", "3", "", "\x80", '{"a": [1]}'], ids=["cut", "number", "empty", "bytes", "object"]
)
@pytest.mark.parametrize("source", LISTS)
def test_an_annotation_that_is_no_list_is_told_in_one_line_on_opening(tmp_path, source, text):
    (tmp_path / LISTS[source]).write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=LISTS[source]) as error:
        SOURCES[source](LocalStore(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("source", LISTS)
def test_a_list_that_is_cut_off_is_told_with_its_row(tmp_path, source):
    (tmp_path / LISTS[source]).write_text('[{"a": 1}, {"a": ')
    with pytest.raises(UserError, match=rf"{LISTS[source]} is not valid JSON: it is cut off at row 1"):
        read(source, tmp_path)


def test_an_annotation_that_may_not_be_read_is_not_called_invalid(pretrain, monkeypatch):
    folder = pretrain(1)

    def refuse(store, name):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(LocalStore, "open", refuse)
    with pytest.raises(UserError, match=r"PRETRAIN_110K\.json cannot be read: Permission denied"):
        SOURCES["pretrain_110k"](LocalStore(folder))


@pytest.mark.parametrize("source", SOURCES)
def test_an_empty_folder_is_told_which_file_is_missing(tmp_path, source):
    with pytest.raises(UserError, match=r"\.json|\.arrow"):
        SOURCES[source](LocalStore(tmp_path))
    with pytest.raises(UserError, match="nowhere is not a directory"):
        SOURCES[source](LocalStore(tmp_path / "nowhere"))


@pytest.mark.parametrize("source", OWN_DATA)
def test_an_empty_folder_is_no_data_of_ones_own(tmp_path, source):
    with pytest.raises(UserError, match=r"\.jsonl|\.jpg|\.tar"):
        OWN_DATA[source](LocalStore(tmp_path), "mine")


@pytest.mark.parametrize(
    "encode",
    [lambda t: codecs.BOM_UTF8 + t.encode(), lambda t: t.replace("\n", "\r\n").encode(), lambda t: t.encode("utf-16")],
    ids=["byte order mark", "CRLF", "UTF-16"],
)
def test_how_a_text_file_was_saved_is_harmless(tmp_path, encode):
    row = {"file_path": "x.jpg", "id": 1, "captions": ["a café"], "split": "val"}
    (tmp_path / "reid_raw.json").write_bytes(encode(json.dumps([row], indent=1, ensure_ascii=False)))
    assert [(r.identity, r.captions) for r in records(read("cuhk_pedes", tmp_path))] == [("cuhk_pedes:1", ("a café",))]


def test_the_published_sizes_are_those_of_sources_that_exist():
    assert published_sizes("pretrain_110k", ["train"]) == {ALL_SPLITS: Size(109_937, 219_874, 4_391)}
    for name, sizes in PUBLISHED.items():
        assert name in SOURCES
        assert all(any(size) for size in sizes.values())


def test_annotations_are_named_within_the_input(pretrain):
    assert SOURCES["pretrain_110k"](LocalStore(pretrain(1))).annotations == ("PRETRAIN_110K.json",)
    assert not Path(LISTS["syncpr"]).is_absolute()


def test_a_copy_is_held_against_the_published_sizes_that_its_annotation_allows():
    assert published_sizes("rstpreid", ["train", "test"]) == PUBLISHED["rstpreid"]
    assert published_sizes("rstpreid", ["all"]) == {"all": Size(20_505, 41_010, 4_101)}
    assert published_sizes("mine", ["all"]) == {}
