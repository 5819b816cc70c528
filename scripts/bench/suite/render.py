"""Markdown out of figures: numbers as people read them, tables, and rows of a median with its spread."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from suite.figures import Figures, Spread, spread_of

NOT_MEASURED = "not measured"


def number(value: float) -> str:
    """Return a number with three digits that matter, thousands apart."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    digits = 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:.{digits}f}"


def spread(values: Spread | None, unit: str = "") -> str:
    """Return a median and, in brackets, the lowest and the highest of several rounds."""
    if values is None:
        return NOT_MEASURED
    text = f"{number(values.median)}{unit}"
    if values.lowest != values.highest:
        text += f" ({number(values.lowest)} to {number(values.highest)})"
    return text


def figure(figures: Figures, name: str, unit: str = "") -> str:
    """Return a figure's median and spread."""
    return spread(figures.spread(name), unit)


def median(figures: Figures, name: str) -> str:
    """Return a figure's median alone."""
    values = figures.spread(name)
    return number(values.median) if values else NOT_MEASURED


def rounds(values: Mapping[int, float], unit: str = "") -> str:
    """Return the median and spread of a value a round."""
    return spread(spread_of(values.values()), unit)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int = 1) -> str:
    """Return a Markdown table; its first ``texts`` columns hold text, the others numbers."""
    lines = [f"| {' | '.join(head)} |"]
    lines.append("|" + "|".join("---" if at < texts else "---:" for at in range(len(head))) + "|")
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"a row of {len(row)} cells in a table of {len(head)}: {row}")
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |")
    return "\n".join(lines)


class Wanted(NamedTuple):
    """One target."""

    what: str
    wanted: str
    holds: Callable[[float], bool]
    reached: dict[int, float]
    unit: str = ""


def targets(wanted: Iterable[Wanted]) -> str:
    """Return the table of targets: the median of what was reached, and whether that is enough."""
    lines = []
    for what, least, holds, reached, unit in wanted:
        middle = statistics.median(reached.values()) if reached else None
        met = NOT_MEASURED if middle is None else "" if not least else "yes" if holds(middle) else "**no**"
        lines.append([what, least, rounds(reached, unit), met])
    return table(["what", "wanted", "reached", "met"], lines)


def replaced(page: str, begin: str, end: str, text: str) -> str:
    """Return a page with what stands between two markers replaced. Raises ValueError where a marker is not there once."""
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise ValueError(f"the page must have {begin} and then {end}, each once; nothing was written")
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}"
