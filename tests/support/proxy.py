"""A network between the nodes of a cluster that tests can cut: a TCP proxy in front of each node, on a thread of its own.

    with Network(["n1", "n2", "n3"], pids) as network:
        network.address("n1")           # what n1 is told to advertise; network.lead_to("n1", its own address)
        network.cut("n1", "n2")         # nothing gets through between the two, and nobody is told
        network.swallow("n1", "n2")     # what n1 sends is lost, what n2 sends arrives
        network.heal()

A proxy knows who speaks to it by the process that has the other end of the connection (Linux: ``/proc``), so one address a node
is enough to cut single pairs; who is no node, a client for instance, is never cut off.

Bytes that are swallowed are gone, so a connection of which some were is closed when the network heals, as one whose two ends
disagree would be. A *held* way loses nothing: as in a network without packets, all arrives late, and in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

READ_BYTES = 1 << 16
PATIENCE_S = 30.0
ESTABLISHED = "01"
NOBODY = ""
"""Who speaks where it is no node."""


class Way:
    """One direction between two nodes, over all connections. Belongs to the loop."""

    def __init__(self) -> None:
        self.swallows = False
        self.delay_s = 0.0
        self.open = asyncio.Event()
        self.open.set()

    def heal(self) -> None:
        self.swallows, self.delay_s = False, 0.0
        self.open.set()


class Network:
    """Proxies of all nodes. Its methods are safe on any thread; what was said holds when they return."""

    def __init__(self, names: Sequence[str], pids: Callable[[], Mapping[str, int]]) -> None:
        """``pids``: the processes of the nodes at this moment, by name."""
        self._names = tuple(names)
        self._pids = pids
        self._ways: dict[tuple[str, str], Way] = {}
        self._targets: dict[str, tuple[str, int]] = {}
        self._addresses: dict[str, str] = {}
        self._servers: list[asyncio.Server] = []
        self._links: set[asyncio.Task[None]] = set()
        self._spoilt: set[asyncio.Task[None]] = set()
        """Connections of which bytes were swallowed."""
        self.swallowed_bytes = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)

    def __enter__(self) -> Network:
        self._thread.start()
        self._do(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._end)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()

    def address(self, name: str) -> str:
        """Return where a node is to be reached by others."""
        return self._addresses[name]

    def lead_to(self, name: str, address: str) -> None:
        """Say where a node itself listens."""
        host, _, port = address.rpartition(":")
        self._targets[name] = (host, int(port))

    # -- trouble --------------------------------------------------------------------------------------------------

    def swallow(self, sender: str, receiver: str) -> None:
        """Lose what one node sends to another, on whichever connection."""
        self._change(lambda: setattr(self._way(sender, receiver), "swallows", True))

    def cut(self, one: str, other: str) -> None:
        """Lose what two nodes send to each other."""
        self.swallow(one, other)
        self.swallow(other, one)

    def hold(self, sender: str, receiver: str) -> None:
        """Keep what one node sends to another until the network heals."""
        self._change(lambda: self._way(sender, receiver).open.clear())

    def delay(self, sender: str, receiver: str, delay_s: float) -> None:
        """Have what one node sends to another arrive later."""
        self._change(lambda: setattr(self._way(sender, receiver), "delay_s", delay_s))

    def isolate(self, name: str) -> None:
        """Cut a node from all others."""
        for other in self._names:
            if other != name:
                self.cut(name, other)

    def heal(self) -> None:
        """Let everything through again, and close the connections that have lost something."""

        async def heal() -> None:
            for way in self._ways.values():
                way.heal()
            for link in tuple(self._spoilt):
                link.cancel()

        self._do(heal)

    # -- on the loop ----------------------------------------------------------------------------------------------

    def _change(self, change: Callable[[], object]) -> None:
        async def carry_out() -> None:
            change()

        self._do(carry_out)

    def _do(self, work: Callable[[], object]) -> None:
        done: Future[object] = asyncio.run_coroutine_threadsafe(work(), self._loop)  # type: ignore[arg-type]
        done.result(PATIENCE_S)

    def _way(self, sender: str, receiver: str) -> Way:
        return self._ways.setdefault((sender, receiver), Way())

    async def _listen(self) -> None:
        for name in self._names:
            server = await asyncio.start_server(self._taker(name), "127.0.0.1", 0)
            self._servers.append(server)
            self._addresses[name] = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        for link in tuple(self._links):
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    def _taker(self, name: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]:
        def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            link = asyncio.ensure_future(self._carry(name, reader, writer))
            self._links.add(link)
            link.add_done_callback(self._links.discard)
            link.add_done_callback(self._spoilt.discard)

        return take

    async def _carry(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry the bytes of one connection, until one of its ends closes it."""
        speaker = await asyncio.to_thread(self._speaker, writer.get_extra_info("peername")[1])
        ends = [writer]
        try:
            with contextlib.suppress(OSError):
                there, to_node = await asyncio.open_connection(*self._targets[name])
                ends.append(to_node)
                link = asyncio.current_task()
                assert link is not None
                to, back = (reader, to_node, speaker, name), (there, writer, name, speaker)
                pumps = [asyncio.ensure_future(self._pump(*way, link)) for way in (to, back)]
                try:
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for pump in pumps:
                        pump.cancel()
                    await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            for end in ends:
                end.transport.abort()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        sender: str,
        receiver: str,
        link: asyncio.Task[None],
    ) -> None:
        way = self._way(sender, receiver) if NOBODY not in (sender, receiver) else Way()
        while data := await reader.read(READ_BYTES):
            if way.delay_s:
                await asyncio.sleep(way.delay_s)
            await way.open.wait()
            if way.swallows:
                self.swallowed_bytes += len(data)
                self._spoilt.add(link)
                continue
            writer.write(data)
            await writer.drain()

    def _speaker(self, port: int) -> str:
        """Return the name of the node whose process has a connection from this port."""
        inode = _inode_of(port)
        if inode is None:
            return NOBODY
        return next((name for name, pid in self._pids().items() if inode in _sockets_of(pid)), NOBODY)


def _inode_of(port: int) -> str | None:
    """Return the socket that a connection comes from."""
    for table in ("/proc/net/tcp6", "/proc/net/tcp"):  # gRPC speaks IPv4 over sockets of IPv6
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1].endswith(f":{port:04X}") and fields[3] == ESTABLISHED and fields[9] != "0":
                return fields[9]
    return None


def _sockets_of(pid: int) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if match := re.fullmatch(r"socket:\[(\d+)\]", str(link.readlink())):
                    found.add(match[1])
    return found
