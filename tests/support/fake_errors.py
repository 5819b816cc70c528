"""How the fake server tells its refusals: the status, the details in which the stable code travels, a frame's failures."""

from __future__ import annotations

from typing import NoReturn

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from kvproto.v1 import errors_pb2, kv_pb2
from support.fake_store import FakeError

_STATUS = {
    "UNKNOWN_NAMESPACE": "NOT_FOUND",
    "NAMESPACE_EXISTS": "ALREADY_EXISTS",
    "CONDITION_FAILED": "FAILED_PRECONDITION",
    "FUTURE_REVISION": "OUT_OF_RANGE",
    "COMPACTED": "OUT_OF_RANGE",
    "HISTORY_LOST": "FAILED_PRECONDITION",
    "STALE": "FAILED_PRECONDITION",
    "NOT_WRITTEN": "ABORTED",
    "OUTCOME_UNKNOWN": "UNKNOWN",
    "DEADLINE": "DEADLINE_EXCEEDED",
    "OUTCOME_EXPIRED": "FAILED_PRECONDITION",
    "OVERLOADED": "RESOURCE_EXHAUSTED",
    "DISK_FULL": "RESOURCE_EXHAUSTED",
    "MEMORY_FULL": "RESOURCE_EXHAUSTED",
    "LOG_FAILED": "UNAVAILABLE",
    "NOT_SERVING": "UNAVAILABLE",
    "CORRUPTION": "DATA_LOSS",
    "DISK_UNAVAILABLE": "RESOURCE_EXHAUSTED",
    "TABLES_FAILED": "RESOURCE_EXHAUSTED",
    "NO_ARCHIVE": "FAILED_PRECONDITION",
    "NO_RESTORE_PLAN": "OUT_OF_RANGE",
    "ARCHIVE_UNAVAILABLE": "RESOURCE_EXHAUSTED",
    "ARCHIVE_BEHIND": "RESOURCE_EXHAUSTED",
    "ARCHIVE_FENCED": "FAILED_PRECONDITION",
    "NOT_PRIMARY": "FAILED_PRECONDITION",
    "WRONG_PEER": "FAILED_PRECONDITION",
    "FENCED": "FAILED_PRECONDITION",
    "REGISTER_UNAVAILABLE": "RESOURCE_EXHAUSTED",
    "PROMOTION_REFUSED": "FAILED_PRECONDITION",
    "POLICY_UNMET": "RESOURCE_EXHAUSTED",
    "INTERNAL": "INTERNAL",
}


def details_of(error: FakeError, domain: str = "kvserver") -> bytes:
    """Return the rich details that a server sends along with an error."""
    info = error_details_pb2.ErrorInfo(reason=error.code, domain=domain, metadata={"hint": error.hint, **error.extra})
    packed = any_pb2.Any()
    packed.Pack(info)
    number = code_pb2.Code.Value(_STATUS.get(error.code, "INVALID_ARGUMENT"))
    blob: bytes = status_pb2.Status(code=number, message=error.message, details=[packed]).SerializeToString()
    return blob


def abort(context: grpc.ServicerContext, error: FakeError) -> NoReturn:
    """End a call with an error in the service's own words."""
    context.set_trailing_metadata((("grpc-status-details-bin", details_of(error)),))
    context.abort(grpc.StatusCode[_STATUS.get(error.code, "INVALID_ARGUMENT")], error.message)
    raise AssertionError("gRPC ends an aborted call by an exception of its own")


class EndOfCall(Exception):
    """Ends a call, and with it whatever else is under way on its stream: by a bare status, or in the service's own words."""

    def __init__(self, status: str, text: str = "", error: FakeError | None = None) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status
        self.text = text
        self.error = error

    def end(self, context: grpc.ServicerContext) -> NoReturn:
        """End the call."""
        if self.error is not None:
            abort(context, self.error)
        context.abort(grpc.StatusCode[self.status], self.text)
        raise AssertionError("gRPC ends an aborted call by an exception of its own")


def failure_of(index: int, error: FakeError) -> kv_pb2.Failure:
    """Return what the answer to a frame says about an operation that was refused."""
    failure = kv_pb2.Failure(
        index=index, code=errors_pb2.ErrorCode.Value(error.code), message=error.message, hint=error.hint, details=error.extra
    )
    if error.code == "CONDITION_FAILED":
        failure.mod_revision = int(error.extra.get("mod_revision", "0"))
    return failure
