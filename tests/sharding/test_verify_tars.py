"""Damage to a tar, of whatever kind, is found and pinned to the very samples it is in."""

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharding.dataset import Dataset, read_index
from sharding.index import index_name, table_bytes, tar_name
from sharding.pack import pack
from sharding.synthetic import synthesize
from sharding.tar import BLOCK, END, header
from sharding.verify import verify
from sharding.verify.headers import headers
from sharding.verify.samples import SampleChecker
from tests.sharding.damage import (
    checked,
    extents,
    files,
    hit,
    keys,
    named,
    path_of,
    recaption,
    reindex,
    republish,
)


@pytest.fixture
def dataset(pretrain: Callable[..., Path], tmp_path: Path) -> Dataset:
    """Ten images of five people: train in two shards of four, val in one of two."""
    return pack("pretrain_110k", pretrain(10), tmp_path / "shards", shard_samples=4).dataset


def test_every_truncation_at_a_block_names_the_samples_that_are_cut_off(dataset):
    shard = dataset.shards[0]
    tar, table = path_of(dataset, tar_name(shard.name)).read_bytes(), read_index(dataset, shard)
    for length in range(0, len(tar), BLOCK):
        [finding] = checked(dataset, shard, tar[:length])
        cut = {member for _, member, _, end in extents(table) if end > length}
        assert named([finding]) == cut
        assert finding.samples == len({member.partition(".")[0] for member in cut})
        assert f"has {length:,} bytes" in finding.problem


def test_every_flipped_bit_of_every_header_names_its_member_alone(pretrain, tmp_path):
    dataset = pack("pretrain_110k", pretrain(5), tmp_path / "shards").dataset
    shard = dataset.shards[-1]
    tar, table = path_of(dataset, tar_name(shard.name)).read_bytes(), read_index(dataset, shard)
    checker = SampleChecker(table, shard)
    data = memoryview(bytearray(tar[: -len(END)]))
    assert checker.check(range(1), data, 0) == []
    for key, member, start, _ in extents(table):
        for place in range(start, start + BLOCK):
            for bit in range(8):
                data[place] ^= 1 << bit
                assert checker.check(range(1), data, 0) == [(key, member, start, "header damaged")]
                data[place] ^= 1 << bit


