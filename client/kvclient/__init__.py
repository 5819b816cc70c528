"""A thin client for kvserver: ``Client`` for blocking code, ``AsyncClient`` for asyncio, with the same calls.

    from kvclient import Client

    with Client("127.0.0.1:7400") as kv:
        kv.put(b"greeting", b"hello")
        entry = kv.get(b"greeting")

A write that returns is durable at the level that the cluster's policy names. What a write that raises means is told by
the class of the error: ``OutcomeUnknown`` alone leaves it open, all others mean that nothing was changed (``ManyFailed``, of
``put_many``, holds an error for each put that failed).
"""

from kvclient._errors import (
    ClientClosed,
    Compacted,
    ConditionFailed,
    Corruption,
    FutureRevision,
    HistoryLost,
    InvalidRequestError,
    KvClientError,
    ManyFailed,
    NamespaceExists,
    NotWritten,
    OutcomeUnknown,
    RevisionError,
    ServerError,
    TablesFailed,
    TargetUnusable,
    Timeout,
    Unavailable,
    UnknownNamespace,
)
from kvclient._retry import Retry
from kvclient._types import (
    NO_SESSION,
    BatchResult,
    CheckpointResult,
    CompactResult,
    Delete,
    DeletePrefix,
    DeleteRange,
    DeleteResult,
    DropResult,
    Durability,
    Entry,
    FlushResult,
    HistoryEntry,
    Hold,
    Mutation,
    Namespace,
    Put,
    PutManyResult,
    SessionToken,
    Status,
    SyncResult,
    WriteResult,
)
from kvclient.async_client import AsyncClient
from kvclient.client import Client

__all__ = [
    "NO_SESSION",
    "AsyncClient",
    "BatchResult",
    "CheckpointResult",
    "Client",
    "ClientClosed",
    "CompactResult",
    "Compacted",
    "ConditionFailed",
    "Corruption",
    "Delete",
    "DeletePrefix",
    "DeleteRange",
    "DeleteResult",
    "DropResult",
    "Durability",
    "Entry",
    "FlushResult",
    "FutureRevision",
    "HistoryEntry",
    "HistoryLost",
    "Hold",
    "InvalidRequestError",
    "KvClientError",
    "ManyFailed",
    "Mutation",
    "Namespace",
    "NamespaceExists",
    "NotWritten",
    "OutcomeUnknown",
    "Put",
    "PutManyResult",
    "Retry",
    "RevisionError",
    "ServerError",
    "SessionToken",
    "Status",
    "SyncResult",
    "TablesFailed",
    "TargetUnusable",
    "Timeout",
    "Unavailable",
    "UnknownNamespace",
    "WriteResult",
]
