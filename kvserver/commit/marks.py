"""How far the node is: the marks, and the order between them, stated here once.

    assigned >= applied >= visible        a revision is given, then in memory, then shown
    assigned >= durable >= visible        nothing is shown that is not on disk
    visible >= flushed                    nothing is in tables that is not shown: tables take nothing back
    visible >= archived                   nor in the archive

(Replicated joins them with followers.)
"""

from __future__ import annotations

from kvserver.base.types import CREATION_REVISION


class Marks:
    """The marks of one node. The event loop alone moves them, and only upwards."""

    __slots__ = ("applied", "archived", "assigned", "durable", "flushed", "visible")

    def __init__(self, revision: int, flushed: int = CREATION_REVISION) -> None:
        self.assigned = revision
        self.applied = revision
        self.durable = revision
        self.visible = revision
        self.flushed = flushed
        self.archived = 0
        """0: nothing, as far as the event loop has heard."""

    def move_durable(self, revision: int) -> None:
        """Note that everything up to the revision is on disk; what is visible follows."""
        self.durable = revision
        self.visible = min(self.applied, revision)

    def move_archived(self, revision: int) -> None:
        """Note that the archive holds everything up to the revision, without a hole. Raises ValueError where it cannot."""
        if revision > self.visible:
            raise ValueError(f"revision {revision} cannot be archived; the newest that is visible is {self.visible}")
        self.archived = max(self.archived, revision)

    def check(self) -> None:
        """Raise AssertionError where the order does not hold."""
        assert self.assigned >= self.applied >= self.visible, self
        assert self.assigned >= self.durable >= self.visible >= self.flushed, self
        assert self.visible >= self.archived, self

    def __repr__(self) -> str:
        """Return all marks for an assertion's message."""
        return f"Marks({', '.join(f'{name}={getattr(self, name)}' for name in self.__slots__)})"
