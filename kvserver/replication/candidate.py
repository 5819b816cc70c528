"""What a promotion asks of the node that is to be promoted: the interface. ``kvserver.server`` does it, tests in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kvserver.base.policy import Policy
from kvserver.base.types import Epoch, LogEnd, Position
from kvserver.replication.messages import Description, NodeIdentity, Promised
from kvserver.replication.vow import Vow


class Candidate(Protocol):
    """What a promotion asks of its own node. Belongs to the event loop."""

    @property
    def identity(self) -> NodeIdentity:
        """Who it is."""

    @property
    def vow(self) -> Vow:
        """What it has promised."""

    def describe(self) -> Description:
        """Say which part it plays, and in which state it is."""

    def end(self) -> LogEnd:
        """Return where its log durably ends."""

    def policies(self) -> Sequence[Policy]:
        """Return all policies that must hold for the newest revision of its log."""

    def heard(self) -> tuple[int, int]:
        """Return the highest durable revision heard of the primary, and how many milliseconds ago that was."""

    async def promise(self, epoch: Epoch) -> Promised:
        """Do what it does when another node asks it: acknowledge nothing lower from now on, keep the vow, say its end.

        Behind it the log's end moves by ``catch_up`` alone. Raises KvError, OSError.
        """

    async def catch_up(self, address: str, end: LogEnd) -> None:
        """Fetch the log of the node at the address up to this end; durable and applied on return. Raises KvError, OSError."""

    async def take_over(self, epoch: Epoch) -> Position:
        """Open the store as primary under a claimed epoch, and return where the epoch begins; then it serves.

        Writes branch, first segment and begin into register and log. Raises KvError, OSError; in particular where the vow has
        gone beyond the epoch, which is looked at together with the change of part, so that no promise comes between.
        """

    async def stand_down(self) -> None:
        """Go on as follower: something failed behind the claim. Does nothing where that is what the node is doing."""
