"""Image–text shards that others wrote, img2dataset's among them, and our own: the *.tar of a folder, by name.

Members are grouped into samples as webdataset does: neighbours of one name up to its first dot. A sample is

    KEY.jpg, .jpeg, .png or .bmp   the image
    KEY.txt                        a caption
    KEY.json                       captions in `captions`, `caption` or `text`; a `split`, or it is train

Other members are passed over. Every image is its own identity, `NAME:TAR/KEY`, for keys repeat between the tars of many
datasets. Only where the JSON gives an `identity`, as that of our own shards does, it is taken with `source`, `score`,
`instance_id` and `file_path`, so that our own shards come out as they went in. Rows are samples, numbered through all
tars.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sharding.errors import UserError
from sharding.foreign_tar import ForeignTar, TarMember, open_tar
from sharding.record import Extent, RawDataset, Record, Reject
from sharding.sources.annotation import (
    BadField,
    captions_of,
    clean_caption,
    corpus_of,
    integer,
    kind,
    optional_score,
    optional_split,
    text,
    text_or_integer,
)
from sharding.sources.inputs import require_place
from sharding.store import Store

IMAGES = ("jpg", "jpeg", "png", "bmp")
OTHER_IMAGES = ("webp", "gif", "tif", "tiff", "avif", "heic")
TEXTS = ("txt", "json")
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
LARGEST_TEXT = 1 << 20  # bytes
CAPTION_FIELDS = ("captions", "caption", "text")


def open_webdataset(store: Store, name: str) -> RawDataset:
    """The shards in a folder; `name` is the source of every image whose JSON tells of none.

    UserError if there is no tar, and, as rows are read, for a tar that is damaged or holds what shards do not.
    """
    require_place(store)
    found = [file for file, _ in store.names() if "/" not in file]
    tars = tuple(file for file in found if file.endswith(".tar"))
    if not tars:
        compressed = any(".tar." in file or file.endswith(".tgz") for file in found)
        raise UserError(f"{store} holds no *.tar{'; unpack the compressed ones first' if compressed else ''}")
    return RawDataset(annotations=tars, rows=_rows(store, tars, name))


def _rows(store: Store, tars: tuple[str, ...], name: str) -> Iterator[Record | Reject]:
    row = 0
    for tar in tars:
        seen: dict[str, bool] = {}  # whether a sample of that key had an image
        with open_tar(store, tar) as file:
            for sample in _samples(file):
                label = f"{tar}/{sample.key}"
                try:
                    _refuse_repeated(sample, seen, f"{store}/{tar}")
                    yield _record(row, name, tar, sample)
                except BadField as error:
                    yield Reject(row=row, file_path=label, reason=str(error))
                row += 1


@dataclass
class _Sample:
    """The members of one key that follow one another; `fault` is the first thing wrong with them."""

    key: str
    image: TarMember | None = None
    other_image: str = ""
    txt: bytes | None = None
    json: bytes | None = None
    fault: str = ""


def _samples(tar: ForeignTar) -> Iterator[_Sample]:
    """The samples of a tar, in order; their texts are read, their images are not."""
    sample: _Sample | None = None
    for member in tar.members():
        key, extension = split_name(member.name)
        if not key:
            continue
        if sample is None or sample.key != key:
            if sample:
                yield sample
            sample = _Sample(key)
        sample.fault = sample.fault or _add(sample, member, extension, tar)
    if sample:
        yield sample


def split_name(name: str) -> tuple[str, str]:
    """(key, extension in small letters) of a member, as webdataset tells them; ("", "") for one it passes over.

    It passes over names without a dot, hidden files, and `__NAME__`, which holds metadata.
    """
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    first = name.split("/")[0]
    metadata = len(first) >= 4 and first.startswith("__") and first.endswith("__")
    return (folder + slash + stem, extension.lower()) if stem and dot and not metadata else ("", "")


def _add(sample: _Sample, member: TarMember, extension: str, tar: ForeignTar) -> str:
    """Take a member into its sample; returns what is wrong with it, or ''."""
    bare, compression = extension, ""
    for ending in COMPRESSIONS:
        if extension.endswith(ending):
            bare, compression = extension.removesuffix(ending), ending
    if compression and bare in (*IMAGES, *TEXTS):
        return f"{bare}: compressed members are not read"
    if extension in IMAGES:
        if sample.image:
            return "image: two in one sample"
        sample.image = member
    elif extension in OTHER_IMAGES:
        sample.other_image = extension
    elif extension in TEXTS:
        if getattr(sample, extension) is not None:
            return f"{extension}: two in one sample"
        if member.size > LARGEST_TEXT:
            return f"{extension}: more than {LARGEST_TEXT >> 20} MiB"
        setattr(sample, extension, tar.read(member))
    return ""


def _refuse_repeated(sample: _Sample, seen: dict[str, bool], label: str) -> None:
    """BadField for a key that the tar had before; UserError where that is because its samples lie scattered.

    Sorted by extension, say, a tar has images without captions and captions without images, for every reader.
    """
    earlier = seen.get(sample.key)
    seen[sample.key] = bool(sample.image) or bool(earlier)
    if earlier is None:
        return
    if earlier != bool(sample.image):
        raise UserError(
            f"{label}: the members of sample {sample.key!r} do not follow one another, which no reader of shards "
            "puts together; write the tar again sorted by name"
        )
    raise BadField("key: already given by an earlier sample of the tar")


def _record(row: int, name: str, tar: str, sample: _Sample) -> Record:
    if sample.fault:
        raise BadField(sample.fault)
    if sample.image is None:
        found = f", found {sample.other_image}" if sample.other_image else ""
        raise BadField(f"image: one of {', '.join(IMAGES)} was expected{found}")
    metadata = _metadata(sample.json)
    captions, dropped = _captions(sample.txt, metadata)
    record = Record(
        row=row,
        image=Extent(tar, sample.image.offset, sample.image.size),
        captions=captions,
        dropped_captions=dropped,
        identity=f"{name}:{tar.removesuffix('.tar')}/{sample.key}",
        source=name,
        split=optional_split(metadata),
        file_path=f"{tar}/{sample.image.name}",
    )
    return record if metadata.get("identity") is None else _as_told(record, metadata)


def _as_told(record: Record, metadata: dict[str, Any]) -> Record:
    """The record with what the JSON of our own shards tells; the identity gets its source in front, if it has not."""
    told = {field for field, value in metadata.items() if value is not None}
    source = corpus_of(metadata) if "source" in told else record.source
    identity = text_or_integer(metadata, "identity")
    return record._replace(
        source=source,
        identity=identity if identity.startswith(f"{source}:") else f"{source}:{identity}",
        score=optional_score(metadata),
        instance_id=integer(metadata, "instance_id") if "instance_id" in told else None,
        file_path=text(metadata, "file_path") if "file_path" in told else record.file_path,
    )


def _metadata(data: bytes | None) -> dict[str, Any]:
    """The object in KEY.json; empty where there is no such member."""
    if data is None:
        return {}
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise BadField("json: not valid JSON") from None
    if not isinstance(value, dict):
        raise BadField(f"json: an object was expected, found {kind(value)}")
    return value


def _captions(txt: bytes | None, metadata: dict[str, Any]) -> tuple[tuple[str, ...], int]:
    """The usable captions, cleaned, and the number dropped: KEY.txt's first, unless the JSON repeats it.

    There are none, and that is no fault, where a sample has no member or field for them, or says `captions: []`, as our
    own shards of bare images do. A caption that is empty or null is one that was lost: BadField.
    """
    try:
        written = "" if txt is None else txt.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadField("txt: not valid UTF-8") from None
    field = next((field for field in CAPTION_FIELDS if metadata.get(field) is not None), "")
    told = metadata[field] if field else []
    listed = list(told) if isinstance(told, list) else [told]
    known = {clean_caption(item) for item in listed if isinstance(item, str)}
    if not written.strip():
        silent = txt is None and not any(field in metadata for field in CAPTION_FIELDS)
        if silent or (field == "captions" and told == []):
            return (), 0
    elif clean_caption(written) not in known:
        listed = [written, *listed]
    return captions_of({"captions": listed})
