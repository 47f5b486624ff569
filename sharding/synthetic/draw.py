"""The picture of one person: body and clothes, drawn from the parts furthest away to the nearest.

Head, hair and hat are in head.py, bags and hand luggage in luggage.py; the camera puts the sheet into a scene.
"""

from sharding.synthetic.dice import Dice
from sharding.synthetic.figure import Colour, Frame, Point, Pose, Sheet, Skeleton, mix, skeleton, smooth, tone
from sharding.synthetic.head import draw_hair_behind, draw_head, draw_scarf
from sharding.synthetic.luggage import draw_bag_behind, draw_bag_before, draw_hand_luggage
from sharding.synthetic.palette import Palette, cloth
from sharding.synthetic.people import OUTERWEAR, Person

FAR, LOWER, NEAR_LEG, TORSO, ARM = 60, 104, 96, 128, 158  # relief: how far a part stands out towards the camera
SHADED = 0.80  # the far leg and arm lie in the body's shadow
LEG_RADII = {  # hip, knee, ankle
    "trousers": (0.056, 0.040, 0.033), "jeans": (0.055, 0.039, 0.030), "leggings": (0.050, 0.034, 0.023),
    "wide-leg trousers": (0.057, 0.050, 0.056), "tracksuit bottoms": (0.057, 0.044, 0.032), "shorts": (0.060, 0.054, 0.05),
}  # fmt: skip
SKIRT_HEMS = {"short": 0.665, "knee-length": 0.745, "long": 0.885}
UPPER_HEMS = {
    "t-shirt": 0.515, "shirt": 0.530, "sweater": 0.520, "hoodie": 0.525, "jacket": 0.515, "blazer": 0.555, "coat": 0.705,
    "tank top": 0.505, "dress": 0.735,
}  # fmt: skip


def draw_person(person: Person, pose: Pose, frame: Frame, shade: Dice) -> Sheet:
    """Draw one view; `shade` is keyed by identity so that a garment keeps its shade from view to view."""
    sheet, joints, paints = Sheet(frame, pose.facing), skeleton(person, pose), Palette.of(person, shade)
    material = cloth(sheet, person.upper.pattern, paints.upper, paints.second)
    sleeve = material if not isinstance(material, tuple) else paints.upper
    profile = pose.view == "side"
    draw_bag_behind(sheet, person, pose, joints, paints)
    if profile:
        draw_hand_luggage(sheet, person, pose, joints, paints, 0)
        draw_arm(sheet, person, joints, paints, tone(paints.upper, SHADED), 0)
    draw_hair_behind(sheet, person, pose, joints, paints)
    for index in (0, 1):
        draw_leg(sheet, person, pose, joints, paints, index)
    draw_waist(sheet, person, pose, joints, paints)
    draw_torso(sheet, person, pose, joints, paints, material)
    draw_bag_before(sheet, person, pose, joints, paints)
    for index in (1,) if profile else (0, 1):
        draw_hand_luggage(sheet, person, pose, joints, paints, index)
        draw_arm(sheet, person, joints, paints, sleeve, index)
    draw_scarf(sheet, person, pose, joints, paints)
    draw_head(sheet, person, pose, joints, paints)
    return sheet


def draw_leg(sheet: Sheet, person: Person, pose: Pose, joints: Skeleton, paints: Palette, index: int) -> None:
    """One leg: skin, the trouser leg as far as it reaches, and the shoe."""
    hip, knee, ankle = joints.hips[index], joints.knees[index], joints.ankles[index]
    light = 1.0 if index else (SHADED if pose.view == "side" else 0.9)
    relief, skin, lower = FAR + 36 * index, tone(paints.skin, light), person.lower
    wide = 0.55 + 0.45 * joints.width
    if lower is None or lower.kind in ("shorts", "skirt") or lower.length != "long":
        sheet.limb(hip, knee, (0.048 * wide, 0.033 * wide), skin, relief)
        sheet.limb(knee, ankle, (0.034 * wide, 0.020), skin, relief)
    draw_shoe(sheet, person, pose, ankle, tone(paints.shoes, light), skin, relief)
    if lower is None or lower.kind == "skirt":
        return
    paint, (top, middle, end) = tone(paints.lower, light), LEG_RADII[lower.kind]
    if lower.kind == "shorts":
        reach = 0.62 if lower.length == "short" else 0.94
        hem = (hip[0] + (knee[0] - hip[0]) * reach, hip[1] + (knee[1] - hip[1]) * reach)
        sheet.limb(hip, hem, (top * wide, middle * wide), paint, relief + 6)
        return
    reach = 0.62 if lower.length == "cropped" else 0.97
    hem = (knee[0] + (ankle[0] - knee[0]) * reach, knee[1] + (ankle[1] - knee[1]) * reach)
    sheet.limb(hip, knee, (top * wide, middle * wide), paint, relief + 4)
    sheet.limb(knee, hem, (middle * wide, end), paint, relief + 4)
    sheet.crease([(knee[0] - 0.025, knee[1] + 0.004), (knee[0] + 0.02, knee[1] - 0.006)], relief - 14)
    if lower.kind == "tracksuit bottoms":
        side = 0.0 if pose.view == "side" else 0.022 * (1 if hip[0] > 0 else -1)
        stripe = [(hip[0] + side, hip[1] + 0.03), (knee[0] + side * 1.1, knee[1]), (hem[0] + side * 0.9, hem[1])]
        sheet.line(stripe, 0.011, (238, 238, 236))
    elif lower.kind == "jeans":
        sheet.line([(hip[0], hip[1] + 0.06), (knee[0], knee[1] - 0.06)], 0.018, mix(paint, (210, 220, 235), 0.20))


