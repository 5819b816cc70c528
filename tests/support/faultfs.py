"""A file system that fails at the n-th call, or runs out of space.

    plan = FaultPlan([Fault(at=3, kinds={"datasync"}, error=errno.EIO)])
    fs = FaultFileSystem(MemoryFileSystem(), plan)

    for fs in failing_calls(MemoryFileSystem, Fault(error=errno.ENOSPC)):
        run(fs)     # first the 1st call fails, then the 2nd, ... until none does

The loop is SQLite's way of testing I/O errors (sqlite.org/testing.html, "I/O error testing").
"""

from __future__ import annotations

import errno
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from kvserver.base.fs import File, FileSystem, Lock, NameInfo
from support.memfs import os_error
from support.recordfs import CHANGING, DropsUnsynced, Inner, Kind
from support.space import SpaceBudget

T = TypeVar("T")
AnyFileSystem = TypeVar("AnyFileSystem", bound=FileSystem)

READING: frozenset[Kind] = frozenset({"open", "exists", "info", "list_dir", "pread"})
"""The calls that a file system turned read-only still answers."""

FAILING: frozenset[Kind] = (CHANGING | READING) - {"drop_unsynced"}
"""What a fault counts unless it names its kinds; size, close and free_bytes hardly ever fail on a local disk."""


class ProcessKilled(BaseException):
    """The process ends here. Not an Exception, so that no handler of the code under test takes it for a fault."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong at the ``at``-th call (from 1) of these kinds.

    ``where`` narrows it to the paths that it accepts (of a rename or link, the new one).

    In this order: ``action`` is called; of a pwrite, the first ``written_bytes`` are written, of any other call with
    ``performed`` everything is done; with ``kills`` the process ends (``ProcessKilled``), with ``error`` the call
    raises an OSError of that number, with neither it is made as if nothing had been. With ``forever`` so does every
    such call after it. A failed datasync or sync leaves the unsynced writes abandoned, as the page cache does, unless
    it was ``performed``.
    """

    at: int = 1
    error: int | None = errno.EIO
    kinds: Collection[Kind] = FAILING
    where: Callable[[Path], bool] | None = None
    forever: bool = False
    performed: bool = False
    written_bytes: int = 0
    kills: bool = False
    action: Callable[[], object] | None = None


@dataclass
class FaultPlan:
    """The faults, the first that is due wins, and how many bytes files may grow by (None: without bound)."""

    faults: Sequence[Fault] = ()
    space_bytes: int | None = None


class _Gate:
    """Every call passes here: it is counted, and fails if its time has come."""

    def __init__(self, plan: FaultPlan) -> None:
        self.counts: Counter[Kind] = Counter()
        self.struck: list[tuple[Kind, Path]] = []
        self.dead = False
        self.space = SpaceBudget(plan.space_bytes)
        self._faults = list(plan.faults)
        self._seen = [0] * len(self._faults)
        self._mutex = threading.Lock()

    def call(self, kind: Kind, path: Path, perform: Callable[[], T], before_error: Callable[[Fault], None] | None = None) -> T:
        """Make the call, unless a fault is due; ``before_error`` does what a failed call leaves behind."""
        fault = self._due(kind, path)
        if fault is None:
            return perform()
        if fault.action:
            fault.action()
        if not fault.kills and fault.error is None:
            return perform()
        if fault.performed:
            perform()
        elif before_error:
            before_error(fault)
        if fault.kills:
            self.dead = True
            raise ProcessKilled
        assert fault.error is not None
        raise os_error(fault.error, path)

    def _due(self, kind: Kind, path: Path) -> Fault | None:
        with self._mutex:
            if self.dead:
                raise ProcessKilled
            self.counts[kind] += 1
            due: Fault | None = None
            for number, fault in enumerate(self._faults):
                if kind in fault.kinds and (fault.where is None or fault.where(path)):
                    self._seen[number] += 1
                    is_due = self._seen[number] == fault.at or (fault.forever and self._seen[number] > fault.at)
                    due = fault if due is None and is_due else due
            if due:
                self.struck.append((kind, path))
            return due


class FaultFile:
    """A file whose calls may fail."""

    def __init__(self, gate: _Gate, inner: File, path: Path) -> None:
        self._gate = gate
        self._inner = inner
        self._path = path

    def pwrite(self, data: bytes, offset: int) -> None:
        """Write all, or a part and raise."""

        def write_part(fault: Fault) -> None:
            self._write(data[: fault.written_bytes], offset)

        self._gate.call("pwrite", self._path, lambda: self._write(data, offset), write_part)

    def pread(self, length: int, offset: int) -> bytes:
        """Read, or raise."""
        return self._gate.call("pread", self._path, lambda: self._inner.pread(length, offset))

    def size(self) -> int:
        """Return the length, or raise."""
        return self._gate.call("size", self._path, self._inner.size)

    def truncate(self, length: int) -> None:
        """Cut or extend, or raise."""

        def resize() -> None:
            with self._gate.space.growing():
                self._gate.space.resize(self._inner, length, self._path)
                self._inner.truncate(length)

        self._gate.call("truncate", self._path, resize)

    def datasync(self) -> None:
        """Sync, or lose what was not synced and raise."""
        self._gate.call("datasync", self._path, self._inner.datasync, self._lose)

    def sync(self) -> None:
        """Sync, or lose what was not synced and raise."""
        self._gate.call("sync", self._path, self._inner.sync, self._lose)

    def close(self) -> None:
        """Close; a fault that asks for it raises, and the file is closed all the same."""
        self._gate.call("close", self._path, self._inner.close, lambda _: self._inner.close())

    def drop_unsynced(self) -> None:
        """Hand a failed sync's effect on to the file inside, where it knows one."""
        if isinstance(self._inner, DropsUnsynced):
            self._inner.drop_unsynced()

    def _write(self, data: bytes, offset: int) -> None:
        """Write as much as the budget allows."""
        with self._gate.space.growing():
            fitting = self._gate.space.fitting(self._inner, offset, len(data))
            self._inner.pwrite(data[:fitting], offset)
        if fitting < len(data):
            raise os_error(errno.ENOSPC, self._path)

    def _lose(self, fault: Fault) -> None:
        if not fault.kills:
            self.drop_unsynced()


