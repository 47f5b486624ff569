"""Camera domains: how each source looks at people, from viewpoint and light to blur, grain and JPEG quality.

`photograph` is the one way from a person to pixels. Sources differ on purpose: what is learned on one has to carry
over.
"""

import io
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from PIL import Image, ImageFilter

from sharding.synthetic.dice import Dice
from sharding.synthetic.draw import draw_person
from sharding.synthetic.figure import SUPERSAMPLE, Frame, Pose, Sheet
from sharding.synthetic.people import Person
from sharding.synthetic.scenes import occlude, paint_scene

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Domain:
    """One kind of camera; ranges are drawn from anew for every picture."""

    scenes: tuple[str, ...]
    height: Range  # pixels
    aspect: Range  # height / width
    tilt: Range  # 0 = eye level, 0.4 = from a ceiling
    fill: Range  # the person's share of the picture's height
    exposure: Range  # 1 = as painted
    contrast: Range
    warmth: Range  # > 0 red, < 0 blue
    slope: float  # how much brighter one side may be than the other
    blur: Range  # Gaussian radius in pixels
    sharpness: Range  # share of the resolution that is left
    grain: Range  # standard deviation, 8-bit levels
    occlusion: float  # how often something stands in front
    quality: tuple[int, int]  # JPEG quality


