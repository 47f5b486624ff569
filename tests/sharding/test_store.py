"""A folder, a bucket of moto and a bucket of Ceph keep the same promises."""

import contextlib
import hashlib
import io
import json
import os
import pickle
import threading

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sharding import s3, s3_object
from sharding.errors import Conflict
from sharding.s3 import S3Store
from sharding.store import LocalStore, Store, hash_of, open_store
from tests.sharding.s3_servers import fresh_place

NAMES = [
    "a.txt",
    "a/b.txt",
    "a/b/c.txt",
    "ab",
    "imgs/Zoë 1 (copy).jpg",
    "imgs/行人/+&%#?=~;.jpg",
    "imgs/cafe\u0301.jpg",
    "z",
]


@pytest.fixture(params=["folder", "moto_server", "radosgw"])
def store(request: pytest.FixtureRequest, tmp_path) -> Store:
    if request.param == "folder":
        return LocalStore(tmp_path / "store")
    return fresh_place(request.getfixturevalue(request.param))


def test_names_lists_every_file_below_the_place_sorted_with_its_size(store):
    for size, name in enumerate(reversed(NAMES)):
        store.write(name, b"x" * size)
    listed = list(store.names())
    assert [name for name, _ in listed] == sorted(NAMES)
    assert dict(listed) == {name: size for size, name in enumerate(reversed(NAMES))}
    for prefix in ("a", "a/", "a/b", "a/b/", "imgs/caf", "nothing", "no/such/folder/"):
        assert [name for name, _ in store.names(prefix)] == sorted(name for name in NAMES if name.startswith(prefix))


def test_a_place_that_does_not_exist_holds_nothing(store):
    assert list(store.names()) == []
    assert not store.exists("a")
    assert store.tag("a") is None
    store.remove("a")


def test_what_is_written_is_read_back_and_replaced(store):
    for name in NAMES:
        store.write(name, b"first, and longer")
        store.write(name, name.encode())
        assert store.exists(name)
        assert store.size(name) == len(name.encode())
        assert store.read(name) == name.encode()
    store.remove("ab")
    assert not store.exists("ab")
    assert store.exists("a/b.txt")


def test_a_missing_file_raises_file_not_found_and_is_named(store):
    store.write("a", b"a file, where a name looks for a folder")
    actions = [
        store.read,
        store.size,
        store.open,
        lambda name: store.read(name, 0, 0),
        lambda name: store.read(name, 3, 4),
    ]
    for name in ("no", "no/such/file", "a/b", "a/", "../../etc/passwd\0", "a/\ud800.jpg"):
        for action in actions:
            with pytest.raises(FileNotFoundError) as caught:
                action(name)
            assert name.split("/")[0] in str(caught.value)
        assert not store.exists(name)


def test_read_gives_exactly_the_bytes_asked_for(store):
    data = bytes(range(256)) * 4
    store.write("a", data)
    for offset, size in [(0, 1024), (0, 1), (1023, 1), (100, 300), (0, 0), (1024, 0)]:
        assert store.read("a", offset, size) == data[offset : offset + size]
    assert store.read("a", 1000) == data[1000:]
    assert store.read("a", 1024) == store.read("a", 5000) == b""


def test_reading_past_the_end_is_an_error_that_names_the_file(store):
    store.write("a", b"0123456789")
    for offset, size in [(0, 11), (5, 6), (10, 1), (50, 5), (0, 1 << 50)]:
        with pytest.raises(OSError, match=f"/a ends before byte {offset + size}$"):
            store.read("a", offset, size)


def test_an_empty_file_is_a_file(store):
    store.write("a", b"")
    assert (store.size("a"), store.read("a"), store.open("a").read()) == (0, b"", b"")
    with pytest.raises(OSError, match="ends before byte 1"):
        store.read("a", 0, 1)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-40, 140), st.integers(-1, 140)), max_size=8))
def test_an_open_file_seeks_and_reads_like_one_in_memory(store, moves):
    data = bytes(range(100))
    if not store.exists("a"):
        store.write("a", data)
    with pytest.MonkeyPatch.context() as patch, store.open("a") as file:
        patch.setattr(s3_object, "READ_AHEAD", 16)
        model = io.BytesIO(data)
        for whence, offset, size in moves:
            if {0: 0, 1: model.tell(), 2: 100}[whence] + offset >= 0:
                target = {0: 0, 1: model.tell(), 2: 100}[whence] + offset
                assert file.seek(offset, whence) == model.seek(target) == file.tell()
            assert file.read(size) == model.read(size)


