"""Head, hair, hat, glasses and scarf of one person, seen from the front, from behind or in profile."""

from sharding.synthetic.figure import Colour, Point, Pose, Sheet, Skeleton, mix, smooth, tone
from sharding.synthetic.palette import Palette
from sharding.synthetic.people import Person

HEAD, HAIR, HAT = 176, 196, 214  # relief
RADIUS = (0.045, 0.060)  # half width and half height of a head
INK: Colour = (36, 30, 32)


def draw_hair_behind(sheet: Sheet, person: Person, pose: Pose, joints: Skeleton, paints: Palette) -> None:
    """Hair that falls behind the shoulders, seen from the front; a ponytail shows on one side of the neck."""
    (x, y), kind = joints.head, person.hair.kind
    if pose.view == "front" and kind == "ponytail":
        sheet.limb((x + 0.034, y), (x + 0.062, y + 0.120), (0.018, 0.012), tone(paints.hair, 0.82), 100)
    if pose.view != "front" or kind not in ("long", "bob"):
        return
    end = y + (0.160 if kind == "long" else 0.088)
    half = 0.060 if kind == "long" else 0.058
    outline = [(x, y - 0.064), (x + 0.052, y - 0.02), (x + half, end - 0.02), (x + half * 0.7, end)]
    sheet.shape(smooth([*outline, *[(2 * x - a, b) for a, b in reversed(outline[1:])]]), tone(paints.hair, 0.82), 100)


def draw_head(sheet: Sheet, person: Person, pose: Pose, joints: Skeleton, paints: Palette) -> None:
    """The head with everything on it."""
    x, y = joints.head
    if pose.view == "front":
        draw_face(sheet, person, pose, (x, y), paints)
        draw_fringe(sheet, person, (x, y), paints.hair)
        draw_glasses(sheet, person, pose, (x, y))
    elif pose.view == "side":
        draw_profile(sheet, (x, y), paints)
        draw_side_hair(sheet, person, (x, y), paints)
        draw_glasses(sheet, person, pose, (x, y))
    else:
        sheet.oval((x, y), RADIUS, paints.skin, HEAD)
        for side in (-1, 1):
            sheet.oval((x + side * 0.045, y + 0.008), (0.009, 0.015), tone(paints.skin, 0.9), HEAD - 10)
        draw_back_hair(sheet, person, (x, y), paints)
    draw_hat(sheet, person, pose, (x, y), paints)


def draw_face(sheet: Sheet, person: Person, pose: Pose, centre: Point, paints: Palette) -> None:
    """A face: ears, eyes, brows, nose and mouth, shifted as the head turns."""
    (x, y), skin = centre, paints.skin
    for side in (-1, 1):
        sheet.oval((x + side * 0.045, y + 0.008), (0.009, 0.015), tone(skin, 0.9), HEAD - 10)
    jaw = 0.030 if person.gender == "man" else 0.025
    face = [(x, y - 0.058), (x + 0.042, y - 0.028), (x + 0.043, y + 0.014), (x + jaw, y + 0.048), (x, y + 0.061)]
    sheet.shape(smooth([*face, *[(2 * x - a, b) for a, b in reversed(face[1:-1])]]), skin, HEAD)
    shift, brow = x + 0.010 * pose.turn, mix(paints.hair, INK, 0.4)
    for side in (-1, 1):
        eye = shift + side * 0.019
        sheet.oval((eye, y + 0.006), (0.0065, 0.0045), (246, 244, 240), HEAD)
        sheet.oval((eye + 0.0015 * pose.turn, y + 0.006), (0.0038, 0.0045), INK, HEAD)
        sheet.line([(eye - 0.009, y - 0.007), (eye + 0.009, y - 0.008)], 0.005, brow)
    sheet.line([(shift, y + 0.010), (shift + 0.004, y + 0.024), (shift - 0.003, y + 0.025)], 0.004, tone(skin, 0.76))
    lips = (176, 84, 84) if person.gender == "woman" else tone(skin, 0.66)
    sheet.line([(shift - 0.011, y + 0.040), (shift + 0.011, y + 0.040)], 0.006, lips)
    if person.age == "elderly":
        for side in (-1, 1):
            sheet.line([(shift + side * 0.016, y + 0.026), (shift + side * 0.020, y + 0.040)], 0.003, tone(skin, 0.84))


