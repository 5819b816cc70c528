"""The nodes that a client may speak to, and the one that it speaks to now."""

from __future__ import annotations

from collections.abc import Sequence

from kvclient._channel import target


class Endpoints:
    """An order of endpoints that goes round; the first one is the one to begin with."""

    def __init__(self, endpoints: str | Sequence[str]) -> None:
        """Take ``HOST:PORT``, several of them with commas between, or a sequence; raise ValueError for anything else."""
        names = endpoints.split(",") if isinstance(endpoints, str) else list(endpoints)
        self._names = [name.strip() for name in names]
        if not self._names:
            raise ValueError("at least one endpoint of the form HOST:PORT is needed")
        self._targets = {name: target(name) for name in self._names}
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

    def turn(self) -> None:
        """Go on to the next one."""
        self._now = (self._now + 1) % len(self._names)
