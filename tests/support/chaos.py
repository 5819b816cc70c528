"""What runs of whole clusters share: clients that remember what they were told, and what must hold when trouble is over.

``Ledger``    writers that put keys of their own and note each one that was acknowledged
``Callers``   clients that get, put and compare-and-set a few keys, and record a history to be judged
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from kvclient import Client, ClusterClient, ClusterNode, ConditionFailed, Entry, KvClientError, OutcomeUnknown, Retry
from kvserver.testing.cluster import NAMES, ClusterProcesses, free_ports
from support.linearizability import Operation, Recorder
from support.proxy import Network

FoundT = TypeVar("FoundT")

LONG = pytest.mark.skipif(
    os.environ.get("KVSERVER_CLUSTER_TESTS") != "all", reason="takes long, and is part of CI: run it with make test-cluster"
)
"""Stands above files whose clusters take minutes together."""

PATIENCE_S = 60.0
CALL_S = 2.0
KEYS = 5
PAUSE_S = 0.004
"""Between two operations of a caller: a history of thousands is no better than one of hundreds, and much harder to judge."""


def until(condition: Callable[[], FoundT | None], what: str, timeout_s: float = PATIENCE_S) -> FoundT:
    """Return what a condition gives as soon as that is something. Raises AssertionError."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"it did not come to this within {timeout_s:g} s: {what}"
        time.sleep(0.02)
    return found


@contextlib.contextmanager
def cluster_of(folder: Path, names: Sequence[str] = NAMES, *, starts: bool = True, **options: Any) -> Iterator[ClusterProcesses]:
    """Start a cluster, and kill it at the end of the block; what its nodes printed is shown where the block fails."""
    cluster = ClusterProcesses(folder, names, **options)
    try:
        if starts:
            cluster.start()
        yield cluster
    except BaseException:
        show_logs(cluster)
        raise
    finally:
        for node in cluster.nodes.values():
            if node.was_started:
                node.resume()
        cluster.kill_all()


@contextlib.contextmanager
def networked(folder: Path, names: Sequence[str] = NAMES, **options: Any) -> Iterator[tuple[ClusterProcesses, Network]]:
    """Start a cluster whose nodes reach each other through proxies."""
    made: list[ClusterProcesses] = []

    def pids() -> dict[str, int]:
        return {node.name: node.pid for cluster in made for node in cluster.running}

    with Network(names, pids) as network:
        ports = free_ports(len(names))
        for name, port in zip(names, ports, strict=True):
            network.lead_to(name, f"127.0.0.1:{port}")
        flags = {name: ["--advertise", network.address(name)] for name in names}
        with cluster_of(folder, names, starts=False, ports=ports, node_flags=flags, **options) as cluster:
            made.append(cluster)
            cluster.start()
            addresses = {network.address(name) for name in names}
            for name in names[1:]:  # at first each follows the address that it was told of, which is no proxy's
                until(lambda name=name: _own(cluster, name).follows in addresses, f"{name} follows a proxy")
                wait_for_state(cluster, name, "STREAMING")
            yield cluster, network


def show_logs(cluster: ClusterProcesses, count: int = 60) -> None:
    """Print what the nodes said last."""
    for node in cluster.nodes.values():
        print(f"--- {node.name} at {node.address}, {'running' if node.running else f'ended with {node.exit_code}'}")
        for line in node.log(count) if node.was_started else ():
            print(f"    {line}")


def state_of(cluster: ClusterProcesses, name: str) -> tuple[str, str, str]:
    """Return role, state and reason of a node, by its own word; ``("", "", why)`` where it does not answer."""
    try:
        own = _own(cluster, name)
    except KvClientError as error:
        return "", "", error.message
    return own.role, own.state, own.reason


def _own(cluster: ClusterProcesses, name: str) -> ClusterNode:
    with ClusterClient(cluster[name].address, timeout_s=5.0) as asked:
        (own,) = asked.status(only_self=True).nodes
    return own


def wait_for_state(cluster: ClusterProcesses, name: str, *states: str, reason: str = "") -> str:
    """Return why a node is in one of some states, as soon as it is, and says so with these words."""

    def there() -> str | None:
        _, state, why = state_of(cluster, name)
        return (why or state) if state in states and reason in why else None

    try:
        return until(there, f"{name} in {' or '.join(states)}, {reason!r}")
    except AssertionError as error:
        raise AssertionError(f"{error}; it is {state_of(cluster, name)}") from None


def wait_for_line(cluster: ClusterProcesses, name: str, text: str, behind: int = 0) -> str:
    """Return the first line behind so many that a node prints with this text in it."""
    return until(lambda: next((line for line in cluster[name].log()[behind:] if text in line), None), f"{name} says {text!r}")


def promoted(cluster: ClusterProcesses, name: str, **options: bool) -> Any:
    """Make a node primary, as soon as it can be; a node that changes its part at this moment is asked again."""

    def attempt() -> Any:
        try:
            return cluster.promote(name, **options)
        except KvClientError as error:
            said.append(str(error))
            return None

    said: list[str] = []
    try:
        return until(attempt, f"{name} is promoted")
    except AssertionError as error:
        raise AssertionError(f"{error}; it said: {said[-1] if said else ''}") from None


def assert_same_content(cluster: ClusterProcesses, names: Sequence[str] = ()) -> int:
    """Wait until nodes (all that run, unless named) show the same revision; their content must be the same then, too."""
    wanted = list(names) or [node.name for node in cluster.running]
    cluster.wait_until_caught_up(wanted, timeout_s=PATIENCE_S)

    def hashes() -> dict[str, tuple[int, bytes]] | None:
        found = {}
        for name in wanted:
            with cluster.client(name) as kv:
                said = kv.content_hash(timeout_s=30.0)
            found[name] = (said.revision, said.sha256)
        return found if len({revision for revision, _ in found.values()}) == 1 else None

    found = until(hashes, f"{', '.join(wanted)} show one revision")
    assert len({sha256 for _, sha256 in found.values()}) == 1, f"nodes differ at one revision: {found}"
    return next(iter(found.values()))[0]


