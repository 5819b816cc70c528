"""Figures by name and round, and what is said of them: the median, the spread, and ratios taken round by round."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Spread(NamedTuple):
    """The median of several rounds, and the rounds that lie farthest from it."""

    median: float
    lowest: float
    highest: float


@dataclasses.dataclass(frozen=True)
class Load:
    """What one load gave. A latency is None where the tool does not tell it."""

    per_s: float
    p50_ms: float | None = None
    p99_ms: float | None = None
    p999_ms: float | None = None
    client_cores: float | None = None
    """How many cores the client kept busy: one that comes near the machine's own number was the bottleneck."""


def spread_of(values: Iterable[float]) -> Spread | None:
    """Return the median and the extremes; None where there is nothing."""
    known = list(values)
    return Spread(statistics.median(known), min(known), max(known)) if known else None


class Figures:
    """What was measured: for each name one value a round, at most."""

    def __init__(self) -> None:
        self._values: dict[str, dict[int, float]] = {}

    def add(self, name: str, round_number: int, value: float) -> None:
        """Record a figure. A second one for the same round replaces the first."""
        self._values.setdefault(name, {})[round_number] = value

    def add_load(self, name: str, round_number: int, load: Load) -> None:
        """Record what a load gave, each part under the name of the load and its own."""
        for part, value in dataclasses.asdict(load).items():
            if value is not None:
                self.add(f"{name}.{part}", round_number, value)

    def names(self) -> list[str]:
        """Return all names, in the order in which they were first recorded."""
        return list(self._values)

    def rounds(self, name: str) -> dict[int, float]:
        """Return a figure's value in each round that has one."""
        return dict(self._values.get(name, {}))

    def spread(self, name: str) -> Spread | None:
        """Return a figure's median and extremes; None where it was not measured."""
        return spread_of(self.rounds(name).values())

    def best_rounds(self, names: Iterable[str]) -> dict[int, float]:
        """Return for each round the highest of several figures."""
        best: dict[int, float] = {}
        for name in names:
            for number, value in self.rounds(name).items():
                best[number] = max(value, best.get(number, value))
        return best

    def to_json(self) -> dict[str, dict[str, float]]:
        """Return everything in a form that JSON can hold."""
        return {name: {str(number): value for number, value in rounds.items()} for name, rounds in self._values.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Mapping[str, float]]) -> Figures:
        """Return the figures that ``to_json`` gave."""
        figures = cls()
        for name, rounds in values.items():
            for number, value in rounds.items():
                figures.add(name, int(number), value)
        return figures


def ratio_rounds(above: Mapping[int, float], below: Mapping[int, float]) -> dict[int, float]:
    """Return the quotient in each round that has both: only what was measured side by side is compared."""
    return {number: value / below[number] for number, value in above.items() if below.get(number)}
