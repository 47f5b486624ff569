"""The picture of one person: body and clothes, drawn from the parts furthest away to the nearest.

Head, hair and hat are in head.py, bags and hand luggage in luggage.py; the camera puts the sheet into a scene.
"""

import math

from sharding.synthetic.dice import Dice
from sharding.synthetic.figure import Colour, Frame, Material, Point, Pose, Sheet, Skeleton, mix, skeleton, smooth, tone
from sharding.synthetic.head import draw_hair_behind, draw_head, draw_scarf
from sharding.synthetic.luggage import draw_bag_before, draw_bag_behind, draw_hand_luggage
from sharding.synthetic.palette import Palette, cloth
from sharding.synthetic.people import OUTERWEAR, Person

FAR, LOWER, NEAR_LEG, TORSO, ARM = 60, 104, 96, 128, 158  # relief: how far a part stands out towards the camera
SHADED = 0.80  # the far leg and arm lie in the body's shadow
LEG_RADII = {  # hip, knee, ankle
    "trousers": (0.056, 0.040, 0.033), "jeans": (0.055, 0.039, 0.030), "leggings": (0.050, 0.034, 0.023),
    "wide-leg trousers": (0.057, 0.050, 0.056), "tracksuit bottoms": (0.057, 0.044, 0.032),
    "shorts": (0.060, 0.054, 0.050),
}  # fmt: skip
SKIRT_HEMS = {"short": 0.665, "knee-length": 0.745, "long": 0.885}
UPPER_HEMS = {
    "t-shirt": 0.515, "shirt": 0.530, "sweater": 0.520, "hoodie": 0.525, "jacket": 0.515, "blazer": 0.555,
    "coat": 0.705, "tank top": 0.505, "dress": 0.735,
}  # fmt: skip


def draw_person(person: Person, pose: Pose, frame: Frame, shade: Dice) -> Sheet:
    """Draw one view; `shade` is keyed by identity so that a garment keeps its shade from view to view."""
    sheet, joints, paints = Sheet(frame, pose.facing), skeleton(person, pose), Palette.of(person, shade)
    material = cloth(sheet, person.upper.pattern, paints.upper, paints.second)
    profile = pose.view == "side"
    draw_bag_behind(sheet, person, pose, joints, paints)
    behind = profile or (pose.view == "back" and pose.raised)
    first, last = (1, (0,)) if behind and not profile else (0, (1,) if profile else (0, 1))
    if behind:
        draw_hand_luggage(sheet, person, joints, paints, first)
        draw_arm(sheet, person, joints, paints, tone(paints.upper, SHADED) if profile else material, first)
    draw_hair_behind(sheet, person, pose, joints, paints)
    for index in (0, 1):
        draw_leg(sheet, person, pose, joints, paints, index)
    draw_waist(sheet, person, pose, joints, paints)
    draw_torso(sheet, person, pose, joints, paints, material)
    draw_bag_before(sheet, person, pose, joints, paints)
    for index in last:
        held = pose.raised and index == 1  # before the palm, which would hide it
        if not held:
            draw_hand_luggage(sheet, person, joints, paints, index)
        draw_arm(sheet, person, joints, paints, material, index)
        if held:
            draw_hand_luggage(sheet, person, joints, paints, index)
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
    if person.shoes.kind == "boots":
        shaft = (ankle[0] + 0.38 * (knee[0] - ankle[0]), ankle[1] + 0.38 * (knee[1] - ankle[1]))
        sheet.limb(shaft, ankle, (0.031, 0.027), tone(paints.shoes, light), relief + 3)
    draw_shoe(sheet, person, pose, ankle, tone(paints.shoes, light), skin, relief)
    if lower is None or lower.kind == "skirt":
        return
    paint, (top, middle, end) = tone(paints.lower, light), LEG_RADII[lower.kind]
    if lower.kind == "shorts":
        reach = 0.62 if lower.length == "short" else 0.94
        hem = (hip[0] + (knee[0] - hip[0]) * reach, hip[1] + (knee[1] - hip[1]) * reach)
        sheet.limb(hip, hem, (top * wide, middle * wide), paint, relief + 6)
        return
    reach = 0.62 if lower.length == "cropped" else 0.80 if lower.kind == "wide-leg trousers" else 0.97
    hem = (knee[0] + (ankle[0] - knee[0]) * reach, knee[1] + (ankle[1] - knee[1]) * reach)
    sheet.limb(hip, knee, (top * wide, middle * wide), paint, relief + 4)
    sheet.limb(knee, hem, (middle * wide, end), paint, relief + 4)
    sheet.crease([(knee[0] - 0.025, knee[1] + 0.004), (knee[0] + 0.02, knee[1] - 0.006)], relief - 14)
    if lower.kind == "tracksuit bottoms":
        side = 0.0 if pose.view == "side" else 0.022 * (1 if hip[0] > 0 else -1)
        stripe = [(hip[0] + side, hip[1] + 0.03), (knee[0] + side * 1.1, knee[1]), (hem[0] + side * 0.9, hem[1])]
        sheet.line(stripe, 0.011, (238, 238, 236))
    elif lower.kind == "jeans":
        sheet.line([(hip[0], hip[1] + 0.06), (knee[0], knee[1] - 0.06)], 0.026, mix(paint, (210, 220, 235), 0.10))


