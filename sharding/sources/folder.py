"""One's own data as a folder: images (.jpg, .jpeg, .png, .bmp) at any depth, each by itself or with a file of captions.

The captions of `a/b.jpg` are the lines of `a/b.txt`, in UTF-8. Nothing says which images show one person, so every
image is its own identity, `NAME:<its path>`; and whatever folders are called, the split is `train`. Records that say
more are for `jsonl.py`. Rows are numbered in the order of the files' names. There is no annotation: it is by names and
sizes of all files and by the texts that a changed folder is told from the one that was packed.
"""

import hashlib
import posixpath
from collections.abc import Iterator

from sharding.errors import UserError
from sharding.record import Extent, RawDataset, Record, Reject
from sharding.sources.annotation import BadField, captions_of, is_utf8, printable_path
from sharding.sources.inputs import require_place
from sharding.store import Store

IMAGES = (".jpg", ".jpeg", ".png", ".bmp")
OTHER_IMAGES = (".webp", ".gif", ".tif", ".tiff", ".avif", ".heic")
LARGEST_TEXT = 1 << 20  # bytes


def open_folder(store: Store, name: str) -> RawDataset:
    """The images of the input; `name` is their source. UserError if there is none.

    Links to folders are not followed. In a bucket every file of captions takes a request of its own.
    """
    require_place(store)
    texts: dict[str, int] = {}
    images, listing = 0, hashlib.sha256()
    for file, size in store.names():
        ending = _ending(file)
        if ending in (".txt", *IMAGES, *OTHER_IMAGES):
            listing.update(f"{file}\0{size}\n".encode("utf-8", "surrogateescape"))
        if ending == ".txt" and size <= LARGEST_TEXT:
            listing.update(store.read(file))  # a word may change and no size
        if ending == ".txt":
            texts[file] = size
        images += ending in IMAGES
    if not images:
        raise UserError(f"{store} holds no images ({', '.join(IMAGES)})")
    return RawDataset(annotations=(), rows=_rows(store, name, texts), listing={"files": listing.hexdigest()})


def _ending(file: str) -> str:
    return posixpath.splitext(file)[1].lower()


def _rows(store: Store, name: str, texts: dict[str, int]) -> Iterator[Record | Reject]:
    unused = set(texts)
    number = -1
    for file, _ in store.names():
        ending = _ending(file)
        if ending not in IMAGES and ending not in OTHER_IMAGES:
            continue
        number += 1
        beside = f"{posixpath.splitext(file)[0]}.txt"
        unused.discard(beside)
        try:
            if ending in OTHER_IMAGES:
                raise BadField(f"image: one of {', '.join(IMAGES)} was expected, found {ending}")
            if not is_utf8(file):
                raise BadField("image: the file's name is not valid Unicode text")
            captions, dropped = _captions(store, beside, texts[beside]) if beside in texts else ((), 0)
        except BadField as error:
            yield Reject(number, printable_path({"file_path": file}), str(error))
            continue
        yield Record(number, Extent(file), captions, f"{name}:{file}", name, "train", file, None, None, dropped)
    for file in sorted(unused):
        number += 1
        yield Reject(number, printable_path({"file_path": file}), "captions: no image of that name beside them")


def _captions(store: Store, file: str, size: int) -> tuple[tuple[str, ...], int]:
    """The usable captions in a file, one a line, and the number dropped; lines of white space are none."""
    if size > LARGEST_TEXT:
        raise BadField(f"captions: more than {LARGEST_TEXT >> 20} MiB")
    try:
        lines = store.read(file).decode("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise BadField("captions: not valid UTF-8") from None
    except OSError as error:
        raise BadField(f"captions: cannot be read ({error.strerror})") from None
    listed = [line for line in lines if line.strip()]
    return captions_of({"captions": listed}) if listed else ((), 0)
