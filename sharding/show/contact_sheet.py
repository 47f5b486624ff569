"""A contact sheet of packed samples as one picture: images in rows, captions wrapped below, the same bytes every time.

Text is set in the font that Pillow brings, so that no machine's fonts change the picture; characters that it lacks
(Arabic, Chinese, emoji) are boxes, and the HTML page has them.
"""

import io
import statistics
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont, ImageOps

from sharding.errors import UserError

if TYPE_CHECKING:
    from sharding.show import Picture

HEIGHT, GAP, GUTTER, LINE, FONT = 256, 6, 14, 17, 13  # pixels: an image, space around it, beside text, a line, letters
NARROWEST, WIDEST = 64, 384  # widths of an image
CAPTION_WIDTH = 180  # pixels, at least, below a single image
MOST_LINES = 24  # of a caption
LARGEST = 65_000  # pixels a side: JPEG ends at 65,535
INK, SOFT, PAPER, MISSING = (40, 40, 40), (128, 128, 128), (255, 255, 255), (208, 208, 208)


def picture_bytes(groups: "dict[str, list[Picture]]", columns: int, form: str) -> bytes:
    """The sheet in the form "PNG" or "JPEG": a row for each person, or all images with `columns` of them in a row."""
    shapes = [picture.width / picture.height for pictures in groups.values() for picture in pictures]
    width = round(min(max(HEIGHT * statistics.median(shapes), NARROWEST), WIDEST))
    sheet = _grid(groups[""], columns, width) if "" in groups else _people(groups, columns, width)
    buffer = io.BytesIO()
    sheet.save(buffer, form, **({"quality": 92} if form == "JPEG" else {}))
    return buffer.getvalue()


def decoded(data: bytes, box: tuple[int, int]) -> Image.Image:
    """The image as RGB, shrunk or grown to fit the box; a grey area where it cannot be decoded.

    Turned by nothing: a camera's note of orientation is left to those who read it, and training does not.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large images, which were admitted when they were packed
            image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
            image.draft("RGB", (2 * box[0], 2 * box[1]))  # a large JPEG is decoded at a fraction of its size
            return ImageOps.contain(image.convert("RGB"), box, Image.Resampling.BICUBIC)
    except Exception:  # damaged images raise many kinds of error
        return Image.new("RGB", box, MISSING)


def _grid(pictures: "list[Picture]", columns: int, width: int) -> Image.Image:
    """Images with all their captions below each."""
    font = ImageFont.load_default(FONT)
    cell = max(width, CAPTION_WIDTH)
    rows = [pictures[first : first + columns] for first in range(0, len(pictures), columns)]
    texts = [[_lines([picture.key, *picture.captions], font.getlength, cell) for picture in row] for row in rows]
    heights = [HEIGHT + LINE * max(map(len, row)) + 3 * GAP for row in texts]
    sheet = _blank(min(columns, len(pictures)) * (cell + GUTTER) + GUTTER, sum(heights) + GAP)
    draw = ImageDraw.Draw(sheet)
    top = GAP
    for row, below, height in zip(rows, texts, heights, strict=True):
        for number, (picture, lines) in enumerate(zip(row, below, strict=True)):
            left = GUTTER + number * (cell + GUTTER)
            _paste(sheet, picture, left + (cell - width) // 2, top, width)
            _write(draw, left, top + HEIGHT + 2, lines)
        top += height
    return sheet


def _people(groups: "dict[str, list[Picture]]", columns: int, width: int) -> Image.Image:
    """A row of images for each person, and below it the identity and the first caption."""
    font = ImageFont.load_default(FONT)
    across = min(columns, max(map(len, groups.values()))) * (width + GAP) - GAP
    below = {
        person: _lines([person, *pictures[0].captions[:1]], font.getlength, across)
        for person, pictures in groups.items()
    }
    heights = {person: HEIGHT + LINE * len(lines) + 3 * GAP for person, lines in below.items()}
    sheet = _blank(across + 2 * GAP, sum(heights.values()) + GAP)
    draw = ImageDraw.Draw(sheet)
    top = GAP
    for person, pictures in groups.items():
        for number, picture in enumerate(pictures[:columns]):
            _paste(sheet, picture, GAP + number * (width + GAP), top, width)
        _write(draw, GAP, top + HEIGHT + 2, below[person])
        top += heights[person]
    return sheet


def _blank(width: int, height: int) -> Image.Image:
    if max(width, height) > LARGEST:
        raise UserError(
            f"the picture would have {width:,} × {height:,} pixels; show fewer images, or write a page (.html)"
        )
    return Image.new("RGB", (width, height), PAPER)


def _paste(sheet: Image.Image, picture: "Picture", left: int, top: int, width: int) -> None:
    image = decoded(picture.image, (width, HEIGHT))
    sheet.paste(image, (left + (width - image.width) // 2, top + (HEIGHT - image.height) // 2))


def _write(draw: ImageDraw.ImageDraw, left: int, top: int, lines: list[str]) -> None:
    """The lines, of which the first is a name."""
    font = ImageFont.load_default(FONT)
    for number, line in enumerate(lines):
        draw.text((left, top + number * LINE), line, fill=INK if number else SOFT, font=font)


def _lines(texts: list[str], measure: Callable[[str], float], width: int) -> list[str]:
    """A name and captions one below the other, in lines of at most `width` pixels; an empty line parts captions."""
    name, *captions = texts
    lines = wrap(name, measure, width)
    for number, caption in enumerate(captions):
        lines += [""] * bool(number) + wrap(caption, measure, width)
    return lines


def wrap(text: str, measure: Callable[[str], float], width: int) -> list[str]:
    """The text in lines of at most `width`, broken at spaces, or within a word that is wider; cut after MOST_LINES.

    `measure` gives the width of a line. Characters that cannot be encoded or printed become question marks.
    """
    lines = [""]
    for word in "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text).split():
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if measure(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if lines[-1] and measure(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
        if len(lines) > MOST_LINES:
            break
    return lines if len(lines) <= MOST_LINES else [*lines[: MOST_LINES - 1], "…"]
