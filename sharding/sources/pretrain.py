"""PRETRAIN_41K and PRETRAIN_110K: one JSON list over images of two re-identification corpora, two long captions each.

`ID` (a string) is unique only within its `source`, and `id` (an integer) may not be contiguous, so an identity is
`<source>:<ID>`: a person keeps it when both versions of the dataset are mixed.
"""

from sharding.record import RawDataset
from sharding.sources.annotation import corpus_of, text
from sharding.sources.inputs import find_annotation
from sharding.sources.rows import open_rows
from sharding.store import Store


def open_41k(store: Store) -> RawDataset:
    """PRETRAIN_41K."""
    return _open(store, "pretrain_41k")


def open_110k(store: Store) -> RawDataset:
    """PRETRAIN_110K."""
    return _open(store, "pretrain_110k")


def _open(store: Store, version: str) -> RawDataset:
    annotation = find_annotation(store, f"{version.upper()}.json")
    return open_rows(
        store,
        annotation,
        "imgs/",
        person=lambda row: text(row, "ID"),
        corpus=corpus_of,
    )