def draw_shoe(sheet: Sheet, person: Person, pose: Pose, ankle: Point, paint: Colour, skin: Colour, relief: int) -> None:
    """One shoe with its sole, and the straps of a sandal."""
    kind = person.shoes.kind
    sole = (232, 232, 228) if kind == "trainers" and sum(paint) < 600 else tone(paint, 0.55)
    upper = mix(skin, paint, 0.15) if kind == "sandals" else paint
    paints = (upper, sole, paint)
    if pose.view == "side":
        straps = draw_shoe_aside(sheet, kind, ankle, paints, relief)
    else:
        straps = draw_shoe_ahead(sheet, kind, ankle, paints, relief, front=pose.view == "front")
    if kind == "sandals":
        for strap in straps:
            sheet.line(strap, 0.016, paint)


def draw_shoe_aside(
    sheet: Sheet, kind: str, ankle: Point, paints: tuple[Colour, Colour, Colour], relief: int
) -> tuple[list[Point], list[Point]]:
    """A shoe in profile; returns where a sandal's straps would be."""
    (x, y), (upper, sole, paint) = ankle, paints
    heel, toe, top = x - 0.032, x + 0.082, y - 0.012
    instep = [(heel, top), (x + 0.022, top - 0.004), (x + 0.045, y + 0.016), (toe, y + 0.028)]
    sheet.shape([*instep, (toe + 0.002, y + 0.046), (heel, y + 0.046)], upper, relief + 8)
    if kind == "heels":
        spike = [(heel, y + 0.03), (heel + 0.014, y + 0.03), (heel + 0.008, y + 0.056), (heel, y + 0.056)]
        sheet.shape(spike, paint, relief)
    elif kind != "flat shoes":
        sheet.line([(heel, y + 0.043), (toe, y + 0.043)], 0.020 if kind == "boots" else 0.012, sole)
    return [(x - 0.03, y - 0.004), (x + 0.022, y + 0.002)], [(x + 0.028, y + 0.02), (x + 0.06, y + 0.034)]


