"""HTTP for probes and metrics: ``/livez``, ``/readyz`` (``?verbose``), ``/metrics``. GET only, no state, nothing to configure.

It runs on threads of its own, from the standard library: a scrape cannot hold the event loop, and a probe can tell that the
loop hangs. Each connection serves one request, has a few seconds in all for it, and there are not many at once, so nobody
can hold the process by sending slowly.
"""

from __future__ import annotations

import contextlib
import http.server
import logging
import socket
import socketserver
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kvserver.base.clock import Clock
from kvserver.base.errors import OpenRefused
from kvserver.server.probes import Check, Probes

LOG = logging.getLogger("kvserver.http")

CONNECTION_S = 10.0
"""What a connection has for everything, in seconds."""

MAX_CONNECTIONS = 32

TEXT = "text/plain; charset=utf-8"

Scrape = Callable[[str], tuple[bytes, str]]
"""From the request's Accept header to the metrics and their content type."""


class HttpServer:
    """Serves on an address from ``__init__`` on, until ``stop``."""

    def __init__(self, host: str, port: int, probes: Probes, scrape: Scrape, clock: Clock) -> None:
        """Listen. Raises OpenRefused."""
        try:
            self._server = _Server((host, port), probes, scrape, clock)
        except OSError as error:
            raise OpenRefused(
                f"cannot listen on {host}:{port}: {error.strerror or error}",
                "stop what uses it (see: ss -ltnp), or name another address with --http HOST:PORT, or none: --http off",
            ) from error
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="http", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take no more connections and let go of the port."""
        self._server.shutdown()
        self._server.server_close()


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """A thread a connection, a bounded number of them, each cut off when its time is over."""

    allow_reuse_address = True
    request_queue_size = MAX_CONNECTIONS
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], probes: Probes, scrape: Scrape, clock: Clock) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.probes = probes
        self.scrape = scrape
        self._clock = clock
        self._begun: dict[Any, float] = {}
        super().__init__(address, _Handler)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Say whether there is room for one more connection."""
        return len(self._begun) < MAX_CONNECTIONS

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection on a thread of its own, and note when it began."""
        self._begun[request] = self._clock.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection and forget it."""
        self._begun.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Cut off connections whose time is over; called twice a second by ``serve_forever``."""
        now = self._clock.monotonic()
        for request, begun in list(self._begun.items()):
            if now - begun > CONNECTION_S:
                with contextlib.suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what went wrong with a connection; most often the other side hung up."""
        LOG.debug("a connection from %s broke", client_address, exc_info=True)


class _Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    server: _Server
    protocol_version = "HTTP/1.0"
    timeout = CONNECTION_S

    def do_GET(self) -> None:
        """Answer a probe or a scrape."""
        target = urlsplit(self.path)
        probes = self.server.probes
        if target.path == "/livez":
            self._answer_checks(probes.live(), "verbose" in parse_qs(target.query, keep_blank_values=True))
        elif target.path == "/readyz":
            self._answer_checks(probes.ready(), "verbose" in parse_qs(target.query, keep_blank_values=True))
        elif target.path == "/metrics":
            body, content_type = self.server.scrape(self.headers.get("Accept", ""))
            self._answer(200, body, content_type)
        else:
            self._answer(404, b"there are /livez, /readyz and /metrics\n")

    def _refuse(self) -> None:
        self._answer(405, b"only GET is served\n", allow="GET")

    do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _refuse

    def _answer_checks(self, checks: list[Check], verbose: bool) -> None:
        passed = all(check.passed for check in checks)
        lines = [f"{'ok' if check.passed else 'FAILED'} {check.name}: {check.what}" for check in checks]
        shown = lines if verbose else [line for line, check in zip(lines, checks, strict=True) if not check.passed]
        self._answer(200 if passed else 503, "\n".join([*shown, "ok" if passed else "not ok", ""]).encode())

    def _answer(self, status: int, body: bytes, content_type: str = TEXT, allow: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        if allow:
            self.send_header("Allow", allow)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def version_string(self) -> str:
        """Return what the Server header says: not which Python this is."""
        return "kvserver"

    def log_message(self, format: str, *args: Any) -> None:
        """Log a request, where somebody wants to know that much."""
        LOG.debug("%s %s", self.address_string(), format % args)
