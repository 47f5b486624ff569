"""The sizes of the input's images, which decide where shards end, and why an image cannot be packed at all."""

import errno
import os
import stat
import unicodedata

from sharding.packing.images import MOST_BYTES
from sharding.record import Extent
from sharding.store import LocalStore, Store

UNUSABLE = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EINVAL)  # paths that cannot lead anywhere


def stamp(source: Store, name: str) -> tuple[int, int] | str | None:
    """What is cheap to ask for and changes when a file does: size and time of change, or a bucket's tag."""
    if isinstance(source, LocalStore):
        status = (source.directory / name).stat()
        return status.st_size, status.st_mtime_ns
    return source.tag(name)


class InputSizes:
    """Looks images up, one by one.

    A folder is asked for each file in turn; a bucket is listed once, for a request per file would take hours.
    """

    def __init__(self, source: Store) -> None:
        self._source = source
        self._prefix = f"{source.directory}/" if isinstance(source, LocalStore) else ""
        self._listed: dict[str, int] | None = None

    def resolve(self, image: Extent) -> tuple[Extent, str]:
        """The extent with its size known, and '' or the reason why it is refused."""
        if 0 < image.size <= MOST_BYTES:
            return image, ""
        if image.size >= 0:
            return image, _size_problem(image.size)
        try:
            return self._whole(image.path)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in UNUSABLE:  # a folder that is out of reach for now is no reason to do without it
                raise
            return image, f"image: cannot be read ({error.strerror})"
        for form in ("NFC", "NFD"):  # an archive made on one system and unpacked on another may spell é otherwise
            other = unicodedata.normalize(form, image.path)  # type: ignore[arg-type]
            if other != image.path:
                try:
                    return self._whole(other)
                except OSError:
                    pass
        return image, "image: missing file"

    def _whole(self, path: str) -> tuple[Extent, str]:
        if self._prefix:
            status = os.stat(self._prefix + path)  # noqa: PTH116 - a Path costs more than the call
            if stat.S_ISDIR(status.st_mode):
                return Extent(path), "image: cannot be read (Is a directory)"
            if not stat.S_ISREG(status.st_mode):
                return Extent(path), "image: not an ordinary file"
            size = status.st_size
        else:
            if self._listed is None:
                self._listed = dict(self._source.names())
            if path not in self._listed:
                raise FileNotFoundError(path)
            size = self._listed[path]
        return Extent(path, 0, size), _size_problem(size)


def _size_problem(size: int) -> str:
    if size == 0:
        return "image: empty file"
    return f"image: more than {MOST_BYTES >> 20} MiB" if size > MOST_BYTES else ""
