"""A file system that writes down every call made of it.

The list holds one ``Op`` for each call, in the order in which the calls came back, and the ``Mark`` entries that a
test puts between them (``mark("ack", revision)``), so that "acknowledged only after the sync" can be read off it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, Protocol, TypeVar, runtime_checkable

from kvserver.base.fs import File, FileSystem, Lock, NameInfo

Kind = Literal[
    "create", "open", "rename", "link", "remove", "remove_dir", "exists", "info", "list_dir", "make_dir", "sync_dir", "lock",
    "free_bytes",
    "pwrite", "pread", "size", "truncate", "datasync", "sync", "close", "drop_unsynced", "release",
]  # fmt: skip

CHANGING: frozenset[Kind] = frozenset(
    {
        "create",
        "rename",
        "link",
        "remove",
        "remove_dir",
        "make_dir",
        "sync_dir",
        "lock",
        "pwrite",
        "truncate",
        "datasync",
        "sync",
        "drop_unsynced",
    }
)
"""The calls after which a crash may leave something else than before."""

Inner = TypeVar("Inner", bound=FileSystem, covariant=True)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Op:
    """One call: what, on which path, where in the file, and the error number it raised (None: it came back)."""

    kind: Kind
    path: Path
    other: Path | None = None
    offset: int | None = None
    length: int | None = None
    error: int | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that the test wants to find between the calls."""

    name: str
    value: object = None


Entry = Op | Mark


@runtime_checkable
class DropsUnsynced(Protocol):
    """A file that can be told to lose its unsynced writes, as a failed sync makes it."""

    def drop_unsynced(self) -> None:
        """Keep the unsynced writes visible, and let no later sync write them."""


class RecordingFile:
    """A file whose calls are recorded."""

    def __init__(self, recorder: _Recorder, inner: File, path: Path) -> None:
        self._recorder = recorder
        self._inner = inner
        self._path = path

    def pwrite(self, data: bytes, offset: int) -> None:
        """Write, and record offset and length."""
        op = Op("pwrite", self._path, offset=offset, length=len(data))
        self._recorder.call(op, lambda: self._inner.pwrite(data, offset))

    def pread(self, length: int, offset: int) -> bytes:
        """Read, and record offset and the length asked for."""
        op = Op("pread", self._path, offset=offset, length=length)
        return self._recorder.call(op, lambda: self._inner.pread(length, offset))

    def size(self) -> int:
        """Return the length, and record the call."""
        return self._recorder.call(Op("size", self._path), self._inner.size)

    def truncate(self, length: int) -> None:
        """Cut or extend, and record the length."""
        self._recorder.call(Op("truncate", self._path, length=length), lambda: self._inner.truncate(length))

    def datasync(self) -> None:
        """Sync the data, and record the call."""
        self._recorder.call(Op("datasync", self._path), self._inner.datasync)

    def sync(self) -> None:
        """Sync, and record the call."""
        self._recorder.call(Op("sync", self._path), self._inner.sync)

    def close(self) -> None:
        """Close, and record the call."""
        self._recorder.call(Op("close", self._path), self._inner.close)

    def drop_unsynced(self) -> None:
        """Hand a failed sync's effect on to the file inside, where it knows one."""
        if isinstance(self._inner, DropsUnsynced):
            self._recorder.call(Op("drop_unsynced", self._path), self._inner.drop_unsynced)


class RecordingLock:
    """A lock whose release is recorded."""

    def __init__(self, recorder: _Recorder, inner: Lock, path: Path) -> None:
        self._recorder = recorder
        self._inner = inner
        self._path = path

    def release(self) -> None:
        """Let go of it, and record the call."""
        self._recorder.call(Op("release", self._path), self._inner.release)


