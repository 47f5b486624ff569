"""Divide: what the scores of an image say is there. The one place where cosines become probabilities."""

import numpy as np
from numpy.typing import NDArray

from sharding.pseudo_text.vocabulary import Attribute

THRESHOLD = 0.9  # UniPT's


def choose(attribute: Attribute, cosines: NDArray[np.float32], scale: float, threshold: float) -> NDArray[np.int64]:
    """Which phrase is told of each image, [n]; -1 where an optional attribute is not there. Of equals the first.

    cosines: [n, columns of the attribute]. scale: the model's 1 / temperature. A required attribute takes the best
    phrase; an optional one too, but only where its `presence` is above the threshold.
    """
    best = cosines[:, : len(attribute.phrases)].argmax(axis=1)
    if attribute.required:
        return best
    return np.where(presence(attribute, cosines, scale) > threshold, best, -1)


def presence(attribute: Attribute, cosines: NDArray[np.float32], scale: float) -> NDArray[np.float64]:
    """The probability [n] that an optional attribute is there.

    A softmax over all columns with `scale`, where presence and absence have the same prior, each shared equally by its
    own phrases: a model that sees no difference says 0.5, however many kinds of bags are asked for.
    """
    there = len(attribute.phrases)
    logits = scale * cosines.astype(np.float64)
    likely = np.exp(logits - logits.max(axis=1, keepdims=True))
    present, absent = likely[:, :there].mean(axis=1), likely[:, there:].mean(axis=1)
    return present / (present + absent)
