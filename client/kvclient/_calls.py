"""Builds requests and reads answers: pure, and shared by both clients, so that they cannot differ.

A client's method is one line: it makes a ``Call`` here and hands it to its own way of sending.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from kvclient import _types as types
from kvclient._errors import InvalidRequestError
from kvclient._history import HistoryCursor
from kvclient._scan import ScanCursor
from kvproto.v1 import admin_pb2, kv_pb2

ResultT = TypeVar("ResultT")

_TO_WIRE: dict[types.Durability, kv_pb2.Durability.ValueType] = {
    types.Durability.POLICY: kv_pb2.DURABILITY_UNSPECIFIED,
    types.Durability.MEMORY: kv_pb2.DURABILITY_MEMORY,
    types.Durability.LOCAL: kv_pb2.DURABILITY_LOCAL,
    types.Durability.REPLICATED: kv_pb2.DURABILITY_REPLICATED,
}
_FROM_WIRE: dict[int, types.Durability] = {wire: durability for durability, wire in _TO_WIRE.items()}


@dataclasses.dataclass(frozen=True, slots=True)
class Call(Generic[ResultT]):
    """One unary call: what to send, and how to read what comes back."""

    service: str
    """``"KV"`` or ``"Admin"``."""
    method: str
    request: Any
    parse: Callable[[Any], ResultT]
    writes: bool
    """Whether a failure without the server's word leaves it open what happened."""


def get(
    namespace: str, key: bytes, revision: int | None, session: types.SessionToken, max_lag_ms: int | None = None
) -> Call[types.Entry | None]:
    """Make the call that reads one key."""
    request = kv_pb2.GetRequest(
        namespace=namespace,
        key=key,
        revision=unsigned("revision", revision),
        session=session_message(session),
        max_lag_ms=unsigned("max_lag_ms", max_lag_ms),
    )
    return Call("KV", "Get", request, _entry_found, writes=False)


def sync(revision: int | None, level: types.Durability) -> Call[types.SyncResult]:
    """Make the call that waits for a revision to reach a level."""
    request = kv_pb2.SyncRequest(revision=unsigned("revision", revision), level=_TO_WIRE[level])
    return Call("KV", "Sync", request, _sync_result, writes=False)


def status() -> Call[types.Status]:
    """Make the call that asks a node what it is."""
    return Call("Admin", "Status", admin_pb2.StatusRequest(), _status, writes=False)


def flush() -> Call[types.FlushResult]:
    """Make the call that writes memory into a table. It changes nothing that readers see, so losing it leaves nothing open."""
    return Call("Admin", "Flush", admin_pb2.FlushRequest(), _flush_result, writes=False)


def checkpoint(target_dir: str) -> Call[types.CheckpointResult]:
    """Make the call that copies the store into a folder of the node; it changes nothing in the store itself."""
    request = admin_pb2.CheckpointRequest(target_dir=checked_text("target_dir", target_dir))
    return Call("Admin", "Checkpoint", request, _checkpoint_result, writes=False)


def compact(revision: int) -> Call[types.CompactResult]:
    """Make the call that gives up history; 0 stands for all but the newest visible revision."""
    request = admin_pb2.CompactRequest(revision=unsigned("revision", revision))
    return Call("Admin", "Compact", request, _compact_result, writes=True)


def drop_namespace(name: str) -> Call[types.DropResult]:
    """Make the call that drops a namespace."""
    return Call(
        "Admin", "DropNamespace", admin_pb2.DropNamespaceRequest(name=checked_text("name", name)), _drop_result, writes=True
    )


def create_namespace(name: str) -> Call[types.Namespace]:
    """Make the call that creates a namespace."""
    request = admin_pb2.CreateNamespaceRequest(name=checked_text("name", name))
    return Call("Admin", "CreateNamespace", request, lambda answer: _namespace(answer.namespace), writes=True)


def list_namespaces() -> Call[list[types.Namespace]]:
    """Make the call that lists the namespaces."""
    return Call(
        "Admin",
        "ListNamespaces",
        admin_pb2.ListNamespacesRequest(),
        lambda answer: [_namespace(row) for row in answer.namespaces],
        writes=False,
    )


def history(
    namespace: str,
    key: bytes,
    limit: int | None,
    before_revision: int | None,
    session: types.SessionToken,
    max_lag_ms: int | None = None,
) -> HistoryCursor:
    """Make the cursor over what was done to a key."""
    request = kv_pb2.HistoryRequest(
        namespace=namespace,
        key=key,
        before_revision=unsigned("before_revision", before_revision),
        limit=_limit(limit),
        session=session_message(session),
        max_lag_ms=unsigned("max_lag_ms", max_lag_ms),
    )
    return HistoryCursor(request)


def history_page(cursor: HistoryCursor) -> Call[list[types.HistoryEntry]]:
    """Make the call that brings the next part of a key's history."""
    return Call("KV", "History", cursor.next_request(), cursor.take, writes=False)