class FaultFileSystem(Generic[Inner]):
    """Any file system, made to fail as planned. Thread-safe where the inner one is."""

    def __init__(self, inner: Inner, plan: FaultPlan | None = None) -> None:
        self._inner = inner
        self._gate = _Gate(plan or FaultPlan())

    @property
    def inner(self) -> Inner:
        """The file system that does the work."""
        return self._inner

    @property
    def counts(self) -> Counter[Kind]:
        """How often each kind of call was made, failed ones included: a copy."""
        return self._gate.counts.copy()

    @property
    def fired(self) -> int:
        """How often a fault struck."""
        return len(self._gate.struck)

    @property
    def struck(self) -> list[tuple[Kind, Path]]:
        """The calls that a fault struck, in order: a copy."""
        return list(self._gate.struck)

    @property
    def space_left_bytes(self) -> int | None:
        """What files may still grow by; None without a budget."""
        return self._gate.space.left_bytes

    def add_space(self, space_bytes: int) -> None:
        """Let files grow by so much more. Raises ValueError where there is no budget."""
        self._gate.space.add(space_bytes)

    def end_process(self) -> None:
        """Let every later call raise ``ProcessKilled``: what a process does whose threads outlive its death."""
        self._gate.dead = True

    def create(self, path: Path) -> File:
        """Create a file, or raise; also when the budget is used up."""

        def create() -> File:
            self._gate.space.check_any_left(path)
            return self._inner.create(path)

        return FaultFile(self._gate, self._gate.call("create", path, create), path)

    def open(self, path: Path, writable: bool = False) -> File:
        """Open a file, or raise."""
        file = self._gate.call("open", path, lambda: self._inner.open(path, writable))
        return FaultFile(self._gate, file, path)

    def rename(self, old: Path, new: Path) -> None:
        """Rename, or raise."""

        def rename() -> None:
            with self._gate.space.removing(self._inner, new, replacement=old):
                self._inner.rename(old, new)

        self._gate.call("rename", new, rename)

    def link(self, existing: Path, new: Path) -> None:
        """Link, or raise."""

        def link() -> None:
            self._inner.link(existing, new)
            self._gate.space.linked(existing, new)

        self._gate.call("link", new, link)

    def remove(self, path: Path) -> None:
        """Remove a name, or raise."""

        def remove() -> None:
            with self._gate.space.removing(self._inner, path):
                self._inner.remove(path)

        self._gate.call("remove", path, remove)

    def remove_dir(self, path: Path) -> None:
        """Remove an empty folder, or raise."""
        self._gate.call("remove_dir", path, lambda: self._inner.remove_dir(path))

    def exists(self, path: Path) -> bool:
        """Say whether the name exists, or raise."""
        return self._gate.call("exists", path, lambda: self._inner.exists(path))

    def info(self, path: Path) -> NameInfo | None:
        """Return what a name stands for, or raise."""
        return self._gate.call("info", path, lambda: self._inner.info(path))

    def list_dir(self, path: Path) -> list[str]:
        """List a folder, or raise."""
        return self._gate.call("list_dir", path, lambda: self._inner.list_dir(path))

    def make_dir(self, path: Path) -> None:
        """Make a folder, or raise."""
        self._gate.call("make_dir", path, lambda: self._inner.make_dir(path))

    def sync_dir(self, path: Path) -> None:
        """Sync a folder, or raise; the names stay unsynced then, and may be synced later."""
        self._gate.call("sync_dir", path, lambda: self._inner.sync_dir(path))

    def lock(self, path: Path) -> Lock:
        """Lock a file, or raise."""
        return self._gate.call("lock", path, lambda: self._inner.lock(path))

    def free_bytes(self, path: Path) -> int:
        """Return what can still be written within the budget, or raise."""
        free = self._gate.call("free_bytes", path, lambda: self._inner.free_bytes(path))
        left = self._gate.space.left_bytes
        return free if left is None else min(free, left)


def failing_calls(
    make_inner: Callable[[], AnyFileSystem], fault: Fault, limit: int = 100_000
) -> Iterator[FaultFileSystem[AnyFileSystem]]:
    """Yield file systems that fail as the fault says at the 1st call, the 2nd, ... until a run comes through unharmed.

    That last run is yielded too: its ``fired`` is 0. Raises RuntimeError after so many, because then the run never
    ends well.
    """
    for at in range(1, limit + 1):
        fs = FaultFileSystem(make_inner(), FaultPlan([replace(fault, at=at)]))
        yield fs
        if not fs.fired:
            return
    raise RuntimeError(f"after {limit} runs a call still failed")
