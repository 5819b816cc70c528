"""A server on a folder of its own that tests can kill and start again, and the view that one test has of a shared one."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import secrets
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from kvserver.testing.process import ServerFailed, ServerProcess

if TYPE_CHECKING:  # pytest loads this package in every run, also where nobody wants a server: gRPC comes when it is needed
    from kvclient import AsyncClient, Client, Retry, SessionToken

START_TIMEOUT_S = 30.0
"""How long a server may take until it serves."""

_MAX_LABEL = 200


class ClientOptions(TypedDict, total=False):
    """What can be said of a client beside address and namespace; see ``kvclient.Client``."""

    timeout_s: float
    wait_for_ready: bool
    session: SessionToken
    retry: Retry


@dataclasses.dataclass(frozen=True)
class Node:
    """A server as one test sees it: where it serves, and a namespace that nobody else uses."""

    address: str
    """``HOST:PORT``."""
    namespace: str
    """The test's own; empty at first, and dropped at the end."""

    def client(self, **options: Unpack[ClientOptions]) -> Client:
        """Return a blocking client of the namespace; whoever asked for it closes it (``with``)."""
        from kvclient import Client

        return Client(self.address, self.namespace, **options)

    def async_client(self, **options: Unpack[ClientOptions]) -> AsyncClient:
        """Return an asyncio client of the namespace; whoever asked for it closes it (``async with``)."""
        from kvclient import AsyncClient

        return AsyncClient(self.address, self.namespace, **options)


