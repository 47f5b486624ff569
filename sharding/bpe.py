"""CLIP's byte pair encoding: captions to ids, by open_clip's own tokenizer.

The one place of this package that imports open_clip, and with it torch: only where captions are really encoded.
"""

import hashlib
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.uint16]
LEFT, RIGHT = 1823, 1155  # the words "left" and "right", a piece each
VOCABULARY_FILE = "bpe_simple_vocab_16e6.txt.gz"


def encode(caption: str) -> Ids:
    """The ids of a caption of any length: start token, word pieces, end token. uint16 [L]."""
    bpe = _tokenizer()
    return np.array([bpe.sot_token_id, *bpe.encode(caption), bpe.eot_token_id], dtype="<u2")


def truncate(ids: Ids, context_length: int) -> Ids:
    """At most `context_length` of the ids, the last of them the end token."""
    return ids if len(ids) <= context_length else np.append(ids[: context_length - 1], ids[-1])


@cache
def tokenizer_hash() -> str:
    """sha256 over what decides the ids: the vocabulary, and the release of the code that cleans and splits the text."""
    package = find_spec("open_clip")  # not imported: that takes seconds
    assert package is not None
    assert package.origin is not None
    vocabulary = Path(package.origin).with_name(VOCABULARY_FILE).read_bytes()
    releases = [f"{package} {version(package)}" for package in ("open_clip_torch", "ftfy", "regex")]
    return hashlib.sha256(vocabulary + "\n".join(releases).encode()).hexdigest()


def swap_sides(ids: Ids) -> Ids:
    """The ids of the caption in which the words "left" and "right" have changed places, as in a mirrored image."""
    return np.where(ids == LEFT, np.uint16(RIGHT), np.where(ids == RIGHT, np.uint16(LEFT), ids))


@cache
def _tokenizer() -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()