def draw_shoe_ahead(
    sheet: Sheet, kind: str, ankle: Point, paints: tuple[Colour, Colour, Colour], relief: int, *, front: bool
) -> tuple[list[Point], list[Point]]:
    """A shoe from the front or from behind, toes a little outwards; returns where a sandal's straps would be."""
    (x, y), (upper, sole, paint) = ankle, paints
    tip, drop = x + (0.010 if x > 0 else -0.010), 0.052 if front else 0.044
    half = 0.026 if kind in ("heels", "flat shoes") else 0.031
    outline = [(x - 0.020, y - 0.016), (x + 0.020, y - 0.016), (tip + half, y + drop - 0.012), (tip, y + drop)]
    sheet.shape(smooth([*outline, (tip - half, y + drop - 0.012)]), upper, relief + 8)
    if kind not in ("heels", "sandals"):
        width = 0.018 if kind == "boots" else 0.010
        sheet.line([(tip - half * 0.8, y + drop - 0.006), (tip + half * 0.8, y + drop - 0.006)], width, sole)
    if kind == "trainers" and front:
        sheet.line([(x, y + 0.004), (tip, y + 0.030)], 0.010, mix(paint, (255, 255, 255), 0.55))
    return [(x - 0.022, y + 0.004), (x + 0.022, y + 0.004)], [(tip - 0.026, y + 0.026), (tip + 0.026, y + 0.026)]


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
        back, front = stride_at(joints, hem) if pose.view == "side" else (0.0, 0.0)
        back, front = min(back, sway - flare), max(front, sway + flare)
        waist = [(-half * 0.85, 0.43 + lift), (half * 0.85, 0.43 + lift), (half, 0.51 + lift)]
        bottom = [(front, hem), (sway, hem + 0.010), (back, hem)]
        sheet.shape([*waist, *bottom, (-half, 0.51 + lift)], paints.lower, LOWER)
        for x in (-0.55, -0.15, 0.25, 0.6):
            sheet.crease([(x * half, 0.52 + lift), (x * flare + sway, hem - 0.01)], LOWER - 22, 0.008)
        return
    seat = [(-half * 0.92, 0.43 + lift), (half * 0.92, 0.43 + lift), (half * 1.03, 0.51 + lift)]
    sheet.shape(
        [*seat, (half * 0.5, 0.565 + lift), (-half * 0.5, 0.565 + lift), (-half * 1.03, 0.51 + lift)],
        paints.lower,
        LOWER,
    )
    if pose.view != "side":
        sheet.crease([(0, 0.52 + lift), (0, 0.56 + lift)], FAR, 0.006)


def stride_at(joints: Skeleton, height: float) -> tuple[float, float]:
    """How far back and forward the legs reach at a height, in profile: a hem there must hang outside of them."""
    legs = []
    for start, middle, end in zip(joints.hips, joints.knees, joints.ankles, strict=True):
        (x0, y0), (x1, y1) = (start, middle) if height < middle[1] else (middle, end)
        legs.append(x0 + (x1 - x0) * min(1.0, (height - y0) / (y1 - y0)))
    return min(legs) - 0.045, max(legs) + 0.045


def torso_outline(person: Person, pose: Pose, joints: Skeleton) -> list[Point]:
    """The silhouette of the upper garment from neck to hem."""
    wide, lift, kind = 0.55 + 0.45 * joints.width, joints.lift, person.upper.kind
    woman, hem = person.gender == "woman", UPPER_HEMS[kind]
    loose = {"hoodie": 0.010, "jacket": 0.010, "coat": 0.012, "sweater": 0.006, "tank top": -0.004}.get(kind, 0.0)
    flare = (hem - 0.52) * (0.20 if kind == "dress" else 0.10) if hem > 0.6 else 0.0
    if pose.view == "side":
        chest, belly = (0.064 if woman else 0.056) + loose, 0.050 + 0.045 * (joints.width - 0.9)
        back, seat = -0.056 - loose, -0.064 - loose
        behind, ahead = stride_at(joints, hem + lift) if hem > 0.6 else (0.0, 0.0)
        front = [
            (0.026, 0.160), (0.040, 0.195), (chest * wide, 0.285), (belly * wide + loose, 0.40),
            (max(ahead, belly * wide + loose + flare), hem),
        ]  # fmt: skip
        rear = [
            (min(behind, seat * wide - flare), hem), (-0.050 * wide - loose, 0.40), (back * wide, 0.27),
            (-0.050, 0.195), (-0.026, 0.158),
        ]  # fmt: skip
        return [(x, y + lift) for x, y in [*front, *rear]]
    shoulder, bare = abs(joints.shoulders[0][0]), person.upper.sleeve == "none"
    waist = (0.066 if woman else 0.079) * wide + loose
    hip = (0.090 if woman else 0.086) * wide + loose
    top = [(0.028, 0.156), (shoulder * 0.60, 0.173), (shoulder + (-0.018 if bare else 0.006), 0.194)]
    side = [(shoulder - (0.014 if bare else 0.006), 0.265), (waist, 0.385), (hip, 0.480), (hip + 0.004 + flare, hem)]
    half = top + side
    return [*half, *[(-x, y) for x, y in reversed(half)]]


