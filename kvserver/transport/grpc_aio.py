"""The transport over grpc.aio: a server made of the services' tables of methods.

What is served can change while it serves: a node that changes its part gets another table (``serve``). Calls under way
go on against the old one, streams are asked to end, and new calls meet the new one. A method that is of the contract and
not in the table is answered NOT_SERVING, because it will be there in a moment, or is on another node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import grpc

from kvserver.base.errors import NotServing, OpenRefused
from kvserver.base.limits import MAX_MESSAGE_BYTES, MAX_METADATA_BYTES
from kvserver.service.methods import DuplexMethod, FrameMethod, Method, ScanMethod, UnaryMethod
from kvserver.service.replication_convert import MAX_CHUNK_MESSAGE_BYTES
from kvserver.transport.context import Serve
from kvserver.transport.duplex import serve_duplex
from kvserver.transport.errors import end_with
from kvserver.transport.frame_stream import OpenStreams, serve_frames
from kvserver.transport.health import SERVICE as HEALTH_SERVICE
from kvserver.transport.health import Health
from kvserver.transport.reflection import Reflection
from kvserver.transport.rpc_metrics import BIDI_STREAM, SERVER_STREAM, UNARY, MethodStats
from kvserver.transport.unary import serve_scan, serve_unary

MAX_CONCURRENT_CALLS = 20_000
"""Calls of all connections that may be under way; as many as may stand in the pipeline's line."""

SETTLE_S = 0.25
"""How long the last answers get to leave before the connections that are left are closed."""

POLL_S = 0.01

OPTIONS: tuple[tuple[str, int], ...] = (
    # A second server on the port must fail, not share its connections.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # What clients are sent is bounded where it is made; a chunk of the log holds at least one whole frame.
    ("grpc.max_send_message_length", max(MAX_MESSAGE_BYTES, MAX_CHUNK_MESSAGE_BYTES)),
    # No compression: gRPC unpacks a message before it looks at its size, so 4 MiB could be made to fill gigabytes.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", 2 * MAX_METADATA_BYTES),
    ("grpc.max_concurrent_streams", 4096),
    ("grpc.server_handshake_timeout_ms", 10_000),
    # A peer that is gone is noticed within 40 s; clients may ping every 10 s, also between calls.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 2),
)


