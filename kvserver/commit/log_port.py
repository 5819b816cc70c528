"""What the pipeline needs of what lies below it: the log, and whether memory can be written into tables."""

from __future__ import annotations

from typing import Any, Protocol

from kvserver.base.errors import KvError
from kvserver.commit.ticket import Ticket
from kvserver.wal.format import FRAME_OVERHEAD
from kvserver.wal.group_commit import Control, Submission

CLAIM_OVERHEAD = 2 * FRAME_OVERHEAD
"""What a submission may cost beside its bytes: a frame of its own and a mark behind it."""


class Log(Protocol):
    """What the pipeline needs of the log: a queue into it, and how much room it has."""

    def submit_to_log(self, item: Submission[Ticket[Any]] | Control) -> None:
        """Hand over a submission; the group it went into comes back through ``on_group_done``."""

    def room(self) -> int:
        """Return how many bytes of frames fit into the room that is ready."""

    def space_error(self) -> OSError | None:
        """Return why more room cannot be had, None while it can."""

    def memory_refusal(self) -> KvError | None:
        """Return why full memory cannot be written into tables, None while it can."""