def draw_shoe(
    sheet: Sheet, person: Person, pose: Pose, ankle: Point, paint: Colour, skin: Colour, relief: int
) -> None:
    """One shoe, seen from the side, from the front or from behind."""
    (x, y), kind = ankle, person.shoes.kind
    if kind == "boots":
        sheet.limb((x, y - 0.085), (x, y), (0.030, 0.027), paint, relief + 3)
    sole = (232, 232, 228) if kind == "trainers" and sum(paint) < 600 else tone(paint, 0.55)
    upper = mix(skin, paint, 0.15) if kind == "sandals" else paint
    if pose.view == "side":
        heel, toe, top = x - 0.032, x + 0.082, y - 0.012
        outline = [(heel, top), (x + 0.022, top - 0.004), (x + 0.045, y + 0.016), (toe, y + 0.028), (toe + 0.002, y + 0.046)]
        sheet.shape([*outline, (heel, y + 0.046)], upper, relief + 8)
        if kind == "heels":
            sheet.shape([(heel, y + 0.03), (heel + 0.014, y + 0.03), (heel + 0.008, y + 0.056), (heel, y + 0.056)], paint, relief)
        else:
            sheet.line([(heel, y + 0.043), (toe, y + 0.043)], 0.012, sole)
        strap = [(x - 0.03, y - 0.004), (x + 0.022, y + 0.002)], [(x + 0.028, y + 0.02), (x + 0.06, y + 0.034)]
    else:
        lean = 0.010 * (1 if x > 0 else -1)
        drop = 0.052 if pose.view == "front" else 0.044
        half = 0.026 if kind in ("heels", "flat shoes") else 0.031
        sheet.shape(
            smooth([(x - 0.020, y - 0.016), (x + 0.020, y - 0.016), (x + lean + half, y + drop - 0.012),
                    (x + lean, y + drop), (x + lean - half, y + drop - 0.012)]), upper, relief + 8)  # fmt: skip
        if kind not in ("heels", "sandals"):
            sheet.line([(x + lean - half * 0.8, y + drop - 0.006), (x + lean + half * 0.8, y + drop - 0.006)], 0.010, sole)
        strap = [(x - 0.022, y + 0.004), (x + 0.022, y + 0.004)], [(x + lean - 0.026, y + 0.026), (x + lean + 0.026, y + 0.026)]
    if kind == "sandals":
        for line in strap:
            sheet.line(line, 0.016, paint)
    elif kind == "trainers" and pose.view == "front":
        sheet.line([(x, y + 0.004), (x + lean, y + 0.030)], 0.010, mix(paint, (255, 255, 255), 0.55))


def draw_waist(sheet: Sheet, person: Person, pose: Pose, joints: Skeleton, paints: Palette) -> None:
    """The seat of the trousers, or the skirt."""
    lower, lift, wide = person.lower, joints.lift, 0.55 + 0.45 * joints.width
    if lower is None:
        return
    half = (0.060 if pose.view == "side" else 0.088) * wide
    if lower.kind == "skirt":
        hem = SKIRT_HEMS[lower.length] + lift
        flare = half + 0.030 + 0.12 * (hem - 0.66 - lift)
        sway = 0.012 * pose.stride
        waist = [(-half * 0.85, 0.43 + lift), (half * 0.85, 0.43 + lift), (half, 0.51 + lift)]
        bottom = [(flare + sway, hem), (sway, hem + 0.010), (-flare + sway, hem)]
        sheet.shape([*waist, *bottom, (-half, 0.51 + lift)], paints.lower, LOWER)
        for x in (-0.55, -0.15, 0.25, 0.6):
            sheet.crease([(x * half, 0.52 + lift), (x * flare + sway, hem - 0.01)], LOWER - 22, 0.008)
        return
    seat = [(-half * 0.92, 0.43 + lift), (half * 0.92, 0.43 + lift), (half * 1.03, 0.51 + lift)]
    sheet.shape([*seat, (half * 0.5, 0.565 + lift), (-half * 0.5, 0.565 + lift), (-half * 1.03, 0.51 + lift)], paints.lower, LOWER)
    if pose.view != "side":
        sheet.crease([(0, 0.52 + lift), (0, 0.60 + lift)], FAR, 0.006)


