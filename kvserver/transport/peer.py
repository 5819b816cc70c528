"""Another node, spoken to over grpc.aio.

What goes wrong is one of two things: the other node said so, by its stable code in the status's details; or nobody said
anything, and then the node could not be reached, whatever status gRPC made of that: NotServing.

Traps of the library that this module keeps from its callers:

- A read that is cancelled cancels the whole call. Whoever waits for an envelope with a timeout gives the call up with it.
- A call that is cancelled from here, or whose channel is closed, makes its reader raise CancelledError, as if the reader's own
  task had been cancelled. It is told apart by asking the task, and becomes NotServing.
- A write to a call that has ended raises InvalidStateError; why it ended is in its status. A write that fails because the call
  is just ending sets a status of its own ("Internal error from Core"), which the true one replaces when all that came before it
  was read.
- A call that nobody refers to is not ended, and a channel that is closed ends only calls on which some task waits at that
  moment. So every call is cancelled when its reader is done with it, or its peer is closed.
- An attempt to connect may take as long as the kernel likes; it is given ``CONNECT_S``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from kvproto.v1 import replication_pb2 as pb
from kvserver.base.errors import (
    Code,
    DeadlinePassed,
    InvalidRequest,
    KvError,
    NotPrimary,
    NotServing,
    OutcomeUnknown,
    Refused,
    ReplicationError,
    RevisionError,
)
from kvserver.base.limits import KIB, MAX_MESSAGE_BYTES
from kvserver.base.types import Epoch
from kvserver.replication.messages import Accepted, Ack, CheckpointPart, Description, Envelope, Hello, NodeIdentity, Promised
from kvserver.replication.peer import FollowCall, Peers
from kvserver.replication.tail_compression import NONE, ChunkDecompressor
from kvserver.service import replication_convert as convert
from kvserver.service.replication import NAME
from kvserver.service.replication_values import to_identity
from kvserver.service.status import DETAILS_KEY, DOMAIN

CONNECT_S = 5.0
"""How long it may take until a call has reached the other node."""

SETTLE_S = 0.5
SETTLE_TURNS = 50
"""How long the true status of a call that is ending is waited for, and in how many looks."""

_PROVISIONAL = "Internal error from Core"

INLINE_BYTES = 64 * KIB
"""So much is decompressed on the loop."""

OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", convert.MAX_CHUNK_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.compression_enabled_algorithms_bitset", 1),
    # A peer that is gone is noticed within 20 s; servers let clients ping every 10 s.
    ("grpc.keepalive_time_ms", 15_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # A follower decides itself whether to try again, and when.
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A pause after a failed attempt belongs to this channel, not to all of the process.
    ("grpc.use_local_subchannel_pool", 1),
    # What the environment says about proxies is about the web.
    ("grpc.enable_http_proxy", 0),
)

_CLASS_OF: dict[Code, type[KvError]] = {
    **dict.fromkeys((Code.FUTURE_REVISION, Code.COMPACTED, Code.HISTORY_LOST, Code.STALE), RevisionError),
    **dict.fromkeys((Code.NOT_WRITTEN, Code.OVERLOADED, Code.DISK_FULL, Code.MEMORY_FULL, Code.DISK_UNAVAILABLE), Refused),
    **dict.fromkeys((Code.TABLES_FAILED, Code.ARCHIVE_UNAVAILABLE, Code.ARCHIVE_BEHIND, Code.ARCHIVE_FENCED), Refused),
    **dict.fromkeys((Code.WRONG_PEER, Code.FENCED, Code.REGISTER_UNAVAILABLE), ReplicationError),
    **dict.fromkeys((Code.PROMOTION_REFUSED, Code.POLICY_UNMET), ReplicationError),
}
"""The class of each code whose class takes code, message and hint; those not here and not below ``FIRST_STATE`` are KvError."""

_FIRST_STATE = Code.CONDITION_FAILED
"""Codes below it are about the request."""

Result = TypeVar("Result")


class GrpcPeer:
    """One node. Belongs to the event loop on which it is first asked something."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel: Any = None
        self._closed = False
        self.calls: set[_Call] = set()
        """Those that are open."""

    async def describe(self, timeout_s: float) -> Description:
        """Ask who it is and how far."""
        answer = await self._ask("Describe", pb.DescribeRequest(), pb.DescribeResponse, timeout_s)
        return _understood(self.address, lambda: convert.from_description(answer))

    async def promise(self, epoch: Epoch, candidate: NodeIdentity, timeout_s: float) -> Promised:
        """Ask it to refuse lower epochs."""
        answer = await self._ask("Promise", convert.to_promise_request(epoch, candidate), pb.PromiseResponse, timeout_s)
        return _understood(self.address, lambda: convert.from_promised(answer))

    async def follow(self, hello: Hello) -> FollowCall:
        """Begin to be shipped its log; the first envelope says whether, or why not."""
        call = _Call(self, self._open().stream_stream(_path("Follow"))())
        await call.connected(call.write(convert.to_hello(hello)))
        return _Following(call)

    async def fetch_checkpoint(self, identity: NodeIdentity) -> AsyncGenerator[CheckpointPart, None]:
        """Fetch a copy of the store."""
        request = pb.FetchCheckpointRequest(identity=to_identity(identity))
        call = _Call(self, self._open().unary_stream(_path("FetchCheckpoint"))(request.SerializeToString()))
        try:
            await call.connected(call.wait_for_connection())
            while (raw := await call.read()) is not None:
                yield _part(self.address, raw)
        finally:
            call.cancel()

    async def close(self) -> None:
        """Let go of the connection. Twice does no harm."""
        self._closed = True
        for call in list(self.calls):
            call.cancel()
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    @property
    def closed(self) -> bool:
        """Say whether ``close`` was called."""
        return self._closed

    def _open(self) -> Any:
        if self._closed:
            raise NotServing(f"the connection to {self.address} was closed")
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(f"dns:///{self.address}", options=OPTIONS)
        return self._channel

    async def _ask(self, name: str, request: Message, answer: type[Any], timeout_s: float) -> Any:
        call = _Call(self, self._open().unary_unary(_path(name))(request.SerializeToString(), timeout=timeout_s))
        try:
            return _decode(answer, await call.result(), self.address)
        finally:
            call.cancel()


