"""Checks that an image is what its shard promises: a JPEG or PNG that any decoder opens as RGB, whole and not too big.

Stands between a source's Record and the tar. Bytes are kept as they are unless a re-encoding is asked for; only BMP,
which a shard cannot hold and CUHK-PEDES contains, becomes PNG (the same pixels).
"""

import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from PIL import Image

MOST_BYTES = 64 << 20
MOST_PIXELS = 50_000_000
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"
ORIENTATION = 0x0112  # the EXIF tag


class BadImage(Exception):
    """The image cannot be packed; the message is the reason."""


class CheckedImage(NamedTuple):
    """An image fit for a shard: its bytes, the extension its content asks for (jpg or png) and its size in pixels."""

    data: bytes
    ext: str
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class ImagePolicy:
    """What is done to images on their way into a shard.

    `resize` is (height, width) in pixels to which every image is brought, as JPEG of `quality`; None keeps the bytes.
    Images of more than `most_pixels` are refused by their header. `decode` decodes every image to the end.
    """

    resize: tuple[int, int] | None = None
    quality: int = 95
    most_pixels: int = MOST_PIXELS
    decode: bool = False


def prepare_image(data: bytes, policy: ImagePolicy) -> CheckedImage:
    """The image as it goes into the shard; BadImage with the reason if it is refused.

    An image is judged by its content, never its name. Header and end are always looked at, which finds every
    truncation; damage between them only decoding finds, at several times the price (`policy.decode`).
    """
    checked = _check(data, policy)
    if policy.resize:
        return _resized(checked, policy.resize, policy.quality)
    if policy.decode:
        _decode(checked.data)
    return checked


def _check(data: bytes, policy: ImagePolicy) -> CheckedImage:
    if data.startswith(JPEG_START):
        width, height = _jpeg_size(data)
        _refuse_pixels(width, height, policy)
        return CheckedImage(data, "jpg", width, height)
    if data.startswith(PNG_SIGNATURE):
        width, height = _png_size(data, policy)
        return CheckedImage(data, "png", width, height)
    if data.startswith(b"BM"):
        return _as_png(data, policy)
    raise BadImage("image: not a JPEG, PNG or BMP")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """(width, height); BadImage where the end mark is missing, for a header that does not parse, and for CMYK.

    An end mark does not count if a scan begins after it: it is then that of an embedded thumbnail.
    """
    import simplejpeg

    end = data.rfind(JPEG_END)
    if end < 0 or data.find(JPEG_SCAN, end) >= 0:
        raise BadImage("image: truncated")
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise _undecodable(error) from None
    if colours in ("CMYK", "YCCK"):
        raise BadImage("image: CMYK, which not every decoder turns into RGB")
    return width, height


def _png_size(data: bytes, policy: ImagePolicy) -> tuple[int, int]:
    """(width, height); BadImage for more than 8 bits a channel, a damaged header, and a chain of chunks that breaks."""
    if len(data) < 33:
        raise BadImage("image: truncated")
    header = data[12:29]
    if header[:4] != b"IHDR" or zlib.crc32(header) != int.from_bytes(data[29:33], "big"):
        raise BadImage("image: cannot be decoded")
    width, height, bits = struct.unpack(">IIB", header[4:13])
    _refuse_pixels(width, height, policy)
    if bits > 8:  # turned into RGB, 16-bit greys are clipped to white
        raise BadImage("image: more than 8 bits per channel")
    position, pixels = 8, False
    while (chunk := data[position + 4 : position + 8]) != b"IEND":
        pixels = pixels or chunk == b"IDAT"
        if len(chunk) < 4:
            raise BadImage("image: truncated")
        position += 12 + int.from_bytes(data[position : position + 4], "big")
    if position + 12 > len(data):
        raise BadImage("image: truncated")
    if not pixels:
        raise BadImage("image: cannot be decoded")
    return width, height


def _refuse_pixels(width: int, height: int, policy: ImagePolicy) -> None:
    if width * height > policy.most_pixels:
        raise BadImage(f"image: more than {policy.most_pixels:,} pixels")
    if not width * height:
        raise BadImage("image: cannot be decoded")


def _open(data: bytes) -> "Image.Image":
    """The image, its header read."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of its own pixel limit; ours is lower and has been applied
        try:
            return Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "BMP"))
        except Image.DecompressionBombError:
            raise BadImage("image: too many pixels") from None
        except Exception as error:  # damaged headers raise many kinds of error
            raise _undecodable(error) from None


def _decode(data: bytes) -> "Image.Image":
    """The image, decoded to its last pixel."""
    image = _open(data)
    try:
        image.load()
    except Exception as error:
        raise _undecodable(error) from None
    return image


def _as_png(data: bytes, policy: ImagePolicy) -> CheckedImage:
    """A BMP as a PNG of the same pixels."""
    image = _open(data)
    _refuse_pixels(*image.size, policy)
    image = _decode(data)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return CheckedImage(buffer.getvalue(), "png", *image.size)


def _resized(checked: CheckedImage, size: tuple[int, int], quality: int) -> CheckedImage:
    """The image upright, as RGB, at `size` (height, width), as JPEG."""
    from PIL import Image

    image = _decode(checked.data)
    height, width = size
    upright = _upright(image).convert("RGB")
    buffer = io.BytesIO()
    upright.resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=quality)
    return CheckedImage(buffer.getvalue(), "jpg", width, height)


def _upright(image: "Image.Image") -> "Image.Image":
    """The image as its EXIF orientation says it is to be seen; damaged EXIF data says nothing."""
    from PIL.Image import Transpose

    turns = (
        None, Transpose.FLIP_LEFT_RIGHT, Transpose.ROTATE_180, Transpose.FLIP_TOP_BOTTOM, Transpose.TRANSPOSE,
        Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90,
    )  # fmt: skip
    try:
        turn = turns[image.getexif().get(ORIENTATION, 1) - 1]
    except Exception:  # Pillow's reading of damaged EXIF raises many kinds of error
        return image
    return image if turn is None else image.transpose(turn)


def _undecodable(error: Exception) -> BadImage:
    message = str(error).lower()
    cut = any(word in message for word in ("truncated", "premature", "insufficient", "empty"))
    return BadImage(f"image: {'truncated' if cut else 'cannot be decoded'}")
