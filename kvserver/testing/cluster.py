"""Several nodes of one cluster, each a process of its own, that scripts and tests can kill, pause and start again by name.

    from kvserver.testing import running_cluster

    with running_cluster() as cluster:
        with cluster.client() as kv:
            kv.put(b"greeting", b"hello")
        cluster.wait_until_caught_up()
        cluster.kill("n1")
        cluster.promote("n2")

Everything lies below one folder: ``<folder>/<name>`` is a node's data, ``<folder>/register`` the register that all of them see,
``<folder>/archive`` the archive. A node keeps its address over all its lives.

At the cluster's first start the first node makes it, and the others are told to follow that one. Later no node is told anything:
the register knows who was primary last. So all are started at once then, because a primary may need the promises of others
before it serves.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, Unpack

from kvserver.base.clock import SystemClock
from kvserver.testing.process import ServerFailed
from kvserver.testing.running import START_TIMEOUT_S, ClientOptions, Server

if TYPE_CHECKING:
    from kvclient import Client, ClusterStatus, PromotionStep

_FoundT = TypeVar("_FoundT")

CLOCK = SystemClock()

NAMES = ("n1", "n2", "n3")
"""What the nodes of a cluster are called unless told otherwise."""

POLL_S = 0.05
"""How often a condition is looked at that is waited for."""

OnLine = Callable[[str, str], None]
"""Is told each line that a node prints, with the node's name; called on several threads."""


class ClusterServer(Server):
    """One node of a cluster."""

    def __init__(
        self,
        name: str,
        flags: Sequence[str],
        data_dir: Path,
        first_flags: Sequence[str],
        environment: Mapping[str, str] | None,
        start_timeout_s: float,
        on_line: OnLine | None,
        listen: str,
    ) -> None:
        """``first_flags`` are added where there is no data yet: they say how the node comes into the cluster."""
        told = functools.partial(on_line, name) if on_line is not None else None
        super().__init__(flags, data_dir, environment, start_timeout_s, on_line=told)
        self.name = name
        self._usual_flags = tuple(flags)
        self._first_flags = tuple(first_flags)
        self._listen = listen

    @property
    def is_new(self) -> bool:
        """Whether it has no data yet."""
        return not (self.data_dir / "IDENTITY").exists()

    @property
    def was_started(self) -> bool:
        """Whether it ever had a process."""
        return bool(self._lives)

    @property
    def environment(self) -> dict[str, str]:
        """What its next process finds in its environment beside what this one does; may be changed, to arm failpoints say."""
        return self._environment

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags that its next start adds to folder and address."""
        return (*self._usual_flags, *(self._first_flags if self.is_new else ()))

    @property
    def command(self) -> str:
        """The command line that starts it by hand, as it would be started again now."""
        program = str(Path(sys.executable).parent / "kvserver")
        words = [program, "serve", "--data-dir", str(self.data_dir), "--listen", self.address, *self.flags]
        return shlex.join(words)

    def begin(self) -> None:
        """Start its process, and do not wait until it serves."""
        self._flags = self.flags
        super().begin()

    def pause(self) -> None:
        """Have it stand still (SIGSTOP), as a machine that hangs: connections to it stay open."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Have it go on (SIGCONT); one that does not stand still, or does not run, is left alone."""
        if self.running:
            os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """Have it end in order, also where it stands still. Raises ServerFailed."""
        __tracebackhide__ = True
        self.resume()
        super().stop()

    def status(self, timeout_s: float = 5.0) -> ClusterStatus:
        """Return what this node knows of the cluster. Raises KvClientError."""
        from kvclient import ClusterClient

        with ClusterClient(self.address, timeout_s) as asked:
            return asked.status()