class _Call:
    """One call of grpc.aio, with errors as this software names them."""

    def __init__(self, peer: GrpcPeer, call: Any) -> None:
        self._peer = peer
        self._call = call
        self._cancelled = False
        self._answers: Any = None
        peer.calls.add(self)

    @property
    def address(self) -> str:
        return self._peer.address

    def cancel(self) -> None:
        self._cancelled = True
        self._peer.calls.discard(self)
        self._call.cancel()

    async def connected(self, doing: Awaitable[None]) -> None:
        """Wait for what cannot be done before there is a connection, but not for long; else the call is given up."""
        try:
            async with asyncio.timeout(CONNECT_S):
                await doing
        except TimeoutError as error:
            self.cancel()
            raise NotServing(f"no connection to {self.address} within {CONNECT_S:g} s") from error
        except BaseException:
            self.cancel()
            raise

    async def write(self, message: Message) -> None:
        await self._do(self._call.write(message.SerializeToString()))

    async def wait_for_connection(self) -> None:
        await self._do(self._call.wait_for_connection())

    async def read(self) -> bytes | None:
        """Return the next answer; None where the call has ended in order.

        Not by the library's ``read``, which drops the answers that are left once a write has failed.
        """
        if self._answers is None:
            self._answers = aiter(self._call)

        async def take() -> bytes | None:
            found: bytes | None = await anext(self._answers, None)
            return found

        return await self._do(take())

    async def result(self) -> bytes:
        async def take() -> bytes:
            return bytes(await self._call)

        return await self._do(take())

    async def _do(self, doing: Awaitable[Result]) -> Result:
        try:
            return await doing
        except grpc.aio.AioRpcError as error:
            if error.details() != _PROVISIONAL:
                raise error_of(error, self.address) from error
            await self._raise_why()
        except asyncio.InvalidStateError:
            await self._raise_why()
        except grpc.aio.UsageError as error:
            raise NotServing(f"the connection to {self.address} was closed") from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if (self._cancelled or self._peer.closed) and (task is None or not task.cancelling()):
                raise NotServing(f"the call to {self.address} was given up here") from None
            raise

    async def _raise_why(self) -> NoReturn:
        """Raise why the call has ended."""
        details = await self._call.details()
        for _ in range(SETTLE_TURNS):
            if details != _PROVISIONAL:
                break
            await asyncio.sleep(SETTLE_S / SETTLE_TURNS)
            details = await self._call.details()
        failure = grpc.aio.AioRpcError(
            await self._call.code(), await self._call.initial_metadata(), await self._call.trailing_metadata(), details=details
        )
        raise error_of(failure, self.address)


