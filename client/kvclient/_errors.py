"""The one place where an answer of the server becomes an error; the classes themselves are in ``kvclient._error_classes``.

What a failed *write* means is the point of this module. Only two things prove that a write did not happen: a server
that says so, by its stable code, or a request that was never handed to the transport. Everything else (a deadline that
passed here, a connection that broke, a status without details) may come from a write that is on disk, and is
OutcomeUnknown.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from kvclient._error_classes import (
    ArchiveBehind,
    ArchiveError,
    ArchiveFenced,
    ArchiveUnavailable,
    ClientClosed,
    ClusterError,
    Compacted,
    ConditionFailed,
    Corruption,
    Fenced,
    FutureRevision,
    HistoryLost,
    InvalidRequestError,
    KvClientError,
    ManyFailed,
    NamespaceExists,
    NoArchive,
    NoRestorePlan,
    NotPrimary,
    NotWritten,
    OutcomeExpired,
    OutcomeUnknown,
    PolicyUnmet,
    PromotionRefused,
    RegisterUnavailable,
    RevisionError,
    ServerError,
    Stale,
    TablesFailed,
    TargetUnusable,
    Timeout,
    Unavailable,
    UnknownNamespace,
    WrongPeer,
)
from kvproto.v1 import errors_pb2, kv_pb2

__all__ = [
    "ArchiveBehind",
    "ArchiveError",
    "ArchiveFenced",
    "ArchiveUnavailable",
    "ClientClosed",
    "ClusterError",
    "Compacted",
    "ConditionFailed",
    "Corruption",
    "Fenced",
    "FutureRevision",
    "HistoryLost",
    "InvalidRequestError",
    "KvClientError",
    "ManyFailed",
    "NamespaceExists",
    "NoArchive",
    "NoRestorePlan",
    "NotPrimary",
    "NotWritten",
    "OutcomeExpired",
    "OutcomeUnknown",
    "PolicyUnmet",
    "PromotionRefused",
    "RegisterUnavailable",
    "RevisionError",
    "ServerError",
    "Stale",
    "TablesFailed",
    "TargetUnusable",
    "Timeout",
    "Unavailable",
    "UnknownNamespace",
    "WrongPeer",
]

DETAILS_KEY = "grpc-status-details-bin"
ERROR_DOMAIN = "kvserver"

_CLASS_OF: dict[str, type[KvClientError]] = {
    "EMPTY_KEY": InvalidRequestError,
    "KEY_TOO_LARGE": InvalidRequestError,
    "VALUE_TOO_LARGE": InvalidRequestError,
    "COMMIT_TOO_LARGE": InvalidRequestError,
    "FRAME_TOO_LARGE": InvalidRequestError,
    "INVERTED_RANGE": InvalidRequestError,
    "INVALID_FIELD": InvalidRequestError,
    "DUPLICATE_KEY": InvalidRequestError,
    "RANGE_TOO_LARGE": InvalidRequestError,
    "TARGET_UNUSABLE": TargetUnusable,
    "NO_ARCHIVE": NoArchive,
    "UNKNOWN_NAMESPACE": UnknownNamespace,
    "NAMESPACE_EXISTS": NamespaceExists,
    "INVALID_NAMESPACE_NAME": InvalidRequestError,
    "CONDITION_FAILED": ConditionFailed,
    "FUTURE_REVISION": FutureRevision,
    "COMPACTED": Compacted,
    "HISTORY_LOST": HistoryLost,
    "NO_RESTORE_PLAN": NoRestorePlan,
    "STALE": Stale,
    "NOT_WRITTEN": NotWritten,
    "OUTCOME_UNKNOWN": OutcomeUnknown,
    "DEADLINE": Timeout,
    "OUTCOME_EXPIRED": OutcomeExpired,
    "OVERLOADED": NotWritten,
    "DISK_FULL": NotWritten,
    "MEMORY_FULL": NotWritten,
    "LOG_FAILED": Unavailable,
    "NOT_SERVING": Unavailable,
    "CORRUPTION": Corruption,
    "DISK_UNAVAILABLE": NotWritten,
    "TABLES_FAILED": TablesFailed,
    "ARCHIVE_UNAVAILABLE": ArchiveUnavailable,
    "ARCHIVE_BEHIND": ArchiveBehind,
    "ARCHIVE_FENCED": ArchiveFenced,
    "NOT_PRIMARY": NotPrimary,
    "WRONG_PEER": WrongPeer,
    "FENCED": Fenced,
    "REGISTER_UNAVAILABLE": RegisterUnavailable,
    "PROMOTION_REFUSED": PromotionRefused,
    "POLICY_UNMET": PolicyUnmet,
    "INTERNAL": ServerError,
}
"""The class of every stable code; a test walks ``ErrorCode`` and finds each of them here."""

_READ_HINT = "read the key to learn what happened; repeat only what may happen twice"
_TIME_HINT = "allow more time (timeout_s, or kvctl --timeout)"
_UNAVAILABLE_HINT = "is a server running there? start one with: kvserver serve --data-dir DIR --listen {endpoint}"


class RpcFailure(Protocol):
    """What the errors of both gRPC stacks have in common."""

    def code(self) -> Any:
        """Return the gRPC status, an enum."""

    def details(self) -> Any:
        """Return the status's text."""

    def trailing_metadata(self) -> Any:
        """Return the pairs sent behind the answer, or None."""


