"""Image–text shards as a downloader of web images (img2dataset) writes them: `00000.tar` with a table and counts.

A sample is KEY.jpg, KEY.json, KEY.txt. Its text is what the web gives: mostly a caption, sometimes with a site's name,
an emoji or a line break, sometimes nothing. There are no identities and no splits.
"""

import hashlib
import io
import json
import tarfile
from typing import Any

from sharding.synthetic.camera import WEB_VIDEO, Photo
from sharding.synthetic.captions import human_caption, template_caption
from sharding.synthetic.dice import Dice
from sharding.synthetic.people import identity
from sharding.synthetic.write import VIEWS, Style, Write

SHARD_URLS = 64  # addresses tried for one shard; a real one tries 10,000, hence the four digits of a key
START = 1_715_000_000  # when the first shard was begun, seconds since 1970
FAILURES = {
    "failed_to_download": ("HTTP Error 404: Not Found", "<urlopen error timed out>"),
    "failed_to_resize": ("Image decoding error",),
}
ALT_TEXTS: tuple[Style, ...] = (human_caption, template_caption)
ENDINGS = {"": 88, " | Street Style © 2023": 4, " – café de la gare": 3, " 👟": 3, "\nShop the look": 2}
COLUMNS = (
    "caption", "url", "key", "status", "error_message", "width", "height", "original_width", "original_height",
    "exif", "sha256",
)  # fmt: skip
NUMBERS = ("width", "height", "original_width", "original_height")  # the other columns are strings


def write_webdataset(write: Write) -> int:
    """Shards `00000.tar` …, each with `00000.parquet` (every address tried) and `00000_stats.json`.

    The traps: keys have gaps where a download failed and are in no order, `sha256` is that of the file downloaded, not
    of the image stored, and the headers are tar's PAX (every other shard: GNU) form with fractions of a second.
    """
    shards = images = 0
    tried: list[tuple[dict[str, Any], bytes | None]] = []
    for index in range(write.people):
        for number in range(write.dice("identity files", index).count(1, 4)):
            tried.append(download(write, index, number, f"{10_000 * shards + len(tried):09d}"))
            if len(tried) == SHARD_URLS:
                images += write_shard(write, shards, tried)
                shards, tried = shards + 1, []
        write.progress(index + 1, write.people)
    return images + (write_shard(write, shards, tried) if tried else 0)


def download(write: Write, index: int, number: int, key: str) -> tuple[dict[str, Any], bytes | None]:
    """What trying one address gave: its row of the table, and the image unless that failed."""
    person, dice = identity(write.layout, write.seed, index), write.dice("download", index, number)
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    view = dice.weighted(VIEWS)
    site, name = dice.pick(("photos", "cdn", "static")), f"{dice.count(2012, 2024)}/{index}-{number}.jpg"
    row |= {"url": f"https://{site}.example.org/{name}", "key": key}
    if not dice.chance(0.06):
        (row["caption"],) = write.captions(person, index, view, number, 1, dice.pick(ALT_TEXTS))
        row["caption"] += dice.weighted(ENDINGS)
    if dice.chance(0.08):
        row["status"] = dice.weighted({"failed_to_download": 9, "failed_to_resize": 1})
        row["error_message"] = dice.pick(FAILURES[row["status"]])
        return row, None
    photo = write.photo(person, index, view, number, WEB_VIDEO)
    return row | {"status": "success", **facts(photo, dice)}, photo.encode("jpg")


def facts(photo: Photo, dice: Dice) -> dict[str, Any]:
    """What is noted of an image that arrived: its size before and after shrinking, and the hash of the original."""
    width, height = photo.image.size
    larger = dice.count(1, 4)
    exif = {"Image Orientation": "Horizontal (normal)"} if dice.chance(0.2) else {}
    return {
        "width": width,
        "height": height,
        "original_width": larger * width,
        "original_height": larger * height,
        "exif": json.dumps(exif),
        "sha256": hashlib.sha256(photo.image.tobytes()).hexdigest(),
    }


def write_shard(write: Write, shard: int, tried: list[tuple[dict[str, Any], bytes | None]]) -> int:
    """One shard with its table and counts; returns the number of images in it."""
    dice, name, began = write.dice("shard", shard), f"{shard:05d}", START + 900.0 * shard
    stored = [(row, image) for row, image in tried if image is not None]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=(tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)[shard % 2]) as tar:
        for place, (row, image) in enumerate(dice.shuffled(stored)):  # many threads download: first come, first stored
            parts = {"jpg": image, "json": json.dumps(row, indent=4).encode(), "txt": (row["caption"] or "").encode()}
            for suffix, data in parts.items():
                add_member(tar, f"{row['key']}.{suffix}", data, began + 0.37 * place + 0.001)
    write.save(f"{name}.tar", buffer.getvalue())
    write.save(f"{name}.parquet", parquet([row for row, _ in tried]))
    write.save(f"{name}_stats.json", json.dumps(statistics(tried, began, dice), indent=4).encode())
    return len(stored)


def add_member(tar: tarfile.TarFile, name: str, data: bytes, moment: float) -> None:
    """Append a file the way webdataset's writer does: read-only, owned by `bigdata`, at a fraction of a second."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode, info.uname, info.gname = len(data), moment, 0o444, "bigdata", "bigdata"
    tar.addfile(info, io.BytesIO(data))


def parquet(rows: list[dict[str, Any]]) -> bytes:
    """The table of a shard."""
    import pyarrow as pa  # 0.3 s to import, and most layouts do without
    import pyarrow.parquet as pq

    kinds = {name: pa.int64() if name in NUMBERS else pa.string() for name in COLUMNS}
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(list(kinds.items()))), buffer)
    return buffer.getvalue()


def statistics(tried: list[tuple[dict[str, Any], bytes | None]], began: float, dice: Dice) -> dict[str, Any]:
    """The counts beside a shard."""
    statuses = [row["status"] for row, _ in tried]
    duration = round(dice.between(20, 60), 3)
    reasons = [row["error_message"] or "success" for row, _ in tried]
    return {
        "count": len(tried),
        "successes": statuses.count("success"),
        "failed_to_download": statuses.count("failed_to_download"),
        "failed_to_resize": statuses.count("failed_to_resize"),
        "duration": duration,
        "start_time": began,
        "end_time": began + duration,
        "status_dict": {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)},
    }
