"""What a source yields: one image with its captions (Record), a row that cannot be used (Reject), or a pair (Triplet).

Every reader in `sharding/sources` turns one raw layout into a RawDataset of these; packing knows nothing else of it.
They are named tuples: millions pass through, and a frozen dataclass takes three times as long to make.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Extent(NamedTuple):
    """Where the bytes of an image lie: in a file of the input, named relative to it, `size` bytes from `offset` on.

    A `size` of −1 means the whole file: the images of Arrow files and tars lie inside larger files.
    """

    path: str
    offset: int = 0
    size: int = -1


class Record(NamedTuple):
    """One image and its captions, checked for types but with the image not yet opened.

    `row` is the row number (from 0) in the raw annotation, `identity` is `source:ID`, unique over all corpora, `score`
    the image quality where the corpus gives one, and `dropped_captions` says how many unusable captions (empty, lone
    surrogates) were left out of `captions`, which may be empty where a corpus holds bare images. `instance_id` is what
    composed retrieval (ITCPR) is judged by; −1 there marks a distractor, which matches nothing.
    """

    row: int
    image: Extent
    captions: tuple[str, ...]
    identity: str
    source: str
    split: str
    file_path: str
    score: float | None = None
    instance_id: int | None = None
    dropped_captions: int = 0


class Reject(NamedTuple):
    """A row that cannot be packed, and why. The reason names the field and what was found, never a file or a value.

    Where `dropped_captions` is not 0, the image was packed all the same, without that many of its captions.
    """

    row: int
    file_path: str
    reason: str
    dropped_captions: int = 0


class Triplet(NamedTuple):
    """A composed-retrieval pair: reference image + edit caption → target image.

    `reference` and `target` count the records of the same source (0 is the first one yielded). A source yields its
    triplets after all of its records.
    """

    row: int
    reference: int
    target: int
    edit_caption: str
    cpr_id: int


class Size(NamedTuple):
    """Published size of one split; None where the publication does not say."""

    images: int | None = None
    captions: int | None = None
    identities: int | None = None
    triplets: int | None = None


@dataclass(frozen=True, kw_only=True)
class RawDataset:
    """An opened raw dataset. Equal files give equal rows in equal order.

    `annotations` names the files of the input that decide the rows; `rows` is to be read once, and raises UserError
    where an annotation turns out to be damaged; `expected` is the number of Records and Rejects, or 0 where only a
    reading of all of them tells; `listing` is {"files": sha256 over them} where there is no annotation, and what files
    there are decides the rows; `has_triplets` says that triplets follow the records.
    """

    annotations: tuple[str, ...]
    rows: Iterator[Record | Reject | Triplet]
    expected: int = 0
    listing: Mapping[str, str] = field(default_factory=dict)
    has_triplets: bool = False
