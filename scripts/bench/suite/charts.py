"""Charts over a logarithmic axis, as SVG, by a few lines of our own: rates and latencies against the number of callers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

WIDTH, HEIGHT, LEFT, TOP, RIGHT, GAP = 560, 260, 80, 46, 180, 90
COLOURS = ("#1b6ca8", "#c8553d", "#588b8b", "#8d6a9f", "#b5892b", "#4a4a4a")
DASHES = ("", "6 4")


class Series(NamedTuple):
    """One line of a chart: its points, a name, a colour by number, and whether it is dashed."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int
    dashed: bool = False


class Chart(NamedTuple):
    """One chart: a title, what its axis of values shows, its lines, and whether that axis is logarithmic."""

    title: str
    unit: str
    series: Sequence[Series]
    logarithmic: bool = False


def short(value: float) -> str:
    """Return a number for an axis: 1.5k, 200k, 2M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def ceiling(most: float) -> float:
    """Return a round number not below a value, whose quarters are round too."""
    power = 10.0 ** math.floor(math.log10(most)) if most > 0 else 1.0
    return next(power * factor for factor in (1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10) if power * factor >= most * (1 - 1e-9))


def value_ticks(values: Sequence[float], logarithmic: bool) -> list[float]:
    """Return what is written along the axis of values, from its lower end to its upper one."""
    known = [value for value in values if value > 0] or [1.0]
    if logarithmic:
        low, high = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
        return [10.0**power for power in range(low, max(high, low + 1) + 1)]
    top = ceiling(max(known))
    return [top * share / 4 for share in range(5)]


def _share(value: float, low: float, high: float, logarithmic: bool) -> float:
    if logarithmic:
        return (math.log10(max(value, low)) - math.log10(low)) / (math.log10(high) - math.log10(low))
    return (value - low) / (high - low)


def _grid(top: float, chart: Chart, callers: Sequence[float], ticks: Sequence[float]) -> list[str]:
    parts = [f'<text x="{LEFT}" y="{top - 22}" class="t">{escape(chart.title)}</text>']
    parts.append(f'<text x="{LEFT}" y="{top - 7}" class="n">{escape(chart.unit)}</text>')
    for tick in ticks:
        y = top + HEIGHT * (1 - _share(tick, ticks[0], ticks[-1], chart.logarithmic))
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{LEFT + WIDTH}" y2="{y:.1f}" class="g"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" class="n" text-anchor="end">{short(tick)}</text>')
    for caller in callers:
        x = LEFT + WIDTH * _share(caller, callers[0], callers[-1], True)
        parts.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{top + HEIGHT}" class="g"/>')
        parts.append(f'<text x="{x:.1f}" y="{top + HEIGHT + 18}" class="n" text-anchor="middle">{short(caller)}</text>')
    parts.append(f'<text x="{LEFT + WIDTH / 2}" y="{top + HEIGHT + 36}" class="n" text-anchor="middle">callers at once</text>')
    return parts


def _panel(top: float, chart: Chart) -> list[str]:
    callers = sorted({x for line in chart.series for x, _ in line.points})
    ticks = value_ticks([y for line in chart.series for _, y in line.points], chart.logarithmic)
    parts = _grid(top, chart, callers, ticks)
    for number, line in enumerate(chart.series):
        colour, dash = COLOURS[line.colour % len(COLOURS)], DASHES[line.dashed]
        at = [
            (
                LEFT + WIDTH * _share(x, callers[0], callers[-1], True),
                top + HEIGHT * (1 - _share(y, ticks[0], ticks[-1], chart.logarithmic)),
            )
            for x, y in sorted(line.points)
        ]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in at]
        y = top + 12 + 18 * number
        parts.append(
            f'<line x1="{LEFT + WIDTH + 12}" y1="{y - 4}" x2="{LEFT + WIDTH + 34}" y2="{y - 4}" stroke="{colour}" '
            f'stroke-width="2" stroke-dasharray="{dash}"/>'
        )
        parts.append(f'<text x="{LEFT + WIDTH + 40}" y="{y}" class="n">{escape(line.name)}</text>')
    return parts


def drawable(chart: Chart) -> Chart | None:
    """Return a chart without its empty lines; None where fewer than two numbers of callers are left to draw over."""
    series = [line for line in chart.series if line.points]
    callers = {x for line in series for x, _ in line.points}
    return chart._replace(series=series) if len(callers) > 1 else None


def svg(charts: Sequence[Chart]) -> str:
    """Return charts one below the other. Raises ValueError where there is nothing to draw."""
    shown = [chart for chart in map(drawable, charts) if chart is not None]
    if not shown:
        raise ValueError("no chart has points for two numbers of callers")
    height, width = TOP + len(shown) * (HEIGHT + GAP), LEFT + WIDTH + RIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
        "<style>.t{font-size:15px;fill:#222}.n{font-size:12px;fill:#444}.g{stroke:#ddd}</style>",
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, chart in enumerate(shown):
        parts += _panel(TOP + number * (HEIGHT + GAP), chart)
    return "\n".join([*parts, "</svg>"]) + "\n"


def write(path: Path, charts: Sequence[Chart]) -> None:
    """Write charts to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(svg(charts))