class Ledger:
    """Writers, each with keys of its own, and what they were told."""

    def __init__(self, endpoints: str, writers: int = 4, label: str = "w") -> None:
        self.acknowledged: dict[bytes, tuple[int, bytes]] = {}
        """Revision and value, by key."""
        self.unknown: dict[bytes, bytes] = {}
        """What may have been written, and the value."""
        self._endpoints = endpoints
        self._numbers = itertools.count()
        self._label = label
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(writers)]

    def __enter__(self) -> Ledger:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Return when no put is under way any more."""
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def wait_for(self, more: int) -> None:
        """Return when so many more were acknowledged."""
        goal = len(self.acknowledged) + more
        until(lambda: len(self.acknowledged) >= goal, f"{more} more puts are acknowledged")

    def _run(self) -> None:
        with Client(self._endpoints, timeout_s=CALL_S) as kv:
            while not self._stop.is_set():
                number = next(self._numbers)
                key, value = b"%s/%06d" % (self._label.encode(), number), b"value-%d" % number
                try:
                    self.acknowledged[key] = (kv.put(key, value).revision, value)
                except OutcomeUnknown:
                    self.unknown[key] = value
                except KvClientError:
                    self._stop.wait(0.02)

    def lost(self, kv: Client, upto: int | None = None) -> list[bytes]:
        """Return the keys that were acknowledged, up to a revision, and are not there as they were."""
        there: dict[bytes, Entry] = {entry.key: entry for entry in kv.scan(self._label.encode() + b"/")}
        lost = []
        for key, (revision, value) in self.acknowledged.items():
            if upto is not None and revision > upto:
                continue
            entry = there.get(key)
            if entry is None or (entry.mod_revision, entry.value) != (revision, value):
                lost.append(key)
        return sorted(lost)

    def assert_kept(self, cluster: ClusterProcesses, names: Sequence[str] = (), upto: int | None = None) -> None:
        """Check that everything acknowledged is there, on the primary or on each node named."""
        for name in names or [cluster.primary() or ""]:
            with cluster.client(name) as kv:
                lost = self.lost(kv, upto)
            assert not lost, f"{name} lost {len(lost)} of {len(self.acknowledged)} acknowledged writes, the first is {lost[0]!r}"


class Callers:
    """Clients of a few keys. What they were told is a history; each value is put once."""

    def __init__(self, endpoints: str, seed: int, clients: int = 4) -> None:
        self.recorder = Recorder()
        self.answered = 0
        self._endpoints = endpoints
        self._values = itertools.count(1)
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(f"c{number}", random.Random(f"{seed}/{number}")), daemon=True)
            for number in range(clients)
        ]
        self.faults: list[BaseException] = []

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> list[Operation]:
        """Return the history, when nothing is under way any more."""
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)
        assert not self.faults, self.faults
        return self.recorder.history()

    def wait_for(self, more: int) -> None:
        """Return when so many more were answered."""
        goal = self.answered + more
        until(lambda: self.answered >= goal, f"{more} more calls are answered")

    def _run(self, name: str, rng: random.Random) -> None:
        known: dict[int, tuple[object, int]] = {}
        try:
            with Client(self._endpoints, timeout_s=CALL_S, retry=Retry(attempts=8)) as kv:
                while not self._stop.is_set():
                    key = rng.randrange(KEYS)
                    kind = rng.choice(("get", "get", "put", "cas", "cas"))
                    if kind == "get":
                        self._get(kv, name, key, known)
                    elif kind == "put" or key not in known:
                        self._put(kv, name, key, known)
                    else:
                        self._cas(kv, name, key, known)
                    self._stop.wait(PAUSE_S)
        except BaseException as fault:
            self.faults.append(fault)

    def _get(self, kv: Client, name: str, key: int, known: dict[int, tuple[object, int]]) -> None:
        pending = self.recorder.get(name, key)
        try:
            entry = kv.get(_bytes(key))
        except KvClientError:
            pending.not_done()
            self._stop.wait(0.02)
            return
        value = int(entry.value) if entry is not None else None
        known[key] = value, entry.mod_revision if entry is not None else 0
        pending.done(value)
        self.answered += 1

    def _put(self, kv: Client, name: str, key: int, known: dict[int, tuple[object, int]]) -> None:
        value = next(self._values)
        pending = self.recorder.put(name, key, value)
        try:
            known[key] = value, kv.put(_bytes(key), b"%d" % value).revision
            pending.done()
            self.answered += 1
        except OutcomeUnknown:
            pending.unknown()
        except KvClientError:
            pending.not_done()
            self._stop.wait(0.02)

    def _cas(self, kv: Client, name: str, key: int, known: dict[int, tuple[object, int]]) -> None:
        expected, revision = known.pop(key)
        value = next(self._values)
        pending = self.recorder.cas(name, key, expected, value)
        try:
            known[key] = value, kv.put(_bytes(key), b"%d" % value, if_revision=revision).revision
            pending.done()
            self.answered += 1
        except ConditionFailed:
            pending.did_not_hold()
            self.answered += 1
        except OutcomeUnknown:
            pending.unknown()
        except KvClientError:
            pending.not_done()
            self._stop.wait(0.02)


def _bytes(key: int) -> bytes:
    return b"register/%d" % key
