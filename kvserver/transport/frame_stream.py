"""A stream of frames over gRPC: one task reads and carries out, one writes answers, and how it ends.

    gRPC ── read ── session.handle ──► answers that may not be told yet ──► ready ── write ── gRPC
              ▲                                                                         │
              └──────────────── room for so many frames and bytes ◄─────────────────────┘

A frame takes up room from when it was read until its answer was written. Without room nothing is read, so a client that
does not take its answers, or sends faster than the disk, is slowed by the transport's own flow control.

The end, whatever its reason, comes in this order: read no more, answer every frame that was carried out, then the status.
A client that is told NOT_SERVING therefore knows that a frame without an answer was not carried out. Only a client that
hangs up gets no answers; what it sent stays in effect.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from functools import partial
from typing import Any, Protocol

import grpc

from kvserver.base.errors import KvError, NotServing
from kvserver.base.limits import MIB
from kvserver.service.methods import FrameMethod, Pending, Session
from kvserver.transport.context import GrpcContext, Serve
from kvserver.transport.errors import decode, fault, stream_call
from kvserver.transport.rpc_metrics import MethodStats

MAX_FRAMES = 64
"""Frames of one stream that may be under way."""

MAX_BYTES = 8 * MIB
"""Bytes of requests of one stream that may be under way; one frame is always let in."""


class FrameStream:
    """One call. ``run`` is its whole life; ``drain`` asks it to end."""

    def __init__(self, method: FrameMethod, session: Session, context: Any, stats: MethodStats) -> None:
        self._name = f"{method.service}/{method.name}"
        self._request = method.request
        self._session = session
        self._context = context
        self._stats = stats
        self._loop = asyncio.get_running_loop()
        self._ready: deque[tuple[Pending, int]] = deque()
        self._frames = 0
        self._bytes = 0
        self._ending = False
        self._between_frames = False
        self._end: asyncio.Future[KvError | None] = self._loop.create_future()
        self._wake_reader: asyncio.Future[None] | None = None
        self._wake_writer: asyncio.Future[None] | None = None

    async def run(self) -> None:
        """Serve the stream until the client has ended it in order; raise the KvError to end it with where it has not."""
        reader = self._loop.create_task(self._read())
        writer = self._loop.create_task(self._write())
        writer.add_done_callback(self._on_writer_done)
        try:
            error = await self._end
            self._ending = True
            if self._between_frames:
                reader.cancel()
            await asyncio.wait((reader,))
            self._wake(self._wake_writer)
            await writer
            if error is not None:
                raise error
        finally:
            self._ending = True
            reader.cancel()
            writer.cancel()

    def drain(self) -> None:
        """Carry nothing out any more; answer what was carried out, then end with NOT_SERVING."""
        self._end_with(NotServing("the node is stopping; frames without an answer were not carried out"))

    def _end_with(self, error: KvError | None) -> None:
        if not self._end.done():
            self._end.set_result(error)

    def _on_writer_done(self, writer: asyncio.Task[None]) -> None:
        if not writer.cancelled() and writer.exception() is not None:
            self._end_with(None)  # ``run`` meets the exception itself when it awaits the writer

    # -- reading --------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Carry out frame by frame until the client's last one, or until ``run`` asks for the end."""
        read, stats = self._context.read, self._stats
        try:
            while not self._ending:
                self._between_frames = True
                while self._frames >= MAX_FRAMES or (self._frames and self._bytes >= MAX_BYTES):
                    self._wake_reader = self._loop.create_future()
                    await self._wake_reader
                raw = await read()
                self._between_frames = False
                if self._ending:  # it arrived in the same turn as the end; it was not carried out
                    return
                if raw is grpc.aio.EOF:
                    self._end_with(None)
                    return
                stats.received += 1
                pending = self._session.handle(decode(self._request, raw))
                if isinstance(pending, Awaitable):
                    pending = await pending
                self._frames += 1
                self._bytes += len(raw)
                pending.on_done(partial(self._on_ready, pending, len(raw)))
        except KvError as error:
            self._end_with(error)
        except grpc.aio.BaseError:  # the other side is gone; the cancellation is on its way
            self._end_with(None)
        except Exception:
            self._end_with(fault(self._name))

    # -- writing --------------------------------------------------------------------------------------------------

    def _on_ready(self, pending: Pending, size: int) -> None:
        self._ready.append((pending, size))
        self._wake(self._wake_writer)

    async def _write(self) -> None:
        """Write answers as they may be told, until the end was asked for and none is missing."""
        ready, write, stats = self._ready, self._context.write, self._stats
        while True:
            while ready:
                pending, size = ready.popleft()
                await write(pending.response().SerializeToString())
                stats.sent += 1
                self._frames -= 1
                self._bytes -= size
                self._wake(self._wake_reader)
            if self._ending and not self._frames:
                return
            self._wake_writer = self._loop.create_future()
            await self._wake_writer

    @staticmethod
    def _wake(waiter: asyncio.Future[None] | None) -> None:
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


class OpenStream(Protocol):
    """A stream that can be asked to end."""

    async def run(self) -> None:
        """Serve it to its end."""

    def drain(self) -> None:
        """End with NOT_SERVING, in order."""


class OpenStreams:
    """The streams that are open, so that they can be asked to end together."""

    def __init__(self) -> None:
        self._streams: set[OpenStream] = set()
        self._draining = False

    async def run(self, stream: OpenStream) -> None:
        """Serve a stream to its end; while the server drains it is asked to end at once."""
        self._streams.add(stream)
        try:
            if self._draining:
                stream.drain()
            await stream.run()
        finally:
            self._streams.discard(stream)

    def drain(self) -> None:
        """Ask all streams to end, those that begin from now on too."""
        self._draining = True
        for stream in list(self._streams):
            stream.drain()


def serve_frames(method: FrameMethod, stats: MethodStats, streams: OpenStreams) -> Serve:
    """Return the coroutine function that grpc.aio calls for a method of frames; ``streams`` is told of each of them."""
    name = f"{method.service}/{method.name}"

    async def serve(_: Any, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        async with stream_call(context, name, stats):
            await streams.run(FrameStream(method, method.session(GrpcContext(context)), context, stats))

    return serve
