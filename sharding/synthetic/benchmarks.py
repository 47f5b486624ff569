"""Writes synthetic people out as the benchmarks of text-based person retrieval lie on disk, their traps included.

One function per benchmark. The people of a split are strangers to the other splits: families of look-alikes stay whole.
"""

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from sharding.synthetic.camera import CUHK_FOLDERS, MSMT_CAMERAS, VIDEO_SCENES, Domain
from sharding.synthetic.captions import human_caption
from sharding.synthetic.fine_captions import TERSE, fine_caption
from sharding.synthetic.people import FAMILY_SIZE, identity
from sharding.synthetic.write import VIEWS, Style, Write

# Shares of people by split. Where the real split leaves few people to val or test, the synthetic one is more even:
# CUHK-PEDES has 85 / 8 / 8, RSTPReid 90 / 5 / 5.
CUHK_SPLITS = {"train": 0.50, "val": 0.15, "test": 0.35}
ICFG_SPLITS = {"train": 3102 / 4102, "test": 1000 / 4102}
RSTPREID_SPLITS = {"train": 0.60, "val": 0.15, "test": 0.25}
UFINE6926_SPLITS = {"train": 4926 / 6926, "test": 2000 / 6926}
CUHK_SUFFIXES = {"CUHK01": "png", "test_query": "bmp"}  # the other folders hold JPEG
DAYTIMES = ("morning", "noon", "afternoon")
coarse = human_caption
longer: Style = partial(human_caption, length=(19, 34))  # ~26 words
medium: Style = partial(fine_caption, care=TERSE, least=0)  # ~39 words
UFINE3C_SOURCES: dict[str, tuple[Domain, ...]] = {
    "CUHK-PEDES": tuple(CUHK_FOLDERS.values()), "ICFG-PEDES": MSMT_CAMERAS, "UFine6926": (VIDEO_SCENES,),
}  # fmt: skip
UFINE3C_STYLES: tuple[Style, ...] = (coarse, medium, fine_caption)


def split_of_each(people: int, shares: dict[str, float]) -> list[str]:
    """The split of every person, in the order of `shares`, which are rounded to whole families of look-alikes.

    What rounding leaves over goes to the last split.
    """
    families = people / FAMILY_SIZE
    splits = [split for split, share in shares.items() for _ in range(FAMILY_SIZE * round(families * share))]
    return (splits + [[*shares][-1]] * people)[:people]


def tokens(captions: list[str]) -> list[list[str]]:
    """The captions as the originals' `processed_tokens`."""
    return [re.findall(r"[a-z0-9'-]+", caption.lower()) for caption in captions]


def write_cuhk_pedes(write: Write) -> int:
    """`reid_raw.json` and `imgs/` in seven folders, identities split 50 / 15 / 35 and numbered from 1 in split order.

    The original's traps at small rates: a third caption, an identity with one image, a caption that two identities of a
    split share, a folder of BMP.
    """
    rows = list(cuhk_rows(write))
    write.save_json("reid_raw.json", rows)
    return len(rows)


def write_cuhk_pedes_original(write: Write) -> int:
    """`caption_all.json`, as first published: the same images and captions without splits and tokens."""
    rows = [{name: row[name] for name in ("id", "file_path", "captions")} for row in cuhk_rows(write)]
    write.save_json("caption_all.json", rows)
    return len(rows)


def cuhk_rows(write: Write) -> Iterator[dict[str, Any]]:
    """The rows of CUHK-PEDES, whose images are saved as they are reached."""
    splits = split_of_each(write.people, CUHK_SPLITS)
    neighbour = ""
    for index in range(write.people):
        person, dice = identity(write.layout, write.seed, index), write.dice("identity files", index)
        folder = dice.pick(tuple(CUHK_FOLDERS))
        views = dice.shuffled(("front", "back", "side", dice.weighted(VIEWS)))
        for number in range(1 if index % 29 == 5 else dice.pick((2, 3, 3, 3, 4))):
            view = views[number]
            path = f"{folder}/{index + 1:05d}_{number + 1}.{CUHK_SUFFIXES.get(folder, 'jpg')}"
            photo = write.photo(person, index, view, number, CUHK_FOLDERS[folder])
            write.save(f"imgs/{path}", photo.encode(path[-3:]))
            count = 3 if index % 23 == 3 and number == 0 else 2
            captions = write.captions(person, index, view, number, count, human_caption)
            if number == 0:
                if index % 32 == 1:  # the second of a family of look-alikes takes over a caption of the first
                    captions[1] = neighbour
                neighbour = captions[0]
            yield {
                "split": splits[index],
                "captions": captions,
                "file_path": path,
                "processed_tokens": tokens(captions),
                "id": index + 1,
            }
        write.progress(index + 1, write.people)


