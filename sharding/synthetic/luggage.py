"""Bags and things in the hand of one person."""

from sharding.synthetic.figure import Colour, Point, Pose, Sheet, Skeleton, mix, smooth, tone
from sharding.synthetic.palette import Palette
from sharding.synthetic.people import Person

BAG = 186  # relief


def draw_bag_behind(sheet: Sheet, person: Person, pose: Pose, joints: Skeleton, paints: Palette) -> None:
    """What of a bag lies behind the body: a backpack in profile or from the front, and a rolling suitcase."""
    if person.bag is None:
        return
    lift, paint = joints.lift, paints.bag
    if person.bag.kind == "backpack" and pose.view == "side":
        outline = [(-0.030, 0.190), (-0.100, 0.196), (-0.142, 0.260), (-0.146, 0.400), (-0.110, 0.440), (-0.030, 0.435)]
        sheet.shape(smooth([(x, y + lift) for x, y in outline]), paint, 112)
        sheet.crease([(-0.138, 0.325 + lift), (-0.060, 0.325 + lift)], 84, 0.008)
    elif person.bag.kind == "backpack" and pose.view == "front":
        half = abs(joints.shoulders[0][0]) + 0.014
        sheet.shape([(-half, 0.235), (half, 0.235), (half, 0.415), (-half, 0.415)], tone(paint, 0.8), 50)
    elif person.bag.kind == "suitcase":
        hand = joints.wrists[free_hand(person)]
        side = -0.190 if pose.view == "side" else hand[0] + (0.045 if hand[0] > 0 else -0.045)
        sheet.line([(hand[0], hand[1]), (side, 0.70 + lift)], 0.012, (70, 70, 74), 60)
        half = 0.050 if pose.view == "side" else 0.066
        box = [(side - half, 0.69), (side + half, 0.69), (side + half + 0.004, 0.95), (side - half - 0.004, 0.95)]
        sheet.shape(smooth_box(box), paint, 90)
        for x in (-0.4, 0.4):
            sheet.crease([(side + x * half, 0.71), (side + x * half, 0.93)], 64, 0.006)
            sheet.oval((side + x * 1.6 * half, 0.965), (0.014, 0.014), (30, 30, 32), 70)


def smooth_box(box: list[Point]) -> list[Point]:
    """A quadrilateral with its corners cut."""
    cut: list[Point] = []
    for k, (x, y) in enumerate(box):
        (px, py), (nx, ny) = box[k - 1], box[(k + 1) % len(box)]
        cut += [(x + 0.12 * (px - x), y + 0.12 * (py - y)), (x + 0.12 * (nx - x), y + 0.12 * (ny - y))]
    return cut


def free_hand(person: Person) -> int:
    """The hand that takes the bag: the near one unless it already carries something."""
    return 0 if person.carried else 1


def draw_bag_before(sheet: Sheet, person: Person, pose: Pose, joints: Skeleton, paints: Palette) -> None:
    """What of a bag lies on the torso: straps, a backpack from behind, a shoulder bag, a tote bag."""
    if person.bag is None:
        return
    lift, kind, paint = joints.lift, person.bag.kind, paints.bag
    strap = tone(paint, 0.72) if sum(paint) > 160 else mix(paint, (255, 255, 255), 0.10)
    shoulder = abs(joints.shoulders[0][0])
    if kind == "backpack":
        draw_backpack(sheet, pose, lift, shoulder, paint, strap)
    elif kind == "shoulder bag":
        if pose.view == "side":
            sheet.line([(-0.012, 0.176 + lift), (0.012, 0.46 + lift)], 0.015, strap, BAG - 20)
            draw_pouch(sheet, (0.010, 0.500 + lift), (0.062, 0.046), paint)
        else:
            sheet.line([(-shoulder * 0.72, 0.172), (shoulder * 0.95, 0.45)], 0.015, strap, BAG - 20)
            draw_pouch(sheet, (shoulder * 0.92, 0.500), (0.056, 0.046), paint)
    elif kind == "tote bag":
        x = 0.0 if pose.view == "side" else shoulder + 0.012
        top = 0.185 + lift
        for spread in (-0.030, 0.034):
            sheet.line([(x * 0.9, top), (x + spread, 0.36 + lift)], 0.009, strap, BAG - 20)
        box = [
            (x - 0.066, 0.350 + lift), (x + 0.066, 0.350 + lift), (x + 0.058, 0.515 + lift), (x - 0.058, 0.515 + lift),
        ]  # fmt: skip
        sheet.shape(smooth_box(box), paint, BAG - 34)


