"""Word pieces are masked, replaced and deleted as often as asked for; the ends of a caption always stay."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.config import DataSettings, MixtureSettings
from pretrain.text import MaskedText, pack
from pretrain.text_augment import MASK, UNTOUCHED, augment_ids, mask_ids
from sharding.draws import uniforms

START, END = 49406, 49407


def data(**shares):
    return DataSettings(mixture=(MixtureSettings(path="x"),), **shares)


def caption(words, first=1000):
    return np.array([START, *range(first, first + words), END], dtype=np.uint16)


def draws(position, seed=0):
    """Numbers for up to 102 tokens, as a loader draws them for the position."""
    return uniforms(seed, "words", position, 1, 306).reshape(102, 3)


@st.composite
def three_shares(draw):
    cuts = sorted(draw(st.lists(st.floats(0, 1), min_size=3, max_size=3)))
    masked, replaced, deleted = np.diff([0, *cuts])
    return {"mask_words": masked, "replace_words": replaced, "delete_words": deleted}


@given(st.integers(0, 20), three_shares(), st.integers(0, 1000))
def test_the_ends_stay_and_the_rest_keeps_its_order(words, shares, position):
    ids = caption(words)
    got, originals = augment_ids(ids, data(**shares), draws(position))
    assert got.dtype == np.uint16
    assert (got[0], got[-1]) == (START, END)
    assert 2 <= len(got) <= len(ids)
    assert all(piece < START for piece in got[1:-1])
    again, _ = augment_ids(ids, data(**shares), draws(position))
    assert got.tolist() == again.tolist()
    assert len(originals) == len(got)
    assert (np.diff(originals[1:-1].astype(int)) > 0).all()  # the words of the caption count up
    assert set(originals) <= set(ids)
    if shares["delete_words"] == 0:
        assert len(got) == len(ids)
    if shares["replace_words"] == 0:
        assert all(piece in (MASK, was) for piece, was in zip(got, originals, strict=True))


def test_each_fate_has_its_share():
    ids, settings = caption(100), data(mask_words=0.2, replace_words=0.1, delete_words=0.3)
    views = [augment_ids(ids, settings, draws(position, seed=1))[0] for position in range(300)]
    masked = sum(int((view == MASK).sum()) for view in views) / 30_000
    kept = sum(int(np.isin(view[1:-1], ids).sum()) for view in views) / 30_000
    deleted = 1 - sum(len(view) - 2 for view in views) / 30_000
    assert masked == pytest.approx(0.2, abs=0.01)
    assert deleted == pytest.approx(0.3, abs=0.01)
    assert kept == pytest.approx(0.4, abs=0.01)  # what is not masked, deleted or replaced
    assert len({view.tobytes() for view in views}) == 300


def test_random_pieces_come_from_the_whole_vocabulary():
    ids, settings = caption(100), data(replace_words=0.1)
    replaced, of_masked = [], []
    for position in range(100):
        view, _ = augment_ids(ids, settings, draws(position, seed=3))
        replaced += view[view != ids].tolist()
        view, _ = mask_ids(ids, 0.9, draws(position, seed=4))
        of_masked += view[(view != ids) & (view != MASK)].tolist()
    for pieces in (replaced, of_masked):
        share, _ = np.histogram(pieces, bins=4, range=(0, MASK))
        assert share / len(pieces) == pytest.approx([0.25] * 4, abs=0.06)


def test_without_shares_nothing_changes():
    ids = caption(5)
    assert augment_ids(ids, data(), draws(0)) == (ids, ids)


def test_a_caption_that_loses_every_word_is_still_a_caption():
    rows = [augment_ids(caption(n), data(delete_words=1.0), draws(n))[0] for n in (0, 1, 30)]
    text = pack(rows)
    assert text.boundaries.tolist() == [0, 2, 4, 6]
    assert text.ids.tolist() == [START, END] * 3
    assert text.positions.tolist() == [0, 1] * 3


@given(st.integers(0, 20), st.floats(0, 1), st.integers(0, 1000))
def test_labels_are_the_originals_and_only_chosen_pieces_change(words, share, position):
    ids = caption(words)
    masked, labels = mask_ids(ids, share, draws(position))
    assert (masked.dtype, labels.dtype) == (np.uint16, np.int64)
    assert len(masked) == len(labels) == len(ids)
    chosen = labels != UNTOUCHED
    assert (labels[chosen] == ids[chosen]).all()
    assert (masked[~chosen] == ids[~chosen]).all()
    assert not chosen[[0, -1]].any()
    assert chosen.any() == (words > 0)


def test_of_the_chosen_pieces_most_are_masked_some_replaced_and_some_kept():
    ids = caption(100)
    drawn = [mask_ids(ids, 0.15, draws(position, seed=2)) for position in range(300)]
    masked, labels = (np.concatenate(part) for part in zip(*drawn, strict=True))
    chosen = labels != UNTOUCHED
    assert chosen.sum() / 30_000 == pytest.approx(0.15, abs=0.01)
    assert (masked[chosen] == MASK).mean() == pytest.approx(0.8, abs=0.02)
    assert (masked[chosen] == labels[chosen]).mean() == pytest.approx(0.1, abs=0.02)
    assert masked[chosen].max() == MASK


def test_masked_text_names_the_places_in_the_packed_row():
    rows = [mask_ids(caption(n), 0.5, draws(n)) for n in (3, 0, 6)]
    originals = pack([caption(n) for n in (3, 0, 6)])
    masked = MaskedText.of(rows, beside=originals)
    assert len(masked.ids) == len(originals.ids)
    assert (originals.ids[masked.places] == masked.labels).all()
    untouched = np.setdiff1d(np.arange(len(masked.ids)), masked.places)
    assert (masked.ids[untouched] == originals.ids[untouched]).all()
