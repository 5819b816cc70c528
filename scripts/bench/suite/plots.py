"""Line plots as SVG, by a few lines of our own: what documents show must not need a plotting library to be made again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

WIDTH, HEIGHT, LEFT, TOP, GAP = 860, 150, 70, 30, 60
COLOURS = ("#1b6ca8", "#c8553d", "#588b8b", "#8d6a9f")


class Line(NamedTuple):
    """One line of a plot."""

    name: str
    values: Sequence[float]


def _nice(most: float) -> float:
    """Return a round number not below the largest value."""
    step = 1.0
    while step * 10 <= most:
        step *= 10
    return next((step * factor for factor in (1, 2, 5, 10) if step * factor >= most), step * 10)


def _panel(top: float, title: str, times: Sequence[float], lines: Sequence[Line]) -> list[str]:
    last = times[-1] or 1.0
    most = _nice(max([1.0, *(value for line in lines for value in line.values)]))
    parts = [f'<text x="{LEFT}" y="{top - 8}" class="t">{title}</text>']
    for share in (0.0, 0.5, 1.0):
        y = top + HEIGHT * (1 - share)
        parts.append(f'<line x1="{LEFT}" y1="{y}" x2="{LEFT + WIDTH}" y2="{y}" class="g"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4}" class="n" text-anchor="end">{most * share:g}</text>')
    for number, line in enumerate(lines):
        points = " ".join(
            f"{LEFT + WIDTH * at / last:.1f},{top + HEIGHT * (1 - value / most):.1f}"
            for at, value in zip(times, line.values, strict=True)
        )
        colour = COLOURS[number % len(COLOURS)]
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.4"/>')
        x = LEFT + WIDTH - 150 * (len(lines) - number)
        parts.append(f'<text x="{x}" y="{top - 8}" fill="{colour}" class="l">{line.name}</text>')
    return parts


def write_plots(path: Path, unit: str, times: Sequence[float], panels: Sequence[tuple[str, Sequence[Line]]]) -> None:
    """Write panels one below the other, over one axis of time."""
    height = TOP + len(panels) * (HEIGHT + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + LEFT + 30} {height}" font-family="sans-serif">',
        "<style>.t{font-size:14px;fill:#222}.n,.l{font-size:12px}.n{fill:#555}.g{stroke:#ddd}</style>",
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, (title, lines) in enumerate(panels):
        parts += _panel(TOP + number * (HEIGHT + GAP), title, times, lines)
    bottom = TOP + (len(panels) - 1) * (HEIGHT + GAP) + HEIGHT + 18
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, anchor = LEFT + WIDTH * share, "end" if share == 1.0 else "middle"
        parts.append(f'<text x="{x}" y="{bottom}" class="n" text-anchor="{anchor}">{times[-1] * share:.0f} {unit}</text>')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*parts, "</svg>"]) + "\n")
