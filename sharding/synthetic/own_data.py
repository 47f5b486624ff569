"""One's own data, the two open doors: a JSON record a line, or a folder of images with texts beside them.

Both are written as people keep them: not every image has a caption, and not every field is filled.
"""

import json
import unicodedata
from typing import Any

from sharding.synthetic.benchmarks import longer, split_of_each
from sharding.synthetic.camera import MSMT_CAMERAS, WEB_VIDEO
from sharding.synthetic.captions import human_caption
from sharding.synthetic.people import identity
from sharding.synthetic.write import VIEWS, Style, Write

SPLITS = {"train": 0.60, "val": 0.15, "test": 0.25}
HANDS: tuple[Style, ...] = (human_caption, longer)
CAFE = unicodedata.normalize("NFD", "café")  # a Mac writes é as an e and an accent
PLACES = ("gate 2", CAFE, "Lobby", "platform.north")
BYTE_ORDER_MARK = "\ufeff".encode()  # Windows editors begin a text with it and end its lines with CRLF


def write_jsonl(write: Write) -> int:
    """`data.jsonl` and `images/`: one record a line, as the reader documents it.

    Some records have one `caption`, some `captions` that are a bare string, some none; some lack score or identity.
    """
    lines: list[str] = []
    splits = split_of_each(write.people, SPLITS)
    for index in range(write.people):
        person, dice = identity(write.layout, write.seed, index), write.dice("identity files", index)
        for number in range(dice.count(2, 4)):
            view, path = dice.weighted(VIEWS), f"images/{index % 16:x}/{index:04d} ({number + 1}).jpg"
            photo = write.photo(person, index, view, number, dice.pick(MSMT_CAMERAS))
            write.save(path, photo.encode("jpg"))
            captions = write.captions(person, index, view, number, dice.count(1, 3), dice.pick(HANDS))
            record = {"image": path, **told(captions, dice.weighted({"all": 70, "one": 12, "bare": 8, "none": 10}))}
            if index % 11 != 4:
                record["identity"] = f"P{index:04d}"
            record["split"] = splits[index]
            if dice.chance(0.8):
                record["score"] = photo.score
            lines.append(json.dumps(record, ensure_ascii=False))
        write.progress(index + 1, write.people)
    write.save("data.jsonl", "".join(f"{line}\n" for line in lines).encode())
    return len(lines)


def told(captions: list[str], form: str) -> dict[str, Any]:
    """The field of a record that tells its captions, in one of four forms."""
    if form == "all":
        return {"captions": captions}
    return {"one": {"caption": captions[0]}, "bare": {"captions": captions[0]}, "none": {}}[form]


def write_folder(write: Write) -> int:
    """Images in folders of places and days; beside most of them STEM.txt with a caption a line.

    Some texts begin with a byte-order mark and have CRLF or blank lines; one folder is named in decomposed Unicode, one
    has a dot in its name; suffixes come in capitals too.
    """
    images = 0
    for index in range(write.people):
        person, dice = identity(write.layout, write.seed, index), write.dice("identity files", index)
        for number in range(dice.count(1, 3)):
            view = dice.weighted(VIEWS)
            suffix = dice.weighted({"jpg": 70, "JPG": 10, "jpeg": 10, "png": 10})
            stem = f"{dice.pick(PLACES)}/2024-05-{dice.count(1, 28):02d}/{index:04d}_{number + 1}"
            photo = write.photo(person, index, view, number, WEB_VIDEO)
            write.save(f"{stem}.{suffix}", photo.encode("png" if suffix == "png" else "jpg"))
            if not dice.chance(0.2):
                captions = write.captions(person, index, view, number, dice.count(1, 3), dice.pick(HANDS))
                form = dice.weighted({"plain": 80, "windows": 12, "spaced": 8})
                write.save(f"{stem}.txt", text_file(captions, form))
            images += 1
        write.progress(index + 1, write.people)
    return images


def text_file(captions: list[str], form: str) -> bytes:
    """A text of one caption a line, as editors save it."""
    if form == "windows":
        return BYTE_ORDER_MARK + "".join(f"{caption}\r\n" for caption in captions).encode()
    return ("\n\n" if form == "spaced" else "\n").join([*captions, ""]).encode()
