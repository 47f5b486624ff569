"""The plan is a pure, exact, weighted permutation of positions."""

import sys
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharding.plan import Places, Plan, Stream, integer_quotas

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
    first_block = [(1, 0, 0), (0, 2, 2), (1, 0, 2), (0, 2, 0), (1, 0, 1), (0, 0, 2)]
    assert got == [*first_block, (1, 0, 2), (1, 0, 0), (1, 0, 1), (0, 0, 0), (0, 0, 1), (0, 2, 3)]


def test_seed_data_weight_and_window_change_the_hash_and_nothing_else_does():
    plan = Plan([stream([4, 4])], seed=0)
    assert plan.hash == Plan([stream([4, 4])], seed=0).hash
    others = [
        Plan([stream([4, 4])], seed=1),
        Plan([stream([4, 5])], seed=0),
        Plan([stream([3, 5])], seed=0),
        Plan([stream([4, 4]), stream([4, 4])], seed=0),
        Plan([stream([4, 4], weight=2.0)], seed=0),
        Plan([stream([4, 4])], seed=0, window=2),
    ]
    assert len({plan.hash, *(other.hash for other in others)}) == 7
    assert plan.hash == Plan([stream([4, 4], weight=1)], seed=0).hash


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


two_streams = st.tuples(shard_sizes, shard_sizes, st.floats(0.2, 5))


def mixed(sizes, window=2, **changes):
    first, second, weight = sizes
    return Plan([stream(first, "a"), stream(second, "b", weight)], seed=5, block=16, window=window, **changes)


@given(two_streams, st.integers(1, 4), st.integers(0, 10_000))
def test_a_sample_is_found_where_its_position_put_it(sizes, window, first):
    plan, positions = mixed(sizes, window), np.arange(first, first + 50)
    assert (plan.positions_of(plan.locate(positions)) == positions).all()


@given(two_streams, st.integers(0, 3))
def test_every_sample_of_every_epoch_has_a_position_and_stands_there(sizes, epoch):
    plan = mixed(sizes)
    rows = [(s, epoch, shard, row) for s in (0, 1) for shard, size in enumerate(sizes[s]) for row in range(size)]
    stream, epochs, shard, row = np.array(rows).T
    positions = plan.positions_of(Places(stream=stream, epoch=epochs, shard=shard, row=row))
    found = plan.locate(positions)
    assert (np.stack([found.stream, found.epoch, found.shard, found.row], axis=1) == rows).all()


def ranges(begin, batch, ranks, steps):
    """What each rank reads in each of `steps` steps, in the order of steps and ranks."""
    share = batch // ranks
    for step in range(steps):
        for rank in range(ranks):
            first = begin + step * batch + rank * share
            yield np.arange(first, first + share)


@settings(max_examples=50)
@given(two_streams, st.lists(st.sampled_from([8, 6, 16, 5]), min_size=1, max_size=5))
def test_the_order_is_the_same_on_any_number_of_ranks_and_across_changes_of_it(sizes, worlds):
    """A global batch of 240 is shared out by 8, 6, 16 or 5 ranks, which change in mid-epoch after two steps each."""
    steps = [part for turn, ranks in enumerate(worlds) for part in ranges(turn * 480, 240, ranks, 2)]
    assert (np.concatenate(steps) == np.arange(480 * len(worlds))).all()  # all ranks take as many steps, none is cut
    plan, whole = mixed(sizes), mixed(sizes).locate(range(480 * len(worlds)))
    found = [plan.locate(part) for part in steps]
    for name in ("stream", "epoch", "shard", "row"):
        assert (np.concatenate([getattr(part, name) for part in found]) == getattr(whole, name)).all()


@given(shard_sizes, st.integers(2, 20))
def test_the_end_of_an_epoch_is_completed_by_the_next_and_nothing_is_dropped(sizes, batch):
    plan, total = Plan([stream(sizes)], seed=1, block=8), sum(sizes)
    steps = -(-total // batch)
    epochs = plan.locate(range(steps * batch)).epoch
    assert (epochs == np.arange(steps * batch) // total).all()


@given(two_streams, st.integers(0, 3000))
def test_no_shard_is_needed_earlier_than_its_next_use(sizes, position):
    plan = mixed(sizes)
    coming = plan.locate(range(position, position + 300))
    for number, one in enumerate(plan.streams):
        uses = plan.next_uses(position, number)
        assert (uses >= position).all()
        for shard, size in enumerate(one.shard_samples):
            at = np.flatnonzero((coming.stream == number) & (coming.shard == shard))
            if size and len(at):
                assert uses[shard] <= position + at[0]


def test_a_shard_that_this_epoch_has_passed_is_needed_in_the_next():
    plan = Plan([stream([16] * 8)], seed=2, block=16, window=2)
    last = int(plan.locate([127]).shard[0])
    first = int(plan.locate([0]).shard[0])
    uses = plan.next_uses(64, 0)
    assert uses[last] == 96  # the last window begins there
    assert uses[first] >= 128


@given(two_streams, st.integers(0, 5000), st.integers(0, 20))
def test_a_stand_in_is_of_the_same_stream_and_epoch_and_always_the_same(sizes, position, attempt):
    plan = mixed(sizes)
    other = plan.substitute(position, attempt)
    assert other == mixed(sizes).substitute(position, attempt)
    here, there = plan.locate([position]), plan.locate([other])
    assert (here.stream, here.epoch) == (there.stream, there.epoch)


def test_stand_ins_of_several_attempts_are_others():
    plan = Plan([stream([100] * 4)], seed=0)
    assert len({plan.substitute(7, attempt) for attempt in range(20)}) > 15


def test_a_thousand_million_samples_are_planned_without_looking_at_them():
    """In kilobytes, not gigabytes: what is made is of the size of the shards and of one window."""
    sizes = tuple([10_000] * 100_000)
    tracemalloc.start()
    plan = Plan([stream(sizes)], seed=0)
    positions = np.arange(987_654_321, 987_654_321 + 64)
    assert (plan.positions_of(plan.locate(positions)) == positions).all()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6
