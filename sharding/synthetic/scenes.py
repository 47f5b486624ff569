"""Backgrounds: where a synthetic person walks, and what may stand between them and the camera.

A scene is painted at half size and enlarged, which is also what makes it look out of focus. `horizon` is where the
floor begins, as a share of the height: high cameras see mostly floor.
"""

from collections.abc import Callable

from PIL import Image, ImageDraw, ImageFilter

from sharding.synthetic.dice import Dice
from sharding.synthetic.figure import Colour, Sheet, mix, tone

Box = tuple[float, float, float, float]
Blocks = list[tuple[Box, float, Colour]]  # box in sheet pixels, corner radius, paint
IN_FRONT = 205  # relief
Painter = Callable[[ImageDraw.ImageDraw, tuple[int, int], int, Dice], None]
BRIGHT: tuple[Colour, ...] = (
    (196, 54, 48), (52, 98, 170), (226, 176, 60), (62, 130, 84), (226, 224, 216), (120, 72, 130), (222, 132, 60),
)  # fmt: skip


def paint_scene(
    name: str, size: tuple[int, int], horizon: float, feet: tuple[float, float, float], dice: Dice
) -> Image.Image:
    """A background of `size` with the person's shadow at `feet` (x, y, half width in final pixels)."""
    small = (max(8, size[0] // 2), max(16, size[1] // 2))
    image = Image.new("RGB", small)
    draw = ImageDraw.Draw(image)
    SCENES[name](draw, small, int(horizon * small[1]), dice)
    shadow(image, draw, (feet[0] / 2, feet[1] / 2, feet[2] / 2), dice)
    return image.filter(ImageFilter.BoxBlur(dice.between(0.5, 1.3))).resize(size, Image.Resampling.BICUBIC)


def shadow(image: Image.Image, draw: ImageDraw.ImageDraw, feet: tuple[float, float, float], dice: Dice) -> None:
    """A soft shadow on the ground in three rings, leaning away from the light."""
    x, y, reach = feet
    at = (min(image.width - 1, max(0, int(x))), min(image.height - 1, max(0, int(y))))
    ground = image.getpixel(at)
    assert isinstance(ground, tuple)
    lean = dice.between(-0.7, 0.7) * reach
    for step, factor in ((1.0, 0.88), (0.75, 0.76), (0.5, 0.62)):
        half, flat = reach * step * 1.25, reach * step * 0.30
        middle = x + lean * (1.5 - step)
        draw.ellipse((middle - half, y - flat, middle + half, y + flat), fill=tone(ground[:3], factor))  # type: ignore[arg-type]


def ramp(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], top: Colour, bottom: Colour) -> None:
    """A vertical gradient in at most twelve bands."""
    left, upper, right, lower = box
    bands = max(1, min(12, lower - upper))
    for band in range(bands):
        y0, y1 = upper + (lower - upper) * band // bands, upper + (lower - upper) * (band + 1) // bands
        draw.rectangle((left, y0, right, y1), fill=mix(top, bottom, band / bands))


def floor_lines(draw: ImageDraw.ImageDraw, size: tuple[int, int], horizon: int, line: Colour, dice: Dice) -> None:
    """Tiles in perspective: rows that crowd towards the horizon, columns that meet above it."""
    width, height = size
    vanish = (width * dice.between(0.2, 0.8), horizon - 0.5 * height)
    step = dice.between(1.28, 1.5)
    y, gap = float(horizon), 2.0
    while y < height:
        draw.line((0, y, width, y), fill=line)
        gap *= step
        y += gap
    for k in range(-4, 9):
        x = width * k / 4.0
        share = (horizon - vanish[1]) / (height - vanish[1])
        draw.line((vanish[0] + (x - vanish[0]) * share, horizon, x, height), fill=line)


def corridor(draw: ImageDraw.ImageDraw, size: tuple[int, int], horizon: int, dice: Dice) -> None:
    """Inside a building: pale walls, a door or a window, polished tiles with a gleam."""
    width, height = size
    wall = dice.pick(((206, 208, 204), (196, 200, 206), (214, 206, 190), (178, 188, 190), (222, 220, 216)))
    floor = dice.pick(((168, 168, 166), (150, 148, 146), (186, 178, 164), (132, 138, 146), (196, 196, 192)))
    ramp(draw, (0, 0, width, horizon), tone(wall, 0.86), wall)
    ramp(draw, (0, horizon, width, height), tone(floor, 0.84), tone(floor, 1.06))
    x = dice.between(-0.2, 0.75) * width
    door = dice.pick(((122, 90, 64), (92, 104, 112), (168, 176, 180), (70, 84, 110)))
    draw.rectangle((x, horizon * dice.between(0.0, 0.35), x + width * dice.between(0.25, 0.5), horizon), fill=door)
    if dice.chance(0.6):
        board = dice.between(0.05, 0.65) * width
        draw.rectangle((board, horizon * 0.2, board + width * 0.22, horizon * 0.55), fill=dice.pick(BRIGHT))
    draw.rectangle((0, horizon - 2, width, horizon), fill=tone(wall, 0.62))
    floor_lines(draw, size, horizon, tone(floor, 0.86), dice)
    gleam = dice.between(0.1, 0.8) * width
    draw.ellipse((gleam, horizon + 0.1 * height, gleam + 0.16 * width, horizon + 0.45 * height), fill=tone(floor, 1.16))


def street(draw: ImageDraw.ImageDraw, size: tuple[int, int], horizon: int, dice: Dice) -> None:
    """A street: facades with windows, a parked car, kerb and asphalt."""
    width, height = size
    road = dice.pick(((118, 118, 120), (134, 130, 126), (98, 100, 106), (150, 146, 140)))
    x = -dice.between(0, 0.4) * width
    while x < width:
        wide = dice.between(0.3, 0.7) * width
        facade = dice.pick(
            ((150, 120, 100), (172, 164, 150), (120, 124, 132), (188, 176, 156), (136, 92, 78), (96, 104, 112))
        )
        draw.rectangle((x, 0, x + wide, horizon), fill=facade)
        glass = dice.pick(((70, 84, 104), (180, 196, 208), (56, 60, 70), (214, 204, 170)))
        for row in range(3):
            for column in range(2):
                left, top = x + wide * (0.14 + 0.44 * column), horizon * (0.06 + 0.32 * row)
                draw.rectangle((left, top, left + wide * 0.26, top + horizon * 0.19), fill=glass)
        x += wide
    ramp(draw, (0, horizon, width, height), tone(road, 0.9), tone(road, 1.1))
    draw.rectangle((0, horizon, width, horizon + max(1, height // 50)), fill=tone(road, 1.3))
    if dice.chance(0.6):
        paint, left = dice.pick((*BRIGHT, (40, 42, 46), (190, 192, 196))), dice.between(-0.5, 0.6) * width
        long, tall = width * dice.between(0.7, 1.1), height * dice.between(0.10, 0.17)
        draw.rectangle((left + long * 0.2, horizon - tall, left + long * 0.75, horizon), fill=tone(paint, 0.6))
        draw.rectangle((left, horizon - tall * 0.55, left + long, horizon + tall * 0.3), fill=paint)
        for wheel in (0.16, 0.78):
            draw.ellipse(
                (left + long * wheel - tall * 0.25, horizon, left + long * wheel + tall * 0.25, horizon + tall * 0.5),
                fill=(30, 30, 32),
            )
    if dice.chance(0.5):
        draw.line(
            (0, height * 0.93, width, height * dice.between(0.7, 0.93)),
            fill=(206, 204, 196),
            width=max(1, height // 48),
        )


def lawn(draw: ImageDraw.ImageDraw, size: tuple[int, int], horizon: int, dice: Dice) -> None:
    """A campus path: sky, trees, grass and a pale path."""
    width, height = size
    ramp(draw, (0, 0, width, horizon), dice.pick(((168, 198, 226), (206, 214, 220), (142, 178, 214))), (214, 220, 218))
    for _ in range(dice.count(5, 9)):
        x, y, radius = dice.between(0, 1) * width, horizon * dice.between(0.3, 0.95), height * dice.between(0.05, 0.11)
        leaf = mix((48, 92, 48), (122, 150, 70), dice.unit())
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=leaf)
    grass = mix((84, 130, 62), (134, 152, 84), dice.unit())
    ramp(draw, (0, horizon, width, height), tone(grass, 0.85), grass)
    path, middle = dice.pick(((188, 180, 164), (164, 160, 156), (204, 190, 166))), dice.between(0.25, 0.75) * width
    draw.polygon(
        [
            (middle - 0.16 * width, horizon), (middle + 0.16 * width, horizon), (middle + 0.8 * width, height), (middle
            - 0.8 * width, height),
        ],
        fill=path,
    )  # fmt: skip


def plaza(draw: ImageDraw.ImageDraw, size: tuple[int, int], horizon: int, dice: Dice) -> None:
    """A square in front of shops: signs, dark windows, paving."""
    width, height = size
    paving = dice.pick(((176, 166, 152), (158, 156, 156), (190, 182, 172), (146, 134, 122)))
    ramp(draw, (0, 0, width, horizon), dice.pick(((96, 88, 86), (140, 132, 120), (72, 76, 86))), (120, 114, 108))
    x = -dice.between(0, 0.3) * width
    while x < width:
        wide = dice.between(0.25, 0.5) * width
        draw.rectangle(
            (x, horizon * 0.34, x + wide * 0.9, horizon), fill=dice.pick(((48, 54, 62), (198, 186, 150), (86, 96, 104)))
        )
        draw.rectangle((x, horizon * 0.16, x + wide * 0.9, horizon * 0.32), fill=dice.pick(BRIGHT))
        x += wide
    ramp(draw, (0, horizon, width, height), tone(paving, 0.88), tone(paving, 1.05))
    floor_lines(draw, size, horizon, tone(paving, 0.87), dice)


def shop(draw: ImageDraw.ImageDraw, size: tuple[int, int], horizon: int, dice: Dice) -> None:
    """A shop: shelves full of coloured goods above a bright floor."""
    width, height = size
    floor = dice.pick(((208, 204, 196), (186, 190, 196), (216, 208, 190)))
    ramp(draw, (0, 0, width, horizon), (206, 206, 206), (176, 174, 172))
    rows = 5
    for row in range(rows):
        y0, y1 = horizon * (row + 0.15) / rows, horizon * (row + 0.85) / rows
        x = -dice.between(0, 0.1) * width
        while x < width:
            wide = dice.between(0.06, 0.2) * width
            draw.rectangle((x, y0, x + wide, y1), fill=tone(dice.pick(BRIGHT), dice.between(0.6, 1.0)))
            x += wide
        draw.rectangle((0, y1, width, y1 + 1), fill=(92, 92, 96))
    ramp(draw, (0, horizon, width, height), tone(floor, 0.9), floor)
    floor_lines(draw, size, horizon, tone(floor, 0.92), dice)


def studio(draw: ImageDraw.ImageDraw, size: tuple[int, int], horizon: int, dice: Dice) -> None:
    """A clean backdrop with soft spots of light, as image generators like it."""
    width, height = size
    wall = dice.pick(
        ((214, 210, 204), (186, 196, 208), (208, 194, 178), (174, 186, 170), (200, 186, 198), (150, 160, 172))
    )
    ramp(draw, (0, 0, width, horizon), tone(wall, 0.92), tone(wall, 1.08))
    for _ in range(dice.count(2, 6)):
        x, y, radius = dice.between(0, 1) * width, dice.between(0, 1) * horizon, dice.between(0.05, 0.2) * width
        draw.ellipse(
            (x - radius, y - radius, x + radius, y + radius), fill=mix(wall, (255, 250, 236), dice.between(0.1, 0.4))
        )
    ramp(draw, (0, horizon, width, height), tone(wall, 0.74), tone(wall, 0.86))


SCENES: dict[str, Painter] = {
    "corridor": corridor, "street": street, "lawn": lawn, "plaza": plaza, "shop": shop, "studio": studio,
}  # fmt: skip


def occlude(sheet: Sheet, dice: Dice) -> None:
    """Put one thing in front of the figure."""
    draw, relief = ImageDraw.Draw(sheet.colour), ImageDraw.Draw(sheet.relief)
    width, height = sheet.size
    for box, radius, paint in dice.pick((pole, rail, bush, bonnet, passer_by))(width, height, dice):
        draw.rounded_rectangle(box, radius=radius, fill=paint)
        relief.rounded_rectangle(box, radius=radius, fill=IN_FRONT)


def pole(width: int, height: int, dice: Dice) -> Blocks:
    """A lamp post with a highlight."""
    x, wide = width * dice.between(0.05, 0.85), width * dice.between(0.05, 0.10)
    return [((x, 0, x + wide, height), 0, (112, 114, 116)), ((x, 0, x + wide * 0.3, height), 0, (160, 162, 164))]


def rail(width: int, height: int, dice: Dice) -> Blocks:
    """Three bars at the height of the knees."""
    y, paint = height * dice.between(0.70, 0.82), dice.pick(((186, 188, 190), (70, 76, 82)))
    tops = [y + offset * height for offset in (0.0, 0.07, 0.14)]
    return [((0, top, width, top + 0.018 * height), 0, paint) for top in tops]


def bush(width: int, height: int, dice: Dice) -> Blocks:
    """Leaves along the lower edge."""
    leaves: Blocks = []
    for _ in range(14):
        x, y, radius = width * dice.unit(), height * dice.between(0.90, 1.02), width * dice.between(0.08, 0.18)
        leaf = mix((44, 84, 42), (110, 140, 66), dice.unit())
        leaves.append(((x - radius, y - radius, x + radius, y + radius), radius, leaf))
    return leaves


def bonnet(width: int, height: int, dice: Dice) -> Blocks:
    """The front of a parked car in one of the lower corners."""
    top, start = height * dice.between(0.78, 0.86), dice.pick((-0.6, 0.25)) * width
    return [((start, top, start + 1.35 * width, height * 1.3), 0.2 * width, dice.pick(BRIGHT))]


def passer_by(width: int, height: int, dice: Dice) -> Blocks:
    """Half a stranger at the edge: trousers, coat and head."""
    reach, top, centre = width * dice.between(0.10, 0.22), height * dice.between(0.10, 0.25), dice.pick((0, width))
    coat = tone(dice.pick(BRIGHT), 0.8)
    legs: Box = (centre - reach * 0.8, top + 0.45 * height, centre + reach * 0.8, height)
    trunk: Box = (centre - reach, top + 0.11 * height, centre + reach, top + 0.50 * height)
    head: Box = (centre - reach * 0.5, top, centre + reach * 0.5, top + 0.13 * height)
    corner = reach * 0.4
    return [(legs, corner, (52, 54, 62)), (trunk, corner, coat), (head, corner, (206, 164, 136))]