def write_icfg_pedes(write: Write) -> int:
    """`ICFG-PEDES.json` and `imgs/`: one caption of ~39 words, ids from 0, no val split.

    Paths begin with the train/ or test/ of MSMT17, which the images were taken from: it is not the benchmark's split.
    """
    rows: list[dict[str, Any]] = []
    splits = split_of_each(write.people, ICFG_SPLITS)
    for index in range(write.people):
        person, dice = identity(write.layout, write.seed, index), write.dice("identity files", index)
        folder = f"{dice.weighted({'train': 1, 'test': 3})}/{dice.count(0, 399):04d}"
        for number in range(dice.count(4, 8)):
            view, camera = dice.weighted(VIEWS), dice.count(1, 15)
            moment = f"{camera:02d}_{dice.count(101, 319):04d}{dice.pick(DAYTIMES)}_{dice.count(0, 9999):04d}"
            path = f"{folder}/{index:04d}_{number:03d}_{moment}.jpg"
            photo = write.photo(person, index, view, number, MSMT_CAMERAS[camera % len(MSMT_CAMERAS)])
            write.save(f"imgs/{path}", photo.encode("jpg"))
            captions = write.captions(person, index, view, number, 1, medium)
            rows.append({
                "split": splits[index],
                "captions": captions,
                "file_path": path,
                "processed_tokens": tokens(captions),
                "id": index,
            })  # fmt: skip
        write.progress(index + 1, write.people)
    write.save_json("ICFG-PEDES.json", rows)
    return len(rows)


def write_rstpreid(write: Write) -> int:
    """`data_captions.json` and `imgs/`: five images per person, each by another camera; the key is `img_path`."""
    rows: list[dict[str, Any]] = []
    splits = split_of_each(write.people, RSTPREID_SPLITS)
    for index in range(write.people):
        person, dice = identity(write.layout, write.seed, index), write.dice("identity files", index)
        for number, camera in enumerate(dice.shuffled(range(1, 16))[:5]):
            view, path = dice.weighted(VIEWS), f"{index:04d}_c{camera}_{dice.count(0, 60):04d}.jpg"
            photo = write.photo(person, index, view, number, MSMT_CAMERAS[camera % len(MSMT_CAMERAS)])
            write.save(f"imgs/{path}", photo.encode("jpg"))
            rows.append({
                "id": index,
                "img_path": path,
                "captions": write.captions(person, index, view, number, 2, longer),
                "split": splits[index],
            })  # fmt: skip
        write.progress(index + 1, write.people)
    write.save_json("data_captions.json", rows)
    return len(rows)


def write_ufine6926(write: Write) -> int:
    """`UFine6926.json` and `images/`: two ultra-fine captions of ~80 words, frames of videos, no val split."""
    rows: list[dict[str, Any]] = []
    splits = split_of_each(write.people, UFINE6926_SPLITS)
    for index in range(write.people):
        person, dice = identity(write.layout, write.seed, index), write.dice("identity files", index)
        for number in range(dice.count(3, 5)):
            view, path = dice.weighted(VIEWS), f"{index + 1:05d}/{index + 1:05d}_{number + 1}.jpg"
            write.save(f"images/{path}", write.photo(person, index, view, number, VIDEO_SCENES).encode("jpg"))
            rows.append({
                "split": splits[index],
                "id": index + 1,
                "file_path": path,
                "captions": write.captions(person, index, view, number, 2, fine_caption),
            })  # fmt: skip
        write.progress(index + 1, write.people)
    write.save_json("UFine6926.json", rows)
    return len(rows)


def write_ufine3c(write: Write) -> int:
    """`UFine3C.json` and `images/`: people of three sources, each numbered from 1, four to six captions in any style.

    Everyone is in split `test`. Families of look-alikes stay within a source.
    """
    rows: list[dict[str, Any]] = []
    for index in range(write.people):
        person, dice = identity(write.layout, write.seed, index), write.dice("identity files", index)
        block, member = divmod(index, FAMILY_SIZE)
        source, local = [*UFINE3C_SOURCES][block % 3], FAMILY_SIZE * (block // 3) + member + 1
        for number in range(dice.count(2, 4)):
            view, path = dice.weighted(VIEWS), f"{source}/{local:04d}_{number + 1}.jpg"
            photo = write.photo(person, index, view, number, dice.pick(UFINE3C_SOURCES[source]))
            write.save(f"images/{path}", photo.encode("jpg"))
            styles = [dice.pick(UFINE3C_STYLES) for _ in range(dice.count(4, 6))]
            rows.append({
                "id": local,
                "source": source,
                "split": "test",
                "file_path": path,
                "captions": write.captions_in(styles, person, index, view, number),
            })  # fmt: skip
        write.progress(index + 1, write.people)
    write.save_json("UFine3C.json", rows)
    return len(rows)
