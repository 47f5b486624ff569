"""Random numbers depend on (seed, purpose, counter) alone, and are the same in every release."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sharding.draws import permutation, uniforms, words

seeds = st.integers(0, 2**63 - 1)


@given(seeds, st.integers(0, 2**50), st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(1, 11))
def test_a_position_draws_the_same_in_whatever_range_it_is_asked_for(seed, first, parts, each):
    whole = uniforms(seed, "view", first, sum(parts), each)
    begins = np.cumsum([0, *parts[:-1]]).tolist()
    pieces = [uniforms(seed, "view", first + begin, count, each) for begin, count in zip(begins, parts, strict=True)]
    assert (np.concatenate(pieces) == whole).all()
    assert ((whole >= 0) & (whole < 1)).all()


def test_numbers_are_spread_evenly_and_seeds_and_purposes_draw_others():
    drawn = uniforms(1, "view", 0, 50_000, 3)
    assert np.abs(np.histogram(drawn, 10, (0, 1))[0] / drawn.size - 0.1).max() < 0.004
    assert np.abs(np.corrcoef(drawn.T) - np.eye(3)).max() < 0.02
    others = [uniforms(2, "view", 0, 50_000, 3), uniforms(1, "erase", 0, 50_000, 3), uniforms(1, "view", 1, 50_000, 3)]
    assert all(abs(np.corrcoef(drawn[:, 0], other[:, 0])[0, 1]) < 0.02 for other in others)


def test_scattered_words_are_those_of_their_counters():
    stream, slot = np.arange(5)[:, None], np.arange(1000)[None, :]
    drawn = words(3, "images", stream, slot)
    assert drawn.shape == (5, 1000)
    assert len(np.unique(drawn)) == 5000
    assert drawn[4, 17] == words(3, "images", 4, 17)
    bits = np.unpackbits(drawn.view(np.uint8).reshape(-1, 8), axis=1)
    assert np.abs(bits.mean(0) - 0.5).max() < 0.04


@given(seeds, st.integers(0, 50), st.integers(0, 2**40))
def test_a_permutation_holds_every_number_once(seed, size, counter):
    assert sorted(permutation(size, seed, "shards", counter).tolist()) == list(range(size))


def test_what_is_drawn_is_frozen():
    assert permutation(6, 7, "shards", 1, 2).tolist() == [3, 0, 5, 4, 1, 2]
    assert np.round(uniforms(7, "view", 5, 2, 2), 6).tolist() == [[0.313357, 0.664685], [0.235967, 0.788661]]
    assert words(7, "images", np.array([1, 2]), 3).tolist() == [11624348127780446917, 10018066671232255051]


@given(st.integers(0, 2**63 - 2))
def test_every_seed_is_another(seed):
    assert (uniforms(seed, "view", 0, 4, 4) != uniforms(seed + 1, "view", 0, 4, 4)).all()
