"""The cache holds what will be needed, no more than it may, and nobody's files but its own."""

import errno
import itertools
import os
import subprocess
import sys
from functools import cache as remembered

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sharding import blocks as blocks_module
from sharding.blocks import BLOCK_NAME, RECENT_SECONDS, Block, Kept, blocks_of, eviction_order
from sharding.cache import USED, BlockCache
from sharding.errors import UserError
from sharding.index import Shard
from sharding.pack import pack
from sharding.reader import SplitReader
from tests.sharding.bucket import in_bucket

SMALL = 2048  # bytes of a block in these tests, unless they say otherwise


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks_module, "BLOCK_BYTES", SMALL)


@pytest.fixture
def dataset(pretrain, tmp_path, small_blocks):
    return pack("pretrain_110k", pretrain(24), tmp_path / "out", shard_samples=10).dataset


def reader_with(dataset, cache):
    return SplitReader(in_bucket(dataset), "train", cache=cache)


def read_all(reader):
    return reader.read(*np.array([reader.place(index) for index in range(len(reader))]).T)


def kept(directory):
    return {path.name: path.stat().st_size for path in directory.iterdir() if BLOCK_NAME.fullmatch(path.name)}


def block(number, size=100, sha256="a" * 64):
    return Block(sha256, "a.tar", number, number * SMALL, size)


