"""Counts what shards hold, from their indexes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sharding.index import Shard, index_name, read_parquet
from sharding.record import Size
from sharding.sources.published import ALL_SPLITS
from sharding.store import Store

if TYPE_CHECKING:
    import pyarrow

BLOCK = ("images", "captions", "identities")


def count_samples(store: Store, shards: Sequence[Shard]) -> dict[str, Any]:
    """Images, captions and distinct identities, and bytes of images, in total and (but the bytes) per split."""
    import pyarrow as pa
    import pyarrow.compute as pc

    splits: dict[str, dict[str, int]] = {}
    identities: dict[str, list[pyarrow.Array]] = {}  # by split, those of each shard once
    image_bytes = 0
    for shard in shards:
        table = _columns(store, shard)
        split = splits.setdefault(shard.split, dict.fromkeys(BLOCK, 0))
        split["images"] += table.num_rows
        split["captions"] += pc.sum(pc.list_value_length(table["caption_words"])).as_py()
        image_bytes += pc.sum(table["image_size"]).as_py()
        identities.setdefault(shard.split, []).append(pc.unique(table["identity"]))
    for name, met in identities.items():
        splits[name]["identities"] = len(pc.unique(pa.chunked_array(met)))
    together = pc.unique(pa.chunked_array([array for met in identities.values() for array in met]))
    return {
        "images": sum(split["images"] for split in splits.values()),
        "captions": sum(split["captions"] for split in splits.values()),
        "identities": len(together),
        "image_bytes": image_bytes,
        "splits": splits,
    }


def differences(counts: Mapping[str, Any], published: Mapping[str, Size]) -> list[str]:
    """How the splits differ from the published ones, the first figure of each; empty where they do not.

    >>> differences({"splits": {"test": {"images": 2, "captions": 4, "identities": 1}}}, {"test": Size(images=3)})
    ['test has 2 images (published: 3)']
    """
    found = []
    splits = {ALL_SPLITS: counts} if ALL_SPLITS in published else counts["splits"]
    for split in dict.fromkeys((*published, *splits)):
        if not published:
            break
        here, size = splits.get(split, dict.fromkeys(BLOCK, 0)), published.get(split, Size(0, 0, 0))
        told = [
            f"{here.get(name, 0):,} {name} (published: {number:,})"
            for name, number in size._asdict().items()
            if number is not None and here.get(name, 0) != number
        ]
        if told:
            found.append(f"{split} has {told[0]}")
    return found


def _columns(store: Store, shard: Shard) -> "pyarrow.Table":
    return read_parquet(store.read(index_name(shard.name)), ["identity", "caption_words", "image_size"])
