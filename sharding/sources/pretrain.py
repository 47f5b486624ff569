"""PRETRAIN_41K and PRETRAIN_110K: one JSON list over images of two re-identification corpora, two long captions each.

`ID` (a string) is unique only within its `source`, and `id` (an integer) may not be contiguous, so an identity is
`<source>:<ID>`: a person keeps it when both versions of the dataset are mixed.
"""

from functools import partial
from pathlib import Path

from sharding.record import RawDataset
from sharding.sources.annotation import corpus_of, find_annotation, text
from sharding.sources.rows import open_rows


def open_pretrain(name: str, input_dir: Path) -> RawDataset:
    """The dataset whose annotation is called `name`, with the images below `imgs/`."""
    annotation = find_annotation(input_dir, name)
    return open_rows(annotation, input_dir / "imgs", person=lambda row: text(row, "ID"), corpus=corpus_of)


open_41k = partial(open_pretrain, "PRETRAIN_41K.json")
open_110k = partial(open_pretrain, "PRETRAIN_110K.json")
