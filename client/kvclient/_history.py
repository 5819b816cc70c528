"""The state of a walk through a key's history: pure, shared by both clients.

A history may be larger than one answer, so it is asked for in parts, each below the last revision received. Commits made
in the meantime lie above it, so nothing comes twice.
"""

from __future__ import annotations

from kvclient._errors import ServerError
from kvclient._types import Entry, HistoryEntry
from kvproto.v1 import kv_pb2


class HistoryCursor:
    """Knows what a walk has brought so far and what to ask for next."""

    def __init__(self, request: kv_pb2.HistoryRequest) -> None:
        self._request = request
        self._limit = request.limit
        self._received = 0
        self.finished = False
        """Whether everything asked for has been received."""

    def next_request(self) -> kv_pb2.HistoryRequest:
        """Return what to send now."""
        return self._request

    def take(self, answer: kv_pb2.HistoryResponse) -> list[HistoryEntry]:
        """Take in a part and return its entries; raise ServerError for one that says there is more but brings nothing new."""
        entries = [_entry(row) for row in answer.entries]
        self._received += len(entries)
        self.finished = not answer.more or bool(self._limit and self._received >= self._limit)
        if not self.finished:
            self._go_on_below(entries[-1].revision if entries else 0)
        return entries

    def _go_on_below(self, revision: int) -> None:
        """Narrow the request to what is older than the last entry received; without progress it would be sent for ever."""
        before = self._request.before_revision
        if revision == 0 or (before and revision >= before):
            raise ServerError("UNEXPECTED_STATUS", "the server says that there is more of the history, but brings nothing of it")
        self._request.before_revision = revision
        if self._limit:
            self._request.limit = self._limit - self._received


def _entry(row: kv_pb2.HistoryEntry) -> HistoryEntry:
    kv = row.kv
    if row.deleted:
        return HistoryEntry(kv.mod_revision, None)
    return HistoryEntry(kv.mod_revision, Entry(kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version))
