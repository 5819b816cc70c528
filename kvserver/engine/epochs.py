"""The node's epoch history: which positions are part of it."""

from __future__ import annotations

from kvserver.base.errors import Code, RevisionError
from kvserver.base.types import Epoch, Position


class EpochHistory:
    """Each epoch with the position at which it began, oldest first."""

    def __init__(self, epochs: list[tuple[Epoch, Position]]) -> None:
        self._epochs = epochs

    @property
    def epochs(self) -> list[tuple[Epoch, Position]]:
        """Return them; a copy."""
        return list(self._epochs)

    @property
    def current(self) -> Epoch:
        """Return the newest epoch."""
        return self._epochs[-1][0]

    def until(self, position: Position) -> list[tuple[Epoch, Position]]:
        """Return the epochs that lead to a position of this history, each with the position at which it began."""
        return [(epoch, began) for epoch, began in self._epochs if epoch.number <= position.epoch.number]

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
