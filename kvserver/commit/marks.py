"""How far the node is: the marks, and the order between them, stated here once.

    assigned >= applied >= visible        a revision is given, then in memory, then shown
    assigned >= durable >= visible        nothing is shown that is not on disk
    assigned >= replicated >= visible     nor, where a quorum is waited for, what the policy's members do not have
    visible >= flushed                    nothing is in tables that is not shown: tables take nothing back
    visible >= archived                   nor in the archive

``replicated`` is the one mark that may fall: a member can lose what it had, another policy can ask for more, and while no
quorum is waited for it is None. What is shown stays shown, so the third line holds for what is shown from then on.
"""

from __future__ import annotations

from kvserver.base.types import CREATION_REVISION


class Marks:
    """The marks of one node. The event loop alone moves them, and but for ``replicated`` only upwards."""

    __slots__ = (
        "applied",
        "archived",
        "assigned",
        "durable",
        "flushed",
        "in_archive",
        "opened",
        "replicated",
        "shown_without",
        "visible",
    )

    def __init__(self, revision: int, flushed: int = CREATION_REVISION, waits: bool = False) -> None:
        """Begin where the log ends; ``waits``: of what was recovered only what is in tables is known to have been shown, and
        the rest is shown when a quorum has it."""
        self.assigned = revision
        self.applied = revision
        self.durable = revision
        self.visible = flushed if waits else revision
        self.flushed = flushed
        self.archived = 0
        """0: nothing, as far as the event loop has heard."""
        self.in_archive = 0
        """What the archive holds, also of what is not shown yet: a former primary may have archived what is shown here later."""
        self.replicated: int | None = 0 if waits else None
        """What the policy's quorum has; None: no quorum is waited for."""
        self.shown_without = self.visible if waits else 0
        """What was shown while less than it was known to be replicated."""
        self.opened = revision
        """Where the log ended at the open: readers of the newest wait for it, because it may have been shown before."""

    def move_durable(self, revision: int) -> None:
        """Note that everything up to the revision is on disk; what is visible follows."""
        self.durable = revision
        self._show()

    def move_replicated(self, revision: int | None) -> None:
        """Note what the quorum has, or that none is waited for; what is visible follows."""
        self.replicated = None if revision is None else min(revision, self.assigned)
        if self.replicated is not None and self.visible > self.replicated:
            self.shown_without = self.visible
        self._show()

    def _show(self) -> None:
        shown = min(self.applied, self.durable)
        if self.replicated is not None:
            shown = min(shown, self.replicated)
        self.visible = max(self.visible, shown)
        self.archived = max(self.archived, min(self.in_archive, self.visible))

    def move_archived(self, revision: int) -> None:
        """Note that the archive holds everything up to the revision, without a hole. Raises ValueError where it cannot.

        What was in the log at the open may have been archived before; it counts as soon as it is shown.
        """
        if revision > max(self.visible, self.opened):
            raise ValueError(f"revision {revision} cannot be archived; the newest that is visible is {self.visible}")
        self.in_archive = max(self.in_archive, revision)
        self.archived = max(self.archived, min(self.in_archive, self.visible))

    def check(self) -> None:
        """Raise AssertionError where the order does not hold."""
        assert self.assigned >= self.applied >= self.visible, self
        assert self.assigned >= self.durable >= self.visible >= self.flushed, self
        assert self.visible >= self.archived, self
        if self.replicated is not None:
            assert self.assigned >= self.replicated, self
            assert max(self.replicated, self.shown_without) >= self.visible, self

    def __repr__(self) -> str:
        """Return all marks for an assertion's message."""
        return f"Marks({', '.join(f'{name}={getattr(self, name)}' for name in self.__slots__)})"
