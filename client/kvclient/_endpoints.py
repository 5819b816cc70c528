"""The nodes that a client may speak to, and the one that it speaks to now."""

from __future__ import annotations

from collections.abc import Sequence

from kvclient._channel import target

MAX_LEARNT = 16
"""Addresses that nodes named and the caller did not; the oldest one is forgotten for another."""


class Endpoints:
    """An order of endpoints that goes round; the first one is the one to begin with. Learnt ones stand behind those given."""

    def __init__(self, endpoints: str | Sequence[str]) -> None:
        """Take ``HOST:PORT``, several of them with commas between, or a sequence; raise ValueError for anything else."""
        names = endpoints.split(",") if isinstance(endpoints, str) else list(endpoints)
        self._names = [name.strip() for name in names]
        if not self._names:
            raise ValueError("at least one endpoint of the form HOST:PORT is needed")
        self._targets = {name: target(name) for name in self._names}
        self._given = len(self._names)
        self._now = 0

    def __len__(self) -> int:
        return len(self._names)

    def __str__(self) -> str:
        return ",".join(self._names)

    @property
    def current(self) -> str:
        """The endpoint that calls go to."""
        return self._names[self._now]

    @property
    def current_target(self) -> str:
        """The same as a name for gRPC."""
        return self._targets[self.current]

    @property
    def given(self) -> list[str]:
        """Those that the caller named."""
        return self._names[: self._given]

    def begin_at(self, place: int) -> None:
        """Begin with another one than the first."""
        self._now = place % len(self._names)

    def go_to(self, name: str) -> bool:
        """Go to an endpoint, which may be learnt only now; return False where the name is none."""
        if name not in self._targets:
            try:
                self._targets[name] = target(name)
            except ValueError:
                return False
            if len(self._names) >= self._given + MAX_LEARNT:
                del self._targets[self._names.pop(self._given)]
            self._names.append(name)
        self._now = self._names.index(name)
        return True

    def turn(self) -> None:
        """Go on to the next one."""
        self._now = (self._now + 1) % len(self._names)
