"""Packing from bucket to bucket gives what packing from folder to folder gives, whatever happens meanwhile."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sharding.dataset import open_dataset
from sharding.errors import UserError
from sharding.pack import Packed, pack
from sharding.packing.images import CheckedImage, ImagePolicy, prepare_image
from sharding.s3 import S3Store
from sharding.store import LocalStore
from sharding.verify import verify
from tests.sharding.s3_servers import fresh_place

IMAGES, PER_SHARD = 12, 4


@pytest.fixture
def raw(pretrain: Callable[..., Path]) -> LocalStore:
    return LocalStore(pretrain(IMAGES))


@pytest.fixture
def root_hash(raw: LocalStore, tmp_path: Path) -> str:
    """What packing gives without a bucket."""
    return packed(raw, tmp_path / "local").dataset.root_hash


def packed(source, out, **options) -> Packed:
    return pack("pretrain_110k", source, out, shard_samples=PER_SHARD, **options)


def copied(raw: LocalStore, endpoint: str) -> S3Store:
    """The raw dataset in a bucket."""
    far = fresh_place(endpoint)
    for name, _ in raw.names():
        far.write(name, raw.read(name))
    return far


def command(source, out: S3Store) -> list[str]:
    line = [sys.executable, "-m", "sharding", "pack", "--source", "pretrain_110k", "--input", str(source)]
    return [*line, "--out", str(out), "--endpoint", out.endpoint, "--shard-samples", str(PER_SHARD)]


def is_clean(out: S3Store) -> bool:
    """Whether all that packing needs only meanwhile is gone."""
    return not any(name.startswith(".") for name, _ in out.names())


@pytest.mark.parametrize(("service", "workers"), [("moto_server", 1), ("moto_server", 2), ("radosgw", 1)])
def test_a_bucket_gets_the_bytes_that_a_folder_gets(request, service, workers, raw, root_hash, tmp_path):
    endpoint = request.getfixturevalue(service)
    out = fresh_place(endpoint)
    dataset = packed(copied(raw, endpoint), out, workers=workers).dataset
    assert dataset.root_hash == root_hash == open_dataset(out).root_hash
    local = LocalStore(tmp_path / "local")
    assert list(out.names()) == list(local.names())
    assert all(out.read(name) == local.read(name) for name, _ in local.names())
    assert packed(raw, out).already_complete


@pytest.mark.parametrize("kill_at", [r"\.plan/", r"-000001\.tar", r"-000001\.parquet", r"dataset\.json"])
def test_a_packing_killed_anywhere_is_finished_by_the_next(faulty, raw, root_hash, kill_at, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # the killed process leaves its scratch folder
    out = fresh_place(faulty.url)
    faulty.fail("hang", 1, method="PUT", pattern=kill_at)
    process = subprocess.Popen(command(raw, out), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert faulty.hanging.wait(60), process.communicate()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not out.exists("dataset.json")
    with pytest.raises(UserError, match=r"holds no dataset\.json"):
        open_dataset(out)
    assert packed(raw, out).dataset.root_hash == root_hash
    assert is_clean(out)


def test_two_packings_at_once_publish_one_dataset(moto_server, raw, root_hash):
    out = fresh_place(moto_server)
    both = [subprocess.Popen(command(raw, out), stderr=subprocess.PIPE, text=True) for _ in range(2)]
    results = [(process.communicate()[1], process.returncode) for process in both]
    assert 0 in [code for _, code in results]
    for said, code in results:
        assert code in (0, 1, 2)
        assert said.count("\n") == (1 if code else 0)
    assert open_dataset(out).root_hash == root_hash
    assert packed(raw, out).already_complete
    assert is_clean(out)


@pytest.mark.parametrize("moment", ["-000001.tar", "dataset.json"])
def test_somebody_else_who_finishes_first_does_not_matter(moto_server, raw, root_hash, monkeypatch, moment):
    out, hashes, waiting = fresh_place(moto_server), [], [moment]

    def overtaken(method: str) -> None:
        original = getattr(S3Store, method)

        def act(self, *arguments) -> None:
            if waiting and any(str(argument).endswith(waiting[0]) for argument in arguments):
                waiting.clear()
                hashes.append(packed(raw, out).dataset.root_hash)
            original(self, *arguments)

        monkeypatch.setattr(S3Store, method, act)

    overtaken("upload")
    overtaken("publish")
    hashes.append(packed(raw, out).dataset.root_hash)
    assert hashes == [root_hash, root_hash]
    assert is_clean(out)


def test_another_dataset_published_meanwhile_stays_and_is_one_line(moto_server, raw, monkeypatch, pretrain):
    out, publish = fresh_place(moto_server), S3Store.publish

    def late(self, name: str, data: bytes, replacing: str | None) -> None:
        if name == "dataset.json":
            self.write(name, b"somebody else's")
        publish(self, name, data, replacing)

    monkeypatch.setattr(S3Store, "publish", late)
    with pytest.raises(UserError):
        packed(raw, out)
    assert out.read("dataset.json") == b"somebody else's"


def test_who_is_overwritten_meanwhile_writes_no_more(moto_server, raw, monkeypatch):
    out, others = fresh_place(moto_server), []

    def overtaken(data: bytes, policy: ImagePolicy) -> CheckedImage:
        if not others:
            others.append(None)
            others.append(packed(raw, out, overwrite=True, images=ImagePolicy(resize=(32, 16))).dataset)
        return prepare_image(data, policy)

    monkeypatch.setattr("sharding.packing.shard.prepare_image", overtaken)
    with pytest.raises(OSError, match="is not being packed by this job any more"):
        packed(raw, out)
    assert open_dataset(out) == others[1]
    assert verify(out).intact


def test_faults_all_along_change_nothing(faulty, raw, root_hash):
    source, out = copied(raw, faulty.url), fresh_place(faulty.url)
    faulty.fail("503", 2, method="GET", pattern="list-type")
    faulty.fail("reset", 2, method="GET", pattern="list-type")
    faulty.fail("short", 2, method="GET", pattern=r"PRETRAIN_110K\.json")
    faulty.fail("lie", 3, method="GET", pattern=r"\.jpg")
    faulty.fail("reset", 3, method="GET", pattern=r"\.jpg")
    faulty.fail("lost", 2, method="PUT", pattern=r"\.plan/")
    faulty.fail("503", 2, method="PUT", pattern=r"\.tar")
    faulty.fail("reset", 2, method="PUT", pattern=r"\.parquet")
    faulty.fail("lost", 1, method="PUT", pattern=r"\.packing\.json")
    faulty.fail("lost", 1, method="PUT", pattern=r"dataset\.json")
    faulty.fail("503", 2, method="DELETE")
    faulty.fail("503", 2, method="HEAD")
    assert packed(source, out).dataset.root_hash == root_hash
    assert is_clean(out)


@pytest.mark.parametrize(("method", "pattern"), [("GET", r"_1_0_7\.jpg"), ("PUT", r"-000001\.tar")])
def test_a_service_that_fails_for_good_is_one_line_and_the_packing_can_be_finished(
    faulty, raw, root_hash, method, pattern
):
    source, out = copied(raw, faulty.url), fresh_place(faulty.url)
    faulty.fail("503", 1000, method=method, pattern=pattern)
    with pytest.raises(OSError, match="answers 503 SlowDown: Please reduce your rate") as caught:
        packed(source, out)
    assert "\n" not in str(caught.value)
    assert not out.exists("dataset.json")
    faulty.forgive()
    assert packed(source, out).dataset.root_hash == root_hash


def test_the_command_names_a_missing_bucket_in_one_line(moto_server, raw):
    out = S3Store("no-such-bucket", "a", moto_server)
    result = subprocess.run(command(raw, out), capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert f"there is no bucket no-such-bucket at {moto_server}" in result.stderr
