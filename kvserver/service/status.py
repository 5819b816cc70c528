"""The one table from an error to the canonical status that generic clients know, and the details that ours read.

A status is chosen by what a client that knows nothing of kvserver does with it: it repeats UNAVAILABLE, so only what is
certainly not written may be UNAVAILABLE; it waits and repeats RESOURCE_EXHAUSTED; it repeats nothing else. Whoever knows
kvserver reads the stable code from the details instead.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from google.protobuf.any_pb2 import Any
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from kvserver.base.errors import Code, KvError

DETAILS_KEY = "grpc-status-details-bin"
"""The trailing metadata that carries a serialized google.rpc.Status."""

DOMAIN = "kvserver"
"""The domain of the ErrorInfo within it."""

MAX_MESSAGE_CHARACTERS = 1_000
"""Messages are cut here: message and details travel as metadata, of which a client takes 8 KiB."""


class Canonical(enum.IntEnum):
    """The canonical status codes of google.rpc.Code."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


CANONICAL: Mapping[Code, Canonical] = {
    Code.EMPTY_KEY: Canonical.INVALID_ARGUMENT,
    Code.KEY_TOO_LARGE: Canonical.INVALID_ARGUMENT,
    Code.VALUE_TOO_LARGE: Canonical.INVALID_ARGUMENT,
    Code.COMMIT_TOO_LARGE: Canonical.INVALID_ARGUMENT,
    Code.FRAME_TOO_LARGE: Canonical.INVALID_ARGUMENT,
    Code.INVERTED_RANGE: Canonical.INVALID_ARGUMENT,
    Code.INVALID_FIELD: Canonical.INVALID_ARGUMENT,
    Code.DUPLICATE_KEY: Canonical.INVALID_ARGUMENT,
    Code.RANGE_TOO_LARGE: Canonical.INVALID_ARGUMENT,
    Code.TARGET_UNUSABLE: Canonical.INVALID_ARGUMENT,
    Code.NO_ARCHIVE: Canonical.FAILED_PRECONDITION,
    Code.UNKNOWN_NAMESPACE: Canonical.NOT_FOUND,
    Code.NAMESPACE_EXISTS: Canonical.ALREADY_EXISTS,
    Code.INVALID_NAMESPACE_NAME: Canonical.INVALID_ARGUMENT,
    Code.CONDITION_FAILED: Canonical.FAILED_PRECONDITION,
    Code.FUTURE_REVISION: Canonical.OUT_OF_RANGE,
    Code.COMPACTED: Canonical.OUT_OF_RANGE,
    # Not DATA_LOSS: that is what an operator is woken for. Here a caller holds a position that this node never promised,
    # for instance of a MEMORY write that a crash took back, and must decide anew.
    Code.HISTORY_LOST: Canonical.FAILED_PRECONDITION,
    Code.NO_RESTORE_PLAN: Canonical.OUT_OF_RANGE,
    # Another node may be fresher; the same one may be in a moment. Nothing that a generic client should decide.
    Code.STALE: Canonical.FAILED_PRECONDITION,
    # Certainly not written: a generic client may and should repeat it.
    Code.NOT_WRITTEN: Canonical.UNAVAILABLE,
    Code.OUTCOME_UNKNOWN: Canonical.UNKNOWN,
    Code.DEADLINE: Canonical.DEADLINE_EXCEEDED,
    Code.OUTCOME_EXPIRED: Canonical.FAILED_PRECONDITION,
    Code.OVERLOADED: Canonical.RESOURCE_EXHAUSTED,
    Code.DISK_FULL: Canonical.RESOURCE_EXHAUSTED,
    Code.MEMORY_FULL: Canonical.RESOURCE_EXHAUSTED,
    Code.DISK_UNAVAILABLE: Canonical.RESOURCE_EXHAUSTED,
    # As with the log's disk: nothing was written, and the same node may well do it after a pause. Not UNAVAILABLE, which is
    # repeated at once and elsewhere; this node serves everything that needs no table.
    Code.TABLES_FAILED: Canonical.RESOURCE_EXHAUSTED,
    # The same for the archive: what needs it may be asked again after a pause, everything else is served.
    Code.ARCHIVE_UNAVAILABLE: Canonical.RESOURCE_EXHAUSTED,
    Code.ARCHIVE_BEHIND: Canonical.RESOURCE_EXHAUSTED,
    Code.ARCHIVE_FENCED: Canonical.FAILED_PRECONDITION,
    # Nothing was written, but repeating it here leads nowhere: the details name the node to go to.
    Code.NOT_PRIMARY: Canonical.FAILED_PRECONDITION,
    Code.WRONG_PEER: Canonical.FAILED_PRECONDITION,
    Code.FENCED: Canonical.FAILED_PRECONDITION,
    Code.REGISTER_UNAVAILABLE: Canonical.RESOURCE_EXHAUSTED,
    Code.PROMOTION_REFUSED: Canonical.FAILED_PRECONDITION,
    Code.POLICY_UNMET: Canonical.RESOURCE_EXHAUSTED,
    # Nothing of such a request was carried out; another node, or this one after its restart, may take it.
    Code.LOG_FAILED: Canonical.UNAVAILABLE,
    Code.NOT_SERVING: Canonical.UNAVAILABLE,
    Code.CORRUPTION: Canonical.DATA_LOSS,
    Code.INTERNAL: Canonical.INTERNAL,
}


def canonical(error: KvError) -> Canonical:
    """Return the status of an error."""
    return CANONICAL[error.code]


def message(error: KvError) -> str:
    """Return what people are told, cut to what fits metadata."""
    return error.message[:MAX_MESSAGE_CHARACTERS]


def details(error: KvError) -> bytes:
    """Return the google.rpc.Status with the stable code, the hint and what else programs need, serialized."""
    info = ErrorInfo(reason=error.code.name, domain=DOMAIN)
    if error.hint:
        info.metadata["hint"] = error.hint[:MAX_MESSAGE_CHARACTERS]
    info.metadata.update(error.details)
    packed = Any()
    packed.Pack(info)
    serialized: bytes = Status(code=canonical(error), message=message(error), details=[packed]).SerializeToString()
    return serialized


def internal_error() -> KvError:
    """Return what a caller is told of a fault in the server: nothing of its inside."""
    return KvError(
        Code.INTERNAL, "the server met a fault of its own", "report it, with what the server's log says at this moment"
    )
