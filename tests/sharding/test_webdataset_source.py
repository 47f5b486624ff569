"""Foreign image–text shards become records as webdataset groups them; what cannot be used is named."""

import io
import json
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext, group_by_keys, tar_file_iterator

from sharding.errors import UserError
from sharding.record import Extent, Record, Reject
from sharding.sources.webdataset import open_webdataset, split_name
from sharding.store import LocalStore, open_store

SPLITS = "train, val, test, query, gallery, all"


@pytest.fixture
def write(tmp_path):
    """A function ({member: content}, tar) → nothing; contents that are no bytes become JSON."""

    def write_tar(members, name="00000.tar"):
        with tarfile.open(tmp_path / name, "w", format=tarfile.USTAR_FORMAT) as tar:
            for member, content in members if isinstance(members, list) else members.items():
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))

    return write_tar


@pytest.fixture
def rows(tmp_path, write):
    """A function (members) → the rows of one tar that holds them."""

    def read(members):
        write(members)
        return list(open_webdataset(LocalStore(tmp_path), "laion").rows)

    return read


def reasons(rows):
    return [row.reason if isinstance(row, Reject) else "" for row in rows]


def test_an_img2dataset_sample_becomes_a_record(rows):
    (record,) = rows(
        {
            "000000007.jpg": b"image",
            "000000007.txt": b"A man in a red coat.",
            "000000007.json": {
                "caption": "A man in a red coat.",
                "url": "http://x",
                "key": "000000007",
                "source": "a:b",
            },
        }
    )
    assert record == Record(
        row=0,
        image=Extent("00000.tar", 512, 5),
        captions=("A man in a red coat.",),
        identity="laion:00000/000000007",
        source="laion",
        split="train",
        file_path="00000.tar/000000007.jpg",
    )


def test_a_sample_of_our_own_comes_out_as_it_went_in(rows):
    told = {
        "captions": ["One.", "Two.", "One."], "identity": "iust:12", "source": "iust", "split": "val",
        "score": 3.5, "instance_id": -1, "file_path": "a/b.jpg", "width": 8, "height": 16,
    }  # fmt: skip
    (record,) = rows({"people-000000003.png": b"image", "people-000000003.txt": b"One.", "people-000000003.json": told})
    for field in ("identity", "source", "split", "score", "instance_id", "file_path"):
        assert getattr(record, field) == told[field], field
    assert record.captions == ("One.", "Two.", "One.")


