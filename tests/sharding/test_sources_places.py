"""Every way of reading gives the same rows from a bucket as from a folder, images included."""

import json
import unicodedata

import pyarrow as pa
import pytest

from sharding.errors import UserError
from sharding.packing.input_sizes import InputSizes
from sharding.record import Record
from sharding.s3 import S3Store
from sharding.sources import OWN_DATA, SOURCES
from sharding.store import LocalStore, Store
from tests.sharding.s3_servers import BUCKET


@pytest.fixture
def places(tmp_path, moto_server) -> tuple[LocalStore, S3Store]:
    """An empty folder and an empty prefix of a bucket."""
    return LocalStore(tmp_path), S3Store(BUCKET, f"raw/{tmp_path.name}", moto_server)


def put(places, name: str, data: bytes):
    for place in places:
        place.write(name, data)


def seen_from(place: Store, source: str):
    """All that a reader tells of a place, with the bytes of every image."""
    raw = SOURCES[source](place) if source in SOURCES else OWN_DATA[source](place, "mine")
    rows = list(raw.rows)
    images = [place.read(*row.image) for row in rows if isinstance(row, Record)]
    assert images
    return raw.annotations, raw.expected, rows, images


def assert_alike(places, source: str):
    local, remote = (seen_from(place, source) for place in places)
    assert local == remote


def test_lists_are_alike(places, picture):
    row = {"file_path": "é.jpg", "captions": ["a"], "id": 1, "split": "train"}
    put(places, "any.json", json.dumps([row, row]).encode())
    put(places, "images/é.jpg", picture())
    assert_alike(places, "ufine6926")


@pytest.mark.parametrize("form", ["file", "stream"])
def test_arrow_files_are_alike(places, picture, form):
    images = [picture(number) for number in range(6)]
    table = pa.table({"image": images, "caption": [["a", "b"]] * 6, "image_id": range(6), "split": ["train"] * 6})
    sink = pa.BufferOutputStream()
    with {"file": pa.ipc.new_file, "stream": pa.ipc.new_stream}[form](sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=4)
    put(places, "LUPerson_train.arrow", sink.getvalue().to_pybytes())
    assert_alike(places, "luperson_t")
    assert seen_from(places[1], "luperson_t")[3] == images


def test_own_data_is_alike(places, picture):
    put(places, "data.jsonl", b'{"image": "a/1.jpg", "caption": "one"}\n{"image": "a/2.jpg"}\n')
    for number in (1, 2):
        put(places, f"a/{number}.jpg", picture(number))
    put(places, "a/2.txt", b"two\n")
    assert_alike(places, "jsonl")
    assert_alike(places, "folder")


@pytest.mark.parametrize("source", SOURCES)
def test_an_empty_bucket_is_told_which_file_is_missing(places, source):
    with pytest.raises(UserError, match=r"s3://people/raw/.* holds .*(\.json|\.arrow)"):
        SOURCES[source](places[1])


@pytest.mark.parametrize(("told", "there"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_an_image_is_found_in_the_other_unicode_spelling(places, picture, told, there):
    put(places, "data.jsonl", json.dumps({"image": unicodedata.normalize(told, "café.jpg")}).encode())
    put(places, unicodedata.normalize(there, "café.jpg"), picture())
    for place in places:
        (row,) = OWN_DATA["jsonl"](place, "mine").rows
        image, problem = InputSizes(place).resolve(row.image)
        assert (place.read(*image), problem) == (picture(), "")
