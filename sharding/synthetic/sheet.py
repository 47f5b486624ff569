"""The contact sheet: what the people of a layout look like, at a glance."""

import textwrap

from PIL import Image, ImageDraw, ImageFont, ImageOps

from sharding.synthetic.benchmarks import medium
from sharding.synthetic.camera import (
    CEILING,
    CUHK_FOLDERS,
    GENERATOR,
    MSMT_CAMERAS,
    SHOPFRONT,
    VIDEO_SCENES,
    WEB_VIDEO,
    photograph,
)
from sharding.synthetic.captions import NOISE, human_caption, observe
from sharding.synthetic.dice import Dice
from sharding.synthetic.fine_captions import fine_caption
from sharding.synthetic.people import identity

DOMAINS = {
    "pretrain_110k": (CEILING, SHOPFRONT),
    "luperson_t": (WEB_VIDEO,),
    "syncpr": (GENERATOR,),
    "cuhk_pedes": tuple(CUHK_FOLDERS.values()),
    "icfg_pedes": MSMT_CAMERAS,
    "rstpreid": MSMT_CAMERAS,
    "ufine6926": (VIDEO_SCENES,),
    "ufine3c": (CUHK_FOLDERS["cam_a"], MSMT_CAMERAS[0], VIDEO_SCENES),
}
STYLES = {"icfg_pedes": medium, "ufine6926": fine_caption, "ufine3c": fine_caption}  # the others: a plain human_caption
WIDTH, HEIGHT, GAP, LINE = 94, 256, 6, 18  # pixels: a picture, the space around it, a line of the caption below a row


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
        caption = STYLES.get(layout, human_caption)(observe(person, "front", NOISE[layout], dice), dice)
        rows.append((row, textwrap.wrap(caption, (columns * (WIDTH + GAP) + GAP) // 8)))
    cell = WIDTH + GAP
    pitch = HEIGHT + GAP + (LINE * max(len(lines) for _, lines in rows) + 4 if captions else 0)
    sheet = Image.new("RGB", (columns * cell + GAP, people * pitch + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for place, (row, lines) in enumerate(rows):
        for number, image in enumerate(row):
            sheet.paste(image, (GAP + number * cell, GAP + place * pitch))
        if captions:
            draw.text((GAP, GAP + place * pitch + HEIGHT + 2), "\n".join(lines), fill=(40, 40, 40), font=font)
    return sheet
