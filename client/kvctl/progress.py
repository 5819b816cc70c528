"""Progress on standard error, shown on a terminal only; rich is imported when something is shown."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from types import TracebackType
from typing import Any, Self

from kvctl import output

_REFRESH_S = 0.1
_SPINNER_DELAY_S = 0.5
"""What is done sooner shows nothing: importing rich alone takes a tenth of a second."""


def shows_progress() -> bool:
    """Return whether anybody would see progress."""
    return sys.stderr is not None and sys.stderr.isatty()


class ProgressBar:
    """Shows how far something is and how fast; use it as a context manager. Off a terminal it shows nothing.

    ``total`` is where ``position`` will be at the end, None where that is not known: then there is no time left to show.
    """

    def __init__(self, title: str, total: int | None, noun: str = "record") -> None:
        self._title = title
        self._total = total
        self._noun = noun
        self._progress: Any = None
        self._task: Any = None
        self._began = time.monotonic()
        self._next_s = 0.0

    def __enter__(self) -> Self:
        if shows_progress():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            known = self._total is not None
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                *([TextColumn("{task.percentage:>3.0f} %")] if known else []),
                TextColumn("{task.fields[told]}"),
                TimeRemainingColumn() if known else TimeElapsedColumn(),
                TextColumn("left" if known else ""),
                console=Console(stderr=True),
                transient=True,
                auto_refresh=False,
            )
            self._task = self._progress.add_task(self._title, total=self._total, told="")
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, records: int, position: int) -> None:
        """Show a number of records and a position; too frequent calls are left out."""
        if self._progress is None:
            return
        now = time.monotonic()
        if now < self._next_s:
            return
        self._next_s = now + _REFRESH_S
        told = self._told(records, max(now - self._began, 0.001))
        self._progress.update(self._task, completed=position, told=told, refresh=True)

    def _told(self, records: int, seconds: float) -> str:
        return f"{output.counted(records, self._noun)}, {records / seconds:,.0f}/s"


class ByteBar(ProgressBar):
    """The same for work that is measured in bytes; ``position`` counts those done."""

    def __init__(self, title: str, total: int | None) -> None:
        super().__init__(title, total)
        self._total_bytes = total

    def show_bytes(self, done: int) -> None:
        """Show how many bytes are done."""
        self.show(done, done)

    def _told(self, records: int, seconds: float) -> str:
        of = f" of {output.sized(self._total_bytes)}" if self._total_bytes else ""
        return f"{output.sized(records)}{of}, {records / seconds / 1e6:,.1f} MB/s"


class Stages:
    """One bar of bytes after another, each for a stage of something long; use it as a context manager."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._stage: tuple[str, int] | None = None
        self._bar: ByteBar | None = None

    def __enter__(self) -> Stages:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def show(self, title: str, done: int, total: int) -> None:
        """Show how far a stage is. A total of 0 is not known."""
        if self._stage != (title, total) or self._bar is None:
            self._stack.close()
            self._stage = (title, total)
            self._bar = self._stack.enter_context(ByteBar(title, total or None))
        self._bar.show_bytes(done)


class Spinner:
    """Shows that something is under way, and for how long; use it as a context manager. Off a terminal it shows nothing."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Spinner:
        if shows_progress():
            self._thread = threading.Thread(target=self._spin, name="kvctl-spinner", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()

    def _spin(self) -> None:
        """Show the spinner until it is done; runs in a thread of its own, as the main one waits for an answer."""
        if self._done.wait(_SPINNER_DELAY_S):
            return
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as progress:
            task = progress.add_task(self._title, total=None)
            while not self._done.wait(_REFRESH_S):
                progress.update(task, refresh=True)
