"""The order of things: steps of sections, round by round, with what is measured now and how long the rest takes."""

from __future__ import annotations

import dataclasses
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from suite.figures import Figures, Load
from suite.processes import ROOT


class Sizes(NamedTuple):
    """How much is done: of a full run, or of a smoke of everything."""

    rounds: int = 3
    load_s: float = 3.0
    short_s: float = 2.0
    callers: tuple[int, ...] = (1, 64, 256, 1000)
    hot_keys: int = 100_000
    cold_keys: int = 2_000_000
    table_keys: int = 1_000_000
    ablation: tuple[int, ...] = (1, 64, 1000)
    writes: tuple[int, ...] = (10_000, 100_000)
    states: tuple[int, ...] = (1_000, 10_000, 100_000)
    writers: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128)
    batches: tuple[int, ...] = (1, 5, 10, 20, 50)
    namespaces: tuple[int, ...] = (1, 4, 16)
    tables: tuple[int, ...] = (1, 4, 16)
    restored_keys: int = 1_000_000


FULL = Sizes()
QUICK = Sizes(
    rounds=1,
    load_s=0.8,
    short_s=0.5,
    callers=(1, 64, 1000),
    hot_keys=10_000,
    cold_keys=40_000,
    table_keys=20_000,
    ablation=(64,),
    writes=(1_000,),
    states=(100, 1_000),
    writers=(1, 64),
    batches=(1, 50),
    namespaces=(1, 4),
    tables=(1, 2),
    restored_keys=20_000,
)


class Step(NamedTuple):
    """One thing to measure: what it is, about how long it takes, and how it is done."""

    what: str
    seconds: float
    run: Callable[[], None]


@dataclasses.dataclass
class Run:
    """One run of the benchmark, as its sections see it."""

    sizes: Sizes
    scratch: Path
    figures: Figures = dataclasses.field(default_factory=Figures)
    round: int = 0
    commands: dict[str, str] = dataclasses.field(default_factory=dict)
    """The commands that were run, by what they measure; ports and folders stand as PORT and DIR."""
    notes: list[str] = dataclasses.field(default_factory=list)
    """What a reader of the figures must know, and what was skipped."""
    failures: list[str] = dataclasses.field(default_factory=list)

    def folder(self, name: str) -> Path:
        """Return a folder for this round, of this name; it is not made."""
        return self.scratch / f"{self.round}-{name}"

    def record(self, name: str, value: float) -> None:
        """Record a figure of this round."""
        self.figures.add(name, self.round, value)

    def record_load(self, name: str, load: Load, what: str = "") -> None:
        """Record what a load gave in this round, and say it."""
        self.figures.add_load(name, self.round, load)
        latency = f", p50 {load.p50_ms:.3f} ms" if load.p50_ms is not None else ""
        self.say(f"{what or name}: {load.per_s:,.0f}/s{latency}")

    def say(self, text: str) -> None:
        """Print a line of progress."""
        print(f"      {text}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Add what a reader must know, once."""
        if text not in self.notes:
            self.notes.append(text)
            self.say(f"NOTE: {text}")

    def command(self, what: str, command: list[str]) -> None:
        """Remember the first command of its kind."""
        self.commands.setdefault(what, shown_command(command, self.scratch))


class Section(Protocol):
    """A part of the benchmark with a table of its own."""

    name: str
    needs: tuple[str, ...]

    def steps(self, run: Run) -> list[Step]:
        """Return what is to be done in the round that the run is in."""

    def render(self, run: Run) -> str:
        """Return the section as Markdown."""


def shown_command(command: list[str], scratch: Path) -> str:
    """Return a command as a reader can use it: without this run's folders and ports, and without this checkout's path."""
    words = []
    for word in command:
        for path, name in ((str(scratch), "DIR"), (f"{ROOT}/", "")):
            word = word.replace(path, name)
        words.append(f"'{word}'" if " " in word else word)
    return " ".join(words)


def chosen(sections: list[Section], only: str) -> list[Section]:
    """Return the section of a name with those that it needs; all of them without a name. Raises KeyError for an unknown one."""
    if not only:
        return sections
    named = {section.name: section for section in sections}
    wanted, open_names = set[str](), [only]
    while open_names:
        name = open_names.pop()
        wanted.add(name)
        open_names += named[name].needs
    return [section for section in sections if section.name in wanted]


class Progress:
    """Knows how long what is left takes, from how long what was done took."""

    def __init__(self, planned_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._planned_s = planned_s
        self._done_s = 0.0
        self._now = now
        self._begin = now()

    def done(self, seconds: float) -> None:
        """Tell that a step of so many planned seconds is done."""
        self._done_s += seconds

    def left_s(self) -> float:
        """Return about how many seconds are left: the plan's, at the pace so far."""
        pace = (self._now() - self._begin) / self._done_s if self._done_s else 1.0
        return (self._planned_s - self._done_s) * pace


def rotated(items: list[Step], by: int) -> list[Step]:
    """Return the items in a cycle that begins further on, so that no round has the same order as the one before."""
    at = by % len(items) if items else 0
    return items[at:] + items[:at]


def rounds(run: Run, sections: list[Section]) -> Iterator[tuple[int, str, Step]]:
    """Yield every step of every round, and the section it belongs to, in the order in which they are done."""
    for number in range(run.sizes.rounds):
        run.round = number
        for section in sections:
            for step in section.steps(run):
                yield number, section.name, step


def _brief(error: Exception) -> str:
    """Return the first and the last line of an error: what failed, and most often why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}"


def carry_out(run: Run, sections: list[Section]) -> None:
    """Do every step. One that fails is told, remembered and passed over, so that an hour's figures are not lost for one."""
    planned_s = sum(step.seconds for _, _, step in rounds(run, sections))
    progress = Progress(planned_s)
    for number, name, step in rounds(run, sections):
        head = f"[round {number + 1} of {run.sizes.rounds}] {name}: {step.what}"
        print(f"{head}   (about {max(1, round(progress.left_s() / 60))} min left)", file=sys.stderr, flush=True)
        try:
            step.run()
        except Exception as error:
            run.failures.append(f"{name}: {step.what}, round {number + 1}: {_brief(error)}")
            print(f"FAILED: {name}: {step.what}, round {number + 1}", file=sys.stderr, flush=True)
            traceback.print_exc()
        progress.done(step.seconds)