class _ServerWord(NamedTuple):
    """What a server said about an error, by its own rules."""

    code: str
    message: str
    metadata: dict[str, str]


def error_class(code: str, *, writes: bool) -> type[KvClientError]:
    """Return the class for a code that the server named.

    A fault, or a code that this client does not know, leaves a write's outcome open: it may have been met after the
    write was given its revision.
    """
    known = _CLASS_OF.get(code, ServerError)
    return OutcomeUnknown if writes and issubclass(known, ServerError) else known


def from_failure(failure: kv_pb2.Failure, *, writes: bool, rejected: bool = False) -> KvClientError:
    """Make the error of one failed operation inside a Pipeline answer.

    ``rejected``: the frame was refused before anything of it was carried out, so that not even a fault leaves it open.
    """
    name = code_name(failure.code)
    details = dict(failure.details)
    if name == "CONDITION_FAILED":
        details["mod_revision"] = str(failure.mod_revision)
    kind = error_class(name, writes=writes and not rejected)
    return kind(name, failure.message, failure.hint, details=details, from_server=True)


def code_name(code: int) -> str:
    """Return the stable name of a code, which a newer server may have added."""
    return errors_pb2.ErrorCode.Name(code) if code in errors_pb2.ErrorCode.values() else f"ERROR_CODE_{code}"  # type: ignore[arg-type]


def from_rpc(failure: RpcFailure, *, writes: bool, endpoint: str) -> KvClientError:
    """Make the error of a failed call: by the server's own word where there is one, else by what the status proves."""
    status = failure.code().name
    text = failure.details() or ""
    word = _server_word(failure.trailing_metadata())
    if word is None:
        return _from_bare_status(status, text, writes=writes, endpoint=endpoint)
    hint = word.metadata.pop("hint", "")
    kind = error_class(word.code, writes=writes)
    if word.code not in _CLASS_OF and status == "INVALID_ARGUMENT":
        kind = InvalidRequestError  # a rule that a newer server has; the status says that nothing was carried out
    return kind(word.code, word.message or text, hint, details=word.metadata, from_server=True)


def unreachable(endpoint: str, status: str, text: str) -> Unavailable:
    """Make the error of a request that was never handed to the transport: it is certain that nothing was changed."""
    why = "no connection within the time allowed" if status == "DEADLINE_EXCEEDED" else _last_error(text)
    hint = _UNAVAILABLE_HINT.format(endpoint=endpoint)
    return Unavailable("UNAVAILABLE", f"cannot connect to {endpoint}: {why}", hint)


def check_probe(failure: RpcFailure, endpoint: str) -> None:
    """Raise Unavailable if a failed probe shows that there is no connection; any other answer shows that there is one."""
    status = failure.code().name
    if status in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"):
        raise unreachable(endpoint, status, failure.details() or "") from None


def outcome_unknown(why: str) -> OutcomeUnknown:
    """Make the error of a write that was handed to the transport and then lost from sight."""
    return OutcomeUnknown("OUTCOME_UNKNOWN", f"the write may or may not have been kept: {why}", _READ_HINT)


def nobody_primary(endpoints: str) -> NotPrimary:
    """Make the error of a request for which no primary was found: nothing was sent."""
    return NotPrimary(
        "NOT_PRIMARY",
        f"no node is primary at the moment, as far as {endpoints} can say",
        "wait for the failover, or see who is to be primary with: kvctl cluster status",
    )


def lower_epoch(endpoint: str, epoch: int, highest: int, *, writes: bool) -> KvClientError:
    """Make the error of an answer from a primacy that is over; what it says of a write is worth nothing."""
    why = f"{endpoint} answered under epoch {epoch}, and epoch {highest} has begun"
    if writes:
        return outcome_unknown(why)
    return Fenced("FENCED", why, "it was deposed, or follows a node that was; see: kvctl cluster status")


def is_behind(error: KvClientError) -> bool:
    """Return whether a node's history does not reach the epoch of the session: it may be behind, or deposed, and another not.

    A node that knows the epoch names the one that followed it, and then what was seen is lost.
    """
    return error.code == "HISTORY_LOST" and error.from_server and "next_epoch" not in error.details


def leaves_open(error: KvClientError) -> bool:
    """Return whether an answer to a repeated write leaves it open what became of the time before.

    What was judged behind the key does not: a condition that failed then was not failed by a write that is remembered. Nor
    does what is wrong with the request itself. A refusal says nothing of the time before.
    """
    judged = isinstance(error, (ConditionFailed, OutcomeExpired, InvalidRequestError))
    return not judged or isinstance(error, UnknownNamespace)