def test_keys_that_repeat_between_tars_are_kept_apart_and_rows_are_numbered_through(tmp_path, write):
    for tar in ("b.tar", "a.tar"):
        write({"0.jpg": b"image", "0.txt": b"A caption.", "1.cls": b"3"}, tar)
    (tmp_path / "sub").mkdir()
    write({"0.jpg": b"image"}, "sub/c.tar")
    raw = open_webdataset(LocalStore(tmp_path), "mine")
    assert raw.annotations == ("a.tar", "b.tar")
    found = list(raw.rows)
    assert [(row.row, row.file_path) for row in found] == [
        (0, "a.tar/0.jpg"),
        (1, "a.tar/1"),
        (2, "b.tar/0.jpg"),
        (3, "b.tar/1"),
    ]
    assert [row.identity for row in found if isinstance(row, Record)] == ["mine:a/0", "mine:b/0"]


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"0.txt": b"x"}, "image: one of jpg, jpeg, png, bmp was expected"),
        ({"0.webp": b"i", "0.txt": b"x"}, "image: one of jpg, jpeg, png, bmp was expected, found webp"),
        ({"0.jpg": b"i", "0.png": b"i"}, "image: two in one sample"),
        ([("0.jpg", b"i"), ("0.txt", b"x"), ("0.jpg", b"i"), ("0.txt", b"x")], "image: two in one sample"),
        ([("0.txt", b"x"), ("0.txt", b"y"), ("0.jpg", b"i")], "txt: two in one sample"),
        ({"0.jpg": b"i", "0.json": b"{"}, "json: not valid JSON"),
        ({"0.jpg": b"i", "0.json": b"[" * 100_000}, "json: not valid JSON"),
        ({"0.jpg": b"i", "0.json": b"\xff\xfe\xff"}, "json: not valid JSON"),
        ({"0.jpg": b"i", "0.json": [1]}, "json: an object was expected, found list"),
        ({"0.jpg": b"i", "0.txt": b"\xff\xfe"}, "txt: not valid UTF-8"),
        ({"0.jpg": b"i", "0.txt": b"x" * (1 << 20) + b"x"}, "txt: more than 1 MiB"),
        ({"0.jpg": b"i", "0.json.gz": b"x"}, "json: compressed members are not read"),
        ({"0.jpg.gz": b"i", "0.txt": b"x"}, "jpg: compressed members are not read"),
        ({"0.jpg": b"i", "0.txt": b" "}, "captions: empty"),
        ({"0.jpg": b"i", "0.txt": b"", "0.json": {"caption": None}}, "captions: empty"),
        ({"0.jpg": b"i", "0.json": {"caption": ""}}, "captions: empty"),
        ({"0.jpg": b"i", "0.json": {"captions": [3]}}, "captions: strings were expected, found integer"),
        ({"0.jpg": b"i", "0.txt": b"x", "0.json": {"split": "dev"}}, f"split: none of {SPLITS}"),
        ({"0.jpg": b"i", "0.txt": b"x", "0.json": {"identity": 1.5}}, "identity: a string was expected, found number"),
        ({"0.jpg": b"i", "0.json": {"identity": "1", "score": ""}}, "score: a number was expected, found string"),
        ([("0.jpg", b"i"), ("1.jpg", b"i"), ("0.jpg", b"i")], "key: already given by an earlier sample of the tar"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_rejected_with_a_reason(rows, members, reason):
    found = rows(members)
    assert reasons(found)[-1] == reason
    assert found[-1].file_path == "00000.tar/0"


@pytest.mark.parametrize(
    ("text", "told", "captions"),
    [
        (b"A.", {}, ("A.",)),
        (b"\xef\xbb\xbfA.\r\n", {}, ("A.",)),
        (None, {"captions": ["A.", "B."]}, ("A.", "B.")),
        (None, {"captions": "A."}, ("A.",)),
        (None, {"text": "A.", "caption": "B."}, ("B.",)),
        (b"New.", {"caption": "Old."}, ("New.", "Old.")),
        (b"B.", {"captions": ["A.", "B."]}, ("A.", "B.")),
        (b"", {"caption": "A."}, ("A.",)),
        (b"", {"captions": []}, ()),
        (None, {"url": "x"}, ()),
        (None, None, ()),
    ],
)
def test_captions_come_from_the_text_and_the_json(rows, text, told, captions):
    members = {"0.jpg": b"i", "0.txt": text, "0.json": told}
    (record,) = rows({name: content for name, content in members.items() if content is not None})
    assert record.captions == captions
    assert record.dropped_captions == 0


def test_unusable_captions_are_counted(rows):
    (record,) = rows({"0.jpg": b"i", "0.json": b'{"captions": ["A.", " ", "\\ud800"]}'})
    assert (record.captions, record.dropped_captions) == (("A.",), 2)


@pytest.mark.parametrize("given_identity", ["p7", 7, "mine:7"])
def test_identities_begin_with_their_source(rows, given_identity):
    (record,) = rows({"0.jpg": b"i", "0.txt": b"x", "0.json": {"identity": given_identity, "source": "mine"}})
    assert (record.identity, record.source) == (f"mine:{str(given_identity).removeprefix('mine:')}", "mine")


def test_samples_whose_members_lie_scattered_are_an_error(rows):
    for extensions in (("jpg", "txt"), ("txt", "jpg")):
        scattered = [(f"{key}.{extension}", b"x") for extension in extensions for key in (0, 1)]
        with pytest.raises(UserError, match=r"00000\.tar: the members of sample '0' do not follow one another"):
            rows(scattered)


def test_a_damaged_tar_is_named_after_its_samples_were_read(tmp_path, write):
    write({"0.jpg": b"i", "0.txt": b"x", "1.jpg": b"i", "2.jpg": b"i"})
    tar = tmp_path / "00000.tar"
    tar.write_bytes(tar.read_bytes()[:3584])
    found = open_webdataset(LocalStore(tmp_path), "mine").rows
    assert next(found).captions == ("x",)
    with pytest.raises(UserError, match=r"00000\.tar ends at byte 3584"):
        next(found)


def test_a_bucket_gives_the_rows_that_a_folder_gives(tmp_path, write, moto_server):
    store = open_store("s3://people/foreign", endpoint=moto_server)
    for tar in ("a.tar", "b.tar"):
        write({"0.jpg": b"i" * 20_000, "0.txt": b"A.", "1.jpg": b"i", "1.json": {"caption": "B."}, "2.txt": b"C."}, tar)
        store.write(tar, (tmp_path / tar).read_bytes())
    found = list(open_webdataset(store, "mine").rows)
    assert found == list(open_webdataset(LocalStore(tmp_path), "mine").rows)
    assert store.read(*found[1].image) == b"i"


def test_a_folder_without_tars_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"holds no \*\.tar$"):
        open_webdataset(LocalStore(tmp_path), "mine")
    (tmp_path / "0.tar.gz").write_bytes(b"")
    with pytest.raises(UserError, match=r"no \*\.tar; unpack"):
        open_webdataset(LocalStore(tmp_path), "mine")


@given(st.text(st.sampled_from("ab./_"), max_size=12))
def test_names_are_split_as_webdataset_splits_them(name):
    key, extension = split_name(name)
    if key:
        assert (key, extension) == base_plus_ext(name)
    elif not name.startswith("__"):
        assert base_plus_ext(name)[0] is None or base_plus_ext(name)[0].endswith("/") or not extension


def test_samples_are_those_that_webdataset_finds(tmp_path, write):
    members = ["a.jpg", "a.TXT", "__meta__/b.jpg", "__c__.jpg", "no_dot", ".hidden.jpg", "d.e/f.jpg", "d.e/f.x.jpg"]
    members += ["d.e/f.json", "g/a.PNG", "__i__j.jpg"]
    write(dict.fromkeys(members, b"{}"))
    file = io.BytesIO((tmp_path / "00000.tar").read_bytes())
    theirs = [dict(sample) for sample in group_by_keys({**part, "__url__": ""} for part in tar_file_iterator(file))]
    ours = list(open_webdataset(LocalStore(tmp_path), "mine").rows)
    assert [sample["__key__"] for sample in theirs] == [row.identity.removeprefix("mine:00000/") for row in ours]
