"""Small files beside the shards by which other tools find their way: Energon, open_clip, webdataset and wids.

All of them follow from the shards and their indexes alone, so packing the same input again gives the same bytes.
"""

import json
import re
import struct
from collections.abc import Iterable, Sequence

from sharding.index import SHARD_NAME, Shard, tar_name

SIZES = "sizes.json"
WIDS = "wids.json"
TOKENS = re.compile(rf"({SHARD_NAME.pattern})\.([0-9a-f]{{12}})-([0-9a-f]{{12}})\.tokens")


def offsets_name(shard: str) -> str:
    """The file that holds Energon's index of the shard called `shard`: it looks for `.tar.idx`, no other name."""
    return f"{tar_name(shard)}.idx"


def tokens_name(shard: Shard, tokenizer: str) -> str:
    """The file that holds a shard's captions as token ids (sharding/tokens.py), by the tokenizer's hash (hex).

    Both hashes in it are beginnings: what was made of another packing or by another tokenizer has another name.
    """
    return f"{shard.name}.{shard.index_sha256[:12]}-{tokenizer[:12]}.tokens"


def tar_offsets(starts: Sequence[int], end: int) -> bytes:
    """Energon's `NAME.tar.idx`: for N samples N + 1 offsets in the tar, little-endian u64, ascending.

    `starts` are the bytes at which the header of each sample's first member begins, and `end` is the byte after the
    last sample's padding, where the end mark begins: that, not the size of the tar, is what Energon's own indexer
    writes last, for it reads sample i from the i-th offset up to the next.
    """
    return struct.pack(f"<{len(starts) + 1}Q", *starts, end)


def sizes_json(shards: Iterable[Shard]) -> bytes:
    """`sizes.json`: the samples of every tar by file name, from which open_clip learns the size of its training set."""
    return _json({tar_name(shard.name): shard.samples for shard in shards})


def wids_json(name: str, shards: Iterable[Shard]) -> bytes:
    """`wids.json`: wids' index of the dataset called `name`, for random access by sample number in packing order.

    Tars are named relative to the file, as wids resolves them, so the folder may be moved. wids' optional MD5 is left
    out, which would cost a second hash of every byte.
    """
    listed = [{"url": tar_name(shard.name), "nsamples": shard.samples, "filesize": shard.bytes} for shard in shards]
    return _json({"__kind__": "wids-shard-index-v1", "wids_version": 1, "name": name, "shardlist": listed})


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