def draw_torso(sheet: Sheet, person: Person, pose: Pose, joints: Skeleton, paints: Palette, material: Material) -> None:
    """Neck and upper garment with collar, buttons, zip or print."""
    upper, lift, (hx, hy) = person.upper, joints.lift, joints.head
    sheet.limb((hx * 0.7, hy + 0.05), (0.004, 0.180 + lift), (0.028, 0.034), tone(paints.skin, 0.86), TORSO - 10)
    outline = torso_outline(person, pose, joints)
    sheet.shape(smooth(outline), material, TORSO)
    hem = UPPER_HEMS[upper.kind] + lift
    narrow = 0.4 if pose.view == "side" else 1.0
    for x, y in ((-0.045, 0.40), (0.015, 0.425), (-0.03, 0.46)):
        sheet.crease([(x * narrow, y + lift), ((x + 0.03) * narrow, y + 0.012 + lift)], TORSO - 16)
    if upper.kind in ("sweater", "hoodie"):
        half = abs(outline[4][0]) * 0.97
        sheet.line([(-half, hem - 0.014), (half, hem - 0.014)], 0.022, tone(paints.upper, 0.80))
    if upper.pattern == "printed" and pose.view != "side":
        draw_print(sheet, paints.second)
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
        sheet.shape(
            [(-0.034, 0.160), (0.034, 0.160), (gap, 0.26), (tip, low), (-tip, low), (-gap, 0.26)], second, TORSO - 14
        )
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
        sheet.shape(
            [(-0.052, 0.168), (0, 0.220), (0.052, 0.168), (0.030, 0.158), (-0.030, 0.158)],
            tone(upper, 0.78),
            TORSO + 12,
        )
        sheet.shape([(-0.038, 0.42), (0.038, 0.42), (0.056, 0.485), (-0.056, 0.485)], tone(upper, 0.87), TORSO + 8)
        for string in (-0.014, 0.014):
            sheet.line([(string, 0.205), (string * 1.3, 0.275)], 0.006, (232, 232, 230))
    else:
        depth = {"tank top": 0.215, "dress": 0.205, "t-shirt": 0.184}.get(kind, 0.176)
        neckline = [(-0.030, 0.156), (0.030, 0.156), (0.020, depth - 0.010), (0, depth), (-0.020, depth - 0.010)]
        sheet.shape(neckline, tone(paints.skin, 0.92), TORSO - 6)
        if kind == "dress":
            sheet.line([(-0.066, 0.395), (0.066, 0.395)], 0.014, tone(upper, 0.72))


def draw_print(sheet: Sheet, second: Colour) -> None:
    """A print on chest or back: a panel with a bar below it."""
    sheet.oval((0, 0.282), (0.050, 0.042), second, TORSO + 1)
    sheet.line([(-0.040, 0.346), (0.040, 0.346)], 0.016, second)


def draw_arm(sheet: Sheet, person: Person, joints: Skeleton, paints: Palette, sleeve: Material, index: int) -> None:
    """One arm: skin, hand, and the sleeve as far as it reaches."""
    shoulder, elbow, wrist = joints.shoulders[index], joints.elbows[index], joints.wrists[index]
    reach, outer = person.upper.sleeve, person.upper.kind in ("hoodie", "jacket", "coat", "sweater")
    wide, relief = (0.55 + 0.45 * joints.width) * (0.92 if person.gender == "woman" else 1.0), ARM
    length = math.dist(elbow, wrist) or 1.0
    palm = (wrist[0] + 0.022 * (wrist[0] - elbow[0]) / length, wrist[1] + 0.022 * (wrist[1] - elbow[1]) / length)
    sheet.oval(palm, (0.018, 0.025), paints.skin, relief - 6)
    if reach != "long":
        sheet.limb(shoulder, elbow, (0.028 * wide, 0.022 * wide), paints.skin, relief)
        sheet.limb(elbow, wrist, (0.022 * wide, 0.015), paints.skin, relief)
    if reach == "short":
        hem = (shoulder[0] + 0.66 * (elbow[0] - shoulder[0]), shoulder[1] + 0.66 * (elbow[1] - shoulder[1]))
        sheet.limb(shoulder, hem, (0.032 * wide, 0.034 * wide), sleeve, relief + 4)
    elif reach == "long":
        thick = 1.08 if outer else 1.0
        sheet.limb(shoulder, elbow, (0.032 * wide * thick, 0.027 * wide * thick), sleeve, relief)
        sheet.limb(elbow, wrist, (0.027 * wide * thick, 0.020 * thick), sleeve, relief)
        sheet.crease([(elbow[0] - 0.02, elbow[1]), (elbow[0] + 0.02, elbow[1] + 0.006)], relief - 18)
