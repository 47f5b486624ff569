"""Line charts and histograms as inline SVG, drawn by hand: a few kilobytes each, and the page's CSS colours them.

A drawing carries classes only (`axis`, `grid`, `series s0`, `band s0`, …), so one drawing serves light, dark and print.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

WIDTH, HEIGHT = 460, 236
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 34
MOST_POINTS = 240  # of one line; a longer run is drawn as the mean and the range of equal parts
DOTTED_UP_TO = 24  # points of a line that are marked each


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line: x ascending, y of the same length; `reference` draws it dotted, as something to hold others against."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    reference: bool = False


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A finished drawing with its legend: (CSS class, name) of every series."""

    title: str
    unit: str
    svg: Markup
    legend: list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """The data's ranges and how they fall onto the drawing."""

    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Drawing coordinates of a point of the data."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    unit: str = "",
    label: str = "step",
    zero: bool = False,
    mark: float | None = None,
) -> Chart:
    """Lines over `label`; `zero` has the y axis begin at 0, `mark` is an x to point at (the selected weights)."""
    series = [_finite(line) for line in series if len(line.x)]
    frame = _frame(series, zero)
    parts = [_axes(frame, label)]
    if mark is not None and frame.x[0] <= mark <= frame.x[1]:
        x, top = frame.at(mark, frame.y[1])
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{HEIGHT - BOTTOM}"/>')
        side, shift = ("end", -4) if x > WIDTH / 2 else ("start", 4)
        parts.append(
            f'<text class="mark-label" x="{x + shift:.1f}" y="{HEIGHT - BOTTOM - 6}" '
            f'text-anchor="{side}">selected</text>'
        )
    parts += [_line(frame, line, number) for number, line in enumerate(series)]
    return Chart(
        title=title,
        unit=unit,
        svg=_svg(parts, f"{title} over {label}"),
        legend=[("dotted" if line.reference else f"s{number}", line.name) for number, line in enumerate(series)],
    )


def histogram(title: str, groups: Sequence[tuple[str, NDArray[np.float64]]], *, label: str, bins: int = 48) -> Chart:
    """Overlaid shares of values per bin, one area a group, with a tick at each group's mean; two classes, s2 and s3."""
    low = min(float(values.min()) for _, values in groups)
    high = max(float(values.max()) for _, values in groups)
    edges = np.linspace(low, high + max(1e-6, 1e-6 * abs(high)), bins + 1)
    shares = [np.histogram(values, edges)[0] / len(values) for _, values in groups]
    frame = _Frame(x=(float(edges[0]), float(edges[-1])), y=(0.0, 1.08 * max(float(share.max()) for share in shares)))
    parts = [_axes(frame, label, percent=True)]
    for number, (share, (_, values)) in enumerate(zip(shares, groups, strict=True)):
        outline = [frame.at(float(edges[0]), 0)]
        for i, height in enumerate(share):
            outline += [frame.at(float(edges[i]), float(height)), frame.at(float(edges[i + 1]), float(height))]
        outline.append(frame.at(float(edges[-1]), 0))
        parts.append(f'<path class="area s{number + 2}" d="{_path(outline)}Z"/>')
        x, _ = frame.at(float(values.mean()), 0)
        parts.append(f'<line class="mean s{number + 2}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    legend = [
        (f"s{number + 2}", f"{name}: mean {values.mean():.3f}, n = {len(values):,}")
        for number, (name, values) in enumerate(groups)
    ]
    return Chart(title=title, unit="share of the pairs", svg=_svg(parts, title), legend=legend)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At most `most` + 1 round numbers (1, 2 or 5 times a power of ten apart) from `low` to `high`."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def number_text(value: float) -> str:
    """A tick's label: 0, 0.25, 40, 12k, 1.5e-4."""
    if value == 0 or abs(value) < 1e-12:
        return "0"
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    if abs(value) < 0.001:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.4g}"


def thin(
    x: NDArray[np.float64], y: NDArray[np.float64], most: int = MOST_POINTS
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(x, mean, least, greatest) of at most `most` consecutive parts of a line; a short line is returned as it is."""
    if len(x) <= most:
        return x, y, y, y
    starts = np.linspace(0, len(x), most, endpoint=False).astype(int)
    sizes = np.diff([*starts, len(x)])
    mean_x, mean_y = np.add.reduceat(x, starts) / sizes, np.add.reduceat(y, starts) / sizes
    return mean_x, mean_y, np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts)


def _finite(line: Series) -> Series:
    kept = [(x, y) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]
    return Series(name=line.name, x=[x for x, _ in kept], y=[y for _, y in kept], reference=line.reference)


def _frame(series: Sequence[Series], zero: bool) -> _Frame:
    xs = [x for line in series for x in line.x] or [0.0, 1.0]
    ys = [y for line in series for y in line.y] or [0.0, 1.0]
    low, high = min(ys), max(ys)
    low = min(0.0, low) if zero else low - 0.04 * (high - low)
    high += 0.06 * (high - low)
    if high <= low:
        low, high = low - 0.5 * abs(low or 1.0), high + 0.5 * abs(high or 1.0)
    left, right = min(0.0, *xs), max(xs)
    return _Frame(x=(left, right if right > left else left + 1), y=(low, high))


def _axes(frame: _Frame, label: str, *, percent: bool = False) -> str:
    parts = []
    for value in ticks(*frame.y):
        _, y = frame.at(frame.x[0], value)
        text = f"{number_text(round(100 * value, 6))} %" if percent else number_text(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 7}" y="{y + 3.5:.1f}" text-anchor="end">{text}</text>')
    for value in ticks(*frame.x):
        x, _ = frame.at(value, frame.y[0])
        place = f'x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}"'
        parts.append(f'<text class="tick" {place} text-anchor="middle">{number_text(value)}</text>')
    base = HEIGHT - BOTTOM
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="axis-label" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(label)}</text>')
    return "".join(parts)


def _line(frame: _Frame, line: Series, number: int) -> str:
    x, mean, least, greatest = thin(np.asarray(line.x, dtype=float), np.asarray(line.y, dtype=float))
    points = [frame.at(a, b) for a, b in zip(x, mean, strict=True)]
    if line.reference:
        return f'<path class="series dotted" d="{_path(points)}"/>'
    parts = []
    if least is not mean:
        edge = [frame.at(a, b) for a, b in zip(x, greatest, strict=True)]
        edge += [frame.at(a, b) for a, b in zip(x[::-1], least[::-1], strict=True)]
        parts.append(f'<path class="band s{number}" d="{_path(edge)}Z"/>')
    parts.append(f'<path class="series s{number}" d="{_path(points)}"/>')
    if len(points) <= DOTTED_UP_TO:
        parts += [
            f'<circle class="dot s{number}" cx="{a:.1f}" cy="{b:.1f}" r="3.2">'
            f"<title>{escape(line.name)} {mean[i]:.4g} at {x[i]:.0f}</title></circle>"
            for i, (a, b) in enumerate(points)
        ]
    return "".join(parts)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _svg(parts: Sequence[str], label: str) -> Markup:
    opening = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
    return Markup(opening + "".join(parts) + "</svg>")
