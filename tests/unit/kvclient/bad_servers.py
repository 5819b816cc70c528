"""Servers that no contract binds: one that answers whatever bytes the test wants, and a wire that is cut after so many bytes."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc

Answers = Callable[[Iterator[bytes]], Iterator[bytes]]
"""Makes the messages of a stream from those of the client."""


class RawServer:
    """Answers streams of frames with bytes, and other calls with the same bytes always, or not at all."""

    def __init__(self, answers: Answers, others: bytes | None = None) -> None:
        self.answers = answers
        self.others = others
        self._server = grpc.server(
            futures.ThreadPoolExecutor(8, thread_name_prefix="fake-raw"), options=[("grpc.so_reuseport", 0)]
        )
        self._server.add_generic_rpc_handlers((_Handlers(self),))
        self.endpoint = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> RawServer:
        self._server.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.stop(0).wait(10)


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, server: RawServer) -> None:
        self._server = server

    def service(self, call: grpc.HandlerCallDetails) -> Any:
        others = self._server.others
        if call.method.endswith("/Pipeline"):
            return grpc.stream_stream_rpc_method_handler(lambda requests, context: self._server.answers(requests))
        if others is None or not call.method.startswith("/kvproto."):
            return None
        if call.method.endswith("/Scan"):
            return grpc.unary_stream_rpc_method_handler(lambda request, context: iter([others]))
        return grpc.unary_unary_rpc_method_handler(lambda request, context: others)


class CutWire:
    """A way to a server that passes bytes on until ``cut_after`` of them went by, in one direction; then it is torn off."""

    def __init__(self, endpoint: str) -> None:
        host, _, port = endpoint.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._left: dict[str, int] = {}
        self.cuts = 0
        threading.Thread(target=self._accept, name="fake-wire", daemon=True).start()

    def __enter__(self) -> CutWire:
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.tear()

    def cut_after(self, count: int, direction: str) -> None:
        """Tear everything off when so many more bytes went ``up`` to the server or ``down`` from it."""
        with self._lock:
            self._left[direction] = count

    def tear(self) -> None:
        """Tear off the connections that there are; new ones are let through."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
            self._left.clear()
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target, 5)
                server.settimeout(None)
            except OSError:
                client.close()
                continue
            with self._lock:
                self._pairs.append((client, server))
            for source, sink, direction in ((client, server, "up"), (server, client, "down")):
                threading.Thread(target=self._pass_on, args=(source, sink, direction), name="fake-wire", daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, direction: str) -> None:
        try:
            while data := source.recv(65536):
                with self._lock:
                    left = self._left.get(direction)
                    if left is not None:
                        data = data[:left]
                        self._left[direction] = left - len(data)
                sink.sendall(data)
                if left is not None and left <= len(data):
                    self.cuts += 1
                    break
        except OSError:
            pass
        if source.fileno() != -1:
            self.tear()
