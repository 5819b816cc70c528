"""The transport over grpc.aio: a server made of the services' tables of methods."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc

from kvserver.base.errors import OpenRefused
from kvserver.base.limits import MAX_MESSAGE_BYTES, MAX_METADATA_BYTES
from kvserver.service.methods import FrameMethod, Method, ScanMethod, UnaryMethod
from kvserver.transport.context import Serve
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
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
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

    def __init__(self, methods: Sequence[Method], health_names: tuple[str, ...]) -> None:
        self.stats: list[MethodStats] = []
        self.health = Health(health_names)
        self._streams = OpenStreams()
        self._server = grpc.aio.server(options=OPTIONS, maximum_concurrent_rpcs=MAX_CONCURRENT_CALLS)
        reflection = Reflection({*(method.service for method in methods), HEALTH_SERVICE})
        self._server.add_generic_rpc_handlers((*self._handlers(methods), self.health.handlers(), *reflection.handlers()))

    def _handlers(self, methods: Sequence[Method]) -> list[grpc.GenericRpcHandler]:
        services: dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = {}
        for method in methods:
            services.setdefault(method.service, {})[method.name] = self._handler(method)
        return [grpc.method_handlers_generic_handler(name, handlers) for name, handlers in services.items()]

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

    def _count(self, method: Method, kind: str) -> MethodStats:
        stats = MethodStats(method.service, method.name, kind)
        self.stats.append(stats)
        return stats

    async def start(self, host: str, port: int) -> int:
        """Listen and serve; return the port, which gRPC chooses where 0 was asked for. Raises OpenRefused."""
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise cannot_listen(address, "the address is in use, or not one of this machine", "--listen") from error
        await self._server.start()
        self.health.set_serving(True)
        return bound

    async def ended(self) -> None:
        """Wait until the server has ended, whether it was stopped or broke down."""
        await self._server.wait_for_termination()

    async def stop(self, grace_s: float) -> None:
        """End: say so, take no new calls, answer what is under way, cut off what takes longer than the grace, in seconds."""
        self.health.end()
        self._streams.drain()
        stopping = asyncio.ensure_future(self._server.stop(grace_s))
        while self._calls_under_way() and not stopping.done():
            await asyncio.wait((stopping,), timeout=POLL_S)
        await asyncio.wait((stopping,), timeout=SETTLE_S)
        if not stopping.done():
            # Only idle connections are left. Some clients look at theirs every five seconds only (the blocking ones of
            # Python, for instance) and would use up the grace by not noticing the farewell.
            await self._server.stop(None)
        await stopping

    def _calls_under_way(self) -> int:
        return sum(stats.started - sum(stats.handled.values()) for stats in self.stats)


def cannot_listen(address: str, reason: str, flag: str) -> OpenRefused:
    """Return the error of an address that cannot be listened on."""
    return OpenRefused(
        f"cannot listen on {address}: {reason}",
        f"stop what uses it (see: ss -ltnp), or name another address with {flag} HOST:PORT; port 0 picks a free one",
    )
