"""The line of requests that wait for admission: in order, and bounded."""

from __future__ import annotations

from collections import deque
from typing import Any

from kvserver.base.options import PipelineOptions
from kvserver.commit.ticket import Ticket


class WaitingLine:
    """Requests that stand in line. Nothing of them was carried out. Belongs to the event loop."""

    def __init__(self, options: PipelineOptions) -> None:
        self._options = options
        self.tickets: deque[Ticket[Any]] = deque()
        """In order; always the same object."""
        self.size_bytes = 0

    def takes(self, size: int) -> bool:
        """Say whether one more of this size may join; those who gave up make room first."""
        if self._is_full(size):
            self._drop_those_who_gave_up()
        return not self._is_full(size)

    def join(self, ticket: Ticket[Any], size: int) -> None:
        """Put a request at the end of the line."""
        ticket.waiting_bytes = size
        self.size_bytes += size
        self.tickets.append(ticket)

    def leave(self) -> None:
        """Take the first request out of the line."""
        ticket = self.tickets.popleft()
        self.size_bytes -= ticket.waiting_bytes
        ticket.waiting_bytes = -1

    def _is_full(self, size: int) -> bool:
        options = self._options
        return len(self.tickets) >= options.max_waiting or self.size_bytes + size > options.max_waiting_bytes

    def _drop_those_who_gave_up(self) -> None:
        waiting = [ticket for ticket in self.tickets if not ticket.done]
        self.tickets.clear()
        self.tickets.extend(waiting)
        self.size_bytes = sum(ticket.waiting_bytes for ticket in waiting)