def test_json_text_and_arrow_stream_from_an_open_file(store):
    rows = [{"captions": ["A man.", "Ein Mädchen."], "id": number} for number in range(300)]
    store.write("rows.json", json.dumps(rows, ensure_ascii=False).encode())
    store.write("lines.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    table = pa.Table.from_pylist(rows)
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=100)
    store.write("rows.arrow", sink.getvalue())
    with store.open("rows.json") as file:
        assert json.load(file) == rows
    with io.TextIOWrapper(store.open("lines.jsonl"), "utf-8") as lines:
        assert [json.loads(line) for line in lines] == rows
    with store.open("rows.arrow") as file:
        assert pa.ipc.open_file(file).read_all().equals(table)
    assert hash_of(store, "rows.arrow") == hashlib.sha256(sink.getvalue()).hexdigest()


def test_the_tag_changes_with_the_content(store):
    store.write("a", b"1")
    first = store.tag("a")
    store.write("a", b"2")
    assert None is not first != store.tag("a") is not None
    store.write("a", b"1")
    assert store.tag("a") == first


def test_publishing_creates_once_and_replaces_only_what_was_seen(store):
    store.publish("d.json", b"1", None)
    with pytest.raises(Conflict, match=r"d\.json"):
        store.publish("d.json", b"2", None)
    with pytest.raises(Conflict):
        store.publish("d.json", b"1", None)
    seen = store.tag("d.json")
    store.publish("d.json", b"3", seen)
    for outdated in (seen, None):
        with pytest.raises(Conflict):
            store.publish("d.json", b"4", outdated)
    assert store.read("d.json") == b"3"
    store.remove("d.json")
    with pytest.raises(Conflict):
        store.publish("d.json", b"4", seen)
    assert [name for name, _ in store.names()] == []


@pytest.mark.parametrize("exists", [False, True])
def test_of_several_who_publish_at_once_exactly_one_wins(store, exists):
    for number in range(5):
        name = f"{number}.json"
        if exists:
            store.write(name, b"before")
        winners = publish_at_once(store, name, store.tag(name), 4)
        assert len(winners) == 1
        assert store.read(name) == winners[0]


def publish_at_once(store: Store, name: str, replacing: str | None, writers: int) -> list[bytes]:
    """What was published without a conflict."""
    start, winners = threading.Barrier(writers), []

    def publish(data: bytes) -> None:
        start.wait()
        with contextlib.suppress(Conflict):
            store.publish(name, data, replacing)
            winners.append(data)

    threads = [threading.Thread(target=publish, args=(f"writer {number}".encode(),)) for number in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return winners


def test_uploading_moves_a_file_out_of_the_scratch_folder(store):
    with store.scratch() as folder:
        path = folder / ".tmp-a.tar"
        path.write_bytes(b"x" * 1000)
        assert list(store.names()) == []
        store.upload(path, "shards/a.tar")
        assert not path.exists()
        (folder / ".tmp-left").write_bytes(b"")
    assert list(store.names()) == [("shards/a.tar", 1000)]
    assert store.read("shards/a.tar") == b"x" * 1000


def test_a_large_file_is_uploaded_in_parts(store, monkeypatch):
    monkeypatch.setattr(s3, "PART_BYTES", 5 << 20)  # the least that S3 allows
    data = b"".join(number.to_bytes(8, "big") for number in range(11 << 17))
    with store.scratch() as folder:
        (folder / "a.tar").write_bytes(data)
        store.upload(folder / "a.tar", "b.tar")
    assert store.size("b.tar") == 11 << 20
    assert hash_of(store, "b.tar") == hashlib.sha256(data).hexdigest()
    assert store.read("b.tar", (5 << 20) - 8, 16) == data[(5 << 20) - 8 : (5 << 20) + 8]
    if isinstance(store, S3Store):
        assert store.tag("b.tar").endswith("-3")


def test_stores_of_the_same_place_are_equal_pickled_too_and_read_in_threads(store):
    for number in range(8):
        store.write(str(number), bytes([number]) * 1000)
    copy = pickle.loads(pickle.dumps(store))
    assert copy == store == open_store(store)
    found: dict[int, bytes] = {}
    threads = [threading.Thread(target=lambda n=n: found.update({n: copy.read(str(n))})) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: bytes([number]) * 1000 for number in range(8)}


def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for action in (LocalStore(tmp_path).read, LocalStore(tmp_path).open):
        with pytest.raises(OSError, match="Not an ordinary file"):
            action("pipe")