class ClusterProcesses:
    """The nodes of a cluster, by name. ``running_cluster`` makes it, and ends it."""

    def __init__(
        self,
        folder: Path,
        names: Sequence[str] = NAMES,
        *,
        flags: Sequence[str] = (),
        write_quorum: int = 0,
        members: Sequence[str] = (),
        ports: Sequence[int] | None = None,
        http_ports: Sequence[int] | None = None,
        archive: bool = True,
        environment: Mapping[str, str] | None = None,
        start_timeout_s: float = START_TIMEOUT_S,
        on_line: OnLine | None = None,
        node_flags: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Name the nodes, and start none.

        ``flags`` are added for every node, ``node_flags`` for single ones, by name. ``write_quorum`` of ``members`` (all nodes
        unless named) is the policy of a cluster that is made; 0: asynchronous. ``ports``: one for each node, free ones unless
        given; ``http_ports`` likewise, none without. ``on_line`` is told what the nodes print.
        """
        self.folder = folder
        self.register_url = (folder / "register").absolute().as_uri()
        self.archive_url = (folder / "archive").absolute().as_uri() if archive else ""
        listens = [f"127.0.0.1:{port}" for port in (ports or free_ports(len(names)))]
        self.nodes: dict[str, ClusterServer] = {}
        for number, (name, listen) in enumerate(zip(names, listens, strict=True)):
            own = ["--name", name, "--register", self.register_url, "--advertise", listen]
            own += ["--archive", self.archive_url] if archive else []
            own += ["--http", f"127.0.0.1:{http_ports[number]}"] if http_ports else []
            if number:
                first = ["--follow", listens[0]]
            elif write_quorum:
                first = ["--members", ",".join(members or names), "--write-quorum", str(write_quorum)]
            else:
                first = []
            self.nodes[name] = ClusterServer(
                name,
                (*own, *flags, *(node_flags or {}).get(name, ())),
                folder / name,
                first,
                environment,
                start_timeout_s,
                on_line,
                listen,
            )

    def __getitem__(self, name: str) -> ClusterServer:
        return self.nodes[name]

    @property
    def endpoints(self) -> str:
        """The addresses of all nodes, with commas between."""
        return ",".join(node.address for node in self.nodes.values())

    @property
    def running(self) -> list[ClusterServer]:
        """The nodes whose processes are there."""
        return [node for node in self.nodes.values() if node.running]

    def start(self) -> None:
        """Start all nodes that do not run; return when they serve. Raises ServerFailed."""
        __tracebackhide__ = True
        absent = [node for node in self.nodes.values() if not node.running]
        if all(node.is_new for node in self.nodes.values()):
            absent[0].start()  # it makes the cluster; the others need somebody to follow
            absent = absent[1:]
        for node in absent:
            node.begin()
        for node in absent:
            node.wait_until_ready()

    def kill(self, name: str) -> None:
        """End a node at once, as ``kill -9`` or a loss of power would."""
        self.nodes[name].kill()

    def restart(self, name: str) -> None:
        """Start a node again, ended in order before if it runs; return when it serves. Raises ServerFailed."""
        __tracebackhide__ = True
        self.nodes[name].restart()

    def stop(self) -> None:
        """Have all nodes end in order: the primary first, so that the others get what it still has. Raises ServerFailed."""
        __tracebackhide__ = True
        primary = self.primary()
        failures = []
        for node in sorted(self.running, key=lambda node: node.name != primary):
            try:
                node.stop()
            except ServerFailed as failure:  # the others are to end all the same
                failures.append(failure)
        if failures:
            raise failures[0]

    def kill_all(self) -> None:
        """End all nodes at once."""
        for node in self.nodes.values():
            node.kill()

    # -- looking --------------------------------------------------------------------------------------------------

    def status(self) -> ClusterStatus | None:
        """Return what the first node that answers knows of the cluster; None where none does."""
        from kvclient import KvClientError

        for node in self.running:
            with contextlib.suppress(KvClientError):
                return node.status(timeout_s=2.0)
        return None

    def primary(self) -> str | None:
        """Return the name of the primary of the highest epoch; None where none can be asked."""
        found = self.status()
        return found.primary.name if found is not None and found.primary is not None else None

    def wait_for_primary(self, name: str | None = None, timeout_s: float = START_TIMEOUT_S) -> str:
        """Return the name of the primary when there is one, or when it is the one named. Raises TimeoutError."""

        def found() -> str | None:
            primary = self.primary()
            return primary if name is None or primary == name else None

        return self._wait(found, timeout_s, f"{name or 'any node'} to be primary")

    def wait_until_caught_up(self, names: Sequence[str] | None = None, timeout_s: float = START_TIMEOUT_S) -> int:
        """Return the primary's durable revision when the followers (all that run, unless named) have applied it.

        Raises TimeoutError, which says what the nodes said last.
        """
        wanted = set(names) if names is not None else {node.name for node in self.running}

        def caught_up() -> int | None:
            found = self.status()
            primary = found.primary if found is not None else None
            if found is None or primary is None:
                return None
            there = {
                node.name
                for node in found.nodes
                if node.reachable and node.epoch == primary.epoch and node.applied_revision >= primary.durable_revision
            }
            return primary.durable_revision if wanted <= there else None

        return self._wait(caught_up, timeout_s, f"{', '.join(sorted(wanted))} to have what the primary has")

    def promote(self, name: str, *, dry_run: bool = False, accept_loss: bool = False) -> PromotionStep:
        """Make a node the primary; return the last step, which has the outcome. Raises KvClientError."""
        from kvclient import ClusterClient

        with ClusterClient(self.nodes[name].address) as asked:
            return list(asked.promote(dry_run=dry_run, accept_loss=accept_loss))[-1]

    def client(self, name: str | None = None, namespace: str = "", **options: Unpack[ClientOptions]) -> Client:
        """Return a blocking client of the cluster, or of one node of it; whoever asked for it closes it (``with``)."""
        from kvclient import Client

        return Client(self.endpoints if name is None else self.nodes[name].address, namespace, **options)

    def _wait(self, condition: Callable[[], _FoundT | None], timeout_s: float, what: str) -> _FoundT:
        deadline, pause = CLOCK.monotonic() + timeout_s, threading.Event()
        while (found := condition()) is None:
            if CLOCK.monotonic() >= deadline:
                raise TimeoutError(f"waited {timeout_s:g} s for {what}; {self._said()}")
            pause.wait(POLL_S)
        return found

    def _said(self) -> str:
        found = self.status()
        if found is None:
            return "no node answers"
        told = [
            f"{node.name}: {node.role} {node.state}, epoch {node.epoch}, applied {node.applied_revision}" for node in found.nodes
        ]
        return "; ".join([*told, *found.warnings])


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nobody listens on at this moment."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


@contextlib.contextmanager
def running_cluster(
    names: Sequence[str] = NAMES,
    *flags: str,
    folder: Path | None = None,
    write_quorum: int = 0,
    members: Sequence[str] = (),
    archive: bool = True,
    environment: Mapping[str, str] | None = None,
    start_timeout_s: float = START_TIMEOUT_S,
) -> Iterator[ClusterProcesses]:
    """Start a cluster on free ports of 127.0.0.1, and kill its nodes at the end of the block.

    ``flags`` are those of ``kvserver serve``, for every node. ``folder`` is kept; without one there is a temporary one, which is
    removed. The rest as ``ClusterProcesses`` has it. Raises ServerFailed.
    """
    __tracebackhide__ = True
    with contextlib.ExitStack() as at_the_end:
        if folder is None:
            made = tempfile.TemporaryDirectory(prefix="kvserver-cluster-", ignore_cleanup_errors=True)
            folder = Path(at_the_end.enter_context(made))
        cluster = ClusterProcesses(
            folder,
            names,
            flags=flags,
            write_quorum=write_quorum,
            members=members,
            archive=archive,
            environment=environment,
            start_timeout_s=start_timeout_s,
        )
        at_the_end.callback(cluster.kill_all)
        cluster.start()
        yield cluster