class GrpcServer:
    """Serves methods on one address. Belongs to the event loop that made it."""

    def __init__(self, methods: Sequence[Method], health_names: tuple[str, ...], names: Sequence[str] = ()) -> None:
        """Serve a table of methods. ``names``: all services that any table may hold, besides those of ``methods``."""
        self.health = Health(health_names)
        self._stats: dict[tuple[str, str], MethodStats] = {}
        self._between_nodes_stats: dict[tuple[str, str], MethodStats] = {}
        self._table = _Table({*names, *(method.service for method in methods)})
        self._streams = OpenStreams()
        self._between_nodes = OpenStreams()
        """Streams that other nodes keep open: at the end they go on until all others are answered, who may depend on them."""
        self._server = grpc.aio.server(options=OPTIONS, maximum_concurrent_rpcs=MAX_CONCURRENT_CALLS)
        reflection = Reflection({*self._table.services, HEALTH_SERVICE})
        self._server.add_generic_rpc_handlers((self._table, self.health.handlers(), *reflection.handlers()))
        self.serve(methods)

    @property
    def stats(self) -> list[MethodStats]:
        """Return what is counted of every method that was ever served."""
        return list(self._stats.values())

    def serve(self, methods: Sequence[Method]) -> None:
        """Serve this table from now on. Streams that were begun on another one are asked to end."""
        old = self._streams, self._between_nodes
        self._streams, self._between_nodes = OpenStreams(), OpenStreams()
        self._table.handlers = {f"/{method.service}/{method.name}": self._handler(method) for method in methods}
        for streams in old:
            streams.drain()

    def _handler(self, method: Method) -> grpc.RpcMethodHandler[Any, Any]:
        match method:
            case UnaryMethod():
                serve: Serve = serve_unary(method, self._count(method, UNARY))
                return grpc.unary_unary_rpc_method_handler(serve)
            case ScanMethod():
                serve = serve_scan(method, self._count(method, SERVER_STREAM))
                return grpc.unary_stream_rpc_method_handler(serve)
            case FrameMethod():
                serve = serve_frames(method, self._count(method, BIDI_STREAM), self._streams)
                return grpc.stream_stream_rpc_method_handler(serve)
            case DuplexMethod():
                serve = serve_duplex(method, self._count_duplex(method), self._between_nodes)
                return grpc.stream_stream_rpc_method_handler(serve)

    def _count(self, method: Method, kind: str) -> MethodStats:
        return self._stats.setdefault((method.service, method.name), MethodStats(method.service, method.name, kind))

    def _count_duplex(self, method: DuplexMethod) -> MethodStats:
        stats = self._count(method, BIDI_STREAM)
        self._between_nodes_stats[method.service, method.name] = stats
        return stats

    async def start(self, host: str, port: int) -> int:
        """Listen and serve; return the port, which gRPC chooses where 0 was asked for. Raises OpenRefused."""
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise cannot_listen(address, "the address is in use, or not one of this machine", "--listen") from error
        await self._server.start()
        self.health.set_serving(bool(self._table.handlers))
        return bound

    async def ended(self) -> None:
        """Wait until the server has ended, whether it was stopped or broke down."""
        await self._server.wait_for_termination()

    async def stop(self, grace_s: float) -> None:
        """End: say so, take no new calls, answer what is under way, cut off what takes longer than the grace, in seconds."""
        self.health.end()
        self._streams.drain()
        stopping = asyncio.ensure_future(self._server.stop(grace_s))
        while self._calls_under_way() > _under_way(self._between_nodes_stats) and not stopping.done():
            await asyncio.wait((stopping,), timeout=POLL_S)
        self._between_nodes.drain()
        while self._calls_under_way() and not stopping.done():
            await asyncio.wait((stopping,), timeout=POLL_S)
        await asyncio.wait((stopping,), timeout=SETTLE_S)
        if not stopping.done():
            # Only idle connections are left. Some clients look at theirs every five seconds only (the blocking ones of
            # Python, for instance) and would use up the grace by not noticing the farewell.
            await self._server.stop(None)
        await stopping

    def _calls_under_way(self) -> int:
        return _under_way(self._stats)


def _under_way(stats: Mapping[tuple[str, str], MethodStats]) -> int:
    """Return how many calls of these methods were begun and have not ended."""
    return sum(one.started - sum(one.handled.values()) for one in stats.values())


class _Table(grpc.GenericRpcHandler):
    """Finds the handler of a call in a table that can be replaced."""

    def __init__(self, services: set[str]) -> None:
        self.services = services
        self.handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._absent: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(_refuse)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return what serves a call; None where nothing ever does, which gRPC answers UNIMPLEMENTED."""
        method = details.method
        handler = self.handlers.get(method)
        if handler is None and self._may_come(method):
            return self._absent
        return handler

    def _may_come(self, method: str) -> bool:
        """Say whether a service that is not in the table now has this method."""
        service = method[1:].partition("/")[0]
        return service in self.services and not any(known.startswith(f"/{service}/") for known in self.handlers)


async def _refuse(_: Any, context: Any) -> None:
    """Answer a call that nobody serves now, before any of its messages is read."""
    await end_with(context, NotServing("the node is starting, or changing its part; nothing was carried out"))


def cannot_listen(address: str, reason: str, flag: str) -> OpenRefused:
    """Return the error of an address that cannot be listened on."""
    return OpenRefused(
        f"cannot listen on {address}: {reason}",
        f"stop what uses it (see: ss -ltnp), or name another address with {flag} HOST:PORT; port 0 picks a free one",
    )
