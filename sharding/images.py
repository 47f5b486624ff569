"""Checks that an image is what its shard promises: a JPEG or PNG that any decoder opens as RGB, whole and not too big.

Stands between a source's Record and the tar. Bytes are kept as they are; only BMP, which a shard cannot hold and
CUHK-PEDES contains, becomes PNG (the same pixels).
"""

import io
import os
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

MOST_BYTES = 64 << 20
MOST_PIXELS = 50_000_000
TOO_MANY_PIXELS = f"image: more than {MOST_PIXELS:,} pixels"
PNG_END = b"IEND\xae\x42\x60\x82"
EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "BMP": "png"}


class BadImage(Exception):
    """The image cannot be packed; the message is the reason."""


@dataclass(frozen=True, kw_only=True)
class CheckedImage:
    """An image fit for a shard: its bytes, the extension its content asks for (jpg or png) and its size in pixels."""

    data: bytes
    ext: str
    width: int
    height: int


def read_image(image: Path | bytes) -> bytes:
    """The bytes of a record's image; BadImage if the file is missing, no ordinary file, too big or unreadable."""
    try:
        data = image if isinstance(image, bytes) else _read_file(image)
    except FileNotFoundError:
        raise BadImage("image: missing file") from None
    except OSError as error:
        raise BadImage(f"image: cannot be read ({error.strerror})") from None
    if not data:
        raise BadImage("image: empty file")
    if len(data) > MOST_BYTES:
        raise BadImage(f"image: more than {MOST_BYTES >> 20} MiB")
    return data


def _read_file(path: Path) -> bytes:
    """The file's bytes, at most one more than is allowed."""
    with open(path, "rb", buffering=0, opener=_open_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise BadImage("image: not an ordinary file")
        return file.read(MOST_BYTES + 1) if status.st_size > MOST_BYTES else file.readall()


def _open_at_once(path: str, flags: int) -> int:
    """Opening a named pipe the ordinary way would wait for its writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def check_image(data: bytes) -> CheckedImage:
    """Judge an image by its content, never its name, and decode it once; BadImage with the reason if it is refused.

    A JPEG is decoded at one eighth of its size: that reads the whole stream, so a truncated file is found, at half
    the price. Damage that still decodes goes unnoticed here; from now on the sha256 of the index guards the bytes.
    """
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of its own pixel limit; ours is lower and refuses
        try:
            image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "BMP"))
        except Image.UnidentifiedImageError:
            raise BadImage("image: not a JPEG, PNG or BMP") from None
        except Image.DecompressionBombError:
            raise BadImage(TOO_MANY_PIXELS) from None
        except Exception as error:  # damaged headers raise many kinds of error
            raise _undecodable(error) from None
        width, height = image.size
        if width * height > MOST_PIXELS:
            raise BadImage(TOO_MANY_PIXELS)
        if image.mode == "CMYK":
            raise BadImage("image: CMYK, which not every decoder turns into RGB")
        if image.mode == "F" or image.mode.startswith("I"):  # turned into RGB, such greys are clipped to white
            raise BadImage("image: more than 8 bits per channel")
        try:
            image.draft(None, (1, 1))
            image.load()
        except Exception as error:
            raise _undecodable(error) from None
    if image.format == "PNG" and PNG_END not in data:
        raise BadImage("image: truncated")  # all pixels came before the cut
    ext = EXTENSIONS[image.format or ""]
    if image.format == "BMP":
        data = _as_png(image)
    return CheckedImage(data=data, ext=ext, width=width, height=height)


def _undecodable(error: Exception) -> BadImage:
    return BadImage(f"image: {'truncated' if 'truncated' in str(error).lower() else 'cannot be decoded'}")


def _as_png(image: "Image.Image") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
