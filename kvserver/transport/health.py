"""The standard health service, grpc.health.v1, for names that are set by the composition root.

Written here rather than taken from grpc_health because a Watch must end when the server drains (one watcher would use up the
whole grace otherwise), and because the servicer of 1.78 forgets the second of two watchers of a name when the first leaves.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from kvserver.base.errors import KvError
from kvserver.transport.errors import decode, end_with

SERVICE = "grpc.health.v1.Health"

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

MAX_WATCHES = 256
"""Watches that may be open; more are refused."""


class Health:
    """Says which names are serving. Belongs to the event loop."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._serving = dict.fromkeys(names, False)
        self._changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watches = 0
        self._ended = False

    def set_serving(self, serving: bool) -> None:
        """Set all names; has no effect after ``end``."""
        if not self._ended:
            self._serving = dict.fromkeys(self._serving, serving)
            self._wake()

    def set_name(self, name: str, serving: bool) -> None:
        """Set one name; has no effect after ``end``."""
        if not self._ended:
            self._serving[name] = serving
            self._wake()

    def end(self) -> None:
        """Set all names to NOT_SERVING for good, tell those who watch, and end their calls."""
        self.set_serving(False)
        self._ended = True
        self._wake()

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return the service for grpc.aio."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Check": grpc.unary_unary_rpc_method_handler(self._check),
                "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
            },
        )

    async def _check(self, raw: bytes, context: Any) -> bytes:
        status = self._status(await _name(raw, context))
        if status == SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no service of this name is known here")
        return _response(status)

    async def _watch(self, raw: bytes, context: Any) -> None:
        name = await _name(raw, context)
        if self._watches >= MAX_WATCHES:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MAX_WATCHES} watches are open already")
        self._watches += 1
        try:
            told = None
            while True:
                changed, status = self._changed, self._status(name)
                if status != told:
                    await context.write(_response(status))
                    told = status
                elif self._ended:
                    return
                else:
                    await asyncio.shield(changed)
        finally:
            self._watches -= 1

    def _status(self, name: str) -> int:
        serving = self._serving.get(name)
        if serving is None:
            return int(SERVICE_UNKNOWN)
        return int(SERVING if serving else NOT_SERVING)

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.get_running_loop().create_future()
        changed.set_result(None)


async def _name(raw: bytes, context: Any) -> str:
    try:
        request: Any = decode(health_pb2.HealthCheckRequest, raw)
    except KvError as error:
        await end_with(context, error)
    return str(request.service)


def _response(status: int) -> bytes:
    serialized: bytes = health_pb2.HealthCheckResponse(status=status).SerializeToString()
    return serialized
