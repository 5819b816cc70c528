"""Who wants to hear that the log or what is visible has moved: shippers, and whoever waits for a mark."""

from __future__ import annotations

from collections.abc import Callable


class Observers:
    """Callbacks that are called in the order in which they came. Belongs to the event loop."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[], None]] = []

    def add(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have a callback called from now on; return what ends that. Ending twice does no harm."""

        def told() -> None:  # one of its own, so that the same callback may be added twice
            callback()

        self._callbacks = [*self._callbacks, told]

        def stop() -> None:
            self._callbacks = [one for one in self._callbacks if one is not told]

        return stop

    def tell(self) -> None:
        """Call them; one that raises keeps no other from being called. Raises the first such error, at the end."""
        first: Exception | None = None
        for callback in self._callbacks:
            try:
                callback()
            except Exception as error:
                first = first or error
        if first is not None:
            raise first
