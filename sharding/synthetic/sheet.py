"""The contact sheet: what the people of a layout look like, at a glance."""

import textwrap

from PIL import Image, ImageDraw, ImageFont, ImageOps

from sharding.synthetic.camera import CEILING, CUHK_FOLDERS, GENERATOR, SHOPFRONT, WEB_VIDEO, photograph
from sharding.synthetic.captions import NOISE, human_caption, observe
from sharding.synthetic.dice import Dice
from sharding.synthetic.people import identity

DOMAINS = {
    "pretrain_110k": (CEILING, SHOPFRONT),
    "luperson_t": (WEB_VIDEO,),
    "syncpr": (GENERATOR,),
    "cuhk_pedes": tuple(CUHK_FOLDERS.values()),
}
WIDTH, HEIGHT, GAP, CAPTION = 94, 256, 6, 40  # pixels: a picture, the space around it, the caption below a row


def draw_contact_sheet(layout: str, *, people: int, columns: int, seed: int, captions: bool) -> Image.Image:
    """Rows of one identity each; every picture is cropped to the same shape."""
    rows = []
    for index in range(people):
        person, row = identity(layout, seed, index), []
        for number in range(columns):
            view, domain = ("front", "side", "back")[number % 3], DOMAINS[layout][number % len(DOMAINS[layout])]
            dice = Dice(seed, layout, "photo", index, number)
            image = photograph(person, view, domain, dice, Dice(seed, layout, "shade", index)).image
            row.append(ImageOps.fit(image, (WIDTH, HEIGHT), Image.Resampling.BICUBIC))
        dice = Dice(seed, layout, "caption", index, 0, 0)
        rows.append((row, human_caption(observe(person, "front", NOISE[layout], dice), dice)))
    cell = WIDTH + GAP
    pitch = HEIGHT + GAP + (CAPTION if captions else 0)
    sheet = Image.new("RGB", (columns * cell + GAP, people * pitch + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for line, (row, caption) in enumerate(rows):
        for number, image in enumerate(row):
            sheet.paste(image, (GAP + number * cell, GAP + line * pitch))
        if captions:
            text = "\n".join(textwrap.wrap(caption, sheet.width // 8)[:2])
            draw.text((GAP, GAP + line * pitch + HEIGHT + 2), text, fill=(40, 40, 40), font=font)
    return sheet