def draw_fringe(sheet: Sheet, person: Person, centre: Point, hair: Colour) -> None:
    """The hair above a face."""
    (x, y), kind = centre, person.hair.kind
    if kind == "bald":
        return
    if kind == "curly":
        for angle_x, angle_y in (
            (-0.046, -0.008), (-0.044, -0.036), (-0.024, -0.058), (0.0, -0.064), (0.024, -0.058), (0.044, -0.036),
            (0.046, -0.008),
        ):  # fmt: skip
            sheet.oval((x + angle_x, y + angle_y), (0.022, 0.022), hair, HAIR)
        return
    if kind == "bun":
        sheet.oval((x, y - 0.072), (0.024, 0.020), hair, HAIR - 8)
    sides = {"long": 0.060, "bob": 0.054, "short": -0.004, "ponytail": 0.0, "bun": 0.0}[kind]
    top = [
        (x - 0.050, y + sides), (x - 0.052, y - 0.022), (x - 0.032, y - 0.060), (x, y - 0.070), (x + 0.032, y - 0.060),
    ]  # fmt: skip
    under = [(x + 0.052, y - 0.022), (x + 0.050, y + sides), (x + 0.040, y + sides), (x + 0.039, y - 0.016)]
    part = [(x + 0.018, y - 0.036), (x - 0.012, y - 0.040), (x - 0.039, y - 0.016), (x - 0.040, y + sides)]
    sheet.shape([*top, *under, *part], hair, HAIR)
    sheet.line([(x - 0.026, y - 0.050), (x + 0.010, y - 0.058)], 0.006, mix(hair, (255, 255, 255), 0.16))


def draw_profile(sheet: Sheet, centre: Point, paints: Palette) -> None:
    """A face looking along +x."""
    (x, y), skin = centre, paints.skin
    outline = [
        (x - 0.046, y - 0.01), (x - 0.020, y - 0.056), (x + 0.022, y - 0.054), (x + 0.042, y - 0.022),
        (x + 0.041, y - 0.002),
    ]  # fmt: skip
    nose = [(x + 0.056, y + 0.018), (x + 0.042, y + 0.024), (x + 0.044, y + 0.038), (x + 0.036, y + 0.056)]
    sheet.shape([*smooth(outline)[4:-4], *nose, (x + 0.004, y + 0.050), (x - 0.030, y + 0.044)], skin, HEAD)
    sheet.oval((x + 0.029, y + 0.002), (0.0045, 0.0055), INK, HEAD)
    sheet.line([(x + 0.022, y - 0.012), (x + 0.038, y - 0.012)], 0.005, mix(paints.hair, INK, 0.4))
    sheet.line([(x + 0.030, y + 0.040), (x + 0.042, y + 0.039)], 0.005, tone(skin, 0.66))
    sheet.oval((x - 0.006, y + 0.008), (0.009, 0.014), tone(skin, 0.88), HEAD - 8)


def draw_side_hair(sheet: Sheet, person: Person, centre: Point, paints: Palette) -> None:
    """Hair in profile."""
    (x, y), kind, hair = centre, person.hair.kind, paints.hair
    if kind == "bald":
        return
    if kind == "curly":
        for dx, dy in (
            (0.030, -0.050), (0.006, -0.062), (-0.022, -0.056), (-0.044, -0.034), (-0.050, -0.006), (-0.044, 0.022),
        ):  # fmt: skip
            sheet.oval((x + dx, y + dy), (0.024, 0.024), hair, HAIR)
        return
    if kind == "ponytail":
        sheet.limb((x - 0.052, y - 0.020), (x - 0.078, y + 0.120), (0.020, 0.010), tone(hair, 0.9), HAIR - 6)
    if kind == "bun":
        sheet.oval((x - 0.046, y - 0.052), (0.024, 0.022), hair, HAIR - 6)
    nape = {"long": 0.160, "bob": 0.072, "short": 0.030}.get(kind, 0.026)
    front = {"long": 0.012, "bob": 0.014}.get(kind, -0.010)
    top = [
        (x + 0.040, y - 0.026), (x + 0.034, y - 0.056), (x, y - 0.070), (x - 0.036, y - 0.056), (x - 0.056, y - 0.014),
    ]  # fmt: skip
    behind = [(x - 0.054, y + nape * 0.7), (x - 0.042, y + nape), (x - 0.012, y + nape * 0.86)]
    sheet.shape([*top, *behind, (x - 0.014, y + 0.012), (x + front, y - 0.014), (x + 0.018, y - 0.034)], hair, HAIR)


def draw_back_hair(sheet: Sheet, person: Person, centre: Point, paints: Palette) -> None:
    """Hair seen from behind."""
    (x, y), kind, hair = centre, person.hair.kind, paints.hair
    if kind == "bald":
        return
    if kind == "curly":
        for dx, dy in (
            (-0.040, 0.010), (0.040, 0.010), (-0.040, -0.030), (0.040, -0.030), (0, -0.052), (0, 0.020), (0, -0.015),
        ):  # fmt: skip
            sheet.oval((x + dx, y + dy), (0.028, 0.028), hair, HAIR)
        return
    end = {"long": 0.170, "bob": 0.088, "short": 0.042}.get(kind, 0.048)
    half = {"long": 0.060, "bob": 0.058}.get(kind, 0.040)
    side = [(x + 0.034, y - 0.058), (x + 0.052, y - 0.012), (x + half, y + end * 0.75), (x + half * 0.55, y + end)]
    sheet.shape(smooth([(x, y - 0.070), *side, *[(2 * x - a, b) for a, b in reversed(side)]]), hair, HAIR)
    if kind == "ponytail":
        sheet.limb((x, y + 0.004), (x + 0.006, y + 0.150), (0.021, 0.012), tone(hair, 0.86), HAIR + 12)
    if kind == "bun":
        sheet.oval((x, y - 0.036), (0.027, 0.025), tone(hair, 0.88), HAIR + 12)
    if kind == "long":
        for shift in (-0.024, 0.004, 0.030):
            sheet.crease([(x + shift, y + 0.02), (x + shift * 1.1, y + 0.15)], HAIR - 18, 0.005)