def torso_outline(person: Person, pose: Pose, joints: Skeleton) -> list[Point]:
    """The silhouette of the upper garment from neck to hem."""
    wide, lift, kind = 0.55 + 0.45 * joints.width, joints.lift, person.upper.kind
    woman, hem = person.gender == "woman", UPPER_HEMS[kind]
    loose = {"hoodie": 0.010, "jacket": 0.010, "coat": 0.012, "sweater": 0.006, "tank top": -0.004}.get(kind, 0.0)
    flare = (hem - 0.52) * (0.30 if kind == "dress" else 0.10) if hem > 0.6 else 0.0
    if pose.view == "side":
        chest, belly = (0.064 if woman else 0.056) + loose, 0.050 + 0.045 * (joints.width - 0.9)
        back, seat = -0.056 - loose, -0.064 - loose
        front = [(0.026, 0.160), (0.040, 0.195), (chest * wide, 0.285), (belly * wide + loose, 0.40), (belly * wide + loose + flare, hem)]
        rear = [(seat * wide - flare, hem), (-0.050 * wide - loose, 0.40), (back * wide, 0.27), (-0.050, 0.195), (-0.026, 0.158)]
        return [(x, y + lift) for x, y in [*front, *rear]]
    shoulder, bare = abs(joints.shoulders[0][0]), person.upper.sleeve == "none"
    waist = (0.066 if woman else 0.079) * wide + loose
    hip = (0.090 if woman else 0.086) * wide + loose
    top = [(0.030, 0.158), (shoulder * 0.62, 0.172), (shoulder + (-0.016 if bare else 0.010), 0.188)]
    side = [(shoulder - (0.012 if bare else 0.004), 0.262), (waist, 0.385), (hip, 0.480), (hip + 0.004 + flare, hem)]
    half = top + side
    return [*half, *[(-x, y) for x, y in reversed(half)]]


def draw_torso(sheet: Sheet, person: Person, pose: Pose, joints: Skeleton, paints: Palette, material: object) -> None:
    """Neck and upper garment with collar, buttons, zip or print."""
    upper, lift, (hx, hy) = person.upper, joints.lift, joints.head
    sheet.limb((hx * 0.7, hy + 0.05), (0.004, 0.180 + lift), (0.026, 0.032), tone(paints.skin, 0.86), TORSO - 10)
    outline = torso_outline(person, pose, joints)
    sheet.shape(smooth(outline), material, TORSO)  # type: ignore[arg-type]
    hem = UPPER_HEMS[upper.kind] + lift
    for x, y in ((-0.045, 0.40), (0.04, 0.425), (-0.03, 0.46)):
        sheet.crease([(x, y + lift), (x + 0.03, y + 0.012 + lift)], TORSO - 16)
    if upper.kind in ("sweater", "hoodie"):
        half = abs(outline[4][0]) * 0.97
        sheet.line([(-half, hem - 0.014), (half, hem - 0.014)], 0.022, tone(paints.upper, 0.80))
    if upper.pattern == "printed" and pose.view != "side":
        draw_print(sheet, person, paints.second)
    if pose.view == "front":
        draw_front(sheet, person, paints, hem)
    elif pose.view == "side" and upper.kind in OUTERWEAR:
        edge = [(x - 0.010, y) for x, y in outline[1:5]]
        sheet.shape([*outline[1:5], *reversed(edge)], paints.second, TORSO - 8)
    elif upper.kind == "hoodie":
        sheet.oval((-0.04 * (pose.view == "side"), 0.188 + lift), (0.052, 0.026), tone(paints.upper, 0.82), TORSO + 14)


