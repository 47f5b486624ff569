"""Texts as a raw dataset: the images of a packed dataset, named where they lie in its shards, with captions of ours.

`sharding pseudo-text` gives `open_pseudo_text` to the ordinary packing in place of a reader of raw files.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from sharding.dataset import MANIFEST, Dataset, open_dataset, read_index
from sharding.errors import UserError
from sharding.files import fingerprint
from sharding.index import tar_name
from sharding.pseudo_text.choose import THRESHOLD, choose
from sharding.pseudo_text.compose import Found, compose, distinct
from sharding.pseudo_text.scores import Matrix, Origin, check_origin, read_groups
from sharding.pseudo_text.vocabulary import Vocabulary, vocabulary
from sharding.record import Extent, RawDataset, Record
from sharding.store import Store

SOURCE = "pseudo_text"
KEPT = ("identity", "source", "split", "file_path", "score", "instance_id")  # from the index as they are
SAMPLED = 10_000  # images whose texts distinct-2 is measured on: it falls with their number


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """How texts are written; `scores` is the file of `pretrain score-phrases`."""

    scores: Path
    seed: int = 0
    threshold: float = THRESHOLD
    texts: int = 2

    def deciding(self) -> dict[str, Any]:
        """What the texts follow from besides the dataset, for the settings of the one that is packed."""
        return {
            "seed": self.seed,
            "threshold": self.threshold,
            "texts": self.texts,
            "scores_sha256": fingerprint(self.scores),
            "vocabulary_sha256": vocabulary().hash,
        }


def check(store: Store, settings: TextSettings) -> None:
    """UserError, in one line, for scores of another dataset or other phrases, and for settings out of range."""
    words = vocabulary()
    if not 0 <= settings.threshold < 1:
        raise UserError(f"the threshold is a probability from 0 to below 1, not {settings.threshold}")
    if not 1 <= settings.texts <= len(words.templates):
        raise UserError(f"an image can have 1 to {len(words.templates)} texts, not {settings.texts}")
    check_origin(settings.scores, open_dataset(store), words)


def open_pseudo_text(store: Store, settings: TextSettings) -> RawDataset:
    """The images of the packed dataset at `store` that the scores cover, in packing order, each with its texts.

    Flat in memory. Raises UserError as `check` does; its rows where scores and index differ.
    """
    check(store, settings)
    dataset, words = open_dataset(store), vocabulary()
    origin = check_origin(settings.scores, dataset, words)
    part = dataset.counts if origin.split is None else dataset.counts["splits"][origin.split]
    return RawDataset(
        annotations=(MANIFEST,),
        rows=_records(dataset, words, origin, settings),
        expected=part["images"],
    )


def diversity(store: Store, settings: TextSettings) -> dict[str, float | int]:
    """`distinct_2` of the texts of the first SAMPLED images, and how many texts these are."""
    rows = islice(open_pseudo_text(store, settings).rows, SAMPLED)
    texts = [text for row in rows if isinstance(row, Record) for text in row.captions]
    return {"distinct_2": round(distinct(texts), 6), "distinct_2_texts": len(texts)}


def _records(dataset: Dataset, words: Vocabulary, origin: Origin, settings: TextSettings) -> Iterator[Record]:
    for number, (shard, row, key, found) in enumerate(_joined(dataset, words, origin, settings)):
        yield Record(
            row=number,
            image=Extent(tar_name(shard), row["image_offset"], row["image_size"]),
            captions=compose(words, found, seed=settings.seed, key=key, texts=settings.texts),
            **{name: row[name] for name in KEPT},
        )


def _joined(
    dataset: Dataset, words: Vocabulary, origin: Origin, settings: TextSettings
) -> Iterator[tuple[str, dict[str, Any], str, Found]]:
    """(shard, row of its index, key, what was found) of every image that has scores."""
    groups = read_groups(settings.scores, words)
    columns = ["key", "image_offset", "image_size", *KEPT]
    for shard in dataset.shards:
        if origin.split not in (None, shard.split):
            continue
        rows = read_index(dataset, shard, columns).to_pylist()
        start = 0
        while start < len(rows):
            keys, cosines = next(groups, ([], {}))
            stretch = rows[start : start + len(keys)]
            if not keys or keys != [row["key"] for row in stretch]:
                raise UserError(f"{settings.scores} lacks scores of {rows[start]['key']}: it is damaged; score again")
            for row, found in zip(stretch, found_on(words, origin, cosines, settings.threshold), strict=True):
                yield shard.name, row, row["key"], found
            start += len(keys)


def found_on(words: Vocabulary, origin: Origin, cosines: dict[str, Matrix], threshold: float) -> Iterator[Found]:
    """What is told of each image, by attribute: a phrase, or None where an optional attribute is not there."""
    chosen = {
        attribute.name: [
            attribute.phrases[number] if number >= 0 else None
            for number in choose(attribute, cosines[attribute.name], origin.scale, threshold).tolist()
        ]
        for attribute in words.attributes
    }
    for phrases in zip(*chosen.values(), strict=True):
        yield dict(zip(chosen, phrases, strict=True))
