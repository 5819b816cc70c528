"""Many operations for one caller: counts what came of them, and keeps so many in line that the frames are full."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kvclient import _errors as errors
from kvclient._types import Durability, PutManyResult, WriteResult

MAX_OUTSTANDING = 16_384
"""Operations of one ``put_many`` or ``get_many`` that may be in line or under way ..."""

MAX_OUTSTANDING_BYTES = 8 * 1024 * 1024
"""... and their bytes."""


class Many:
    """The operations of one call. ``notify`` is called when its caller, who waits for room or for the end, may look again."""

    def __init__(self, notify: Callable[[], None], *, keep: bool) -> None:
        self._notify = notify
        self._keep = keep
        self._outstanding = 0
        self._outstanding_bytes = 0
        self.count = 0
        """Operations so far."""
        self.given_up = False
        """The caller waits no longer."""
        self.results: list[Any] = []
        """The results by their places, where they are kept; otherwise the newest one only."""
        self.failures: dict[int, errors.KvClientError] = {}
        self.fault: Exception | None = None
        """What the caller's own iterable raised, or why what it brought is no operation."""

    @property
    def goes_on(self) -> bool:
        """Whether further operations are begun."""
        return not self.failures and self.fault is None

    @property
    def has_room(self) -> bool:
        """Whether another operation may be put in line now."""
        return self._outstanding < MAX_OUTSTANDING and self._outstanding_bytes < MAX_OUTSTANDING_BYTES

    @property
    def finished(self) -> bool:
        """Whether every operation has its outcome."""
        return self._outstanding == 0

    def waiter(self, size_bytes: int) -> Place:
        """Return the waiter of the next operation."""
        place = Place(self, self.count, size_bytes)
        self.count += 1
        self._outstanding += 1
        self._outstanding_bytes += size_bytes
        if self._keep:
            self.results.append(None)
        return place

    def tell(self, place: Place, result: Any) -> None:
        """Take in what came of an operation."""
        if self._keep:
            self.results[place.index] = result
        elif not self.results or result.revision > self.results[0].revision:
            self.results[:] = (result,)
        self._over(place)

    def fail(self, place: Place, error: errors.KvClientError) -> None:
        """Take in why nothing came of an operation."""
        self.failures[place.index] = error
        self._over(place)

    def _over(self, place: Place) -> None:
        place.over = True
        self._outstanding -= 1
        self._outstanding_bytes -= place.size_bytes
        if not self._outstanding or (
            2 * self._outstanding < MAX_OUTSTANDING and 2 * self._outstanding_bytes < MAX_OUTSTANDING_BYTES
        ):
            self._notify()

    def put_result(self) -> PutManyResult:
        """Return what became of puts. Raises ManyFailed if some of them failed."""
        done = self.count - len(self.failures)
        if self.fault is not None:
            self.fault.add_note(f"{done} puts were carried out before, {len(self.failures)} failed")
            raise self.fault
        if self.failures:
            raise errors.many_failed(self.failures, done)
        newest: WriteResult = self.results[0] if self.results else WriteResult(0, Durability.UNRECOGNIZED, 0)
        return PutManyResult(self.count, newest.revision, newest.reached, newest.epoch)

    def get_result(self) -> list[Any]:
        """Return what was found, in the order asked for. Raises the first failure."""
        if self.fault is not None:
            raise self.fault
        if self.failures:
            raise self.failures[min(self.failures)]
        return self.results


class Place:
    """Waits for one of many operations."""

    __slots__ = ("_many", "index", "over", "size_bytes")

    def __init__(self, many: Many, index: int, size_bytes: int) -> None:
        self._many = many
        self.index = index
        self.size_bytes = size_bytes
        self.over = False

    def done(self) -> bool:
        """Return whether the outcome is known, or nobody waits for it any more."""
        return self.over or self._many.given_up

    def set_result(self, result: Any) -> None:
        """Tell what came of it."""
        self._many.tell(self, result)

    def set_exception(self, error: Any) -> None:
        """Tell why nothing came of it."""
        self._many.fail(self, error)
