"""Counts who is inside something that can be closed, so that closing it waits for them."""

from __future__ import annotations

import threading
from pathlib import Path

from kvserver.storage.tables import TablesClosed


class Gate:
    """Lets threads in until it is shut. A database closed under one that reads would take the process with it.

    with gate:          # raises TablesClosed once it is shut
        ...             # the database stays open in here
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._change = threading.Condition()
        self._inside = 0
        self._shut = False

    def __enter__(self) -> None:
        with self._change:
            if self._shut:
                raise TablesClosed(f"the tables in {self._folder} are closed")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._change:
            self._inside -= 1
            if self._shut and not self._inside:
                self._change.notify_all()

    def shut(self) -> bool:
        """Let nobody in any more; say whether it was open until now."""
        with self._change:
            was_open, self._shut = not self._shut, True
            return was_open

    def wait_until_empty(self) -> None:
        """Wait until everybody inside has left."""
        with self._change:
            self._change.wait_for(lambda: not self._inside)
