"""One shard on its way to disk: samples go into a temporary tar, then the tar and last its index take their names.

A shard is done when its index exists and the tar matches the size and sha256 noted in it; `find_done` tells which are.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sharding.errors import UserError
from sharding.images import CheckedImage
from sharding.index import (
    SHARD_NAME,
    Shard,
    canonical_json,
    index_path,
    rename_durably,
    sample_schema,
    sync,
    table_bytes,
    tar_path,
    write_durably,
)
from sharding.record import Record
from sharding.sources.annotation import fingerprint
from sharding.tar import END, TarWriter, sample_bytes


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
    """Collects the samples of one shard; ends with `publish` or, leaving nothing behind, `discard`."""

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

    def publish(self, settings_hash: str) -> Shard:
        """Give the tar its name, then the index; only the second makes the shard count as done."""
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
        noted = canonical_json({"settings_hash": settings_hash, **asdict(shard)})
        table = pa.table(self._columns, schema=sample_schema()).replace_schema_metadata({"shard": noted})
        index = table_bytes(table)
        rename_durably(self._temporary, tar_path(self._directory, self.name))
        write_durably(index_path(self._directory, self.name), index)
        return Shard(**{**asdict(shard), "index_sha256": hashlib.sha256(index).hexdigest()})

    def discard(self) -> None:
        """Remove the temporary tar."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)


def find_done(directory: Path, settings_hash: str) -> dict[str, Shard]:
    """The shards in `directory`, by name, that earlier packing with the same settings finished and that are intact."""
    done = {}
    for path in sorted(directory.glob("*.parquet")):
        if not SHARD_NAME.fullmatch(path.stem):
            continue
        shard = _intact(directory, path, settings_hash)
        if shard:
            done[shard.name] = shard
    return done


def _intact(directory: Path, path: Path, settings_hash: str) -> Shard | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        noted = json.loads((pq.read_schema(path).metadata or {})[b"shard"])
        same_settings = noted.pop("settings_hash") == settings_hash
        shard = Shard(**{**noted, "index_sha256": fingerprint(path)})
    except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError):
        return None
    tar = tar_path(directory, path.stem)
    if not same_settings or shard.name != path.stem or not tar.is_file() or tar.stat().st_size != shard.bytes:
        return None
    return shard if fingerprint(tar) == shard.sha256 else None


def done_samples(directory: Path, shard: Shard) -> list[tuple[int, str, str]]:
    """Row, file_path and key of every sample of a shard that `find_done` found."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = index_path(directory, shard.name)
    try:
        table = pq.read_table(path, columns=["row", "file_path", "key"])
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it and pack again") from None
    columns = table.to_pydict()
    return list(zip(columns["row"], columns["file_path"], columns["key"], strict=True))
