"""What a check of a data folder finds: one value for each thing looked at."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable


class Level(enum.IntEnum):
    """How bad a finding is; higher is worse."""

    OK = 0
    NOTE = 1
    """Worth knowing; nothing has to be done."""
    WARNING = 2
    """It works, and something should be done before it does not."""
    PROBLEM = 3
    """A start fails, or a promise of the store does not hold."""

    @property
    def label(self) -> str:
        """Return the name as people and programs read it."""
        return self.name.lower()


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. Everything but OK comes with advice (ValueError)."""

    check: str
    """The check's name; stable, programs may compare it."""
    level: Level
    looked_at: str
    found: str
    advice: str = ""
    """What to do."""

    def __post_init__(self) -> None:
        """Refuse a finding that leaves its reader alone."""
        if self.level is not Level.OK and not self.advice:
            raise ValueError(f"a finding of {self.check} is worse than ok and says nothing about what to do")


def ok(check: str, looked_at: str, found: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(check, Level.OK, looked_at, found)


def note(check: str, looked_at: str, found: str, advice: str) -> Finding:
    """Return a finding that is worth knowing."""
    return Finding(check, Level.NOTE, looked_at, found, advice)


def warning(check: str, looked_at: str, found: str, advice: str) -> Finding:
    """Return a finding that something should be done about."""
    return Finding(check, Level.WARNING, looked_at, found, advice)


def problem(check: str, looked_at: str, found: str, advice: str) -> Finding:
    """Return a finding that keeps the store from working, or from keeping its promises."""
    return Finding(check, Level.PROBLEM, looked_at, found, advice)


def worst(findings: Iterable[Finding]) -> Level:
    """Return the level of the worst finding; OK where there is none."""
    return max((finding.level for finding in findings), default=Level.OK)


def sized(count: int) -> str:
    """Return a number of bytes for people, in powers of 1024."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def listed(names: list[str], most: int = 3) -> str:
    """Return some names as text: the first few, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
