"""Calls with one request: what lies between gRPC's coroutine and a handler that may answer at once.

Requests are decoded and answers encoded here and not by gRPC, so that bytes which are no message get an error with a code
like everything else.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf.message import Message

from kvserver.base.errors import KvError
from kvserver.commit.ticket import Ticket
from kvserver.service.context import deadline_passed, not_written
from kvserver.service.methods import ScanMethod, UnaryMethod
from kvserver.service.status import Canonical, canonical
from kvserver.transport.context import GrpcContext, Serve
from kvserver.transport.errors import decode, end_with, fault, stream_call
from kvserver.transport.rpc_metrics import MethodStats

ANSWER_MARGIN_S = 0.05
"""A write that still stands in line so long before its deadline is given up, so that its caller hears NOT_WRITTEN in time."""

ANSWER_MARGIN_SHARE = 0.1
"""With short deadlines the margin is this share of what remains."""


def serve_unary(method: UnaryMethod, stats: MethodStats) -> Serve:
    """Return the coroutine function that grpc.aio calls for a method with one answer."""
    handler, request_type, writes = method.handler, method.request, method.writes
    name = f"{method.service}/{method.name}"
    ok = int(Canonical.OK)

    async def serve(raw: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        now = asyncio.get_running_loop().time
        began = now()
        stats.started += 1
        stats.received += 1
        code = ok
        try:
            if context.time_remaining() == 0:
                raise not_written() if writes else deadline_passed()
            outcome = handler(decode(request_type, raw), GrpcContext(context))
            if not isinstance(outcome, Ticket | Message):
                outcome = await outcome
            if isinstance(outcome, Ticket):
                # What does not stand in line was carried out: nothing is left to give up, and awaiting it is enough.
                outcome = await (_await_in_line(outcome, context) if outcome.waiting else outcome)
            stats.sent += 1
            return outcome.SerializeToString()
        except KvError as error:
            code = canonical(error)
            await end_with(context, error)
        except asyncio.CancelledError:
            code = Canonical.CANCELLED
            raise
        except Exception:
            code = Canonical.INTERNAL
            await end_with(context, fault(name))
        finally:
            stats.end(code, now() - began)

    return serve


async def _await_in_line(ticket: Ticket[Any], context: Any) -> Any:
    """Return the ticket's answer. What still stands in line when the caller's time is nearly over, or when it hangs up, is
    given up: nothing of it was carried out."""
    timer = None
    remaining = context.time_remaining()
    if remaining is not None:
        margin = min(ANSWER_MARGIN_S, remaining * ANSWER_MARGIN_SHARE)
        timer = asyncio.get_running_loop().call_later(remaining - margin, ticket.give_up)
    try:
        return await ticket
    except asyncio.CancelledError:
        ticket.give_up()
        raise
    finally:
        if timer is not None:
            timer.cancel()


def serve_scan(method: ScanMethod, stats: MethodStats) -> Serve:
    """Return the coroutine function that grpc.aio calls for a method with a stream of answers.

    Each answer waits until the transport took the one before: a slow reader slows the scan, and nothing piles up.
    """
    name = f"{method.service}/{method.name}"

    async def serve(raw: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        async with stream_call(context, name, stats):
            stats.received += 1
            if context.time_remaining() == 0:
                raise deadline_passed()
            async with aclosing(method.handler(decode(method.request, raw), GrpcContext(context))) as answers:
                async for answer in answers:
                    await context.write(answer.SerializeToString())
                    stats.sent += 1

    return serve
