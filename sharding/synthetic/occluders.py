"""What stands between camera and person: poles, rails, bushes, cars and passers-by, drawn onto the finished sheet."""

from PIL import ImageDraw

from sharding.synthetic.dice import Dice
from sharding.synthetic.figure import Colour, Sheet, mix, tone
from sharding.synthetic.scenes import BRIGHT

Box = tuple[float, float, float, float]
Blocks = list[tuple[Box, float, Colour]]  # box in sheet pixels, corner radius, paint
IN_FRONT = 205  # relief


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