def draw_front(sheet: Sheet, person: Person, paints: Palette, hem: float) -> None:
    """What the front of a garment shows: the shirt below an open jacket, lapels, buttons, pocket, neckline."""
    kind, upper, second = person.upper.kind, paints.upper, paints.second
    dark = tone(upper, 0.68) if sum(upper) > 190 else mix(upper, (255, 255, 255), 0.22)
    if kind in OUTERWEAR:
        gap = {"jacket": 0.026, "blazer": 0.020, "coat": 0.028}[kind]
        low = {"jacket": hem, "blazer": 0.47, "coat": hem}[kind]
        tip = gap if kind != "blazer" else 0.003
        sheet.shape([(-0.034, 0.160), (0.034, 0.160), (gap, 0.26), (tip, low), (-tip, low), (-gap, 0.26)], second, TORSO - 14)
        for side in (-1, 1):
            lapel = [(side * 0.030, 0.160), (side * 0.062, 0.225), (side * gap, 0.31), (side * gap * 1.1, 0.25)]
            sheet.shape(lapel, dark if kind != "jacket" else tone(upper, 0.85), TORSO + 10)
        return
    if kind == "shirt":
        sheet.line([(0, 0.185), (0, hem)], 0.007, dark)
        for side in (-1, 1):
            collar = [(side * 0.004, 0.196), (side * 0.034, 0.160), (side * 0.048, 0.186), (side * 0.022, 0.210)]
            sheet.shape(collar, mix(upper, (255, 255, 255), 0.25), TORSO + 12)
    elif kind == "hoodie":
        sheet.shape([(-0.052, 0.168), (0, 0.220), (0.052, 0.168), (0.030, 0.158), (-0.030, 0.158)], tone(upper, 0.78), TORSO + 12)
        sheet.shape([(-0.038, 0.42), (0.038, 0.42), (0.056, 0.485), (-0.056, 0.485)], tone(upper, 0.87), TORSO + 8)
        for side in (-0.014, 0.014):
            sheet.line([(side, 0.205), (side * 1.3, 0.275)], 0.006, (232, 232, 230))
    else:
        depth = {"tank top": 0.215, "dress": 0.205, "t-shirt": 0.184}.get(kind, 0.176)
        neckline = [(-0.030, 0.156), (0.030, 0.156), (0.020, depth - 0.010), (0, depth), (-0.020, depth - 0.010)]
        sheet.shape(neckline, tone(paints.skin, 0.92), TORSO - 6)
        if kind == "dress":
            sheet.line([(-0.066, 0.395), (0.066, 0.395)], 0.014, tone(upper, 0.72))


def draw_print(sheet: Sheet, person: Person, second: Colour) -> None:
    """A print on chest or back: a panel with a bar below it."""
    sheet.oval((0, 0.282), (0.050, 0.042), second, TORSO + 1)
    sheet.line([(-0.040, 0.346), (0.040, 0.346)], 0.016, second)


def draw_arm(sheet: Sheet, person: Person, joints: Skeleton, paints: Palette, sleeve: object, index: int) -> None:
    """One arm: skin, hand, and the sleeve as far as it reaches."""
    shoulder, elbow, wrist = joints.shoulders[index], joints.elbows[index], joints.wrists[index]
    reach, outer = person.upper.sleeve, person.upper.kind in ("hoodie", "jacket", "coat", "sweater")
    wide, relief = (0.55 + 0.45 * joints.width) * (0.92 if person.gender == "woman" else 1.0), ARM
    length = ((wrist[0] - elbow[0]) ** 2 + (wrist[1] - elbow[1]) ** 2) ** 0.5 or 1.0
    palm = (wrist[0] + 0.014 * (wrist[0] - elbow[0]) / length, wrist[1] + 0.014 * (wrist[1] - elbow[1]) / length)
    sheet.oval(palm, (0.019, 0.024), paints.skin, relief - 6)
    if reach != "long":
        sheet.limb(shoulder, elbow, (0.030 * wide, 0.024 * wide), paints.skin, relief)
        sheet.limb(elbow, wrist, (0.024 * wide, 0.016), paints.skin, relief)
    if reach == "short":
        hem = (shoulder[0] + 0.66 * (elbow[0] - shoulder[0]), shoulder[1] + 0.66 * (elbow[1] - shoulder[1]))
        sheet.limb(shoulder, hem, (0.036 * wide, 0.036 * wide), sleeve, relief + 4)  # type: ignore[arg-type]
    elif reach == "long":
        thick = 1.15 if outer else 1.0
        sheet.limb(shoulder, elbow, (0.037 * wide * thick, 0.031 * wide * thick), sleeve, relief)  # type: ignore[arg-type]
        sheet.limb(elbow, wrist, (0.031 * wide * thick, 0.024 * thick), sleeve, relief)  # type: ignore[arg-type]
        sheet.crease([(elbow[0] - 0.02, elbow[1]), (elbow[0] + 0.02, elbow[1] + 0.006)], relief - 18)
