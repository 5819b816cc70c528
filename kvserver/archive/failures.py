"""What fails around the archiver, by what was tried: when to try again, and what to tell people."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from kvserver.archive.store import StoreRefused
from kvserver.base.archive_events import ArchiveFailing, ArchiveRecovered
from kvserver.base.environment import Environment
from kvserver.base.events import Listener

MAX_RETRY_MS = 60_000


@dataclasses.dataclass(slots=True)
class _Failure:
    message: str
    attempts: int
    retry_at_s: float
    ask: int
    """The newest ask before the attempt began."""


class Failures:
    """The attempts that have failed and not succeeded since, each tried again on its own. Belongs to the archiver's thread.

    The wait doubles with each attempt, and a random part of it is left out, so that nodes which lost one store together do not
    come back to it together. Somebody may ask for a try at once: a failure of what began before that is no answer, and is tried
    again without a wait.

    ``message``, ``total`` and ``answer`` may be read on any thread.
    """

    def __init__(self, env: Environment, retry_ms: int, listener: Listener) -> None:
        self._env = env
        self._retry_ms = retry_ms
        self._listener = listener
        self._failing: dict[str, _Failure] = {}
        self._asks = 0
        self._begun: dict[str, int] = {}
        """What is under way, and the newest ask before it began."""
        self.message = ""
        """Why the oldest of them fails; empty where none does."""
        self.total = 0
        self.answer = (0, "")
        """The newest ask that an attempt which failed began behind, and why it failed; one object, for other threads."""

    def is_due(self, what: str) -> bool:
        """Say whether something may be tried now."""
        failure = self._failing.get(what)
        return failure is None or failure.ask < self._asks or self._env.clock.monotonic() >= failure.retry_at_s

    def rest_s(self) -> float | None:
        """Return how long it is until something is due that is not now; None where that is nothing."""
        now = self._env.clock.monotonic()
        waits = (failure.retry_at_s - now for failure in self._failing.values())
        return min((wait_s for wait_s in waits if wait_s > 0), default=None)

    def begun(self, what: str) -> None:
        """Note that something is tried now."""
        self._begun[what] = self._asks

    def failed(self, what: str, error: Exception) -> None:
        """Note that an attempt failed."""
        before = self._failing.get(what)
        attempts = before.attempts + 1 if before is not None else 1
        wait_s = min(self._retry_ms << min(attempts - 1, 16), MAX_RETRY_MS) / 1000
        wait_s *= 1 - self._env.random_bytes(1)[0] / 512
        ask = self._begun.pop(what, self._asks)
        self._failing[what] = _Failure(_message(error), attempts, self._env.clock.monotonic() + wait_s, ask)
        if ask >= self.answer[0]:
            self.answer = ask, _message(error)
        self.total += 1
        self._tell()

    def succeeded(self, what: str) -> None:
        """Note that an attempt did not fail."""
        self._begun.pop(what, None)
        self.forget(what)

    def forget(self, what: str) -> None:
        """Note that there is nothing left that fails; one that is under way may still tell of itself."""
        if self._failing.pop(what, None) is not None:
            self._tell()

    def forget_all_but(self, kept: Collection[str]) -> None:
        """Forget whatever will not be tried again."""
        for what in [what for what in self._failing if what not in kept]:
            self.forget(what)

    def ask(self) -> int:
        """Let everything be tried again at once, also what is under way, should it fail; return the number of this ask.

        May be called on any thread, by one at a time.
        """
        self._asks += 1
        return self._asks

    def _tell(self) -> None:
        message = next((failure.message for failure in self._failing.values()), "")
        if message != self.message:
            self.message = message
            self._listener(ArchiveFailing(message) if message else ArchiveRecovered())


def _message(error: Exception) -> str:
    """Return what went wrong, and of what lasts until somebody changes something also what that is."""
    message = str(error) or repr(error)
    return f"{message}; {error.hint}" if isinstance(error, StoreRefused) and error.hint else message
