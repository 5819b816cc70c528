"""How far the node is: the marks, and the order between them, stated here once.

    assigned >= applied >= visible        a revision is given, then in memory, then shown
    assigned >= durable >= visible        nothing is shown that is not on disk

(Flushed, archived and replicated join them with tables, archive and followers.)
"""

from __future__ import annotations


class Marks:
    """The marks of one node. The event loop alone moves them, and only upwards."""

    __slots__ = ("applied", "assigned", "durable", "visible")

    def __init__(self, revision: int) -> None:
        self.assigned = revision
        self.applied = revision
        self.durable = revision
        self.visible = revision

    def move_durable(self, revision: int) -> None:
        """Note that everything up to the revision is on disk; what is visible follows."""
        self.durable = revision
        self.visible = min(self.applied, revision)

    def check(self) -> None:
        """Raise AssertionError where the order does not hold."""
        assert self.assigned >= self.applied >= self.visible, self
        assert self.assigned >= self.durable >= self.visible, self

    def __repr__(self) -> str:
        """Return all marks for an assertion's message."""
        return f"Marks(assigned={self.assigned}, applied={self.applied}, durable={self.durable}, visible={self.visible})"
