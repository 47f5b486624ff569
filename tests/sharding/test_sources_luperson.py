"""LUPerson-T: images are byte ranges of Arrow files, in whatever form and with whatever types these were written."""

import os
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharding.errors import UserError
from sharding.record import Record
from sharding.sources import SOURCES
from sharding.sources import luperson_t as luperson
from sharding.store import LocalStore
from tests.sharding.raw import read, records, rejected

TRAIN = "LUPerson_train.arrow"
FORMS = {"file": pa.ipc.new_file, "stream": pa.ipc.new_stream}
IMAGES = [os.urandom(size) for size in (1, 5000, 64, 0, 7, 3000)]


def write_table(folder: Path, table: pa.Table, *, form="file", rows=None, compression=None, name=TRAIN) -> Path:
    folder.mkdir(exist_ok=True)
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with FORMS[form](str(folder / name), table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=rows)
    return folder


def write_arrow(path: Path, images, captions, ids, splits):
    table = pa.table({"image": images, "caption": captions, "image_id": ids, "split": splits})
    write_table(path.parent, table, name=path.name)


def images_of(folder: Path):
    """The images that the records name, by image_id."""
    store = LocalStore(folder)
    return {record.file_path: store.read(*record.image) for record in records(read("luperson_t", folder))}


def columns(image, **more):
    rows = len(IMAGES)
    ids = pa.array([str(number) for number in range(rows)])
    return pa.table(
        {**more, "image": image, "caption": [["a", "b"]] * rows, "image_id": ids, "split": ["train"] * rows}
    )


def test_every_image_has_its_own_identity_over_all_arrow_files(tmp_path, picture):
    folder = tmp_path / "raw"
    write_arrow(folder / TRAIN, [picture(1), b""], [["a", "b"], ["c"]], ["x", "y"], ["train"] * 2)
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
    raw = SOURCES["luperson_t"](LocalStore(folder))
    assert (raw.expected, raw.annotations) == (6, (TRAIN, "LUPerson_restval.arrow", "LUPerson_test.arrow"))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
@pytest.mark.parametrize("rows", [1, 4, None])
def test_images_are_found_in_both_forms_and_any_batches(tmp_path, form, kind, rows):
    table = columns(pa.array(IMAGES, kind))
    assert images_of(write_table(tmp_path, table, form=form, rows=rows)) == dict(
        zip(map(str, range(len(IMAGES))), IMAGES, strict=True)
    )