def scan(
    namespace: str,
    prefix: bytes | None,
    start: bytes,
    end: bytes,
    session: types.SessionToken,
    *,
    revision: int | None = None,
    limit: int | None = None,
    reverse: bool = False,
    keys_only: bool = False,
    count_only: bool = False,
    max_lag_ms: int | None = None,
) -> ScanCursor:
    """Make the cursor of a scan; raise InvalidRequestError if both a prefix and a range are given."""
    if prefix is not None and (start or end):
        raise InvalidRequestError("INVALID_FIELD", "a scan takes a prefix or a range, not both")
    request = kv_pb2.ScanRequest(
        namespace=namespace,
        revision=unsigned("revision", revision),
        limit=_limit(limit),
        reverse=reverse,
        keys_only=keys_only,
        count_only=count_only,
        session=session_message(session),
        columnar=True,
        max_lag_ms=unsigned("max_lag_ms", max_lag_ms),
    )
    if prefix is not None:
        request.prefix = prefix
    elif start or end:
        request.range.CopyFrom(kv_pb2.KeyRange(start=start, end=end))
    return ScanCursor(request)


def session_message(token: types.SessionToken) -> kv_pb2.SessionToken | None:
    """Return what a read carries; None for a client that has seen nothing."""
    if token == types.NO_SESSION:
        return None
    return kv_pb2.SessionToken(epoch=token.epoch, revision=token.revision)


def durability_reached(wire: int) -> types.Durability:
    """Return the level that an answer names; a level of a newer server is UNRECOGNIZED."""
    return _FROM_WIRE.get(wire, types.Durability.UNRECOGNIZED)


def durability_wanted(durability: types.Durability) -> kv_pb2.Durability.ValueType:
    """Return how a request names a level."""
    return _TO_WIRE[durability]


def unsigned(name: str, value: int | None) -> int:
    """Return a number for an unsigned field, 0 for None; raise InvalidRequestError where it does not fit."""
    if value is None:
        return 0
    if not 0 <= value < 1 << 64:
        raise InvalidRequestError("INVALID_FIELD", f"{name} must be between 0 and 2**64 - 1, not {value}")
    return value


def _limit(limit: int | None) -> int:
    """Return the most entries for a message, 0 for None (no limit); raise InvalidRequestError for less than 1."""
    if limit is None:
        return 0
    if not 1 <= limit < 1 << 63:
        raise InvalidRequestError("INVALID_FIELD", f"limit must be at least 1, not {limit}", "leave it out for no limit")
    return limit


def checked_text(name: str, value: str) -> str:
    """Return a text that a message can hold; raise InvalidRequestError for one that is no UTF-8, as a file's name may be."""
    if not isinstance(value, str):
        raise TypeError(f"{name} is a text, not {type(value).__name__}: {value!r:.80}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError("INVALID_FIELD", f"{name} must be text in UTF-8: {value!r}") from error
    return value


def _entry_found(answer: kv_pb2.GetResponse) -> types.Entry | None:
    if not answer.HasField("kv"):
        return None
    kv = answer.kv
    return types.Entry(kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version)


def _sync_result(answer: kv_pb2.SyncResponse) -> types.SyncResult:
    return types.SyncResult(answer.header.revision, durability_reached(answer.reached), answer.header.epoch)


def _namespace(row: admin_pb2.Namespace) -> types.Namespace:
    return types.Namespace(row.name, row.id, row.create_revision, row.keys, row.size_bytes)


def _drop_result(answer: admin_pb2.DropNamespaceResponse) -> types.DropResult:
    return types.DropResult(_namespace(answer.namespace), answer.header.revision, answer.header.epoch)


def _flush_result(answer: admin_pb2.FlushResponse) -> types.FlushResult:
    return types.FlushResult(answer.flushed_revision, answer.header.epoch)


def _checkpoint_result(answer: admin_pb2.CheckpointResponse) -> types.CheckpointResult:
    return types.CheckpointResult(
        answer.target_dir, answer.epoch, answer.revision, answer.chain, answer.table_files, answer.table_bytes
    )


def _compact_result(answer: admin_pb2.CompactResponse) -> types.CompactResult:
    return types.CompactResult(answer.oldest_readable_revision, answer.header.revision, answer.header.epoch)


def _status(answer: admin_pb2.StatusResponse) -> types.Status:
    return types.Status(
        role=answer.role,
        node=answer.header.node,
        cluster_id=answer.header.cluster_id,
        epoch=answer.header.epoch,
        epoch_nonce=answer.epoch_nonce,
        revision=answer.header.revision,
        assigned_revision=answer.assigned_revision,
        applied_revision=answer.applied_revision,
        durable_revision=answer.durable_revision,
        visible_revision=answer.visible_revision,
        oldest_readable_revision=answer.oldest_readable_revision,
        chain=answer.chain,
        keys=answer.keys,
        memory_bytes=answer.memory_bytes,
        wal_segments=answer.wal_segments,
        wal_bytes=answer.wal_bytes,
        flushed_revision=answer.flushed_revision,
        table_files=answer.table_files,
        table_bytes=answer.table_bytes,
        level0_files=answer.level0_files,
        pending_compaction_bytes=answer.pending_compaction_bytes,
        flushes=answer.flushes,
        holds=tuple(types.Hold(hold.name, hold.revision) for hold in answer.holds),
        archived_revision=answer.archived_revision,
        archive_url=answer.archive_url,
        uptime_ms=answer.uptime_ms,
        server_version=answer.server_version,
        format_version=answer.format_version,
        warnings=tuple(answer.warnings),
    )