def test_every_zeroed_block_names_the_member_that_lost_it(dataset):
    shard = dataset.shards[0]
    tar, table = path_of(dataset, tar_name(shard.name)).read_bytes(), read_index(dataset, shard)
    for start in range(0, len(tar), BLOCK):
        zeroed = tar[:start] + bytes(BLOCK) + tar[start + BLOCK :]
        changed = {place for place in range(start, start + BLOCK) if tar[place]}
        findings = checked(dataset, shard, zeroed)
        assert named(findings) == hit(table, changed)
        assert bool(findings) == bool(changed)


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A dataset for properties, which must not be made anew for every example."""
    root = tmp_path_factory.mktemp("made")
    synthesize("pretrain_110k", people=3, out=root / "raw", seed=1)
    return pack("pretrain_110k", root / "raw", root / "shards").dataset


@given(data=st.data())
@settings(max_examples=60)
def test_bytes_overwritten_anywhere_name_the_members_they_hit_and_no_others(made_once, data):
    shard = made_once.shards[0]
    tar, table = path_of(made_once, tar_name(shard.name)).read_bytes(), read_index(made_once, shard)
    start = data.draw(st.integers(0, len(tar) - 1))
    noise = data.draw(st.binary(min_size=1, max_size=2000))[: len(tar) - start]
    damaged = tar[:start] + noise + tar[start + len(noise) :]
    changed = {place for place in range(start, start + len(noise)) if tar[place] != damaged[place]}
    findings = checked(made_once, shard, damaged)
    assert named(findings) == hit(table, changed)
    assert bool(findings) == bool(changed)


@given(st.lists(st.tuples(st.from_regex(r"[a-z0-9_-]{1,90}\.(jpg|png)", fullmatch=True), st.integers(0, 8**11 - 1))))
def test_headers_made_at_once_are_those_made_singly(members):
    names, sizes = np.array([name for name, _ in members], "S100"), np.array([size for _, size in members], np.int64)
    assert headers(names, sizes).tobytes() == b"".join(header(*member) for member in members)


@pytest.mark.parametrize("piece", [1000, 5000])
def test_the_size_of_the_pieces_that_are_read_changes_nothing(dataset, monkeypatch, piece):
    monkeypatch.setattr("sharding.verify.samples.PIECE", piece)
    monkeypatch.setattr("sharding.verify.shard.PIECE", piece)
    assert verify(dataset.store).intact
    tar = path_of(dataset, tar_name(dataset.shards[0].name))
    table = read_index(dataset, dataset.shards[0])
    damaged = bytearray(tar.read_bytes())
    places = [table["image_offset"][1].as_py(), table["text_offset"][2].as_py()]
    for place in places:
        damaged[place] ^= 1
    tar.write_bytes(damaged)
    assert named(verify(dataset.store).findings) == hit(table, set(places))


@pytest.mark.parametrize("end", [END + b"more", END[:-1], END[:-1] + b"x", b""])
def test_damage_behind_the_samples_is_told_from_damage_to_them(dataset, end):
    tar = path_of(dataset, tar_name(dataset.shards[0].name))
    tar.write_bytes(tar.read_bytes()[: -len(END)] + end)
    [finding] = verify(dataset.store).findings
    assert (finding.samples, finding.affected) == (0, ())
    assert "the damage lies behind them" in finding.problem


def test_a_caption_edited_in_the_tar_alone_is_pinned_to_its_sample(dataset):
    shard = dataset.shards[0]
    tar, table = recaption(dataset, shard, 2, "A man in coat 9.", text=True)
    path_of(dataset, tar_name(shard.name)).write_bytes(tar)
    report = verify(dataset.store)
    assert keys(report) == {table["key"][2].as_py()}
    assert files(report) == {tar_name(shard.name)}
    assert {sample.problem for sample in report.findings[0].affected} == {"content differs"}


@pytest.mark.parametrize("caption", ["A man in coat 9.", "A man in coat 9" + ", and more" * 100])
@pytest.mark.parametrize("known", [False, True])
def test_a_caption_edited_in_tar_and_index_alike_puts_the_shard_in_doubt(dataset, caption, known):
    shard = dataset.shards[0]
    tar, table = recaption(dataset, shard, 2, caption, text=True)
    path_of(dataset, tar_name(shard.name)).write_bytes(tar)
    if known:
        reindex(dataset, shard, table)
    else:
        path_of(dataset, index_name(shard.name)).write_bytes(table_bytes(table))
    report = verify(dataset.store)
    finding = next(finding for finding in report.findings if finding.file == tar_name(shard.name))
    assert "nothing tells which samples are damaged" in finding.problem
    assert (finding.samples, finding.whole) == (4, True)


def test_a_caption_edited_everywhere_but_in_the_text_is_pinned_to_its_sample(dataset):
    shard = dataset.shards[0]
    tar, table = recaption(dataset, shard, 2, "A man in coat 9.", text=False)
    path_of(dataset, tar_name(shard.name)).write_bytes(tar)
    forged = reindex(dataset, shard, table)
    republish(forged, shard.name, sha256=hashlib.sha256(tar).hexdigest(), bytes=len(tar))
    [sample] = [sample for finding in verify(dataset.store).findings for sample in finding.affected]
    assert (sample.key, sample.problem) == (table["key"][2].as_py(), "text is not the first caption")


def test_only_the_root_hash_tells_a_dataset_that_was_forged_as_a_whole(dataset):
    shard = dataset.shards[0]
    tar, table = recaption(dataset, shard, 2, "A man in coat 9.", text=True)
    path_of(dataset, tar_name(shard.name)).write_bytes(tar)
    forged = reindex(dataset, shard, table)
    republish(forged, shard.name, sha256=hashlib.sha256(tar).hexdigest(), bytes=len(tar))
    report = verify(dataset.store)
    assert report.intact
    assert report.root_hash != dataset.root_hash


def test_without_its_index_a_damaged_tar_is_in_doubt_as_a_whole(dataset):
    shard = dataset.shards[0]
    path_of(dataset, index_name(shard.name)).unlink()
    assert verify(dataset.store).damaged_samples == 0
    tar = path_of(dataset, tar_name(shard.name))
    tar.write_bytes(b"?" + tar.read_bytes()[1:])
    assert verify(dataset.store).damaged_samples == 4


def test_a_sector_gone_bad_is_damage_and_a_refusal_of_the_system_is_not(dataset, monkeypatch):
    def refuse(number: int) -> Callable[..., Any]:
        def fail(store: object, name: str) -> Any:
            raise OSError(number, os.strerror(number), name)

        return fail

    monkeypatch.setattr("sharding.store.LocalStore.open", refuse(errno.EIO))
    assert verify(dataset.store).damaged_samples == 10
    monkeypatch.setattr("sharding.store.LocalStore.open", refuse(errno.EACCES))
    with pytest.raises(PermissionError):
        verify(dataset.store)
