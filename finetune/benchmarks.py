"""The benchmarks of text-based person retrieval: where their shards lie, which splits they have, how large they are.

Fine-tuning and evaluation open benchmarks here, so that shards of another dataset are refused before anything starts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sharding.dataset import MANIFEST, Dataset, open_dataset, shards_of
from sharding.errors import UserError
from sharding.record import Size
from sharding.sources.published import PUBLISHED
from sharding.store import open_store, place_below


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One benchmark: `source` is the raw layout its shards are packed from, `splits` the published size of each."""

    source: str
    splits: dict[str, Size]

    @property
    def has_val(self) -> bool:
        """Whether a model can be selected on a split of the benchmark's own that is not its test split."""
        return "val" in self.splits


BENCHMARKS = {
    name: Benchmark(source=name, splits=PUBLISHED[name])
    for name in ("cuhk_pedes", "icfg_pedes", "rstpreid", "ufine6926", "ufine3c")
}
TRAINABLE = tuple(name for name, benchmark in BENCHMARKS.items() if "train" in benchmark.splits)


def open_benchmark(place: str | Path, name: str, splits: Sequence[str] = ()) -> Dataset:
    """The packed benchmark `name`: the dataset at `place`, or at `place/name` where `place` holds several.

    Raises UserError in one line for an unknown name, missing or damaged shards, shards of another source, and for any
    of `splits` that the benchmark does not have or the shards lack.
    """
    if name not in BENCHMARKS:
        raise UserError(f"there is no benchmark {name!r}; known: {', '.join(BENCHMARKS)}")
    benchmark = BENCHMARKS[name]
    for split in splits:
        if split not in benchmark.splits:
            raise UserError(f"{name} has no split {split!r}; it has: {', '.join(benchmark.splits)}")
    dataset = open_dataset(place if open_store(place).exists(MANIFEST) else place_below(place, name))
    if dataset.source != benchmark.source:
        raise UserError(f"{dataset.store} holds {dataset.source}, not {name}")
    for split in splits:
        shards_of(dataset, split)
    return dataset


def difference_from_published(dataset: Dataset, split: str) -> str | None:
    """One line on how a split differs in size from the published one; None if it does not, or is of no benchmark.

    Figures on a split of another size cannot be held against published ones.
    """
    published = {benchmark.source: benchmark for benchmark in BENCHMARKS.values()}.get(dataset.source)
    counts = dataset.counts["splits"].get(split)
    if published is None or split not in published.splits or counts is None:
        return None
    size = published.splits[split]
    if (counts["images"], counts["captions"]) == (size.images, size.captions):
        return None
    return (
        f"{dataset.source} {split} has {counts['images']:,} images and {counts['captions']:,} captions, the published "
        f"one {size.images:,} and {size.captions:,}: not comparable with published figures"
    )
