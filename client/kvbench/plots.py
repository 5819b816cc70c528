"""Line plots as SVG: drawn by hand, so that a page needs nothing from anywhere. Colours are classes; the page defines them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

Point = tuple[float, float]


class Line(NamedTuple):
    """One line of a plot, in the colour of the result that it belongs to."""

    name: str
    points: Sequence[Point | None]
    """Points in order; None is a gap."""
    colour: int
    dashed: bool = False


class Size(NamedTuple):
    """The measures of a plot, in the units of its drawing, which are pixels where the page has room."""

    width: int
    height: int
    left: int = 58
    right: int = 14
    top: int = 12
    bottom: int = 44


WIDE, NARROW = Size(880, 300), Size(380, 280)


class Axis(NamedTuple):
    """How one dimension becomes a place between 0 and 1, and what stands beside it."""

    title: str
    place: Callable[[float], float]
    marks: Sequence[tuple[float, str]]


def linear(title: str, most: float, wanted: int = 5) -> Axis:
    """Return an axis from 0 to a round number not below ``most``."""
    step = _round_step(max(most, 1e-9) / wanted)
    steps = max(math.ceil(max(most, 1e-9) / step - 1e-9), 1)
    top = steps * step
    return Axis(title, lambda value: value / top, [(number * step, _short(number * step)) for number in range(steps + 1)])


def seconds(title: str, most: float, wanted: int) -> Axis:
    """Return an axis of time from 0 to ``most``, which need not be round."""
    step = _round_step(max(most, 1e-9) / wanted)
    marks = [(number * step, f"{number * step:g}") for number in range(int(most / step + 1e-9) + 1)]
    return Axis(title, lambda value: value / max(most, 1e-9), marks)


def logarithmic(title: str, least: float, most: float) -> Axis:
    """Return an axis of powers of ten that holds both figures, marked in between where there is room for it."""
    low, high = math.log10(max(least, 1e-6)), math.log10(max(most, least, 1e-6))
    if high - low < 0.5:  # a flat line belongs in the middle
        low, high = (low + high) / 2 - 0.25, (low + high) / 2 + 0.25
    low, high = low - 0.03 * (high - low), high + 0.05 * (high - low)
    room = ((1, (1, 1.5, 2, 3, 4, 5, 7)), (2.5, (1, 2, 5)), (4, (1, 3)))
    factors = next((factors for decades, factors in room if high - low < decades), (1,))
    powers = range(math.floor(low), math.ceil(high) + 1)
    values = [factor * 10.0**power for power in powers for factor in factors]
    marks = [(value, _short(value)) for value in values if low <= math.log10(value) <= high]
    return Axis(title, lambda value: (math.log10(max(value, 1e-9)) - low) / (high - low), marks)


def percentiles(title: str, most_operations: int) -> Axis:
    """Return the axis of an HDR plot: every nine of the percentile takes the same room."""
    most = max(math.log10(max(most_operations, 10)), 1.0)
    shares = [0.0, 0.5, *(1 - 10.0**-nines for nines in range(1, int(most + 1e-9) + 1))]
    marks = [(share, f"{share * 100:.10g}%") for share in shares]
    return Axis(title, lambda share: min(-math.log10(max(1 - share, 1e-12)), most) / most, marks)


def draw(description: str, lines: Sequence[Line], x: Axis, y: Axis, size: Size) -> str:
    """Return a plot as an SVG element; ``description`` is for those who cannot see it."""
    width, height = size.width - size.left - size.right, size.height - size.top - size.bottom

    def across(value: float) -> float:
        return size.left + width * min(max(x.place(value), 0.0), 1.0)

    def up(value: float) -> float:
        return size.top + height * (1 - min(max(y.place(value), 0.0), 1.0))

    parts = [f'<svg viewBox="0 0 {size.width} {size.height}" role="img" aria-label="{escape(description, quote=True)}">']
    right, bottom = size.left + width, size.top + height
    for value, text in y.marks:
        parts.append(f'<line class="grid" x1="{size.left}" y1="{up(value):.1f}" x2="{right}" y2="{up(value):.1f}"/>')
        parts.append(f'<text class="mark" x="{size.left - 7}" y="{up(value) + 4:.1f}" text-anchor="end">{escape(text)}</text>')
    for value, text in x.marks:
        at = across(value)
        parts.append(f'<line class="grid" x1="{at:.1f}" y1="{size.top}" x2="{at:.1f}" y2="{bottom}"/>')
        parts.append(f'<text class="mark" x="{at:.1f}" y="{bottom + 17}" text-anchor="middle">{escape(text)}</text>')
    parts.append(
        f'<text class="mark" x="{size.left + width / 2:.0f}" y="{size.height - 6}" text-anchor="middle">{escape(x.title)}</text>'
    )
    for line in lines:
        parts += _drawn(line, across, up)
    return "".join([*parts, "</svg>"])


def _drawn(line: Line, across: Callable[[float], float], up: Callable[[float], float]) -> list[str]:
    """Return a line as as many strokes as its gaps ask for; a point between two gaps becomes a dot."""
    dash = " dashed" if line.dashed else ""
    parts = []
    run: list[Point] = []
    for point in [*line.points, None]:
        if point is not None:
            run.append(point)
            continue
        if len(run) == 1:
            parts.append(f'<circle class="dot c{line.colour}" cx="{across(run[0][0]):.1f}" cy="{up(run[0][1]):.1f}" r="2.5"/>')
        elif run:
            places = " ".join(f"{across(at):.1f},{up(value):.1f}" for at, value in run)
            parts.append(
                f'<polyline class="line c{line.colour}{dash}" points="{places}"><title>{escape(line.name)}</title></polyline>'
            )
        run = []
    return parts


def _round_step(least: float) -> float:
    """Return the smallest of 1, 2, 2.5 and 5, times a power of ten, that is not below a figure."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= least * (1 - 1e-9))


def _short(value: float) -> str:
    """Return a number with at most three digits, and k or M behind it where it is large."""
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"
