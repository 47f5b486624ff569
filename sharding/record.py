"""What a source yields: one image with its captions (Record), a row that cannot be used (Reject), or a pair (Triplet).

Every reader in `sharding/sources` turns one raw layout into a RawDataset of these; packing knows nothing else of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Record:
    """One image and its captions, checked for types but with the image not yet opened.

    `row` is the row number (from 0) in the raw annotation, `image` the file to read or the bytes themselves,
    `identity` is `source:ID`, unique over all corpora, `score` the image quality where the corpus gives one, and
    `dropped_captions` says how many unusable captions (empty, lone surrogates) were left out of `captions`.
    """

    row: int
    image: Path | bytes
    captions: tuple[str, ...]
    identity: str
    source: str
    split: str
    file_path: str
    score: float | None = None
    dropped_captions: int = 0


@dataclass(frozen=True, kw_only=True)
class Reject:
    """A row that cannot be packed, and why. The reason names the field and what was found, never a file or a value.

    Where `dropped_captions` is not 0, the image was packed all the same, without that many of its captions.
    """

    row: int
    file_path: str
    reason: str
    dropped_captions: int = 0


@dataclass(frozen=True, kw_only=True)
class Triplet:
    """A composed-retrieval pair: reference image + edit caption → target image.

    `reference` and `target` count the records of the same source (0 is the first one yielded). A source yields its
    triplets after all of its records.
    """

    row: int
    reference: int
    target: int
    edit_caption: str
    cpr_id: int


@dataclass(frozen=True, kw_only=True)
class RawDataset:
    """An opened raw dataset: its annotation files, its rows (to be read once), how many Records and Rejects to expect.

    Equal files give equal rows in equal order.
    """

    annotations: tuple[Path, ...]
    expected: int
    rows: Iterator[Record | Reject | Triplet]
