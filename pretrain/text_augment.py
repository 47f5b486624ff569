"""Augmentation and masking of token rows, drawn by (seed, global position) like that of the images.

Fine-tuning recipes mask and replace word pieces of the caption (UFineBench, Zuo et al. 2024, §5.1); the masked language
loss predicts masked pieces of a second copy (IRRA, Jiang & Ye 2023, §3.3). The first and last token, which mark the
caption's ends, always stay.
"""

import numpy as np
from numpy.typing import NDArray

from pretrain.config import DataSettings
from sharding.bpe import Ids

MASK = 49405  # the last word piece of CLIP's vocabulary, which captions do not use: IRRA's choice
FIRST_SPECIAL = 49405
UNTOUCHED = -1  # label of a token that is not to be predicted
OF_MASKED = (0.8, 0.9)  # up to the first share masked, from there to the second replaced, the rest kept (BERT's)

Draws = NDArray[np.float64]  # numbers in [0, 1), a row for each token


def augment_ids(ids: Ids, settings: DataSettings, draws: Draws) -> tuple[Ids, Ids]:
    """One training view of a caption: each word piece masked, replaced, deleted or kept; and what these tokens were.

    uint16 [L], draws [>= L, 2] -> two uint16 of one length <= L.
    """
    masked, replaced = settings.mask_words, settings.mask_words + settings.replace_words
    deleted = replaced + settings.delete_words
    if deleted == 0:
        return ids, ids
    chance = _chances(ids, draws)
    view = np.where(chance < masked, np.uint16(MASK), ids)
    view = np.where((chance >= masked) & (chance < replaced), _pieces(ids, draws[:, 1]), view)
    stays = (chance < replaced) | (chance >= deleted)
    return view[stays], ids[stays]


def mask_ids(ids: Ids, share: float, draws: Draws) -> tuple[Ids, NDArray[np.int64]]:
    """A copy with `share` of the pieces masked (80 %), replaced (10 %) or kept (10 %), and what they were.

    uint16 [L], draws [>= L, 3] -> uint16 [L], int64 [L] labels, UNTOUCHED where nothing is to be predicted. At least
    one piece is chosen if there is any.
    """
    chosen = _chances(ids, draws) < share
    if not chosen.any() and len(ids) > 2:
        chosen[1] = True
    labels = np.where(chosen, ids.astype(np.int64), UNTOUCHED)  # in uint16, UNTOUCHED would be 65535
    fate = draws[: len(ids), 1]
    masked = np.where(chosen & (fate < OF_MASKED[0]), np.uint16(MASK), ids)
    replaced = chosen & (fate >= OF_MASKED[0]) & (fate < OF_MASKED[1])
    return np.where(replaced, _pieces(ids, draws[:, 2]), masked), labels


def _chances(ids: Ids, draws: Draws) -> Draws:
    """One number in [0, 1) for each token, out of reach for the two that mark the ends."""
    chance = draws[: len(ids), 0].copy()
    chance[[0, -1]] = 2.0
    return chance


def _pieces(ids: Ids, draws: Draws) -> Ids:
    """A random word piece for each token."""
    return (draws[: len(ids)] * FIRST_SPECIAL).astype(np.uint16)