def not_sent_in_time(endpoint: str, *, writes: bool, connected: bool) -> KvClientError:
    """Make the error of an operation whose time was up before it was sent: it is certain that nothing was changed."""
    if not connected:
        return unreachable(endpoint, "DEADLINE_EXCEEDED", "")
    message = f"no room to send it to {endpoint} within the time allowed; the answers to earlier ones are late"
    kind = NotWritten if writes else Timeout
    return kind("NOT_WRITTEN" if writes else "DEADLINE", message, _TIME_HINT)


def not_answered_in_time(endpoint: str, *, writes: bool) -> KvClientError:
    """Make the error of an operation that was sent and not answered within its time."""
    return _from_bare_status("DEADLINE_EXCEEDED", "", writes=writes, endpoint=endpoint)


def unreadable(endpoint: str, *, in_time: bool, writes: bool) -> KvClientError:
    """Make the error of a call whose answer is none."""
    if not in_time:
        return not_answered_in_time(endpoint, writes=writes)
    return _from_bare_status("INTERNAL", "an answer that cannot be read", writes=writes, endpoint=endpoint)


def again(error: KvClientError) -> KvClientError:
    """Return an error of its own, in the same words, for one of several callers."""
    copy = type(error)(error.code, error.message, error.hint)
    copy.details, copy.from_server = dict(error.details), error.from_server
    return copy


def of_lost_stream(failure: RpcFailure | None, error: KvClientError, endpoint: str, writes: bool) -> KvClientError:
    """Make the error of one operation that was under way on a stream when it ended."""
    if failure is not None:
        return from_rpc(failure, writes=writes, endpoint=endpoint)
    if isinstance(error, ClientClosed):
        return cut_off(endpoint, writes=writes)
    if writes:
        return outcome_unknown(error.message)
    return again(error) if isinstance(error, ServerError | Fenced) else Unavailable("UNAVAILABLE", error.message, error.hint)


def client_fault(fault: BaseException) -> ServerError:
    """Make the error of a fault in the client itself, so that nobody waits for an answer that cannot come."""
    return ServerError("INTERNAL", f"the client met a fault of its own: {type(fault).__name__}: {fault}", "report it")


def many_failed(failures: dict[int, KvClientError], done: int) -> ManyFailed:
    """Make the error of many operations of which some failed."""
    place = min(failures)
    first = failures[place]
    error = ManyFailed("MANY_FAILED", f"{len(failures)} of the puts failed, the first at place {place}: {first}", first.hint)
    error.failures, error.done = failures, done
    return error


def cut_off(endpoint: str, *, writes: bool, why: str = "the client was closed") -> KvClientError:
    """Make the error of a call that was under way when its client, or its connection, was closed."""
    return _from_bare_status("CANCELLED", why, writes=writes, endpoint=endpoint)


def _server_word(metadata: Iterable[tuple[str, str | bytes]] | None) -> _ServerWord | None:
    """Find the server's stable code in the trailing metadata; None where it is missing or not ours."""
    for key, blob in metadata or ():
        if key != DETAILS_KEY or not isinstance(blob, bytes):
            continue
        try:
            status = status_pb2.Status.FromString(blob)
            for detail in status.details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info) and info.domain == ERROR_DOMAIN and info.reason:
                    return _ServerWord(info.reason, status.message, dict(info.metadata))
        except DecodeError:
            return None
    return None


def _from_bare_status(status: str, text: str, *, writes: bool, endpoint: str) -> KvClientError:
    """Judge a status that came without the server's own word (from the transport, or from something in between)."""
    if status == "UNIMPLEMENTED":  # the method does not exist there, so nothing was carried out
        return ServerError(
            "UNEXPECTED_STATUS",
            f"{endpoint} does not know this call: {text}",
            "is it a kvserver, and not an older one? see its version with: kvctl status",
        )
    if writes:
        return outcome_unknown(_sentence(status, text, endpoint))
    message = _sentence(status, text, endpoint)
    if status == "DEADLINE_EXCEEDED":
        return Timeout("DEADLINE", message, _TIME_HINT)
    if status in ("UNAVAILABLE", "CANCELLED"):
        return Unavailable("UNAVAILABLE", message, _UNAVAILABLE_HINT.format(endpoint=endpoint))
    return ServerError("UNEXPECTED_STATUS", message)


def _sentence(status: str, text: str, endpoint: str) -> str:
    """Say in words what a bare status reports."""
    said = f" ({text})" if text else ""
    if status == "DEADLINE_EXCEEDED":
        return f"{endpoint} did not answer in time"
    if status == "UNAVAILABLE":
        return f"the connection to {endpoint} is broken{said}"
    if status == "CANCELLED":
        return f"the call to {endpoint} was cancelled{said}"
    return f"{endpoint} answered with the status {status}{said}"


def _last_error(text: str) -> str:
    """Shorten what gRPC says about a connection to its last cause."""
    return text.rpartition("last error: ")[2].removeprefix("UNKNOWN: ") or "no connection"
