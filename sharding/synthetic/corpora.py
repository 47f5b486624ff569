"""Writes synthetic people out exactly as the pre-training corpora lie on disk, their traps included.

PRETRAIN and LUPerson-T come in two forms each, which hold the same people: the 41K version is a part of the 110K
version, and LUPerson-T is published as Arrow files or as JSON.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from sharding.synthetic.camera import CEILING, SHOPFRONT, WEB_VIDEO
from sharding.synthetic.captions import template_caption
from sharding.synthetic.long_captions import model_caption
from sharding.synthetic.people import identity
from sharding.synthetic.write import VIEWS, Write

ENTIRE_ID_SHARE = 0.2  # of PRETRAIN's people; the others are IUST_PersonReID's
SMALL_SHARE = 0.31  # of IUST_PersonReID's images in the 41K version; of ENTIRe-ID's it has all
LUPERSON_SPLITS = ("train", "val", "restval", "test")
LUPERSON_BATCH = 256  # rows per Arrow record batch


def write_pretrain_110k(write: Write) -> int:
    """`PRETRAIN_110K.json` and `imgs/`: two captions of ~69 words; `ID` repeats between sources, `id` has gaps."""
    rows = list(pretrain_rows(write, share=1.0))
    write.save_json("PRETRAIN_110K.json", rows)
    return len(rows)


def write_pretrain_41k(write: Write) -> int:
    """`PRETRAIN_41K.json` and `imgs/`: the 110K version of the same people and seed with fewer images of IUST's people.

    Every row is a row of that version but for `id`, which each version counts for itself, so that one number means two
    people: only `source` and `ID` together name a person in both.
    """
    rows = [{**row, "id": row["id"] + 6} for row in pretrain_rows(write, share=SMALL_SHARE)]
    write.save_json("PRETRAIN_41K.json", rows)
    return len(rows)


def pretrain_rows(write: Write, *, share: float) -> Iterator[dict[str, Any]]:
    """The rows of PRETRAIN, whose images are saved as they are reached, with a share of IUST_PersonReID's images.

    Everybody keeps at least one image.
    """
    ceiling_people = write.people - int(write.people * ENTIRE_ID_SHARE)
    for index in range(write.people):
        person, dice = identity(write.layout, write.seed, index), write.dice("identity files", index)
        chosen = write.dice("version", index)
        local = index if index < ceiling_people else index - ceiling_people
        name = f"{local + 1:04d}"
        for number in range(dice.count(4, 8)):
            view = dice.weighted(VIEWS)
            if index < ceiling_people:
                source, domain = "IUST_PersonReID", CEILING
                path = f"IUSTPersonReID/{name}_{dice.count(1, 19)}_{number + 1}_{dice.count(1, 400):03d}{number}.jpg"
                if number and not chosen.chance(share):
                    continue
            else:
                source, domain = "ENTIRe-ID", SHOPFRONT
                path = f"ENTIReID/{name}_{dice.count(0, 36)}_{dice.count(1, 9000)}{number}.jpg"
            photo = write.photo(person, index, view, number, domain)
            write.save(f"imgs/{path}", photo.encode("jpg"))
            yield {
                "file_path": path,
                "captions": write.captions(person, index, view, number, 2, model_caption),
                "split": "val" if index % 20 == 7 else "train",
                "score": photo.score,
                "ID": name,
                "id": 3 * index + index % 2,
                "source": source,
            }
        write.progress(index + 1, write.people)


def write_luperson_t(write: Write) -> int:
    """`LUPerson_{train,val,restval,test}.arrow`: image bytes, two template texts, image_id, split; no identities."""
    import pyarrow as pa  # 0.3 s to import, and most layouts do without

    schema = pa.schema([
        ("image", pa.binary()), ("caption", pa.list_(pa.string())), ("image_id", pa.int64()), ("split", pa.string()),
    ])  # fmt: skip
    images = 0
    with ExitStack() as stack:
        tables: dict[str, tuple[Any, list[dict[str, Any]]]] = {}
        for split in LUPERSON_SPLITS:
            path = str(write.root / f"LUPerson_{split}.arrow")
            tables[split] = (stack.enter_context(pa.ipc.new_file(path, schema)), [])

        def flush(split: str) -> None:
            writer, rows = tables[split]
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
            rows.clear()

        for split, found in luperson_people(write):
            images += len(found)
            tables[split][1].extend(found)
            if len(tables[split][1]) >= LUPERSON_BATCH:
                flush(split)
        for split in tables:
            flush(split)
    return images


def write_luperson_t_json(write: Write) -> int:
    """`LUPerson-T.json` and `imgs/`: the images and texts of the Arrow files, without split and image_id."""
    rows: list[dict[str, Any]] = []
    for _, found in luperson_people(write):
        for row in found:
            path = f"{row['image_id'] // 1000:04d}/{row['image_id']:07d}.jpg"
            write.save(f"imgs/{path}", row["image"])
            rows.append({"file_path": path, "captions": row["caption"]})
    write.save_json("LUPerson-T.json", rows)
    return len(rows)


def luperson_people(write: Write) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Every person's split and rows."""
    image_id = 0
    for index in range(write.people):
        person, dice = identity(write.layout, write.seed, index), write.dice("identity files", index)
        split = {17: "val", 18: "restval", 19: "test"}.get(index % 20, "train")
        rows = []
        for number in range(dice.count(1, 3)):
            view = dice.weighted(VIEWS)
            image = write.photo(person, index, view, number, WEB_VIDEO).encode("jpg")
            texts = write.captions(person, index, view, number, 2, template_caption)
            rows.append({"image": image, "caption": texts, "image_id": image_id, "split": split})
            image_id += 1
        yield split, rows
        write.progress(index + 1, write.people)
