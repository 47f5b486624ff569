"""Finding the files of a raw dataset in its place: its annotation, and the images that an annotation names."""

import posixpath
import unicodedata

from sharding.errors import UserError
from sharding.sources.annotation import BadField
from sharding.store import LocalStore, Store


def find_annotation(store: Store, *names: str) -> str:
    """The first of `names` that is a file of the input; UserError naming what was looked for."""
    require_place(store)
    for name in names:
        if store.exists(name):
            return name
    raise UserError(f"{store} holds no {' or '.join(names)}")


def only_file(store: Store, suffix: str, usual: str, expected: str) -> str:
    """The file called `usual`, or else the only one with that suffix at the top of the input, whatever its name.

    Raises UserError that lists them where there is not just one.
    """
    require_place(store)
    if store.exists(usual):
        return usual
    found = [name for name, _ in store.names() if "/" not in name and name.endswith(suffix)]
    if len(found) != 1:
        names = f" ({', '.join(found[:4])}{', …' if len(found) > 4 else ''})" if found else ""
        raise UserError(f"{store} holds {len(found)} *{suffix} files{names}; expected {expected}")
    return found[0]


def require_place(store: Store) -> None:
    """UserError unless a local input is a folder; what is missing from a bucket is told by what is looked for in it."""
    if isinstance(store, LocalStore) and not store.directory.is_dir():
        raise UserError(f"{store} is not a directory; --input names the folder of the raw dataset")


def plain_path(path: str) -> str:
    """The path without `./` and `//`, which a bucket would take for parts of a name."""
    return posixpath.normpath(path) if "//" in path or "./" in path else path


def refuse_repeated(path: str, field: str, seen: set[str]) -> None:
    """BadField if an earlier row gave the path too, be it in the other Unicode spelling; else it is added to `seen`.

    Where a file is spelt in the one (é as one character, NFC) and named in the other (e and an accent, NFD), packing
    finds it all the same: so both names are one image.
    """
    if not path.isascii():
        path = unicodedata.normalize("NFC", path)
    if path in seen:
        raise BadField(f"{field}: already given by an earlier row")
    seen.add(path)