@pytest.mark.parametrize("form", FORMS)
def test_images_are_found_behind_columns_of_all_kinds(tmp_path, form):
    rows = len(IMAGES)
    before = {
        "null": pa.nulls(rows),
        "flag": pa.array([True, None] * (rows // 2)),
        "number": pa.array(range(rows), pa.int16()),
        "fixed": pa.array([b"ab"] * rows, pa.binary(2)),
        "word": pa.array(["a"] * rows).dictionary_encode(),
        "words": pa.array([["a"], None] * (rows // 2), pa.large_list(pa.large_string())),
        "box": pa.array([[1.0, 2.0]] * rows, pa.list_(pa.float32(), 2)),
        "record": pa.array([{"a": 1, "b": ["x"]}] * rows),
        "map": pa.array([[("k", 1)]] * rows, pa.map_(pa.string(), pa.int64())),
        "time": pa.array([0] * rows, pa.timestamp("us")),
    }
    folder = write_table(tmp_path, columns(pa.array(IMAGES), **before), form=form, rows=4)
    assert list(images_of(folder).values()) == IMAGES


@pytest.mark.parametrize("form", FORMS)
def test_images_kept_with_their_path_are_found(tmp_path, form):
    values = [{"path": "a.jpg", "bytes": image} for image in IMAGES]
    values[1], values[2] = None, {"path": "elsewhere.jpg", "bytes": None}
    kind = pa.struct([("path", pa.string()), ("bytes", pa.binary())])
    folder = write_table(tmp_path, columns(pa.array(values, kind)), form=form)
    expected = {str(number): IMAGES[number] for number in (0, 3, 4, 5)}
    assert images_of(folder) == expected
    reason = "image: bytes were expected, found null"
    assert rejected(read("luperson_t", folder)) == {1: reason, 2: reason}


@settings(max_examples=25)
@given(
    images=st.lists(st.none() | st.binary(max_size=40), min_size=1, max_size=20),
    rows=st.integers(1, 20),
    form=st.sampled_from([*FORMS]),
)
def test_every_image_is_exactly_where_it_is_said_to_be(tmp_path_factory, images, rows, form):
    count = len(images)
    more = {"caption": ["a"] * count, "image_id": range(count), "split": ["val"] * count}
    table = pa.table({"image": pa.array(images, pa.binary()), **more})
    folder = write_table(tmp_path_factory.mktemp("raw"), table, form=form, rows=rows)
    assert images_of(folder) == {str(number): image for number, image in enumerate(images) if image is not None}


@pytest.mark.parametrize(
    "captions",
    [
        pa.array([["x", "y"]] * 2),
        pa.array([["x", "y"]] * 2, pa.large_list(pa.large_string())),
        pa.array([["x", "y"]] * 2, pa.list_(pa.dictionary(pa.int32(), pa.string()))),
        pa.array(["x", "x"], pa.large_string()),
        pa.array(["x", "x"]).dictionary_encode(),
    ],
    ids=str,
)
@pytest.mark.parametrize("form", FORMS)
def test_captions_may_be_lists_or_strings_of_any_arrow_type(tmp_path, captions, form):
    splits = pa.array(["train", "val"]).dictionary_encode()
    table = pa.table({"image": [b"1", b"2"], "captions": captions, "image_id": [1, 2], "split": splits})
    rows = read("luperson_t", write_table(tmp_path, table, form=form))
    assert [(r.captions[0], r.split) for r in rows] == [("x", "train"), ("x", "val")]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_a_compressed_file_is_refused_on_opening_with_what_to_do(tmp_path, form, compression):
    folder = write_table(tmp_path, columns(pa.array(IMAGES)), form=form, compression=compression)
    with pytest.raises(UserError, match=r"train\.arrow is compressed.*IpcWriteOptions\(compression=None\)") as error:
        SOURCES["luperson_t"](LocalStore(folder))
    assert "\n" not in str(error.value)


def test_a_stream_that_was_cut_between_two_batches_is_no_smaller_dataset(tmp_path):
    whole = write_table(tmp_path / "whole", columns(pa.array(IMAGES)), form="stream", rows=2)
    part = write_table(tmp_path / "part", columns(pa.array(IMAGES)).slice(0, 2), form="stream", rows=2)
    end = (part / TRAIN).stat().st_size - 8  # the mark
    (part / TRAIN).write_bytes((whole / TRAIN).read_bytes()[:end])
    with pytest.raises(UserError, match=f"it is cut off after byte {end:,}"):
        SOURCES["luperson_t"](LocalStore(part))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_cut_arrow_file_is_one_line(tmp_path, form, share):
    folder = write_table(tmp_path, columns(pa.array(IMAGES)), form=form, rows=2)
    data = (folder / TRAIN).read_bytes()
    (folder / TRAIN).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserError, match=rf"{TRAIN} is not an Arrow IPC file: ") as error:
        read("luperson_t", folder)
    assert "\n" not in str(error.value)


@settings(max_examples=60, derandomize=True)  # what pyarrow does not check can end the process
@given(place=st.floats(0, 1), value=st.integers(0, 255), form=st.sampled_from([*FORMS]))
def test_a_damaged_arrow_file_gives_rows_or_one_line(tmp_path_factory, place, value, form):
    folder = write_table(tmp_path_factory.mktemp("raw"), columns(pa.array(IMAGES)), form=form, rows=2)
    data = bytearray((folder / TRAIN).read_bytes())
    data[int(place * (len(data) - 1))] = value
    (folder / TRAIN).write_bytes(data)
    with suppress(UserError):
        for record in records(read("luperson_t", folder)):
            assert record.image.offset + record.image.size <= len(data)


def test_of_the_file_form_no_image_is_read(tmp_path, monkeypatch):
    table = columns(pa.array([bytes(1 << 20)] * len(IMAGES)))
    folder = write_table(tmp_path, table, rows=2)
    read_bytes = []
    real_open = LocalStore.open

    def counting(store, name):
        file = real_open(store, name)
        real_read = file.read
        return Counting(file, lambda size: read_bytes.append(size) or real_read(size))

    monkeypatch.setattr(LocalStore, "open", counting)
    assert len(records(read("luperson_t", folder))) == len(IMAGES)
    assert 0 < sum(read_bytes) < 1 << 16


class Counting:
    """A file whose reads go through a function."""

    def __init__(self, file, read):
        self.file, self.read = file, read

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()


def test_integer_image_ids_are_taken(tmp_path, picture):
    path = tmp_path / "raw" / TRAIN
    write_arrow(path, [picture()] * 2, ["a", "b"], [7, 7], ["train"] * 2)
    rows = read("luperson_t", path.parent)
    assert rows[0].identity == "luperson_t:7"
    assert rejected(rows) == {1: "image_id: already given by an earlier row"}


def test_arrow_strings_that_are_not_utf8_refuse_their_row_alone(tmp_path, picture):
    ids = pa.array([b"ok", b"\xff\xfe", b"fine"]).cast(pa.binary()).view(pa.string())
    path = tmp_path / "raw" / "LUPerson_val.arrow"
    write_arrow(path, [picture()] * 3, [["a"]] * 3, ids, ["val"] * 3)
    rows = read("luperson_t", path.parent)
    assert rejected(rows) == {1: "row: not valid Unicode text"}
    assert [r.row for r in records(rows)] == [0, 2]


def test_the_json_form_is_read_where_there_is_no_arrow_file(write_json):
    row = {"file_path": "a/b.jpg", "captions": ["x", "y"]}
    rows = [row, row | {"file_path": "c.jpg", "split": "restval"}, row, row | {"file_path": "d.jpg", "split": None}]
    out = read("luperson_t", write_json("LUPerson-T.json", rows, {}))
    assert [(r.identity, r.split, r.captions, r.image.path) for r in records(out)] == [
        ("luperson_t:a/b.jpg", "train", ("x", "y"), "imgs/a/b.jpg"),
        ("luperson_t:c.jpg", "train", ("x", "y"), "imgs/c.jpg"),
    ]
    assert rejected(out) == {
        2: "file_path: already given by an earlier row",
        3: "split: a string was expected, found null",
    }


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["image", "caption", "image_id", "image_id", "split"], "more than one column image_id"),
        (["image", "text", "image_id", "number", "split"], "no column caption; it has image, text, image_id"),
        (["picture", "caption", "image_id", "number", "split"], "no column image; it has picture"),
    ],
)
def test_columns_that_are_missing_or_repeated_are_named(tmp_path, names, message):
    write_table(tmp_path, pa.table([[b""], ["a"], ["x"], ["y"], ["train"]], names))
    with pytest.raises(UserError, match=message):
        SOURCES["luperson_t"](LocalStore(tmp_path))


def test_images_that_are_no_bytes_are_told_on_opening(tmp_path):
    write_table(tmp_path, columns(pa.array(range(len(IMAGES)))))
    with pytest.raises(UserError, match="column image of type int64; binary was expected"):
        SOURCES["luperson_t"](LocalStore(tmp_path))


def test_rows_are_made_a_slice_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(luperson, "SLICE", 2)
    folder = write_table(tmp_path, columns(pa.array(IMAGES)))
    assert list(images_of(folder).values()) == IMAGES
