"""What a rank will read is in the cache before it asks, as far as half of the cache goes."""

import threading
import time

import numpy as np
import pytest

from sharding import blocks as blocks_module
from sharding.blocks import BLOCK_NAME
from sharding.cache import BlockCache
from sharding.pack import pack
from sharding.plan import Plan, Stream
from sharding.read_ahead import ReadAhead, next_uses
from sharding.reader import SplitReader
from tests.sharding.bucket import in_bucket

SMALL = 2048
IMAGE = [("image",)]


@pytest.fixture
def dataset(pretrain, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks_module, "BLOCK_BYTES", SMALL)
    return pack("pretrain_110k", pretrain(60), tmp_path / "out", shard_samples=6).dataset


def plan_of(*readers, block=8):
    streams = [
        Stream(name=str(i), root_hash="0", split="train", shard_samples=reader.shard_samples)
        for i, reader in enumerate(readers)
    ]
    return Plan(streams, seed=0, block=block, window=2)


def batches(first, last, size=8):
    return [range(position, position + size) for position in range(first, last, size)]


def read(reader, plan, batch):
    places = plan.locate(batch)
    return reader.read(places.shard, places.row)


def wait_for_downloads():
    for thread in threading.enumerate():
        if thread.name == "read ahead":
            thread.join()


def bytes_kept(cache):
    names = [path.name for path in cache.directory.iterdir()]
    return sum(int(name.rpartition("-")[2]) for name in names if BLOCK_NAME.fullmatch(name))


def test_the_reader_asks_for_nothing_that_was_read_ahead(dataset, tmp_path):
    cache = BlockCache(tmp_path / "cache", 1 << 30)
    reader, plain = SplitReader(in_bucket(dataset), "train", cache=cache), SplitReader(dataset, "train")
    plan, coming = plan_of(reader), batches(16, 64)
    with ReadAhead(plan, [reader], cache, coming, IMAGE, 16):
        wait_for_downloads()
    requests = reader.dataset.store.requests
    assert len(requests) == len(set(requests)) > 0
    assert requests[0] in [(b.tar, b.begin, b.size) for b in reader.blocks(*places(plan, coming[0]), ("image",))]
    requests.clear()
    assert [read(reader, plan, batch) for batch in coming] == [read(plain, plan, batch) for batch in coming]
    assert requests == []


def places(plan, batch):
    found = plan.locate(batch)
    return found.shard, found.row


def test_no_more_than_half_of_the_cache_is_fetched_ahead(dataset, tmp_path):
    cache = BlockCache(tmp_path / "cache", 16 * SMALL)
    reader = SplitReader(in_bucket(dataset), "train", cache=cache)
    with ReadAhead(plan_of(reader), [reader], cache, batches(0, 10**6), IMAGE, 0) as ahead:
        while bytes_kept(cache) < 8 * SMALL:
            time.sleep(0.001)
        ahead.advance(0)
    assert sum(size for _, _, size in reader.dataset.store.requests) == 8 * SMALL


def test_a_cache_of_two_windows_and_a_half_downloads_each_shard_once_an_epoch(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks_module, "BLOCK_BYTES", 1 << 20)  # so that a shard is a block
    plain = SplitReader(dataset, "train")
    shards, window = [shard.bytes for shard in plain.shards], 2
    cache = BlockCache(tmp_path / "cache", (2 * window + 1) * max(shards))
    reader = SplitReader(in_bucket(dataset), "train", cache=cache)
    plan, epochs = plan_of(reader, block=1), 4
    coming = batches(0, epochs * len(reader))
    with ReadAhead(plan, [reader], cache, coming, IMAGE, 0) as ahead:
        for batch in coming:
            assert read(reader, plan, batch) == read(plain, plan, batch)
            assert bytes_kept(cache) <= cache.limit_bytes < sum(shards)
            ahead.advance(batch.stop)
    assert len(reader.dataset.store.requests) <= epochs * len(shards)


def test_what_cannot_be_fetched_is_left_to_the_reader(dataset, tmp_path, caplog):
    refusing = threading.Event()
    refusing.set()

    def disturb():
        if refusing.is_set():
            raise OSError("the service does not answer")

    cache = BlockCache(tmp_path / "cache", 1 << 30)
    reader = SplitReader(in_bucket(dataset, disturb), "train", cache=cache)
    plan = plan_of(reader)
    with ReadAhead(plan, [reader], cache, batches(0, 16), IMAGE, 0):
        wait_for_downloads()
    assert "reading ahead: the service does not answer" in caplog.text
    with pytest.raises(OSError, match="does not answer"):
        read(reader, plan, range(8))
    refusing.clear()
    assert read(reader, plan, range(8)) == read(SplitReader(dataset, "train"), plan, range(8))


def test_leaving_the_context_ends_the_threads(dataset, tmp_path):
    cache = BlockCache(tmp_path / "cache", 4 * SMALL)
    reader = SplitReader(in_bucket(dataset), "train", cache=cache)
    with ReadAhead(plan_of(reader), [reader], cache, batches(0, 10**6), IMAGE, 0):
        assert {"read ahead", "next uses"} <= {thread.name for thread in threading.enumerate()}
    assert not {"read ahead", "next uses"} & {thread.name for thread in threading.enumerate()}


def test_a_shard_is_never_needed_before_it_is_said_to_be(dataset):
    readers = [SplitReader(dataset, "train"), SplitReader(dataset, "train")]
    plan = plan_of(*readers)
    found = plan.locate(np.arange(1000))
    for position in range(0, 400, 37):
        uses = next_uses(plan, readers, position)
        first = {}
        for place, shard in enumerate(found.shard[position:].tolist(), position):
            first.setdefault(readers[0].shards[shard].sha256, place)
        assert all(position <= uses[sha256] <= place for sha256, place in first.items())
        assert set(uses) == set(first)