CEILING = Domain(
    scenes=("corridor", "corridor", "shop"), height=(168, 240), aspect=(2.1, 2.8), tilt=(0.18, 0.40), fill=(0.86, 0.98),
    exposure=(0.78, 1.05), contrast=(0.82, 1.0), warmth=(-0.07, 0.02), slope=0.16, blur=(0.2, 0.9),
    sharpness=(0.6, 1.0), grain=(1.5, 5.0), occlusion=0.08, quality=(62, 82),
)  # fmt: skip
SHOPFRONT = Domain(
    scenes=("plaza", "street"), height=(180, 256), aspect=(1.9, 2.5), tilt=(0.05, 0.18), fill=(0.80, 0.95),
    exposure=(0.72, 1.15), contrast=(0.9, 1.15), warmth=(0.0, 0.10), slope=0.28, blur=(0.2, 0.8), sharpness=(0.7, 1.0),
    grain=(1.0, 4.0), occlusion=0.12, quality=(70, 90),
)  # fmt: skip
WEB_VIDEO = Domain(
    scenes=("street", "plaza", "lawn", "shop", "corridor"), height=(144, 256), aspect=(1.8, 3.0), tilt=(-0.05, 0.25),
    fill=(0.82, 1.08), exposure=(0.68, 1.22), contrast=(0.8, 1.2), warmth=(-0.10, 0.10), slope=0.30, blur=(0.2, 1.4),
    sharpness=(0.45, 1.0), grain=(0.5, 6.0), occlusion=0.2, quality=(60, 85),
)  # fmt: skip
GENERATOR = Domain(
    scenes=("studio", "studio", "lawn", "street"), height=(224, 256), aspect=(1.9, 2.2), tilt=(-0.02, 0.06),
    fill=(0.86, 0.94), exposure=(0.98, 1.14), contrast=(1.0, 1.18), warmth=(-0.02, 0.08), slope=0.20, blur=(0.0, 0.3),
    sharpness=(1.0, 1.0), grain=(0.0, 0.6), occlusion=0.0, quality=(92, 95),
)  # fmt: skip
CAMPUS = Domain(
    scenes=("lawn", "street", "plaza"), height=(160, 250), aspect=(2.0, 2.9), tilt=(0.06, 0.22), fill=(0.84, 0.98),
    exposure=(0.80, 1.15), contrast=(0.85, 1.1), warmth=(-0.05, 0.06), slope=0.24, blur=(0.2, 0.9),
    sharpness=(0.65, 1.0), grain=(1.0, 4.5), occlusion=0.1, quality=(70, 92),
)  # fmt: skip
CUHK_FOLDERS: dict[str, Domain] = {  # the benchmark's images were gathered from five older ones, each with its own look
    "cam_a": CAMPUS,
    "cam_b": replace(CAMPUS, warmth=(0.02, 0.10), exposure=(0.9, 1.2), tilt=(0.15, 0.30)),
    "CUHK01": replace(CAMPUS, scenes=("plaza", "corridor"), height=(158, 162), aspect=(2.6, 2.7)),
    "CUHK03": replace(CAMPUS, exposure=(0.95, 1.22), contrast=(0.95, 1.15), slope=0.34),
    "Market": replace(CAMPUS, scenes=("lawn", "street"), height=(128, 128), aspect=(2.0, 2.0), sharpness=(0.8, 1.0)),
    "test_query": replace(CAMPUS, scenes=("street", "shop"), warmth=(-0.08, 0.0)),
    "train_query": replace(CAMPUS, scenes=("street", "shop"), warmth=(-0.08, 0.0)),
}
MSMT_CAMERAS: tuple[Domain, ...] = (  # fifteen in the original, twelve of them outdoors, at three times of the day
    replace(CAMPUS, exposure=(0.70, 0.95), warmth=(-0.08, 0.0), slope=0.30),
    replace(CAMPUS, exposure=(0.95, 1.25), contrast=(0.95, 1.2), scenes=("street", "plaza")),
    replace(CAMPUS, exposure=(0.80, 1.05), warmth=(0.03, 0.12), tilt=(0.12, 0.26)),
    replace(CAMPUS, scenes=("lawn",), sharpness=(0.55, 0.9), height=(128, 210)),
    replace(CEILING, tilt=(0.08, 0.22), height=(160, 250), aspect=(2.2, 3.0), warmth=(-0.02, 0.06)),
)
VIDEO_SCENES = Domain(  # frames of films and street videos: sharper than surveillance, in any light and any place
    scenes=("street", "plaza", "lawn", "shop", "corridor", "studio"), height=(192, 288), aspect=(1.8, 2.9),
    tilt=(-0.06, 0.20), fill=(0.84, 1.02), exposure=(0.70, 1.25), contrast=(0.82, 1.22), warmth=(-0.12, 0.12),
    slope=0.34, blur=(0.0, 0.8), sharpness=(0.65, 1.0), grain=(0.3, 4.0), occlusion=0.12, quality=(72, 92),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Photo:
    """A finished picture, its quality score (1 bad to 5 excellent, like DeQA's) and the JPEG quality to store it at."""

    image: Image.Image
    score: float
    jpeg_quality: int

    def encode(self, kind: str) -> bytes:
        """The file's bytes as `jpg`, `png` or `bmp`."""
        buffer = io.BytesIO()
        if kind == "jpg":
            self.image.save(buffer, "JPEG", quality=self.jpeg_quality)
        else:
            self.image.save(buffer, kind, compress_level=3)
        return buffer.getvalue()


def photograph(person: Person, view: str, domain: Domain, dice: Dice, shade: Dice) -> Photo:
    """One picture of a person; `dice` is keyed by picture, `shade` by identity."""
    height = int(dice.between(*domain.height))
    width = int(height / dice.between(*domain.aspect))
    scale, tilt = height * dice.between(*domain.fill), dice.between(*domain.tilt)
    crown = dice.between(0.1, 0.9) * (height - scale) + 0.01 * height
    axis = width * dice.between(0.45, 0.55)
    frame = Frame(width=width, height=height, axis=axis, crown=crown, scale=scale, tilt=tilt)
    sheet = draw_person(person, Pose.random(person, view, dice), frame, shade)
    if dice.chance(domain.occlusion):
        occlude(sheet, dice)
    horizon = dice.between(0.42, 0.56) - 0.9 * tilt
    feet = (axis, min(height - 2.0, crown + 0.985 * scale), 0.13 * scale)
    scene = paint_scene(dice.pick(domain.scenes), (width, height), max(0.08, horizon), feet, dice)
    blur, sharpness = dice.between(*domain.blur), dice.between(*domain.sharpness)
    grain, quality = dice.between(*domain.grain), dice.count(*domain.quality)
    pixels = develop(sheet, scene, domain, dice)
    image = degrade(pixels, blur, sharpness, grain, dice)
    score = 4.6 - 0.9 * blur - 1.6 * (1 - sharpness) - 0.12 * grain - 0.02 * (90 - quality) + dice.between(-0.25, 0.25)
    return Photo(image=image, score=round(min(5.0, max(1.0, score)), 4), jpeg_quality=quality)


def develop(sheet: Sheet, scene: Image.Image, domain: Domain, dice: Dice) -> np.ndarray:
    """Put the figure into its scene and light both; returns float32 [H, W, 3] in 8-bit levels.

    The slopes of the blurred relief are the shading: edges towards the light brighten, edges away from it darken.
    """
    figure = np.asarray(sheet.colour.reduce(SUPERSAMPLE), dtype=np.float32)
    cover = sheet.relief.point([0] + [255] * 255).reduce(SUPERSAMPLE)
    radius = max(1.0, sheet.scale / SUPERSAMPLE * 0.007)
    relief = np.asarray(sheet.relief.reduce(SUPERSAMPLE).filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32)
    side = dice.pick((-1.0, 1.0))
    slope = np.zeros_like(relief)
    slope[:, 1:-1] = side * (relief[:, 2:] - relief[:, :-2])
    slope[1:-1] += 0.7 * (relief[2:] - relief[:-2])
    shade = 1.0 + 0.30 * np.tanh(slope * (0.018 * radius))
    mask = np.asarray(cover, dtype=np.float32)[:, :, None] / 255.0
    pixels = figure * shade[:, :, None] + np.asarray(scene, dtype=np.float32) * (1.0 - mask)
    warmth, contrast = dice.between(*domain.warmth), dice.between(*domain.contrast)
    gain = dice.between(*domain.exposure) * contrast
    tint = np.array([gain * (1 + warmth), gain, gain * (1 - warmth)], dtype=np.float32)
    tilt = domain.slope * dice.between(-0.5, 0.5)
    across = np.linspace(1 - tilt, 1 + tilt, relief.shape[1], dtype=np.float32)
    pixels *= across[None, :, None] * tint
    pixels += 118.0 * (1.0 - contrast)
    return pixels


def degrade(pixels: np.ndarray, blur: float, sharpness: float, grain: float, dice: Dice) -> Image.Image:
    """What lens, sensor and scaler take away."""
    noise = grain_table()
    top, left = dice.count(0, noise.shape[0] - pixels.shape[0]), dice.count(0, noise.shape[1] - pixels.shape[1])
    if grain > 0.2:
        pixels += grain * noise[top : top + pixels.shape[0], left : left + pixels.shape[1]]
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    if sharpness < 0.95:
        small = (max(1, int(image.width * sharpness)), max(1, int(image.height * sharpness)))
        image = image.resize(small, Image.Resampling.BILINEAR).resize(image.size, Image.Resampling.BILINEAR)
    return image.filter(ImageFilter.GaussianBlur(blur)) if blur > 0.3 else image


@cache
def grain_table() -> np.ndarray:
    """Unit Gaussian noise, float32 [640, 400, 1], drawn once: a random window of it is as good as new noise."""
    return Dice("grain").generator.standard_normal((640, 400, 1)).astype(np.float32)
