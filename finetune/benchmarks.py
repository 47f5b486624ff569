"""The benchmarks of text-based person retrieval: where their shards lie, which splits they have, how large they are.

Fine-tuning and evaluation open benchmarks here, so that shards of another dataset are refused before anything starts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sharding.errors import UserError
from sharding.index import Dataset, open_dataset, shards_of


@dataclass(frozen=True, kw_only=True)
class Size:
    """Published size of one split."""

    images: int
    captions: int
    identities: int


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One benchmark: `source` is the raw layout its shards are packed from, `splits` the published size of each."""

    source: str
    splits: dict[str, Size]

    @property
    def has_val(self) -> bool:
        """Whether a model can be selected on a split of the benchmark's own that is not its test split."""
        return "val" in self.splits


# Sizes as published with each dataset; ICFG-PEDES has one caption an image, RSTPReid and UFine6926 two.
BENCHMARKS = {
    "cuhk_pedes": Benchmark(
        source="cuhk_pedes",
        splits={
            "train": Size(images=34_054, captions=68_126, identities=11_003),
            "val": Size(images=3_078, captions=6_158, identities=1_000),
            "test": Size(images=3_074, captions=6_156, identities=1_000),
        },
    ),
    "icfg_pedes": Benchmark(
        source="icfg_pedes",
        splits={
            "train": Size(images=34_674, captions=34_674, identities=3_102),
            "test": Size(images=19_848, captions=19_848, identities=1_000),
        },
    ),
    "rstpreid": Benchmark(
        source="rstpreid",
        splits={
            "train": Size(images=18_505, captions=37_010, identities=3_701),
            "val": Size(images=1_000, captions=2_000, identities=200),
            "test": Size(images=1_000, captions=2_000, identities=200),
        },
    ),
    "ufine6926": Benchmark(
        source="ufine6926",
        splits={
            "train": Size(images=18_577, captions=37_154, identities=4_926),
            "test": Size(images=7_629, captions=15_258, identities=2_000),
        },
    ),
    "ufine3c": Benchmark(
        source="ufine3c",
        splits={"test": Size(images=7_446, captions=37_939, identities=2_250)},
    ),
}


TRAINABLE = tuple(name for name, benchmark in BENCHMARKS.items() if "train" in benchmark.splits)


def open_benchmark(path: Path, name: str, splits: Sequence[str] = ()) -> Dataset:
    """The packed benchmark `name`: the dataset at `path`, or at `path/name` where `path` holds several.

    Raises UserError in one line for an unknown name, missing or damaged shards, shards of another source, and for any
    of `splits` that the benchmark does not have or the shards lack.
    """
    if name not in BENCHMARKS:
        raise UserError(f"there is no benchmark {name!r}; known: {', '.join(BENCHMARKS)}")
    benchmark = BENCHMARKS[name]
    for split in splits:
        if split not in benchmark.splits:
            raise UserError(f"{name} has no split {split!r}; it has: {', '.join(benchmark.splits)}")
    dataset = open_dataset(path if (path / "dataset.json").is_file() else path / name)
    if dataset.source != benchmark.source:
        raise UserError(f"{dataset.directory} holds {dataset.source}, not {name}")
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
