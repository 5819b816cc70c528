"""How the fake server tells its refusals: the status, and the details in which the stable code travels."""

from __future__ import annotations

from typing import NoReturn

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from support.fake_store import FakeError

_STATUS = {
    "UNKNOWN_NAMESPACE": "NOT_FOUND",
    "NAMESPACE_EXISTS": "ALREADY_EXISTS",
    "CONDITION_FAILED": "FAILED_PRECONDITION",
    "FUTURE_REVISION": "OUT_OF_RANGE",
    "COMPACTED": "OUT_OF_RANGE",
    "HISTORY_LOST": "FAILED_PRECONDITION",
    "NOT_WRITTEN": "ABORTED",
    "OUTCOME_UNKNOWN": "UNKNOWN",
    "DEADLINE": "DEADLINE_EXCEEDED",
    "OVERLOADED": "RESOURCE_EXHAUSTED",
    "DISK_FULL": "RESOURCE_EXHAUSTED",
    "MEMORY_FULL": "RESOURCE_EXHAUSTED",
    "LOG_FAILED": "UNAVAILABLE",
    "NOT_SERVING": "UNAVAILABLE",
    "CORRUPTION": "DATA_LOSS",
    "DISK_UNAVAILABLE": "RESOURCE_EXHAUSTED",
    "TABLES_FAILED": "RESOURCE_EXHAUSTED",
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