class Server:
    """A server on one folder. It can be ended and started again, and is found at the same address each time.

    ``running_server`` and the fixtures make it, and end it.
    """

    def __init__(
        self,
        flags: Sequence[str],
        data_dir: Path,
        environment: Mapping[str, str] | None = None,
        start_timeout_s: float = START_TIMEOUT_S,
        archive_dir: Path | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        for flag in flags:
            if flag.partition("=")[0] == "--data-dir":
                raise ValueError("name the folder with data_dir=, not with a flag")
        self.data_dir = data_dir
        """The folder with the data; it stays as it is while the server is down."""
        self.archive_dir = archive_dir
        """The folder with the archive; None where it was started without one."""
        self._flags = tuple(flags)
        self._environment = dict(environment or {})
        self._start_timeout_s = start_timeout_s
        self._listen = "127.0.0.1:0"
        self._on_line = on_line
        self._lives: list[ServerProcess] = []

    @property
    def address(self) -> str:
        """Where it serves, ``HOST:PORT``, or did when it last ran."""
        return self._listen

    @property
    def http_address(self) -> str:
        """Where it serves probes and metrics, ``HOST:PORT``; ``off`` unless it was started with ``--http 127.0.0.1:0``."""
        return self._process.field("http")

    @property
    def archive_url(self) -> str:
        """The address of the archive, as ``--archive`` takes it; empty where it was started without one."""
        return self.archive_dir.absolute().as_uri() if self.archive_dir is not None else ""

    @property
    def pid(self) -> int:
        """The number of its process, or of the last one that it had."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return bool(self._lives) and self._process.running

    @property
    def exit_code(self) -> int | None:
        """How its process ended, negative for a signal; None while it runs, and where it was never started."""
        return self._process.exit_code if self._lives else None

    @property
    def _process(self) -> ServerProcess:
        if not self._lives:
            raise RuntimeError("the server was never started")
        return self._lives[-1]

    def start(self) -> None:
        """Start it, or start it again on the same folder and port; return when it serves.

        Raises ServerFailed, with the last lines that it printed, if it does not come to that.
        """
        __tracebackhide__ = True
        self.begin()
        self.wait_until_ready()

    def begin(self) -> None:
        """Start its process, and do not wait until it serves."""
        if self.running:
            raise RuntimeError("the server runs already")
        own = ["--data-dir", str(self.data_dir), "--listen", self._listen, "--http", "off"]
        own += ["--archive", self.archive_url] if self.archive_url else []
        # Of a flag given twice the last one counts.
        self._lives.append(ServerProcess((*own, *self._flags), self._environment, self._on_line))

    def wait_until_ready(self) -> None:
        """Return when it serves; raises ServerFailed as ``start`` does."""
        __tracebackhide__ = True
        self._process.wait_until_ready(self._start_timeout_s)
        self._listen = self._process.field("listen")

    def kill(self) -> None:
        """End it at once, as ``kill -9`` or a crash would; one that does not run is left alone."""
        if self._lives:
            self._process.kill()

    def stop(self) -> None:
        """Have it end in order, as SIGTERM does; one that does not run is left alone.

        Raises ServerFailed if it does not end in time, or ends with another exit code than 0.
        """
        __tracebackhide__ = True
        if not self.running:
            return
        code = self._process.stop()
        if code != 0:
            raise ServerFailed(self._process.report(f"ended with exit code {code} when it was asked to stop"))

    def restart(self) -> None:
        """Have it end in order, and start it again; raises ServerFailed."""
        __tracebackhide__ = True
        self.stop()
        self.start()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Have it stand still during the block: what is sent to it is not answered before the end, if it is answered then."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            if self.running:
                os.kill(self.pid, signal.SIGCONT)

    def log(self, count: int | None = None) -> list[str]:
        """Return what it printed in all its lives, oldest line first; only so many of the newest where a count is given."""
        lines = [line for process in self._lives for line in process.lines()]
        return lines if count is None else lines[max(len(lines) - count, 0) :]

    def check_running(self) -> None:
        """Raise ServerFailed, with the last lines that it printed, if it does not run."""
        __tracebackhide__ = True
        if not self.running:
            raise ServerFailed(self._process.report("does not run: it ended by itself, or was killed"))

    def client(self, namespace: str = "", **options: Unpack[ClientOptions]) -> Client:
        """Return a blocking client; whoever asked for it closes it (``with``)."""
        return Node(self.address, namespace).client(**options)

    def async_client(self, namespace: str = "", **options: Unpack[ClientOptions]) -> AsyncClient:
        """Return an asyncio client; whoever asked for it closes it (``async with``)."""
        return Node(self.address, namespace).async_client(**options)

    @contextlib.contextmanager
    def isolated(self, label: str = "test") -> Iterator[Node]:
        """Give a namespace of its own to the block, and drop it at the end; the label is part of its name.

        Many tests can use one server in this way, one after the other or at once.
        """
        from kvclient import UnknownNamespace

        kept = re.sub(r"[^A-Za-z0-9._/-]+", "-", label)[:_MAX_LABEL]
        name = f"{kept}-{secrets.token_hex(4)}"
        with self.client() as admin:
            admin.create_namespace(name)
        try:
            yield Node(self.address, name)
        finally:
            if self.running:
                with self.client() as admin, contextlib.suppress(UnknownNamespace):  # the block may have dropped it itself
                    admin.drop_namespace(name)


@contextlib.contextmanager
def running_server(
    *flags: str,
    data_dir: Path | None = None,
    environment: Mapping[str, str] | None = None,
    start_timeout_s: float = START_TIMEOUT_S,
    archive: bool | Path = False,
) -> Iterator[Server]:
    """Start a server on a free port of 127.0.0.1, and kill it at the end of the block.

    ``flags`` are those of ``kvserver serve``. ``data_dir`` is the folder for its data, and is kept; without one it has a
    temporary folder, which is removed. ``environment`` adds variables for the process. ``archive``: a folder for its archive,
    or True for one beside its data. Raises ServerFailed, with the last lines that it printed, if it does not serve within
    ``start_timeout_s``.
    """
    __tracebackhide__ = True
    with contextlib.ExitStack() as at_the_end:
        if data_dir is None:
            folder = tempfile.TemporaryDirectory(prefix="kvserver-", ignore_cleanup_errors=True)
            data_dir = Path(at_the_end.enter_context(folder)) / "data"
        archive_dir = data_dir.with_name(f"{data_dir.name}-archive") if archive is True else archive or None
        server = Server(flags, data_dir, environment, start_timeout_s, archive_dir)
        at_the_end.callback(server.kill)
        server.start()
        yield server
