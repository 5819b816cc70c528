"""A progress bar on standard error, shown on a terminal only; it imports rich when it is shown."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from kvctl import output

_REFRESH_S = 0.1


class ProgressBar:
    """Shows how far a transfer is and how fast; use it as a context manager. Off a terminal it shows nothing."""

    def __init__(self, title: str, total_bytes: int | None) -> None:
        self._title = title
        self._total = total_bytes
        self._progress: Any = None
        self._task: Any = None
        self._began = time.monotonic()
        self._next_s = 0.0

    def __enter__(self) -> ProgressBar:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[told]}"),
                TimeElapsedColumn() if self._total is None else TimeRemainingColumn(),
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
        """Show a number of records and a position in bytes; too frequent calls are left out."""
        now = time.monotonic()
        if self._progress is None or now < self._next_s:
            return
        self._next_s = now + _REFRESH_S
        rate = records / max(now - self._began, 0.001)
        told = f"{output.counted(records, 'record')}, {rate:,.0f}/s"
        self._progress.update(self._task, completed=position, told=told, refresh=True)
