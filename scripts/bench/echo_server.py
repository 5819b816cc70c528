"""A grpc.aio server whose one method returns nothing at once: the floor under every unary call."""

from __future__ import annotations

import asyncio
import signal

import grpc


async def _answer(request: bytes, context: object) -> bytes:
    return b""


async def _serve() -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handler = grpc.unary_unary_rpc_method_handler(_answer)  # no (de)serializers: bytes in, bytes out
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("kvproto.v1.KV", {"Put": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"ready listen=127.0.0.1:{port}", flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await server.stop(0)


asyncio.run(_serve())