class _Following:
    """A log that is being shipped here; see ``FollowCall``."""

    def __init__(self, call: _Call) -> None:
        self._call = call
        self._writing = asyncio.Lock()
        self._envelopes = self._read()

    def __aiter__(self) -> AsyncIterator[Envelope]:
        """Yield what the other node sends. Always the same iterator."""
        return self._envelopes

    async def ack(self, ack: Ack) -> None:
        """Say how far this node is. Two at once are written one after the other."""
        async with self._writing:
            await self._call.write(convert.to_ack(ack))

    async def close(self) -> None:
        """Hang up. Twice does no harm."""
        self._call.cancel()

    async def _read(self) -> AsyncGenerator[Envelope, None]:
        decompressor = ChunkDecompressor(NONE)
        try:
            while (raw := await self._call.read()) is not None:
                message = _decode(pb.FollowResponse, raw, self._call.address)
                convert_it = partial(_understood, self._call.address, partial(convert.from_envelope, message, decompressor))
                if message.chunk.raw_length > INLINE_BYTES:
                    envelope: Envelope = await asyncio.to_thread(convert_it)
                else:
                    envelope = convert_it()
                if isinstance(envelope.body, Accepted):
                    decompressor = ChunkDecompressor(envelope.body.compression)
                yield envelope
        finally:
            self._call.cancel()


def peers(address: str) -> GrpcPeer:
    """Return the node at an address, HOST:PORT; it is connected to when it is first asked something."""
    return GrpcPeer(address)


_IS_A_FACTORY: Peers = peers


def error_of(failure: grpc.aio.AioRpcError, address: str) -> KvError:
    """Return the error that a failed call stands for: what the other node said, else that it could not be reached."""
    info, message = _word(failure)
    if info is not None:
        code = Code.__members__.get(info.reason, Code.INTERNAL)
        error = _made(code, f"{address}: {message}", info)
        error.details.update({name: value for name, value in info.metadata.items() if name != "hint"})
        return error
    status, text = failure.code(), failure.details() or ""
    if status is grpc.StatusCode.UNIMPLEMENTED:
        hint = "is it a kvserver, and not an older one? see its version with: kvctl status"
        return ReplicationError(Code.WRONG_PEER, f"{address} does not know how nodes speak to each other: {text}", hint)
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        return NotServing(f"{address} did not answer in time")
    cause = text.rpartition("last error: ")[2].removeprefix("UNKNOWN: ").rpartition(": ")[2] or status.name
    return NotServing(f"{address} cannot be reached: {cause}")


def _made(code: Code, message: str, info: error_details_pb2.ErrorInfo) -> KvError:
    hint = info.metadata.get("hint", "")
    if code in (Code.NOT_SERVING, Code.LOG_FAILED):
        return NotServing(message, code)
    if code is Code.NOT_PRIMARY:
        return NotPrimary(info.metadata.get("primary", ""))
    if code is Code.DEADLINE:
        return DeadlinePassed(message)
    if code is Code.OUTCOME_UNKNOWN:
        return OutcomeUnknown(message)
    kind = InvalidRequest if code < _FIRST_STATE else _CLASS_OF.get(code, KvError)
    return kind(code, message, hint)


def _word(failure: grpc.aio.AioRpcError) -> tuple[error_details_pb2.ErrorInfo | None, str]:
    """Return what the other node itself said of an error, and in which words; None where nobody did."""
    for key, blob in failure.trailing_metadata() or ():
        if key != DETAILS_KEY or not isinstance(blob, bytes):
            continue
        try:
            status = status_pb2.Status.FromString(blob)
            for detail in status.details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info) and info.domain == DOMAIN and info.reason:
                    return info, status.message
        except DecodeError:
            break
    return None, ""


def _path(name: str) -> str:
    return f"/{NAME}/{name}"


def _decode(kind: type[Any], raw: bytes, address: str) -> Any:
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        raise _not_understood(address, error) from error


def _part(address: str, raw: bytes) -> CheckpointPart:
    message = _decode(pb.FetchCheckpointResponse, raw, address)
    return _understood(address, lambda: convert.from_part(message))


def _understood(address: str, conversion: Callable[[], Result]) -> Result:
    """Return what an answer means. Raises ReplicationError (WRONG_PEER) where it means nothing."""
    try:
        return conversion()
    except InvalidRequest as error:
        raise _not_understood(address, error) from error


def _not_understood(address: str, error: Exception) -> ReplicationError:
    return ReplicationError(
        Code.WRONG_PEER, f"{address} sends what no node of this version says: {error}", "run the same version on all nodes"
    )