def draw_glasses(sheet: Sheet, person: Person, pose: Pose, centre: Point) -> None:
    """Glasses or sunglasses on a visible face."""
    if person.glasses is None:
        return
    x, y = centre
    dark = person.glasses == "sunglasses"
    if pose.view == "side":
        sheet.line([(x - 0.008, y), (x + 0.040, y)], 0.005, INK)
        if dark:
            sheet.oval((x + 0.030, y + 0.006), (0.011, 0.012), INK, HEAD + 6)
        else:
            ring = [(x + 0.022, y - 0.006), (x + 0.041, y - 0.006), (x + 0.039, y + 0.014), (x + 0.023, y + 0.014)]
            sheet.line([*ring, ring[0]], 0.005, INK)
        return
    shift = x + 0.010 * pose.turn
    sheet.line([(x - 0.043, y + 0.002), (x + 0.043, y + 0.002)], 0.005, INK)
    for side in (-1, 1):
        cx = shift + side * 0.019
        if dark:
            sheet.oval((cx, y + 0.008), (0.0165, 0.0135), INK, HEAD + 6)
        else:
            ring = [(cx - 0.014, y - 0.005), (cx + 0.014, y - 0.005), (cx + 0.013, y + 0.017), (cx - 0.013, y + 0.017)]
            sheet.line([*ring, ring[0]], 0.0055, INK)


def draw_hat(sheet: Sheet, person: Person, pose: Pose, centre: Point, paints: Palette) -> None:
    """A cap with its peak towards the face, a knitted beanie, or a sun hat with a wide brim."""
    if person.hat is None:
        return
    (x, y), kind, paint = centre, person.hat.kind, paints.hat
    if pose.view == "side":
        x -= 0.006
    low = y - (0.018 if kind != "beanie" else 0.012)
    peak = 0.078 if kind != "beanie" else 0.088
    dome = [(x - 0.055, low), (x - 0.052, y - 0.048), (x, y - peak), (x + 0.052, y - 0.048), (x + 0.055, low)]
    if kind == "sun hat":
        sheet.oval((x, low), (0.100, 0.020 if pose.view != "front" else 0.024), tone(paint, 0.86), HAT - 8)
    sheet.shape([*smooth(dome)[4:-4], dome[-1], dome[0]], paint, HAT)
    if kind == "beanie":
        sheet.shape(
            [(x - 0.057, low - 0.020), (x + 0.057, low - 0.020), (x + 0.056, low + 0.006), (x - 0.056, low + 0.006)],
            tone(paint, 0.82),
            HAT + 10,
        )
        sheet.oval((x, y - peak - 0.004), (0.016, 0.014), tone(paint, 1.15), HAT)
    elif kind == "sun hat":
        sheet.line([(x - 0.052, low - 0.012), (x + 0.052, low - 0.012)], 0.014, tone(paint, 0.55))
    elif pose.view == "front":
        brim = [
            (x - 0.048, low - 0.006), (x, low - 0.016), (x + 0.048, low - 0.006), (x + 0.030, low + 0.016),
            (x - 0.030, low + 0.016),
        ]  # fmt: skip
        sheet.shape(smooth(brim), tone(paint, 0.74), HAT + 14)
    elif pose.view == "side":
        sheet.shape(
            [(x + 0.030, low - 0.010), (x + 0.100, low + 0.004), (x + 0.100, low + 0.012), (x + 0.030, low + 0.006)],
            tone(paint, 0.74),
            HAT + 10,
        )
    else:
        sheet.line([(x - 0.022, low - 0.006), (x + 0.022, low - 0.006)], 0.012, tone(paint, 0.62))


def draw_scarf(sheet: Sheet, person: Person, pose: Pose, joints: Skeleton, paints: Palette) -> None:
    """A scarf wound round the neck, one end hanging in front."""
    if person.scarf is None:
        return
    lift = joints.lift
    if pose.view != "back":
        end = 0.024 if pose.view == "front" else 0.040
        sheet.shape(
            [
                (end - 0.020, 0.175 + lift), (end + 0.018, 0.175 + lift), (end + 0.024, 0.315 + lift),
                (end - 0.014, 0.318 + lift),
            ],
            tone(paints.scarf, 0.9),
            168,
        )  # fmt: skip
    sheet.oval((0.004, 0.164 + lift), (0.058, 0.027), paints.scarf, 172)
    sheet.crease([(-0.045, 0.164 + lift), (0.048, 0.170 + lift)], 146)
