"""One shard on its way to disk: samples go into a temporary tar, then the tar and last its index take their names.

A shard is done when its index exists and the tar matches the size and sha256 noted in it; `find_done` tells which are.
"""

import hashlib
import io
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharding.images import CheckedImage
from sharding.index import (
    SHARD_NAME,
    Shard,
    canonical_json,
    fingerprint,
    index_path,
    rename_durably,
    sample_schema,
    sync,
    table_bytes,
    tar_path,
    write_durably,
)
from sharding.record import Record
from sharding.tar import END, TarWriter, sample_bytes

if TYPE_CHECKING:
    import pyarrow


def sample_members(record: Record, image: CheckedImage) -> tuple[bytes, bytes, bytes]:
    """The contents of a sample's three members: image, first caption, all captions and metadata as JSON."""
    metadata = {
        "captions": record.captions,
        "identity": record.identity,
        "source": record.source,
        "split": record.split,
        "score": record.score,
        "width": image.width,
        "height": image.height,
        "file_path": record.file_path,
    }
    return image.data, record.captions[0].encode(), canonical_json(metadata)


class ShardWriter:
    """Collects the samples of one shard until `publish`; whoever claimed the folder removes what was not published."""

    def __init__(self, directory: Path, name: str, split: str) -> None:
        self.name = name
        self.split = split
        self._directory = directory
        self._temporary = directory / f".tmp-{name}.tar"
        self._file = self._temporary.open("wb", buffering=1 << 20)
        self._tar = TarWriter(self._file)
        self._columns: dict[str, list[Any]] = {column: [] for column in sample_schema().names}

    @property
    def samples(self) -> int:
        """How many samples were added."""
        return len(self._columns["key"])

    def bytes_with(self, members: tuple[bytes, bytes, bytes]) -> int:
        """The size of the finished tar if these members were its last sample."""
        return self._tar.bytes + sample_bytes(tuple(map(len, members))) + len(END)

    def add(self, key: str, record: Record, image: CheckedImage, members: tuple[bytes, bytes, bytes]) -> None:
        """Append one sample under `key`; `members` is what `sample_members` gave for it."""
        columns = self._columns
        named = zip(("image", "text", "json"), (image.ext, "txt", "json"), members, strict=True)
        for member, extension, data in named:
            columns[f"{member}_offset"].append(self._tar.add(f"{key}.{extension}", data))
            columns[f"{member}_size"].append(len(data))
            columns[f"{member}_sha256"].append(hashlib.sha256(data).digest())
        columns["key"].append(key)
        columns["ext"].append(image.ext)
        columns["width"].append(image.width)
        columns["height"].append(image.height)
        columns["caption_words"].append([len(caption.split()) for caption in record.captions])
        for field in ("identity", "source", "split", "score", "row", "file_path"):
            columns[field].append(getattr(record, field))

    def publish(self, job_hash: str) -> Shard:
        """Give the tar its name, then the index, which notes the job; only the second makes the shard count as done."""
        import pyarrow as pa

        sha256 = self._tar.finish()
        sync(self._file)
        self._file.close()
        shard = Shard(
            name=self.name,
            split=self.split,
            samples=self.samples,
            bytes=self._tar.bytes,
            sha256=sha256,
            index_sha256="",
        )
        noted = canonical_json({"job_hash": job_hash, **asdict(shard)})
        table = pa.table(self._columns, schema=sample_schema()).replace_schema_metadata({"shard": noted})
        index = table_bytes(table)
        rename_durably(self._temporary, tar_path(self._directory, self.name))
        write_durably(index_path(self._directory, self.name), index)
        return replace(shard, index_sha256=hashlib.sha256(index).hexdigest())


def noted_job(path: Path) -> str | None:
    """The hash of the job that a shard's index was written for; None if the file is no such index."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return str(json.loads((pq.read_schema(path).metadata or {})[b"shard"])["job_hash"])
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
        return None


def find_done(directory: Path, job_hash: str) -> dict[str, tuple[Shard, "pyarrow.Table"]]:
    """The shards in `directory` that the same job finished earlier and that are intact, by name.

    With each comes the table of its samples' row, file_path and key.
    """
    done = {}
    for path in sorted(directory.glob("*.parquet")):
        if SHARD_NAME.fullmatch(path.stem) and noted_job(path) == job_hash:
            found = _intact(directory, path)
            if found:
                done[path.stem] = found
    return done


def _intact(directory: Path, path: Path) -> tuple[Shard, "pyarrow.Table"] | None:
    """The shard and its samples, unless a bit of the index or the tar differs from what was written.

    Page checksums find damage to the columns, writing the table again finds damage to everything around them.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        data = path.read_bytes()
        table = pq.read_table(io.BytesIO(data), page_checksum_verification=True)
        if table_bytes(table) != data:
            return None
        noted = json.loads((table.schema.metadata or {})[b"shard"])
        del noted["job_hash"]
        shard = replace(Shard(**noted), index_sha256=hashlib.sha256(data).hexdigest())
        tar = tar_path(directory, path.stem)
        if shard.name != path.stem or shard.samples != table.num_rows or fingerprint(tar) != shard.sha256:
            return None
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
        return None
    return shard, table.select(["row", "file_path", "key"])