def draw_backpack(sheet: Sheet, pose: Pose, lift: float, shoulder: float, paint: Colour, strap: Colour) -> None:
    """Two straps from the front, the bag itself from behind, one strap in profile."""
    if pose.view == "front":
        for side in (-1, 1):
            line = [(side * shoulder * 0.58, 0.166), (side * shoulder * 0.70, 0.26), (side * shoulder * 0.86, 0.375)]
            sheet.line(line, 0.024, strap, BAG - 30)
    elif pose.view == "side":
        sheet.line(
            [(-0.030, 0.180 + lift), (0.024, 0.215 + lift), (0.016, 0.31 + lift), (-0.045, 0.385 + lift)],
            0.019,
            strap,
            BAG - 30,
        )
    else:
        half = shoulder * 0.86
        outline = [
            (-half * 0.62, 0.182), (half * 0.62, 0.182), (half, 0.235), (half * 1.04, 0.405), (half * 0.8, 0.445),
        ]  # fmt: skip
        sheet.shape(smooth([*outline, (-half * 0.8, 0.445), (-half * 1.04, 0.405), (-half, 0.235)]), paint, BAG)
        sheet.line([(-0.020, 0.176), (0, 0.163), (0.020, 0.176)], 0.009, strap)
        pocket = [(-half * 0.72, 0.325), (half * 0.72, 0.325), (half * 0.70, 0.420), (-half * 0.70, 0.420)]
        sheet.shape(smooth_box(pocket), tone(paint, 0.86), BAG + 16)
        sheet.line([(-half * 0.66, 0.338), (half * 0.66, 0.338)], 0.006, mix(paint, (255, 255, 255), 0.35))
        sheet.crease([(-half * 0.8, 0.275), (half * 0.8, 0.275)], BAG - 26, 0.007)


def draw_pouch(sheet: Sheet, centre: Point, half: Point, paint: Colour) -> None:
    """A small bag with a flap."""
    (x, y), (wide, tall) = centre, half
    box = [(x - wide, y - tall), (x + wide, y - tall), (x + wide, y + tall), (x - wide, y + tall)]
    sheet.shape(smooth_box(box), paint, BAG)
    sheet.shape(
        [
            (x - wide, y - tall), (x + wide, y - tall), (x + wide * 0.8, y + tall * 0.15),
            (x - wide * 0.8, y + tall * 0.15),
        ],
        tone(paint, 0.84),
        BAG + 12,
    )  # fmt: skip


def draw_hand_luggage(sheet: Sheet, person: Person, joints: Skeleton, paints: Palette, index: int) -> None:
    """A handbag in the free hand and the carried thing in the other."""
    x, y = joints.wrists[index]
    y += 0.016
    if person.bag is not None and person.bag.kind == "handbag" and index == free_hand(person):
        for side in (-1, 1):
            sheet.line([(x, y), (x + side * 0.028, y + 0.058)], 0.009, tone(paints.bag, 0.7), BAG - 20)
        box = [(x - 0.048, y + 0.055), (x + 0.048, y + 0.055), (x + 0.064, y + 0.140), (x - 0.064, y + 0.140)]
        sheet.shape(smooth_box(box), paints.bag, BAG)
        sheet.line([(x - 0.048, y + 0.085), (x + 0.048, y + 0.085)], 0.007, tone(paints.bag, 0.7))
    if person.carried is not None and index == 1:
        draw_carried(sheet, person.carried, (x, y))


def draw_carried(sheet: Sheet, kind: str, hand: Point) -> None:
    """A thing in the hand, in the colour such things have."""
    x, y = hand
    if kind == "phone":
        sheet.shape(
            [(x - 0.014, y - 0.062), (x + 0.016, y - 0.066), (x + 0.018, y - 0.004), (x - 0.012, y)], (26, 26, 30), BAG
        )
        sheet.shape(
            [(x - 0.010, y - 0.056), (x + 0.012, y - 0.059), (x + 0.014, y - 0.012), (x - 0.008, y - 0.008)],
            (150, 190, 220),
            BAG,
        )
    elif kind == "book":
        sheet.shape(
            [(x - 0.040, y - 0.050), (x + 0.034, y - 0.056), (x + 0.038, y + 0.012), (x - 0.036, y + 0.018)],
            (128, 44, 48),
            BAG,
        )
        sheet.line([(x - 0.034, y + 0.014), (x + 0.036, y + 0.008)], 0.008, (236, 230, 214))
    elif kind == "coffee cup":
        sheet.shape(
            [(x - 0.019, y - 0.058), (x + 0.019, y - 0.058), (x + 0.014, y), (x - 0.014, y)], (238, 234, 226), BAG
        )
        sheet.line([(x - 0.020, y - 0.056), (x + 0.020, y - 0.056)], 0.012, (92, 58, 40))
        sheet.line([(x - 0.016, y - 0.028), (x + 0.016, y - 0.028)], 0.018, (168, 120, 80))
    elif kind == "water bottle":
        sheet.limb((x, y - 0.018), (x, y + 0.088), (0.017, 0.019), (120, 182, 214), BAG)
        sheet.line([(x, y - 0.044), (x, y - 0.030)], 0.016, (232, 240, 244))
    elif kind == "umbrella":
        sheet.limb((x + 0.004, y), (x + 0.020, y + 0.230), (0.017, 0.004), (46, 58, 92), BAG)
        sheet.line([(x + 0.002, y - 0.030), (x + 0.004, y)], 0.009, (110, 72, 46))
    else:
        sheet.line([(x, y), (x, y + 0.035)], 0.022, (226, 224, 218))
        box = [(x - 0.046, y + 0.032), (x + 0.046, y + 0.032), (x + 0.056, y + 0.155), (x - 0.056, y + 0.155)]
        sheet.shape(box, (236, 234, 228), BAG)
        sheet.line([(x - 0.030, y + 0.092), (x + 0.030, y + 0.092)], 0.022, (206, 66, 60))
