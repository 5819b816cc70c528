"""How a call over gRPC ends with an error: the status for everybody, the details for who knows kvserver."""

from __future__ import annotations

import logging
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError, Message

from kvserver.base.errors import Code, InvalidRequest, KvError
from kvserver.service import status

LOG = logging.getLogger("kvserver.transport")

_GRPC_STATUS = {code.value[0]: code for code in grpc.StatusCode}


async def end_with(context: Any, error: KvError) -> NoReturn:
    """End the call with an error. Always raises: gRPC's own AbortError."""
    await context.abort(
        _GRPC_STATUS[status.canonical(error)], status.message(error), ((status.DETAILS_KEY, status.details(error)),)
    )
    raise AssertionError("abort returned")


def decode(kind: type[Message], raw: bytes) -> Message:
    """Return the message that was sent. Raises InvalidRequest for bytes that are none."""
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        raise InvalidRequest(
            Code.INVALID_FIELD, f"the bytes sent are not a {kind.DESCRIPTOR.full_name}", "see the contract in protos/"
        ) from error


def fault(method: str) -> KvError:
    """Log the exception being handled, with its traceback, and return what the caller is told instead."""
    LOG.exception("a fault in %s", method)
    return status.internal_error()
