"""A stream of requests and a stream of answers that go their own ways, over gRPC.

    gRPC ── read ──► requests ──► handler ──► answers ── write ── gRPC

Nothing is queued here. The handler's next answer is asked for when the transport took the one before, and the next request is
read when the handler asks for it; so each side is slowed by the other through the transport's own flow control.

One task, the pump, takes answers and writes them. A drain may only interrupt it while it waits for the handler: an answer that
is being written goes out whole before the call ends with NOT_SERVING. A client that hangs up cancels the call's coroutine, and
with it the pump and the handler; what gRPC says of a connection that is gone, to a read or a write, counts as that.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf.message import Message

from kvserver.base.errors import NotServing
from kvserver.service.methods import DuplexMethod
from kvserver.transport.context import GrpcContext, Serve
from kvserver.transport.errors import decode, stream_call
from kvserver.transport.frame_stream import OpenStreams
from kvserver.transport.rpc_metrics import MethodStats


class DuplexStream:
    """One call. ``run`` is its whole life; ``drain`` asks it to end."""

    def __init__(self, method: DuplexMethod, context: Any, stats: MethodStats) -> None:
        self._method = method
        self._context = context
        self._stats = stats
        self._pump: asyncio.Task[None] | None = None
        self._draining = False
        self._waiting = False
        """The pump waits for the handler, and nothing is half-written."""

    async def run(self) -> None:
        """Serve the stream until the handler ends it; raise the KvError to end it with."""
        if self._draining:
            raise _draining()
        self._pump = asyncio.get_running_loop().create_task(self._write())
        try:
            await asyncio.wait((self._pump,))
        finally:
            if not self._pump.done():  # the client hung up
                self._pump.cancel()
                await asyncio.gather(self._pump, return_exceptions=True)  # whatever it ends with, nobody hears it
        if self._draining and self._pump.cancelled():
            raise _draining()
        self._pump.result()

    def drain(self) -> None:
        """Take no more of the handler's answers, and end with NOT_SERVING."""
        self._draining = True
        if self._pump is not None and self._waiting:
            self._pump.cancel()

    async def _write(self) -> None:
        """Write the handler's answers as it gives them."""
        context, stats = self._context, self._stats
        async with aclosing(self._method.handler(self._requests(), GrpcContext(context))) as answers:
            while True:
                self._waiting = True
                try:
                    answer: Message = await anext(answers)
                except StopAsyncIteration:
                    return
                finally:
                    self._waiting = False
                if self._draining:
                    raise _draining()
                await context.write(answer.SerializeToString())
                stats.sent += 1
                if self._draining:
                    raise _draining()

    async def _requests(self) -> AsyncIterator[Message]:
        """Yield the requests, until the client's last one or until it is gone. Raises InvalidRequest for what is no message."""
        with contextlib.suppress(grpc.aio.BaseError):  # the other side is gone; the cancellation is on its way
            while (raw := await self._context.read()) is not grpc.aio.EOF:
                self._stats.received += 1
                yield decode(self._method.request, raw)


def _draining() -> NotServing:
    return NotServing("the node is stopping, or changing its part")


def serve_duplex(method: DuplexMethod, stats: MethodStats, streams: OpenStreams) -> Serve:
    """Return the coroutine function that grpc.aio calls for a duplex method; ``streams`` is told of each call."""
    name = f"{method.service}/{method.name}"

    async def serve(_: Any, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        async with stream_call(context, name, stats):
            await streams.run(DuplexStream(method, context, stats))

    return serve
