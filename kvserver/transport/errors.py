"""How a call over gRPC ends with an error: the status for everybody, the details for who knows kvserver."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError, Message

from kvserver.base.errors import Code, InvalidRequest, KvError
from kvserver.service import status
from kvserver.service.status import Canonical
from kvserver.transport.rpc_metrics import MethodStats

LOG = logging.getLogger("kvserver.transport")

_GRPC_STATUS = {code.value[0]: code for code in grpc.StatusCode}


async def end_with(context: Any, error: KvError) -> NoReturn:
    """End the call with an error. Always raises: gRPC's own AbortError, or CancelledError where nobody listens any more."""
    try:
        await context.abort(
            _GRPC_STATUS[status.canonical(error)], status.message(error), ((status.DETAILS_KEY, status.details(error)),)
        )
    except grpc.aio.AbortError:
        raise
    except grpc.aio.BaseError as gone:
        raise asyncio.CancelledError from gone
    raise AssertionError("abort returned")


@contextlib.asynccontextmanager
async def stream_call(context: Any, name: str, stats: MethodStats) -> AsyncIterator[None]:
    """Count a call that streams, and end it with whatever error the block raises.

    A write that fails because the other side is gone raises an error of gRPC's own, often before the cancellation arrives;
    both count as cancelled.
    """
    now = asyncio.get_running_loop().time
    began = now()
    stats.started += 1
    code = Canonical.OK
    try:
        yield
    except KvError as error:
        code = status.canonical(error)
        await end_with(context, error)
    except (asyncio.CancelledError, grpc.aio.BaseError) as gone:
        code = Canonical.CANCELLED
        raise asyncio.CancelledError from gone
    except Exception:
        code = Canonical.INTERNAL
        await end_with(context, fault(name))
    finally:
        stats.end(code, now() - began)


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
