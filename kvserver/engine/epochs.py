"""The node's epoch history: which positions are part of it."""

from __future__ import annotations

from collections.abc import Sequence

from kvserver.base.errors import Code, RevisionError
from kvserver.base.types import NO_EPOCH, Epoch, Position


class EpochHistory:
    """Each epoch with the position at which it began, oldest first.

    The event loop alone changes it, and by replacing the list: whoever reads it on another thread has one that stays.
    """

    def __init__(self, epochs: list[tuple[Epoch, Position]], foreign: frozenset[Epoch] = frozenset()) -> None:
        self._epochs = epochs
        self.foreign = foreign
        """Epochs that other nodes have claimed, as the register said at the open; not all of them are part of this history."""

    @property
    def epochs(self) -> list[tuple[Epoch, Position]]:
        """Return them; a copy."""
        return list(self._epochs)

    @property
    def current(self) -> Epoch:
        """Return the newest epoch; none in a follower that has received nothing yet."""
        return self._epochs[-1][0] if self._epochs else NO_EPOCH

    def until(self, position: Position) -> list[tuple[Epoch, Position]]:
        """Return the epochs that lead to a position of this history, each with the position at which it began."""
        return [(epoch, began) for epoch, began in self._epochs if epoch.number <= position.epoch.number]

    def knows(self, epoch_number: int) -> bool:
        """Say whether enough is known to judge what is said of an epoch: it is not newer than all that is known, nor older."""
        return bool(self._epochs) and self._epochs[0][0].number <= epoch_number <= self.current.number

    def extend(self, epoch: Epoch, began: Position) -> None:
        """Add the epoch that was begun behind the newest one; again, for that one, changes nothing. Raises ValueError."""
        current = self.current
        if epoch == current:
            return
        if epoch.number <= current.number:
            raise ValueError(f"epoch {epoch.number} was begun, but epoch {current.number} was before it")
        self._epochs = [*self._epochs, (epoch, began)]

    def learn(self, epochs: Sequence[tuple[Epoch, Position]]) -> None:
        """Take in what another node says of the time before the oldest epoch known here, if it leads up to that one."""
        if not self._epochs:
            return
        parent = self._epochs[0][1].epoch
        older: list[tuple[Epoch, Position]] = []
        for epoch, began in sorted(epochs, reverse=True):
            if epoch == parent:
                older.append((epoch, began))
                parent = began.epoch
        self._epochs = [*reversed(older), *self._epochs]

    def require(self, epoch_number: int, revision: int) -> None:
        """Raise RevisionError (HISTORY_LOST) unless (epoch, revision) is part of this history."""
        end: tuple[Epoch, Position] | None = None  # where the epoch looked at was followed by another
        for epoch, begin in reversed(self._epochs):
            if epoch.number == epoch_number:
                if end is None or revision <= end[1].revision:
                    return
                where = f"epoch {end[0].number} follows it from revision {end[1].revision} on"
                error = _lost(epoch_number, revision, where)
                error.details |= {"next_epoch": str(end[0].number), "branch_revision": str(end[1].revision)}
                raise error
            end = (epoch, begin)
        raise _lost(epoch_number, revision, f"this node's newest epoch is {self.current.number}")


def _lost(epoch_number: int, revision: int, where: str) -> RevisionError:
    return RevisionError(
        Code.HISTORY_LOST,
        f"epoch {epoch_number}, revision {revision} is not part of this node's history: {where}",
        "what was seen there was lost; read again without the session and decide anew",
    )
