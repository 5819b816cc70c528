"""The composition root: makes the parts of a server, starts them in order, stops them in reverse.

The order is the list in ``App.__init__``. HTTP first, so that probes are answered while the log is recovered. Of a node that is
alone then the data, which may take long and claims an epoch; then gRPC, so that no call arrives before it can be served. A node
of a cluster listens before it opens its data, because the others ask it how far it is, and it tells them where it is reached.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from kvserver.base.environment import Environment
from kvserver.base.events import Event, SegmentSealed
from kvserver.engine.database import Database
from kvserver.server import logs
from kvserver.server.collector import Figures
from kvserver.server.config import Address, ServeConfig
from kvserver.server.http import HttpServer
from kvserver.server.life import Life, World
from kvserver.server.member import Member
from kvserver.server.probes import Phase, Probes
from kvserver.server.single import Single
from kvserver.service import admin, cluster, kv, replication
from kvserver.transport.grpc_aio import GrpcServer, cannot_listen

LOG = logging.getLogger("kvserver.server")

OK = 0
SOFTWARE_FAILURE = 70
"""The exit code after a failure of the log or of the transport (EX_SOFTWARE)."""

GRACE_S = 5.0
"""How long calls under way may take when the server is asked to stop."""

FAILURE_GRACE_S = 0.4
"""The same after a failure of the log: its answers leave, nothing else is waited for."""

HEARTBEAT_S = 1.0

LAG_TIMER_S = 0.01
"""How often the loop is asked whether it is late."""

LAG_SAMPLES = 15
"""The longest delays of so many heartbeats are kept."""


SERVICES = (kv.NAME, admin.NAME, cluster.NAME, replication.NAME)


class Part(NamedTuple):
    """One part of the server: how it is started and stopped."""

    name: str
    start: Callable[[], Awaitable[None]]
    stop: Callable[[], Awaitable[None]]


class App:
    """One server process's worth of parts. ``start``, then ``wait``, then ``stop``; all on one event loop."""

    def __init__(self, config: ServeConfig) -> None:
        self._config = config
        self._env = Environment()
        self._loop = asyncio.get_running_loop()
        self.probes = Probes(self._env.clock)
        self._figures = Figures(self.probes, self._free_bytes, config.engine.pipeline.memory_limit_bytes)
        self._lags_s: deque[float] = deque([0.0], maxlen=LAG_SAMPLES)
        self._figures.loop_lag_s = lambda: max(self._lags_s)
        self._stop_asked: asyncio.Future[int] = self._loop.create_future()
        self._started: list[Part] = []
        self._heart: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._http: HttpServer | None = None
        self._grpc = GrpcServer([], (admin.ROLE, "", kv.NAME, admin.NAME), SERVICES)
        self._figures.rpc_stats = lambda: self._grpc.stats
        self._grpc_stopped = False
        self._listen = config.listen
        world = World(
            self._env,
            config,
            self._post,
            lambda event: self._on_event(event),
            self._on_log_failure,
            self._on_fatal,
            self._on_standing,
        )
        self._node: Single | Member = Single(world, self._on_life) if config.cluster is None else Member(world, self._on_life)
        if isinstance(self._node, Member):
            self.probes.node = self._node.checks
            member = self._node
            self._figures.is_primary = lambda: member.is_primary
            self._figures.cluster = lambda: member.parts.samples
        node, grpc = Part("node", self._start_node, self._node.stop), Part("grpc", self._start_grpc, self._stop_grpc)
        # Whatever was begun first: calls are answered before the store is closed.
        self._parts = [
            Part("heart", self._start_heart, self._stop_heart),
            Part("http", self._start_http, self._stop_http),
            *((node, grpc) if config.cluster is None else (grpc, node, Part("calls", _nothing, self._stop_grpc))),
        ]

    # -- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start all parts; on an error stop those that were started, and raise it (KvError for what can be mended)."""
        try:
            for part in self._parts:
                LOG.debug("starting %s", part.name)
                await part.start()
                self._started.append(part)
        except BaseException:
            self.probes.phase = Phase.STOPPING
            await self._stop_started()
            raise
        self.probes.phase = Phase.SERVING

    async def wait(self) -> int:
        """Serve until asked to stop, or until something failed; return the exit code."""
        return await asyncio.shield(self._stop_asked)

    async def stop(self) -> int:
        """Stop all parts; return the exit code. What cannot be stopped cleanly is logged and makes the code a failure."""
        self.probes.phase = Phase.STOPPING
        code = self._stop_asked.result() if self._stop_asked.done() else OK
        clean = await self._stop_started()
        return SOFTWARE_FAILURE if not clean or self._node.has_failed else code

    def ask_to_stop(self, code: int = OK) -> None:
        """End ``wait`` with an exit code; the first call counts."""
        if not self._stop_asked.done():
            self._stop_asked.set_result(code)

    async def _stop_started(self) -> bool:
        clean = True
        while self._started:
            part = self._started.pop()
            try:
                LOG.debug("stopping %s", part.name)
                await part.stop()
            except Exception:
                LOG.critical("%s did not stop cleanly", part.name, exc_info=True)
                clean = False
        return clean

    def ready_line(self) -> str:
        """Return the line that says that the server serves, and where."""
        assert self._database is not None, "ready comes after start"
        http = Address(self._config.http.host, self._http.port) if self._config.http and self._http else None
        alone = self._config.cluster is None
        return (
            f"ready listen={self._listen} http={http or 'off'} name={self._database.identity.node_name}"
            + ("" if alone else f" role={self._database.role.value}")
            + f" epoch={self._database.history.current.number} revision={self._database.marks.visible}"
            f" data_dir={shlex.quote(str(self._config.data_dir))}"
            + (f" archive={shlex.quote(self._config.archive.url)}" if self._config.archive else "")
        )

    @property
    def _database(self) -> Database | None:
        """The store that is open now; None while none is."""
        life = self._node.life
        return life.database if life is not None else None

    @property
    def is_primary(self) -> bool:
        """Say whether it takes writes."""
        return self._node.is_primary

    @property
    def http_port(self) -> int:
        """Return the port on which HTTP is served, 0 while it is not."""
        return self._http.port if self._http is not None else 0

    @property
    def listen(self) -> Address:
        """Return where gRPC is served, with the port that was chosen."""
        return self._listen

    # -- the heart: signs of life, and what is to be done every second -----------------------------------------------

    async def _start_heart(self) -> None:
        self._heart = self._loop.create_task(self._beat())

    async def _stop_heart(self) -> None:
        if self._heart is not None:
            self._heart.cancel()

    async def _beat(self) -> None:
        while True:
            self.probes.beat()
            if self.probes.phase is Phase.SERVING and self._database is not None:
                self._database.tick()
                self._node.tick()
            self._lags_s.append(await self._longest_lag(self._loop.time() + HEARTBEAT_S))

    async def _longest_lag(self, until_s: float) -> float:
        """Wait until a time, and return how late the latest of the timers fired that were set meanwhile."""
        longest = 0.0
        while (now := self._loop.time()) < until_s:
            await asyncio.sleep(LAG_TIMER_S)
            longest = max(longest, self._loop.time() - now - LAG_TIMER_S)
        return longest

    # -- HTTP -----------------------------------------------------------------------------------------------------

    async def _start_http(self) -> None:
        address = self._config.http
        if address is not None:
            self._http = HttpServer(address.host, address.port, self.probes, self._figures.scrape, self._env.clock)

    async def _stop_http(self) -> None:
        if self._http is not None:
            await asyncio.to_thread(self._http.stop)

    def _free_bytes(self) -> int:
        return self._env.fs.free_bytes(self._config.data_dir)

    # -- the node -------------------------------------------------------------------------------------------------

    async def _start_node(self) -> None:
        if self._config.cluster is None:
            _check_free(self._listen)
        await self._node.start(self._listen)
        self._warn_of_other_name()

    def _on_life(self, life: Life | None) -> None:
        """Have what a new life serves served; None: nothing but what the node itself does, until the next one."""
        database = life.database if life is not None else None
        self._grpc.serve([*self._node.methods(), *(life.methods() if life is not None else ())])
        self.probes.database = database
        self._figures.archive = life.archive.report if life is not None and life.archive is not None else None
        self._grpc.health.set_serving(database is not None)
        self._on_standing()

    def _on_standing(self) -> None:
        """Tell whoever watches the health whether this node takes writes."""
        self._grpc.health.set_name(admin.ROLE, self.probes.database is not None and self._node.is_primary)

    def _post(self, callback: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it everybody who could be told
            self._loop.call_soon_threadsafe(callback)

    def _on_event(self, event: Event) -> None:
        life = self._node.life
        if life is not None and isinstance(event, SegmentSealed):
            life.on_sealed()
        logs.log_event(event)
        self._figures.on_event(event)

    def _on_log_failure(self, error: BaseException) -> None:
        LOG.critical("the log failed; the server ends with exit code %d: %s", SOFTWARE_FAILURE, error)
        self.ask_to_stop(SOFTWARE_FAILURE)

    def _on_fatal(self, why: str) -> None:
        LOG.critical("the server ends with exit code %d: %s", SOFTWARE_FAILURE, why)
        self.ask_to_stop(SOFTWARE_FAILURE)

    def _warn_of_other_name(self) -> None:
        if self._database is None:
            return
        kept, wanted = self._database.identity.node_name, self._config.name
        if wanted and wanted != kept:
            LOG.warning("the node in this folder is called %s since its creation; --name %s has no effect", kept, wanted)

    # -- gRPC -----------------------------------------------------------------------------------------------------

    async def _start_grpc(self) -> None:
        port = await self._grpc.start(*self._config.listen)
        self._listen = Address(self._config.listen.host, port)
        self._watcher = self._loop.create_task(self._watch_grpc(self._grpc))

    async def _watch_grpc(self, server: GrpcServer) -> None:
        """End the process if the transport breaks down: a server that takes no calls must not look alive."""
        try:
            await server.ended()
        except Exception as error:
            LOG.critical("gRPC broke down: %s", error)
        self.ask_to_stop(SOFTWARE_FAILURE)

    async def _stop_grpc(self) -> None:
        self.ask_to_stop()  # or the watcher would take the end for a breakdown
        if self._grpc_stopped:
            return
        self._grpc_stopped = True
        self._node.end_calls()  # what may take hours would use up the grace
        await self._grpc.stop(FAILURE_GRACE_S if self._node.has_failed else GRACE_S)


async def _nothing() -> None:
    """Start nothing."""


def _check_free(address: Address) -> None:
    """Raise OpenRefused if the address is in use: before the data is opened, which takes long and leaves an epoch behind."""
    if not address.port:
        return
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
            probe.listen(1)
        except OSError as error:
            raise cannot_listen(str(address), error.strerror or os.strerror(error.errno or 0), "--listen") from error
