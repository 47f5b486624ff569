"""Buckets: where they differ from folders, what is refused in one line, and services that fail."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from moto.s3.models import s3_backends

from sharding import s3, s3_client, s3_object
from sharding.errors import Conflict, UserError
from sharding.s3 import S3Store
from sharding.store import Store, hash_of, open_store
from tests.sharding.fault_proxy import FaultProxy
from tests.sharding.s3_servers import BUCKET, fresh_place


@pytest.fixture
def remote(moto_server: str) -> S3Store:
    return fresh_place(moto_server)


@pytest.fixture
def behind_faults(faulty: FaultProxy) -> Iterator[S3Store]:
    """A place behind the proxy; whatever happens there is over soon."""
    began = time.monotonic()
    yield fresh_place(faulty.url)
    assert time.monotonic() - began < 20


def test_names_goes_on_after_a_thousand(remote):
    names = [f"{number:05d}" for number in range(1201)]
    for name in names:  # the server runs in this process: a request for each would take 8 s
        s3_backends["123456789012"]["aws"].put_object(BUCKET, f"{remote.prefix}/{name}", b"")
    assert [name for name, _ in remote.names()] == names


def test_a_place_does_not_see_its_neighbours_whose_names_begin_alike(moto_server):
    inner = fresh_place(moto_server)
    S3Store(BUCKET, inner.prefix + "-2", moto_server).write("a", b"1")
    assert list(inner.names()) == []


def test_a_forked_child_speaks_on_connections_of_its_own(remote):
    remote.write("a", b"parent")
    child = os.fork()
    if child == 0:
        os._exit(0 if remote.read("a") == b"parent" and remote.tag("a") else 1)
    for _ in range(20):
        assert remote.read("a") == b"parent"
    assert os.waitpid(child, 0)[1] == 0


# Places and refusals


def test_places_are_told_apart(monkeypatch):
    assert str(open_store("s3://bucket/a/b/")) == "s3://bucket/a/b"
    assert open_store("s3://bucket").prefix == ""
    assert str(S3Store.at("s3://bucket")) == "s3://bucket"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://localhost:9000/")
    assert open_store("s3://bucket/a") == S3Store("bucket", "a", "http://localhost:9000")
    assert open_store("s3://bucket/a", endpoint="http://other").endpoint == "http://other"
    for place in ("s3://", "s3:///a", "s3://my bucket/a", "s3://b", "gs://bucket/a"):
        with pytest.raises(UserError, match="s3://bucket/prefix"):
            open_store(place)


@pytest.mark.parametrize("endpoint", ["localhost:9000", "ftp://host", "http://", "http://host:port"])
def test_an_endpoint_is_a_url(endpoint):
    with pytest.raises(UserError, match="endpoint is not http://host"):
        S3Store.at("s3://bucket/a", endpoint=endpoint)


def test_credentials_in_an_endpoint_are_refused_and_not_repeated():
    with pytest.raises(UserError, match="holds credentials") as caught:
        S3Store.at("s3://bucket/a", endpoint="http://me:hidden@host")
    assert "hidden" not in str(caught.value)


ACTIONS: list[Callable[[Store], object]] = [
    lambda store: list(store.names()),
    lambda store: store.exists("a"),
    lambda store: store.read("a"),
    lambda store: store.open("a"),
    lambda store: store.write("a", b""),
    lambda store: store.publish("a", b"", None),
    lambda store: store.remove("a"),
]


def refusal(store: Store, action: Callable[[Store], object]) -> str:
    with pytest.raises(UserError) as caught:
        action(store)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("service", ["moto_server", "radosgw"])
def test_a_missing_bucket_is_one_line(request, service):
    endpoint = request.getfixturevalue(service)
    for action in ACTIONS:
        said = refusal(S3Store("no-such-bucket", "a", endpoint), action)
        assert said.endswith(f"there is no bucket no-such-bucket at {endpoint}")


@pytest.fixture
def fresh_clients() -> Iterator[None]:
    """Clients that know another environment are not left to other tests."""
    s3_client.client.cache_clear()
    yield
    s3_client.client.cache_clear()


def test_wrong_credentials_are_one_line_without_them(radosgw, monkeypatch, fresh_clients):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    for action in ACTIONS:
        said = refusal(fresh_place(radosgw), action)
        assert "refuses access" in said
        assert "hidden" not in said


def test_no_credentials_are_one_line(moto_server, monkeypatch, fresh_clients, tmp_path):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    for action in ACTIONS:
        assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in refusal(fresh_place(moto_server), action)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    s3_client.client.cache_clear()
    assert "nobody" in refusal(fresh_place(moto_server), ACTIONS[0])


def test_nobody_at_the_endpoint_is_one_line_that_names_it(s3_environment, monkeypatch, fresh_clients):
    monkeypatch.setattr(s3_client, "ATTEMPTS", 2)
    for action in ACTIONS[:3]:
        assert "cannot reach http://127.0.0.1:1;" in refusal(S3Store(BUCKET, "a", "http://127.0.0.1:1"), action)


# Faults


def test_a_web_server_at_the_endpoint_is_one_line(behind_faults, faulty):
    faulty.fail("garbage", 1000)
    assert "does not answer as S3 does; check the endpoint" in refusal(behind_faults, lambda store: store.size("a"))
    with pytest.raises(OSError, match="answers 500 without S3's words; check the endpoint"):
        list(behind_faults.names())


@pytest.mark.parametrize("kind", ["503", "reset", "lost"])
def test_what_fails_twice_is_done_the_third_time(behind_faults, faulty, kind):
    store = behind_faults
    for method, action in [
        ("PUT", lambda: store.write("a", b"12345")),
        ("GET", lambda: store.read("a")),
        ("GET", lambda: [name for name, _ in store.names()]),
        ("HEAD", lambda: store.size("a")),
        ("DELETE", lambda: store.remove("a")),
    ]:
        faulty.fail(kind, 2, method=method)
        before = len(faulty.seen)
        assert action() in (None, b"12345", ["a"], 5)
        assert len(faulty.seen) - before >= 3
    assert not store.exists("a")


@pytest.mark.parametrize("kind", ["short", "lie"])
def test_an_answer_that_is_cut_off_is_asked_for_again(behind_faults, faulty, kind):
    data = bytes(range(256)) * 64
    behind_faults.write("a", data)
    faulty.fail(kind, 3, method="GET", pattern="/a$")
    assert behind_faults.read("a") == data
    faulty.fail(kind, 2, method="GET", pattern="/a$")
    assert behind_faults.read("a", 100, 9000) == data[100:9100]
    faulty.fail(kind, 2, method="GET", pattern="/a$")
    assert behind_faults.open("a").read() == data


@pytest.mark.parametrize("kind", ["short", "lie", "503", "reset"])
def test_a_service_that_keeps_failing_is_one_line_and_not_waited_for(behind_faults, faulty, kind):
    behind_faults.write("a", b"12345")
    faulty.fail(kind, 1000, method="GET")
    with pytest.raises(OSError, match=f"^s3://{BUCKET}/.*/a: ") as caught:
        behind_faults.read("a")
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, FileNotFoundError)
    assert len(faulty.seen) < 30


def test_a_service_that_falls_silent_is_asked_again(behind_faults, faulty, monkeypatch):
    monkeypatch.setattr(s3_client, "ANSWER_SECONDS", 0.3)
    behind_faults.write("a", b"12345")
    faulty.fail("delay", 2, method="GET", seconds=1)
    assert behind_faults.read("a") == b"12345"
    faulty.fail("delay", 100, method="GET", seconds=1)
    with pytest.raises(OSError, match="fails: Read timeout"):
        behind_faults.read("a")


def test_listing_goes_on_where_a_page_failed(behind_faults, faulty):
    for number in range(3):
        behind_faults.write(str(number), b"")
    for kind in ("503", "reset", "short"):
        faulty.fail(kind, 1, method="GET", pattern="list-type")
    assert [name for name, _ in behind_faults.names()] == ["0", "1", "2"]


@pytest.mark.parametrize("kind", ["lost", "503", "reset"])
def test_publishing_whose_answer_was_lost_is_not_a_conflict_with_itself(behind_faults, faulty, kind):
    faulty.fail(kind, 2, method="PUT")
    behind_faults.publish("d.json", b"1", None)
    faulty.fail(kind, 2, method="PUT")
    behind_faults.publish("d.json", b"2", behind_faults.tag("d.json"))
    assert behind_faults.read("d.json") == b"2"
    faulty.fail(kind, 1, method="PUT")
    with pytest.raises(Conflict):
        behind_faults.publish("d.json", b"2", None)


@pytest.mark.parametrize("service", ["moto_server", "radosgw"])
def test_a_file_overwritten_while_it_is_read_is_an_error_and_no_mixture(request, service, monkeypatch):
    monkeypatch.setattr(s3_object, "READ_AHEAD", 100)
    remote = fresh_place(request.getfixturevalue(service))
    remote.write("a", b"1" * 1000)
    with remote.open("a") as file:
        file.raw.read(10)
        remote.write("a", b"2" * 1000)
        with pytest.raises(OSError, match="/a was overwritten while it was read"):
            file.read()


@pytest.mark.parametrize("kind", ["503", "reset", "lost"])
def test_an_upload_in_parts_survives_faults_at_each_of_its_requests(behind_faults, faulty, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(s3, "PART_BYTES", 5 << 20)
    data = b"ab" * (3 << 20)
    for method, pattern in [
        ("POST", "uploads"),
        ("PUT", "partNumber=1"),
        ("PUT", "partNumber=2"),
        ("POST", "uploadId"),
    ]:
        faulty.fail(kind, 1, method=method, pattern=pattern)
    (tmp_path / "a").write_bytes(data)
    behind_faults.upload(tmp_path / "a", "a.tar")
    assert hash_of(behind_faults, "a.tar") == hashlib.sha256(data).hexdigest()


def test_an_upload_that_fails_leaves_nothing_but_the_file(behind_faults, faulty, tmp_path, monkeypatch):
    monkeypatch.setattr(s3, "PART_BYTES", 5 << 20)
    (tmp_path / "a").write_bytes(b"ab" * (3 << 20))
    faulty.fail("503", 1000, method="PUT", pattern="partNumber=2")
    with pytest.raises(OSError, match=r"/a\.tar: .* answers 503 SlowDown: Please reduce your rate"):
        behind_faults.upload(tmp_path / "a", "a.tar")
    assert list(behind_faults.names()) == []
    uploads = s3_client.client(behind_faults.endpoint).list_multipart_uploads(
        Bucket=BUCKET, Prefix=behind_faults.prefix
    )
    assert "Uploads" not in uploads
    assert (tmp_path / "a").stat().st_size == 6 << 20


def test_an_upload_that_is_killed_cannot_be_seen_and_is_made_good_by_the_next(
    behind_faults, faulty, tmp_path, monkeypatch
):
    path, place = tmp_path / "a", str(behind_faults)
    path.write_bytes(b"ab" * (3 << 20))
    code = (
        "import sys; from pathlib import Path; from sharding import s3; s3.PART_BYTES = 5 << 20\n"
        "s3.S3Store.at(sys.argv[1], endpoint=sys.argv[2]).upload(Path(sys.argv[3]), 'a.tar')"
    )
    faulty.fail("hang", 1, method="PUT", pattern="partNumber=2")
    process = subprocess.Popen([sys.executable, "-c", code, place, faulty.url, str(path)])
    assert faulty.hanging.wait(30)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(behind_faults.names()) == []
    monkeypatch.setattr(s3, "PART_BYTES", 5 << 20)
    behind_faults.upload(path, "a.tar")
    assert list(behind_faults.names()) == [("a.tar", 6 << 20)]
