"""Encoded images to upright RGB pixels of the encoder's size: JPEG by libjpeg-turbo, everything rarer by Pillow.

bytes  ->  decode (halved where the photo is large)  ->  resize  ->  uint8 [H, W, 3]
"""

from io import BytesIO

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageChops
from torch.nn.functional import interpolate

from sharding.packing.images import MOST_PIXELS, ORIENTATION

Image = NDArray[np.uint8]

JPEG_START = b"\xff\xd8"
ALIGNED = 32  # bytes of an AVX2 register
SIDEWAYS = 5  # the first of the EXIF orientations whose height and width are swapped


class Undecodable(ValueError):
    """An image that cannot be decoded; the message says why, in one line."""


class Scratch:
    """Memory that one thread decodes into again and again: a fresh array for each image costs 25 µs of page faults."""

    def __init__(self) -> None:
        self._buffer = np.empty(0, np.uint8)

    def of(self, size: int) -> NDArray[np.uint8]:
        """At least `size` bytes of any content."""
        if len(self._buffer) < size:
            memory = np.empty(size + ALIGNED, np.uint8)
            # Where rows are aligned, libjpeg-turbo writes them past the caches, and whoever reads them next waits for
            # memory: decoding and rendering takes 248 µs at 384 x 128 then, and 215 one byte further on (measured).
            self._buffer = memory[(1 - memory.ctypes.data) % ALIGNED :][:size]
        return self._buffer


def decode(data: bytes, size: tuple[int, int], scratch: Scratch | None = None, *, strict: bool = True) -> Image:
    """The image in `data` (JPEG or PNG) as RGB, uint8 [H, W, 3], upright, resized (not cropped) to `size` (H, W).

    Bicubic and antialiased, as torchvision resizes. The array is valid until `scratch` is used again.
    Raises Undecodable; without `strict` not for a JPEG that libjpeg only warns of, as cameras write some.
    """
    try:
        jpeg = data[:2] == JPEG_START
        pixels = _by_libjpeg(data, size, scratch or Scratch(), strict) if jpeg else _by_pillow(data)
    except Exception as error:  # Pillow's reading of damaged data raises many kinds of error
        raise Undecodable(" ".join(str(error).split()) or type(error).__name__) from None
    return pixels if pixels.shape[:2] == size else resize(pixels, size)


def resize(image: Image, size: tuple[int, int]) -> Image:
    """`image` uint8 [h, w, 3] at another `size` (H, W), bicubic and antialiased."""
    # The batch dimension first, or its stride hides that channels come last, and the result is laid out anew (+60 µs).
    pixels = torch.from_numpy(image)[None].permute(0, 3, 1, 2)
    resized: Image = interpolate(pixels, size, mode="bicubic", antialias=True).permute(0, 2, 3, 1)[0].numpy()
    return resized


def _by_libjpeg(data: bytes, size: tuple[int, int], scratch: Scratch, strict: bool) -> Image:
    """A JPEG, of `size` or larger where it is larger; if `strict`, what libjpeg warns of raises ValueError."""
    height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    if space in ("CMYK", "YCCK"):  # may be inverted: Pillow knows
        return _by_pillow(data)
    _check_size(height, width)
    orientation = _orientation(_opened(data)) if _has_exif(data) else 1
    tall, wide = size if orientation < SIDEWAYS else size[::-1]
    # While it decodes, libjpeg halves at almost no cost, so a large photo costs a small decode. Its other scales, by
    # eighths, have no vector code: 6/8 of 512 x 192 takes three times as long as decoding all of it.
    halves = 1
    while halves < 8 and height >= 2 * halves * tall and width >= 2 * halves * wide:
        halves *= 2
    pixels: Image = simplejpeg.decode_jpeg(
        data,
        "RGB",
        min_height=-(-height // halves),
        min_width=-(-width // halves),
        min_factor=halves,
        buffer=scratch.of(3 * height * width),
        strict=strict,
    )
    return _upright(pixels, orientation)


def _has_exif(data: bytes) -> bool:
    """Whether the application segments and comments at the front of a JPEG hold EXIF; 2 µs, Pillow takes 60."""
    place = 2
    while place + 8 <= len(data) and data[place] == 0xFF and 0xE0 <= data[place + 1] < 0xFF:
        if data[place + 4 : place + 8] == b"Exif":
            return True
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return False


def _by_pillow(data: bytes) -> Image:
    """PNG and CMYK: palettes, transparency (left out), 16 bits."""
    image = _opened(data)
    _check_size(image.height, image.width)
    image.load()  # before the EXIF of a PNG is looked for, which loads it and must not hide that it is damaged
    orientation = _orientation(image)
    if image.mode.startswith("I"):  # 16-bit grey, which convert() would clip at 255
        image = PillowImage.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.mode == "CMYK" and "adobe" not in image.info:  # only Adobe stores it inverted, Pillow takes all as such
        image = ImageChops.invert(image)
    if image.mode == "P":  # or Pillow warns of palettes with transparency
        image = image.convert("RGBA")
    return _upright(np.array(image.convert("RGB")), orientation)


def _opened(data: bytes) -> PillowImage.Image:
    return PillowImage.open(BytesIO(data), formats=("JPEG", "PNG"))


def _orientation(image: PillowImage.Image) -> int:
    """As EXIF numbers them, 1 to 8; damaged EXIF data says nothing, as when the image was packed."""
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # many kinds of error
        return 1
    return orientation if orientation in range(1, 9) else 1


def _upright(pixels: Image, orientation: int) -> Image:
    """The pixels as they are to be seen: turned about the diagonal, mirrored, stood on their head."""
    if orientation >= SIDEWAYS:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _check_size(height: int, width: int) -> None:
    if height * width > MOST_PIXELS:
        raise ValueError(f"{width} x {height} pixels are more than {MOST_PIXELS:,}")
