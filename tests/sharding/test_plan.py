"""The plan is a pure, exact, weighted permutation of positions."""

import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharding.plan import Plan, Stream, integer_quotas

shard_sizes = st.lists(st.integers(0, 9), min_size=1, max_size=7).filter(lambda sizes: sum(sizes) > 0)


def stream(sizes, name="a", weight=1.0):
    return Stream(name=name, root_hash=f"hash-{name}", split="train", shard_samples=tuple(sizes), weight=weight)


@given(shard_sizes, st.integers(0, 2**32), st.integers(1, 4), st.integers(0, 3))
def test_every_sample_comes_exactly_once_per_epoch(sizes, seed, window, epoch):
    plan = Plan([stream(sizes)], seed=seed, block=8, window=window)
    total = sum(sizes)
    blocks = range((epoch + 2) * total + 16)
    places = plan.locate(blocks)
    seen = Counter(zip(places.epoch, places.shard, places.row, strict=True))
    expected = {(epoch, s, r) for s, size in enumerate(sizes) for r in range(size)}
    assert {place for place in seen if place[0] == epoch} == expected
    assert max(seen.values()) == 1


@given(shard_sizes, shard_sizes, st.floats(0.2, 5), st.integers(0, 5))
def test_each_block_holds_the_exact_mixture(first, second, weight, block):
    plan = Plan([stream(first, "a"), stream(second, "b", weight)], seed=1, block=32)
    places = plan.locate(np.arange(block * 32, (block + 1) * 32))
    assert [int((places.stream == s).sum()) for s in range(2)] == plan.quotas


@given(st.permutations(range(40)), st.sampled_from([1, 2, 5, 8]))
def test_a_position_means_the_same_sample_however_positions_are_asked_for(order, ranks):
    plan = Plan([stream([5, 3, 4]), stream([7, 2], "b", 3.0)], seed=3, block=16, window=2)
    whole = plan.locate(range(40))
    shuffled = plan.locate(order)
    assert (shuffled.row == whole.row[order]).all()
    assert (shuffled.shard == whole.shard[order]).all()
    split = np.concatenate([plan.locate(part).row for part in np.array_split(np.arange(40), ranks)])
    assert (split == whole.row).all()


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6), st.integers(1, 5000))
def test_quotas_sum_to_the_block_and_miss_their_share_by_less_than_one(weights, total):
    quotas = integer_quotas(weights, total)
    assert sum(quotas) == total
    assert all(abs(q - w / sum(weights) * total) < 1 + 1e-9 for q, w in zip(quotas, weights, strict=True))


def test_the_order_is_frozen_across_releases():
    plan = Plan([stream([4, 4, 4]), stream([3], "b")], seed=7, block=6, window=2)
    places = plan.locate(range(12))
    got = list(zip(places.stream.tolist(), places.shard.tolist(), places.row.tolist(), strict=True))
    first_block = [(1, 0, 2), (0, 1, 3), (1, 0, 1), (0, 0, 0), (1, 0, 0), (0, 1, 0)]
    assert got == [*first_block, (1, 0, 2), (1, 0, 0), (1, 0, 1), (0, 0, 2), (0, 1, 1), (0, 0, 3)]


def test_seed_data_weight_and_window_change_the_hash_and_nothing_else_does():
    plan = Plan([stream([4, 4])], seed=0)
    assert plan.hash == Plan([stream([4, 4])], seed=0).hash
    others = [
        Plan([stream([4, 4])], seed=1),
        Plan([stream([4, 5])], seed=0),
        Plan([stream([4, 4], weight=2.0)], seed=0),
        Plan([stream([4, 4])], seed=0, window=2),
    ]
    assert len({plan.hash, *(other.hash for other in others)}) == 5


def test_an_epoch_is_shuffled_across_the_shards_of_a_window():
    places = Plan([stream([50, 50])], seed=0).locate(range(100))
    switches = int((np.diff(places.shard) != 0).sum())
    assert switches > 25  # about 50 expected; 1 if the shards came one after the other


def test_threads_may_share_a_plan():
    plan, alone = (Plan([stream([3, 2, 4])], seed=1, block=8, window=1) for _ in range(2))
    chunks = [np.arange(start, start + 40) for start in range(0, 4000, 40)]  # each crosses epochs and windows
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            places = list(pool.map(plan.locate, chunks))
    finally:
        sys.setswitchinterval(before)
    assert all((p.row == alone.locate(chunk).row).all() for p, chunk in zip(places, chunks, strict=True))


def test_an_empty_or_vanishing_dataset_is_refused():
    with pytest.raises(ValueError, match="no samples in split train"):
        stream([0, 0])
    with pytest.raises(ValueError, match="positive and finite"):
        stream([1], weight=float("inf"))
    with pytest.raises(ValueError, match="below one sample"):
        Plan([stream([5]), stream([5], "b", 1e-9)], seed=0)