@given(st.integers(1, 1000), st.integers(0, 1000), st.integers(1, 1000), st.integers(10, 2000))
def test_blocks_are_whole_stretches_of_a_tar_none_smaller_than_it_must_be(length, offset, size, block_bytes):
    offset %= length
    size = min(size, length - offset)
    shard = Shard(name="a", split="train", samples=1, bytes=length, sha256="0" * 64, index_sha256="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks_module, "BLOCK_BYTES", block_bytes)
        blocks, everything = blocks_of(shard, offset, size), blocks_of(shard, 0, length)
    assert [b.begin for b in everything] == [0, *itertools.accumulate(b.size for b in everything[:-1])]
    assert sum(b.size for b in everything) == length
    assert all(block_bytes <= b.size < 2 * block_bytes for b in everything) or len(everything) == 1
    assert blocks == [b for b in everything if b.begin < offset + size and offset < b.begin + b.size]


@given(st.lists(st.integers(0, 4), max_size=10), st.integers(1, 3))
def test_no_order_of_eviction_needs_fewer_downloads(uses, room):
    names = [f"{shard}" * 64 for shard in range(5)]

    @remembered
    def fewest(i, held):
        if i == len(uses):
            return 0
        if uses[i] in held or len(held) < room:
            return (uses[i] not in held) + fewest(i + 1, held | {uses[i]})
        return 1 + min(fewest(i + 1, held - {gone} | {uses[i]}) for gone in held)

    held, downloads = [], 0
    for i, shard in enumerate(uses):
        coming = {names[s]: uses[i:].index(s) if s in uses[i:] else len(uses) for s in range(5)}
        if all(b.name[:64] != names[shard] for b in held):
            downloads += 1
            if len(held) == room:
                held.remove(eviction_order(held, coming, 1e9)[0])
            held.append(Kept(f"{names[shard]}-000000-1", 1, 0.0))
    assert downloads == fewest(0, frozenset())


def test_what_nobody_needs_goes_first_and_what_another_run_uses_last():
    now = 1e9
    ages = {"a": 5, "b": 2 * RECENT_SECONDS, "c": 3 * RECENT_SECONDS, "d": 0, "e": 0, "f": RECENT_SECONDS / 2}
    blocks = [Kept(f"{letter * 64}-000000-1", 1, now - age) for letter, age in ages.items()]
    order = eviction_order(blocks, {"d" * 64: 10, "e" * 64: 20}, now)
    assert "".join(b.name[0] for b in order) == "cbedfa"
    assert "".join(b.name[0] for b in eviction_order(blocks, {"d" * 64: 10, "e" * 64: 20}, now, later_than=10)) == "cbe"


def test_what_was_read_once_is_read_from_the_disk_also_by_the_next_run(dataset, tmp_path):
    plain = read_all(SplitReader(dataset, "train"))
    for run in ("first", "next"):
        reader = reader_with(dataset, BlockCache(tmp_path / "cache", 1 << 30))
        assert read_all(reader) == read_all(reader) == plain
        assert len(reader.dataset.store.requests) == (len(kept(tmp_path / "cache")) if run == "first" else 0)


def test_a_request_is_for_a_megabyte_and_more(tmp_path, write_json):
    noise = np.random.default_rng(0).integers(0, 256, (12, 512, 512, 3), dtype=np.uint8)
    folder = tmp_path / "raw"
    folder.mkdir()
    for number, pixels in enumerate(noise):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    dataset = pack("folder", folder, tmp_path / "out").dataset
    reader = SplitReader(in_bucket(dataset), dataset.shards[0].split, cache=BlockCache(tmp_path / "cache", 1 << 30))
    read_all(reader)
    sizes = [size for _, _, size in reader.dataset.store.requests]
    assert len(sizes) == dataset.shards[0].bytes >> 22
    assert min(sizes) >= 4 << 20


def test_the_limit_holds_and_the_bytes_are_right_where_all_does_not_fit(dataset, tmp_path):
    limit = 4 * SMALL
    reader = reader_with(dataset, BlockCache(tmp_path / "cache", limit))
    plain = SplitReader(dataset, "train")
    for index in range(len(reader)):
        shards, rows = np.array([reader.place(index)]).T
        assert reader.read(shards, rows) == plain.read(shards, rows)
        assert sum(kept(tmp_path / "cache").values()) <= limit
    assert kept(tmp_path / "cache")


def test_a_smaller_limit_frees_room_at_the_start(dataset, tmp_path):
    read_all(reader_with(dataset, BlockCache(tmp_path / "cache", 1 << 30)))
    BlockCache(tmp_path / "cache", 3 * SMALL)
    assert 0 < sum(kept(tmp_path / "cache").values()) <= 3 * SMALL


def test_a_block_larger_than_the_limit_is_passed_through(tmp_path):
    cache = BlockCache(tmp_path / "cache", 50)
    assert cache.load(block(0), lambda: b"x" * 100) == b"x" * 100
    assert not kept(tmp_path / "cache")


def test_what_is_fetched_ahead_evicts_nothing_that_is_needed_earlier(tmp_path):
    cache = BlockCache(tmp_path / "cache", 300)
    shards = {letter: letter * 64 for letter in "abcd"}
    cache.set_next_uses({shards["a"]: 0, shards["b"]: 10, shards["c"]: 20, shards["d"]: 30})
    for letter in "abd":
        assert cache.load_ahead(block(0, sha256=shards[letter]), lambda: b"x" * 100)
    assert cache.load_ahead(block(0, sha256=shards["c"]), lambda: b"x" * 100)  # in the place of d
    assert not cache.load_ahead(block(0, sha256=shards["d"]), lambda: pytest.fail("downloaded for nothing"))
    assert {name[0] for name in kept(tmp_path / "cache")} == set("abc")


def run(dataset, tmp_path, limit, *kill):
    arguments = [dataset.directory, tmp_path / "cache", limit, SMALL, tmp_path / "log", *kill]
    return subprocess.Popen([sys.executable, "-m", "tests.sharding.cache_process", *map(str, arguments)])


def test_two_processes_download_each_block_once(dataset, tmp_path):
    assert [process.wait() for process in [run(dataset, tmp_path, 1 << 30) for _ in range(2)]] == [0, 0]
    downloads = (tmp_path / "log").read_text().splitlines()
    assert len(downloads) == len(set(downloads)) == len(kept(tmp_path / "cache"))


def test_two_processes_keep_one_limit(dataset, tmp_path):
    limit = 4 * SMALL
    processes = [run(dataset, tmp_path, limit) for _ in range(2)]
    while any(process.poll() is None for process in processes):
        if (tmp_path / "cache").exists():
            names = [path.name for path in (tmp_path / "cache").iterdir()]
            assert sum(int(name.rpartition("-")[2]) for name in names if BLOCK_NAME.fullmatch(name)) <= limit
    assert [process.returncode for process in processes] == [0, 0]
    assert sum(kept(tmp_path / "cache").values()) <= limit


@pytest.mark.parametrize("where", ["download", "write"])
def test_a_kill_leaves_nothing_that_the_next_run_does_not_mend(dataset, tmp_path, where):
    assert run(dataset, tmp_path, 1 << 30, where).wait() == -9
    names = {path.name for path in (tmp_path / "cache").iterdir()}
    assert any(name.startswith(".tmp-") for name in names) == (where == "write")
    cache = BlockCache(tmp_path / "cache", 1 << 30)
    assert not any(path.name.startswith(".tmp-") for path in cache.directory.iterdir())
    assert read_all(reader_with(dataset, cache)) == read_all(SplitReader(dataset, "train"))
    assert int((cache.directory / USED).read_text()) == sum(kept(cache.directory).values())


def test_a_block_that_goes_missing_or_is_cut_or_damaged_is_fetched_again(dataset, tmp_path):
    reader, plain = reader_with(dataset, BlockCache(tmp_path / "cache", 1 << 30)), SplitReader(dataset, "train")
    requests = reader.dataset.store.requests
    for spoil in (
        os.unlink,
        lambda path: os.truncate(path, 100),
        lambda path: path.write_bytes(bytes(path.stat().st_size)),
    ):
        read_all(reader)
        requests.clear()
        for name in kept(tmp_path / "cache"):
            spoil(tmp_path / "cache" / name)
        assert read_all(reader) == read_all(plain)
        assert requests
        requests.clear()
        assert read_all(reader) == read_all(plain)
        assert not requests


def test_files_that_are_not_blocks_survive(dataset, tmp_path):
    cache = BlockCache(tmp_path / "cache", 3 * SMALL)
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    (cache.directory / "notes.txt").write_text("mine")
    (cache.directory / f".tmp-{'0' * 31}").write_text("mine")
    (cache.directory / f"{'0' * 64}-000000-2048").symlink_to(mine)
    (cache.directory / f"{'1' * 64}-000000-2048").mkdir()
    before = {path.name for path in cache.directory.iterdir()}
    read_all(reader_with(dataset, cache))
    BlockCache(cache.directory, 1)
    assert before <= {path.name for path in cache.directory.iterdir()}
    assert mine.read_text() == "mine"


def test_a_folder_with_anything_in_it_is_refused_and_left_as_it_is(tmp_path):
    for name in ("notes.txt", "CACHEDIR.TAG"):
        folder = tmp_path / f"with {name}"
        folder.mkdir()
        (folder / name).write_text("Signature: 8a477f597d28d172789f06886806bc55\n# somebody else's\n")
        with pytest.raises(UserError, match="holds files and is no cache of this project"):
            BlockCache(folder, 1 << 30)
        assert [path.name for path in folder.iterdir()] == [name]


def test_a_cache_that_is_no_folder_is_an_error_of_the_user(tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(UserError, match="cannot be used"):
        BlockCache(tmp_path / "cache", 1 << 30)


def test_a_full_disk_makes_a_smaller_cache_and_one_warning(dataset, tmp_path, monkeypatch, caplog):
    cache, write, room = BlockCache(tmp_path / "cache", 1 << 30), BlockCache._write, 4 * SMALL

    def write_while_there_is_room(self, block, data):
        if sum(kept(self.directory).values()) + len(data) > room:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, block, data)

    monkeypatch.setattr(BlockCache, "_write", write_while_there_is_room)
    reader = reader_with(dataset, cache)
    assert read_all(reader) == read_all(reader) == read_all(SplitReader(dataset, "train"))
    assert kept(cache.directory)
    assert [record.message for record in caplog.records if "No space left" in record.message] == [
        caplog.records[0].message
    ]


def test_a_cache_that_vanishes_is_done_without(dataset, tmp_path, caplog):
    reader = reader_with(dataset, BlockCache(tmp_path / "cache", 1 << 30))
    for path in (tmp_path / "cache").iterdir():
        path.unlink()
    (tmp_path / "cache").rmdir()
    assert read_all(reader) == read_all(SplitReader(dataset, "train"))
    assert len([record for record in caplog.records if "the run goes on" in record.message]) == 1
