"""Colour words as paint: what each name in the vocabulary looks like, and the cloth woven from two of them."""

from dataclasses import dataclass

from PIL import Image, ImageDraw

from sharding.synthetic.dice import Dice
from sharding.synthetic.figure import Colour, Material, Sheet, tone
from sharding.synthetic.people import Person

CLOTH: dict[str, Colour] = {
    "black": (38, 37, 41), "white": (236, 235, 230), "grey": (136, 138, 142), "red": (190, 36, 42),
    "orange": (230, 122, 38), "yellow": (234, 200, 62), "green": (46, 122, 66), "blue": (40, 92, 188),
    "navy": (34, 42, 92), "light blue": (140, 188, 228), "purple": (112, 60, 150), "pink": (236, 146, 176),
    "brown": (106, 70, 44), "beige": (208, 188, 152),
}  # fmt: skip
HAIR: dict[str, Colour] = {
    "black": (34, 29, 30), "brown": (92, 60, 38), "blond": (208, 172, 104), "red": (150, 66, 32),
    "grey": (172, 170, 168),
}  # fmt: skip
SKIN: dict[str, Colour] = {
    "fair": (240, 206, 184), "tan": (222, 174, 138), "brown": (168, 116, 80), "dark": (104, 70, 52),
}  # fmt: skip
WEAVE_PITCH = 0.034  # body heights between two stripes: three pixels in a person 96 pixels tall


@dataclass(frozen=True, kw_only=True)
class Palette:
    """The paints of one identity: its own shade of every colour word, the same in all its pictures."""

    skin: Colour
    hair: Colour
    upper: Colour
    second: Colour
    lower: Colour
    shoes: Colour
    bag: Colour
    hat: Colour
    scarf: Colour

    @staticmethod
    def of(person: Person, dice: Dice) -> "Palette":
        """Paints for a person; the shade wanders a little around the colour that its word stands for."""

        def paint(paints: dict[str, Colour], name: str | None) -> Colour:
            light, red, blue = dice.between(0.91, 1.09), dice.between(-7, 7), dice.between(-7, 7)
            r, g, b = paints[name or "black"]
            return tone((max(0, int(r + red)), g, max(0, int(b + blue))), light)

        return Palette(
            skin=paint(SKIN, person.skin),
            hair=paint(HAIR, person.hair.colour),
            upper=paint(CLOTH, person.upper.colour),
            second=paint(CLOTH, person.upper.second),
            lower=paint(CLOTH, person.lower.colour if person.lower else None),
            shoes=paint(CLOTH, person.shoes.colour),
            bag=paint(CLOTH, person.bag.colour if person.bag else None),
            hat=paint(CLOTH, person.hat.colour if person.hat else None),
            scarf=paint(CLOTH, person.scarf),
        )


def cloth(sheet: Sheet, pattern: str, first: Colour, second: Colour) -> Material:
    """The upper garment's material."""
    if pattern not in ("striped", "checked", "dotted", "two-tone"):
        return first
    texture = Image.new("RGB", sheet.size, first)
    draw = ImageDraw.Draw(texture)
    width, height = sheet.size
    pitch, top = WEAVE_PITCH * sheet.scale, sheet.crown + 0.15 * sheet.scale
    rows = [int(top + k * pitch) for k in range(22)]
    if pattern == "two-tone":
        draw.rectangle((0, top + 0.17 * sheet.scale, width, height), fill=second)
    if pattern in ("striped", "checked"):
        thickness = int(pitch * (0.46 if pattern == "striped" else 0.26)) or 1
        for y in rows:
            draw.rectangle((0, y, width, y + thickness), fill=second)
    if pattern == "checked":
        for x in range(int(sheet.axis % pitch), width, max(2, int(pitch))):
            draw.rectangle((x, 0, x + thickness, height), fill=second)
        for y in rows:
            for x in range(int(sheet.axis % pitch), width, max(2, int(pitch))):
                draw.rectangle((x, y, x + thickness, y + thickness), fill=tone(second, 0.8))
    if pattern == "dotted":
        radius, reach = pitch * 0.30, 0.17 * sheet.scale
        for row, y in enumerate(rows):
            across = sheet.axis - reach + (row % 2) * pitch / 2
            while across < sheet.axis + reach:
                draw.ellipse((across - radius, y - radius, across + radius, y + radius), fill=second)
                across += pitch
    return texture
