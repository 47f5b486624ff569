"""The paper figure below the clothes: pose, joints and the two-layer sheet that people are drawn on.

Body space: x to the image's right from the body's axis, y from 0 at the crown to 1 at the soles, one unit = one
person's height. A side view always faces +x here; the sheet mirrors it. The sheet draws at twice the final size, colour
and relief together: relief is how far a part stands out, and the camera turns its slopes into light and shade.
"""

import math
from dataclasses import dataclass

from PIL import Image, ImageDraw

from sharding.synthetic.dice import Dice
from sharding.synthetic.people import Person

Point = tuple[float, float]
Colour = tuple[int, int, int]
Material = Colour | Image.Image  # one colour, or a picture of the sheet's size with a pattern woven in
SUPERSAMPLE = 2
BUILD_WIDTH = {"slim": 0.9, "average": 1.0, "stocky": 1.2}
_CIRCLE = [(math.cos(k * math.pi / 9), math.sin(k * math.pi / 9)) for k in range(18)]
_CAP = [(math.cos(k * math.pi / 5), math.sin(k * math.pi / 5)) for k in range(6)]
_SPLINE = [  # Catmull-Rom weights at four places between two control points
    (
        -0.5 * t + t**2 - 0.5 * t**3,
        1 - 2.5 * t**2 + 1.5 * t**3,
        0.5 * t + 2 * t**2 - 1.5 * t**3,
        -0.5 * t**2 + 0.5 * t**3,
    )
    for t in (0.0, 0.25, 0.5, 0.75)
]