class _Recorder:
    """The list, and who is told of each new entry."""

    def __init__(self, on_entry: Callable[[Entry], None] | None) -> None:
        self.entries: list[Entry] = []
        self._on_entry = on_entry
        self._mutex = threading.RLock()

    def call(self, op: Op, perform: Callable[[], T]) -> T:
        # A listener must see the world as it is after exactly this call: then calls wait for one another.
        with self._mutex if self._on_entry else contextlib.nullcontext():
            try:
                result = perform()
            except OSError as error:
                self.add(Op(op.kind, op.path, op.other, op.offset, op.length, error.errno or 0))
                raise
            self.add(op)
            return result

    def add(self, entry: Entry) -> None:
        with self._mutex:
            self.entries.append(entry)
            if self._on_entry:
                self._on_entry(entry)


class RecordingFileSystem(Generic[Inner]):
    """Any file system, with a record of the calls made of it. Thread-safe where the inner one is.

    ``on_entry`` is called after each entry; while there is one, calls are made one at a time.
    """

    def __init__(self, inner: Inner, on_entry: Callable[[Entry], None] | None = None) -> None:
        self._inner = inner
        self._recorder = _Recorder(on_entry)

    @property
    def inner(self) -> Inner:
        """The file system that does the work."""
        return self._inner

    @property
    def entries(self) -> list[Entry]:
        """Calls and marks so far: a copy."""
        return list(self._recorder.entries)

    def mark(self, name: str, value: object = None) -> None:
        """Put a mark after the calls that have come back."""
        self._recorder.add(Mark(name, value))

    def ops(self, *kinds: Kind, path: Path | None = None) -> list[Op]:
        """Return the calls of these kinds (none: of all), on this path where one is given."""
        return [
            entry
            for entry in self.entries
            if isinstance(entry, Op) and (not kinds or entry.kind in kinds) and path in (None, entry.path, entry.other)
        ]

    def create(self, path: Path) -> File:
        """Create a file, and record the call."""
        file = self._recorder.call(Op("create", path), lambda: self._inner.create(path))
        return RecordingFile(self._recorder, file, path)

    def open(self, path: Path, writable: bool = False) -> File:
        """Open a file, and record the call."""
        file = self._recorder.call(Op("open", path), lambda: self._inner.open(path, writable))
        return RecordingFile(self._recorder, file, path)

    def rename(self, old: Path, new: Path) -> None:
        """Rename, and record both names."""
        self._recorder.call(Op("rename", old, new), lambda: self._inner.rename(old, new))

    def link(self, existing: Path, new: Path) -> None:
        """Link, and record both names."""
        self._recorder.call(Op("link", existing, new), lambda: self._inner.link(existing, new))

    def remove(self, path: Path) -> None:
        """Remove a name, and record the call."""
        self._recorder.call(Op("remove", path), lambda: self._inner.remove(path))

    def remove_dir(self, path: Path) -> None:
        """Remove an empty folder, and record the call."""
        self._recorder.call(Op("remove_dir", path), lambda: self._inner.remove_dir(path))

    def exists(self, path: Path) -> bool:
        """Say whether the name exists, and record the call."""
        return self._recorder.call(Op("exists", path), lambda: self._inner.exists(path))

    def info(self, path: Path) -> NameInfo | None:
        """Return what a name stands for, and record the call."""
        return self._recorder.call(Op("info", path), lambda: self._inner.info(path))

    def list_dir(self, path: Path) -> list[str]:
        """List a folder, and record the call."""
        return self._recorder.call(Op("list_dir", path), lambda: self._inner.list_dir(path))

    def make_dir(self, path: Path) -> None:
        """Make a folder, and record the call."""
        self._recorder.call(Op("make_dir", path), lambda: self._inner.make_dir(path))

    def sync_dir(self, path: Path) -> None:
        """Sync a folder, and record the call."""
        self._recorder.call(Op("sync_dir", path), lambda: self._inner.sync_dir(path))

    def lock(self, path: Path) -> Lock:
        """Lock a file, and record the call."""
        lock = self._recorder.call(Op("lock", path), lambda: self._inner.lock(path))
        return RecordingLock(self._recorder, lock, path)

    def free_bytes(self, path: Path) -> int:
        """Return the free space, and record the call."""
        return self._recorder.call(Op("free_bytes", path), lambda: self._inner.free_bytes(path))
