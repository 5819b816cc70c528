"""Is the process alive, is it ready: what the probes are told, decided without asking the event loop.

The loop leaves a sign of life every second; whoever looks judges by its age. So a loop that hangs is seen, and a probe never
waits for one.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple

from kvserver.base.clock import Clock
from kvserver.engine.database import Database

HEARTBEAT_LIMIT_S = 10.0
"""A loop that gave no sign for so long counts as hung."""


class Phase(enum.Enum):
    """Where the process is in its life."""

    STARTING = "starting"
    SERVING = "serving"
    STOPPING = "stopping"


class Check(NamedTuple):
    """One thing that was looked at."""

    name: str
    passed: bool
    what: str


class Probes:
    """What the process knows of itself. Written by the event loop, read by the HTTP threads; each field is set whole."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heartbeat_s = clock.monotonic()
        self.phase = Phase.STARTING
        self.database: Database | None = None
        self.node: Callable[[], list[Check]] = list
        """What a node of a cluster looks at beside its store; safe on any thread."""

    def beat(self) -> None:
        """Leave a sign of life; called by the event loop."""
        self._heartbeat_s = self._clock.monotonic()

    def live(self) -> list[Check]:
        """Return what decides whether the process should go on: its event loop turns."""
        age_s = self._clock.monotonic() - self._heartbeat_s
        return [Check("loop", age_s < HEARTBEAT_LIMIT_S, f"the event loop gave its last sign {age_s:.1f} s ago")]

    def ready(self) -> list[Check]:
        """Return what decides whether requests should be sent here."""
        checks = [*self.live(), Check("serving", self.phase is Phase.SERVING, f"the node is {self.phase.value}")]
        if self.phase is Phase.SERVING:
            checks += self.node()
        database = self.database
        if database is not None:
            failure = database.failure
            checks.append(Check("log", failure is None, "the log takes writes" if failure is None else f"it failed: {failure}"))
            error = database.log_figures().space_error
            checks.append(Check("disk", not error, error or "there is room for the log"))
        return checks