def tone(colour: Colour, factor: float) -> Colour:
    """The colour made darker (< 1) or lighter (> 1)."""
    red, green, blue = (min(255, int(channel * factor)) for channel in colour)
    return red, green, blue


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """The colour that is `share` of the way from one to the other."""
    red, green, blue = (int(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def smooth(points: list[Point]) -> list[Point]:
    """A closed Catmull-Rom curve through the points, four vertices per point."""
    curve = []
    for k in range(len(points)):
        (x0, y0), (x1, y1) = points[k - 2], points[k - 1]
        (x2, y2), (x3, y3) = points[k], points[(k + 1) % len(points)]
        for a, b, c, d in _SPLINE:
            curve.append((a * x0 + b * x1 + c * x2 + d * x3, a * y0 + b * y1 + c * y2 + d * y3))
    return curve


@dataclass(frozen=True, kw_only=True)
class Pose:
    """One moment of a walk: `view` front, back or side, `stride` in [-1, 1], `turn` of the face in [-1, 1]."""

    view: str
    stride: float
    turn: float
    facing: int
    raised: bool

    @staticmethod
    def random(person: Person, view: str, dice: Dice) -> "Pose":
        """A walking pose; one hand is raised to a phone, a book or a cup."""
        raised = person.carried in ("phone", "book", "coffee cup")
        return Pose(
            view=view,
            stride=dice.between(0.25, 1.0) * dice.pick((-1, 1)),
            turn=dice.between(-1, 1),
            facing=dice.pick((-1, 1)),
            raised=raised,
        )


@dataclass(frozen=True, kw_only=True)
class Skeleton:
    """Joints in body space; each pair is (drawn first, drawn last): rear and front leg, far and near arm."""

    width: float
    head: Point
    shoulders: tuple[Point, Point]
    elbows: tuple[Point, Point]
    wrists: tuple[Point, Point]
    hips: tuple[Point, Point]
    knees: tuple[Point, Point]
    ankles: tuple[Point, Point]
    lift: float


def skeleton(person: Person, pose: Pose) -> Skeleton:
    """The joints of a person in a pose."""
    width = BUILD_WIDTH[person.build]
    return side_skeleton(pose, width) if pose.view == "side" else facing_skeleton(person, pose, width)


def facing_skeleton(person: Person, pose: Pose, width: float) -> Skeleton:
    """Joints seen from the front or from behind: the leg that is further away ends higher in the picture."""
    shoulder = (0.093 if person.gender == "man" else 0.080) * (0.6 + 0.4 * width)
    first = 1 if pose.stride > 0 else -1
    swing, spread = abs(pose.stride), 0.014 * (width - 0.9)
    hips, knees, ankles, shoulders, elbows, wrists = [], [], [], [], [], []
    for side, forward in ((first, -swing), (-first, swing)):
        back = max(0.0, -forward)
        hips.append((side * 0.043 * width, 0.505))
        knees.append((side * (0.048 * width - 0.006 * back), 0.725 - 0.014 * back))
        ankles.append((side * (0.045 * width - 0.012 * back), 0.948 - 0.040 * back))
    for side, forward in ((first, swing), (-first, -swing)):
        shoulders.append((side * (shoulder - 0.008), 0.210))
        elbows.append((side * (shoulder + 0.018 + spread), 0.348 - 0.008 * abs(forward)))
        wrists.append(
            (side * (shoulder + 0.020 + spread - 0.022 * max(0.0, forward)), 0.468 - 0.028 * max(0.0, forward))
        )
    if pose.raised:
        side = -first
        elbows[1] = (side * (shoulder + 0.036), 0.338)
        wrists[1] = (side * (shoulder - 0.035), 0.268)
    return Skeleton(
        width=width, head=(0.004 * pose.turn, 0.079), lift=0.0,
        shoulders=(shoulders[0], shoulders[1]), elbows=(elbows[0], elbows[1]), wrists=(wrists[0], wrists[1]),
        hips=(hips[0], hips[1]), knees=(knees[0], knees[1]), ankles=(ankles[0], ankles[1]),
    )  # fmt: skip


def side_skeleton(pose: Pose, width: float) -> Skeleton:
    """Joints in profile, walking: arms swing against the legs, and the body sinks as the stride opens."""
    near = math.radians(26) * pose.stride
    knees, ankles, elbows, wrists = [], [], [], []
    for thigh in (-near, near):
        bend = 0.10 if thigh > 0 else 0.10 + 0.75 * abs(thigh)
        knee = (0.225 * math.sin(thigh), 0.505 + 0.225 * math.cos(thigh))
        shin = thigh - bend
        knees.append(knee)
        ankles.append((knee[0] + 0.218 * math.sin(shin), knee[1] + 0.218 * math.cos(shin)))
    lift = 0.948 - max(ankle[1] for ankle in ankles)
    for index, arm in enumerate((near * 0.8, -near * 0.8)):
        fore = arm + 0.35
        elbow = (0.150 * math.sin(arm), 0.205 + 0.150 * math.cos(arm))
        if pose.raised and index == 1:
            elbow, fore = (0.150 * math.sin(-0.1), 0.205 + 0.150 * math.cos(-0.1)), 2.25
        elbows.append(elbow)
        wrists.append((elbow[0] + 0.130 * math.sin(fore), elbow[1] + 0.130 * math.cos(fore)))

    def lower(points: list[Point]) -> tuple[Point, Point]:
        return (points[0][0], points[0][1] + lift), (points[1][0], points[1][1] + lift)

    return Skeleton(
        width=width, head=(0.014, 0.079 + lift), lift=lift,
        shoulders=lower([(-0.004, 0.205)] * 2), elbows=lower(elbows), wrists=lower(wrists),
        hips=lower([(0.0, 0.505)] * 2), knees=lower(knees), ankles=lower(ankles),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Where body space lies on the picture, in final pixels; `tilt` > 0 is a camera looking down from above."""

    width: int
    height: int
    axis: float
    crown: float
    scale: float
    tilt: float


class Sheet:
    """Colour and relief of one figure at `SUPERSAMPLE` times the frame's size; zero relief is background."""

    def __init__(self, frame: Frame, facing: int) -> None:
        size = (frame.width * SUPERSAMPLE, frame.height * SUPERSAMPLE)
        self.colour, self.relief = Image.new("RGB", size), Image.new("L", size)
        self._colour, self._relief = ImageDraw.Draw(self.colour), ImageDraw.Draw(self.relief)
        self.size, self.facing, self.tilt = size, facing, frame.tilt
        self.axis, self.crown, self.scale = (SUPERSAMPLE * value for value in (frame.axis, frame.crown, frame.scale))

    def pixels(self, points: list[Point]) -> list[Point]:
        """Body space to sheet pixels; a tilted camera widens and stretches what is near it, the head."""
        tilt, axis, crown, scale, flip = self.tilt, self.axis, self.crown, self.scale, self.facing * self.scale
        return [
            (axis + flip * x * (1 + tilt * (0.5 - y)), crown + scale * (y + 0.5 * tilt * y * (1 - y)))
            for x, y in points
        ]

    def shape(self, points: list[Point], colour: Material, relief: int) -> None:
        """A filled polygon."""
        outline = self.pixels(points)
        self._relief.polygon(outline, fill=relief)
        if isinstance(colour, Image.Image):
            self._paste(outline, colour)
        else:
            self._colour.polygon(outline, fill=colour)

    def _paste(self, outline: list[Point], texture: Image.Image) -> None:
        left, top = (max(0, int(min(point[axis] for point in outline))) for axis in (0, 1))
        right, bottom = (min(self.size[axis], int(max(point[axis] for point in outline)) + 2) for axis in (0, 1))
        if right <= left or bottom <= top:
            return
        mask = Image.new("L", (right - left, bottom - top))
        ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in outline], fill=255)
        self.colour.paste(texture.crop((left, top, right, bottom)), (left, top), mask)

    def limb(self, start: Point, end: Point, radii: Point, colour: Material, relief: int) -> None:
        """A tapering capsule between two joints."""
        (x0, y0), (x1, y1), (r0, r1) = start, end, radii
        length = math.hypot(x1 - x0, y1 - y0) or 1e-9
        ux, uy = (x1 - x0) / length, (y1 - y0) / length
        far = [(x1 + r1 * (s * ux - c * uy), y1 + r1 * (s * uy + c * ux)) for c, s in _CAP]
        near = [(x0 - r0 * (s * ux - c * uy), y0 - r0 * (s * uy + c * ux)) for c, s in _CAP]
        self.shape(far + near, colour, relief)

    def oval(self, centre: Point, radii: Point, colour: Material, relief: int) -> None:
        """An ellipse."""
        self.shape([(centre[0] + radii[0] * c, centre[1] + radii[1] * s) for c, s in _CIRCLE], colour, relief)

    def line(self, points: list[Point], width: float, colour: Colour, relief: int | None = None) -> None:
        """A line of the given width in body units; without relief it is only painted on."""
        pixels, thickness = self.pixels(points), max(1, round(width * self.scale))
        self._colour.line(pixels, fill=colour, width=thickness, joint="curve")
        if relief is not None:
            self._relief.line(pixels, fill=relief, width=thickness)

    def crease(self, points: list[Point], relief: int, width: float = 0.006) -> None:
        """A fold of cloth: relief without paint."""
        self._relief.line(self.pixels(points), fill=relief, width=max(1, round(width * self.scale)))
