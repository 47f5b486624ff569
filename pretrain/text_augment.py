"""Augmentation and masking of token rows, drawn by (seed, global position) like that of the images.

Fine-tuning recipes mask and replace word pieces of the caption (UFineBench, Zuo et al. 2024, §5.1); the masked language
loss predicts masked pieces of a second copy (IRRA, Jiang & Ye 2023, §3.3). The first and last token, which mark the
caption's ends, always stay.
"""

import numpy as np
from numpy.typing import NDArray

from pretrain.config import DataSettings

MASK = 49405  # the last word piece of CLIP's vocabulary, which captions do not use: IRRA's choice
FIRST_SPECIAL = 49405
UNTOUCHED = -1  # label of a token that is not to be predicted
OF_MASKED = (0.8, 0.9)  # up to the first share masked, from there to the second replaced, the rest kept (BERT's)

Ids = NDArray[np.uint16]


def augment_ids(ids: Ids, settings: DataSettings, draw: np.random.Generator) -> tuple[Ids, Ids]:
    """One training view of a caption: each word piece masked, replaced, deleted or kept; and what these tokens were.

    uint16 [L] -> two of one length <= L.
    """
    masked, replaced = settings.mask_words, settings.mask_words + settings.replace_words
    deleted = replaced + settings.delete_words
    if deleted == 0:
        return ids, ids
    chance = _chances(len(ids), draw)
    view = np.where(chance < masked, np.uint16(MASK), ids)
    view = np.where((chance >= masked) & (chance < replaced), _random_pieces(len(ids), draw), view)
    stays = (chance < replaced) | (chance >= deleted)
    return view[stays], ids[stays]


def mask_ids(ids: Ids, share: float, draw: np.random.Generator) -> tuple[Ids, NDArray[np.int64]]:
    """A copy with `share` of the pieces masked (80 %), replaced (10 %) or kept (10 %), and what they were.

    uint16 [L] -> uint16 [L], int64 [L] labels, UNTOUCHED where nothing is to be predicted. At least one piece is
    chosen if there is any.
    """
    chance = _chances(len(ids), draw)
    chosen = chance < share
    if not chosen.any() and len(ids) > 2:
        chosen[1] = True
    labels = np.where(chosen, ids.astype(np.int64), UNTOUCHED)  # in uint16, UNTOUCHED would be 65535
    fate = draw.random(len(ids))
    masked = np.where(chosen & (fate < OF_MASKED[0]), np.uint16(MASK), ids)
    replaced = chosen & (fate >= OF_MASKED[0]) & (fate < OF_MASKED[1])
    return np.where(replaced, _random_pieces(len(ids), draw), masked), labels


def _chances(length: int, draw: np.random.Generator) -> NDArray[np.float64]:
    """One number in [0, 1) for each token, out of reach for the two that mark the ends."""
    chance = draw.random(length)
    chance[[0, -1]] = 2.0
    return chance


def _random_pieces(length: int, draw: np.random.Generator) -> Ids:
    return draw.integers(0, FIRST_SPECIAL, length).astype(np.uint16)
