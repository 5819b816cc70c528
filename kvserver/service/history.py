"""The handler of KV.History: what was done to one key, newest first, in answers of bounded size."""

from __future__ import annotations

from collections.abc import Iterable

from kvproto.v1 import kv_pb2
from kvserver.base.errors import UnknownNamespace
from kvserver.base.limits import FOUND_BYTES
from kvserver.engine.database import Database
from kvserver.engine.history import HistoryEntry
from kvserver.service import convert, validation
from kvserver.service.context import CallContext
from kvserver.service.frames import ROW_BYTES

MAX_ENTRIES = 10_000
"""Entries of one answer, however small they are: building more messages at once would hold the event loop."""


class KeyHistory:
    """Answers for one database; belongs to the event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._answers = convert.Answers(database)
        self._namespaces = convert.Namespaces(database)

    async def history(self, request: kv_pb2.HistoryRequest, context: CallContext) -> kv_pb2.HistoryResponse:
        """Return what was done to a key, as of the newest visible revision that is not before the caller's session."""
        validation.check_key(request.key)
        limit = min(validation.check_limit(request.limit) or MAX_ENTRIES, MAX_ENTRIES)
        session = (request.session.epoch, request.session.revision) if request.HasField("session") else None
        revision = await self._database.reading_at(0, session, request.max_lag_ms)
        namespace = self._namespaces.find(request.namespace)
        # What becomes visible while tables are read stays out, so that the answer is that of the revision in its header.
        before = min(request.before_revision or revision + 1, revision + 1)
        found = await self._database.key_history(namespace, request.key, before, limit, FOUND_BYTES)
        if self._namespaces.find(request.namespace) != namespace:  # dropped meanwhile, so what was found may be a part
            raise UnknownNamespace(request.namespace)
        response = kv_pb2.HistoryResponse(
            header=self._answers.header(revision), oldest_readable_revision=self._database.oldest_readable
        )
        all_added = _add_entries(response, request.key, found.entries)
        response.more = found.more or not all_added
        return response


def _add_entries(response: kv_pb2.HistoryResponse, key: bytes, entries: Iterable[HistoryEntry]) -> bool:
    """Add the entries that fit into an answer; say whether these were all. The largest key and value fit, so one always does."""
    room = FOUND_BYTES
    add = response.entries.add
    for number, entry in enumerate(entries):
        version = entry.version
        room -= len(key) + ROW_BYTES + (0 if version is None else len(version.value))
        if number == MAX_ENTRIES or room < 0:
            return False
        if version is None:
            add(deleted=True, kv=kv_pb2.KeyValue(key=key, mod_revision=entry.revision))
        else:
            add(kv=convert.key_value(version))
    return True
