"""Room for the log, made ready before it is needed.

A commit that was given a revision must find its place on disk: a disk or a descriptor table that is full has to refuse a
write before that, not fail a sync after it. So a thread of its own keeps the open segment zero-filled and synced some
megabytes ahead of the writer, and the next segment created, filled and open; ``room`` tells the pipeline how many bytes it
may still admit. Writing into zero-filled space is also a third faster than growing a file (fallocate alone gains nothing).

Rule: a sync that fails here is a failure of the log like any other. The kernel reports a write-back error once; whoever
swallows the report hides it from the writer (see PostgreSQL's "fsyncgate", 2018).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

from kvserver.base import failpoints
from kvserver.base.clock import Clock, SystemClock
from kvserver.base.events import Listener, SpaceAvailable, SpaceUnavailable, ignore
from kvserver.base.fs import File, FileSystem
from kvserver.base.options import WalOptions
from kvserver.base.paths import DataPaths, is_prepared
from kvserver.wal.format import SEGMENT_HEADER_LENGTH

SEGMENT_RESERVE = 1024
"""Bytes at a segment's end that are not given out: for its seal frame and a last mark."""


class Prepared:
    """A file that is or will be a segment, zero-filled and synced up to ``ready_bytes``."""

    __slots__ = ("file", "path", "ready_bytes")

    def __init__(self, file: File, path: Path) -> None:
        self.file = file
        self.path = path
        self.ready_bytes = 0


class SyncFailed(OSError):
    """A sync of the log's files failed. Unlike other errors of the disk it is final: the log is poisoned."""


class LogSpace:
    """Keeps room ready. ``step`` does one piece of work; ``start`` runs steps on a thread, tests may call it themselves."""

    def __init__(
        self,
        fs: FileSystem,
        paths: DataPaths,
        options: WalOptions,
        listener: Listener = ignore,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._fs = fs
        self._paths = paths
        self._options = options
        self._listener = listener
        self._changed = threading.Condition()
        self._zeros = bytes(options.fill_step_bytes)
        self._number = 0
        self._current: Prepared | None = None
        self._offset = 0
        self._next: Prepared | None = None
        self._busy: Prepared | None = None
        self._syncing: Prepared | None = None
        self._thread: threading.Thread | None = None
        self._closing = False
        self.error: OSError | None = None
        """Why room cannot be had at the moment; None while it can."""
        self.failure: BaseException | None = None
        """Why it never will be again: a sync failed."""
        self.on_change: Callable[[], None] = lambda: None
        """Called on the space thread after room was gained or lost."""

    def remove_leftovers(self) -> None:
        """Remove the future segments that an earlier process left behind; none of them ever held a commit."""
        for name in self._fs.list_dir(self._paths.wal):
            if is_prepared(name):
                self._fs.remove(self._paths.wal / name)

    def start(self) -> None:
        """Begin to keep room ready on a thread."""
        self._thread = threading.Thread(target=self._run, name="log-space", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread and remove what did not become a segment. Never raises for the disk's errors."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        for prepared in (self._next, self._current):
            if prepared is not None and is_prepared(prepared.path.name):  # it never became a segment
                with contextlib.suppress(OSError):  # what cannot be removed now is removed at the next open
                    prepared.file.close()
                    self._fs.remove(prepared.path)
        self._next = None

    def room(self) -> int:
        """Return how many bytes of frames fit into what is ready, whatever their sizes are."""
        with self._changed:
            if self._current is None:
                return 0
            room = self._current.ready_bytes - self._offset - SEGMENT_RESERVE
            if self._next is not None and self._next.ready_bytes >= self._options.ahead_bytes:
                taken = SEGMENT_HEADER_LENGTH + SEGMENT_RESERVE + self._options.max_frame_bytes
                room += self._next.ready_bytes - taken
            return max(0, room)

    def has_next(self) -> bool:
        """Say whether the next segment could be begun without waiting."""
        with self._changed:
            return self._next is not None and self._next.ready_bytes >= self._options.ahead_bytes

    def advance(self, offset: int) -> None:
        """Note that the open segment is written up to the offset."""
        with self._changed:
            self._offset = offset
            if self._missing() is not None:
                self._changed.notify_all()

    def await_ready(self, end: int) -> bool:
        """Wait until the open segment is ready up to ``end``; False where that cannot be but a next segment can be had."""
        while True:
            with self._changed:
                self._raise_failure()
                current = self._current
                if current is not None and current.ready_bytes >= end:
                    return True
                if self.error is not None and self._next is not None:
                    return False
                if self._thread is not None:
                    self._clock.wait(self._changed, 1.0)
                    continue
            self.step()
            if self.error is not None and self._next is None:
                raise self.error

    def confirm_synced(self) -> None:
        """Raise ``SyncFailed`` if a sync of the open segment failed here; wait for the end of one that is under way.

        Both threads sync the same file, and the kernel tells one of them alone that writing it back failed. So a sync on
        the log thread proves something only where none on this one was told of a failure meanwhile.
        """
        with self._changed:
            while self._syncing is not None and self._syncing is self._current:
                self._clock.wait(self._changed, 1.0)
            self._raise_failure()

    def take_next(self) -> Prepared:
        """Retire the open segment's file and return the next one, waiting for it if it must be."""
        with self._changed:
            while self._busy is not None and self._busy is self._current:
                self._clock.wait(self._changed, 1.0)
            self._current = None
        while True:
            with self._changed:
                self._raise_failure()
                if self._next is not None and self._next.ready_bytes >= self._options.ahead_bytes:
                    taken, self._next = self._next, None
                    self._current = taken
                    self._offset = SEGMENT_HEADER_LENGTH
                    self._changed.notify_all()
                    return taken
                if self._thread is not None:
                    self._clock.wait(self._changed, 1.0)
                    continue
            self._step_alone()

    def step(self) -> bool:
        """Do one piece of work, if there is any; say whether there was. Never raises for the disk's errors."""
        with self._changed:
            target = self._missing()
            if target is None or self.failure is not None:
                return False
            self._busy = target if isinstance(target, Prepared) else None
        try:
            if isinstance(target, Prepared):
                self._fill(target)
            else:
                self._create()
            if self.error is not None:
                self.error = None
                self._listener(SpaceAvailable())
        except SyncFailed as failed:
            self.failure = failed
        except OSError as error:
            if self.error is None:
                self._listener(SpaceUnavailable(str(error)))
            self.error = error
        except Exception as error:  # whatever it is: the thread must not end silently
            self.failure = error
        finally:
            with self._changed:
                self._busy = self._syncing = None
                self._changed.notify_all()
        self.on_change()
        return True

    def _step_alone(self) -> None:
        """Do a step on the caller's thread, where no other keeps room; raise what keeps it from being had."""
        self.step()
        if self.error is not None:
            raise self.error

    def _raise_failure(self) -> None:
        if self.failure is not None:
            raise self.failure

    def _missing(self) -> Prepared | str | None:
        """Return what to work on: a file to fill, "create" for a new one, or None. The lock is held."""
        ahead = self._options.ahead_bytes
        limit = self._options.segment_bytes
        current, following = self._current, self._next
        if current is not None and current.ready_bytes < min(limit, self._offset + ahead):
            return current
        if following is None:
            return "create"
        # Twice as fast as the second half of this one fills up, not at once: 56 MiB in a row made every sync beside them wait.
        wanted = min(limit, ahead + 2 * max(0, self._offset - limit // 2))
        return following if following.ready_bytes < wanted else None

    def _create(self) -> None:
        path = self._paths.prepared(self._number)
        file = self._fs.create(path)
        self._number += 1
        failpoints.hit("wal.prepare.after_create")
        with self._changed:
            self._next = Prepared(file, path)

    def _fill(self, target: Prepared) -> None:
        length = min(len(self._zeros), self._options.segment_bytes - target.ready_bytes)
        zeros = self._zeros if length == len(self._zeros) else self._zeros[:length]
        target.file.pwrite(zeros, target.ready_bytes)
        with self._changed:
            self._syncing = target
        try:
            target.file.datasync()
        except OSError as error:
            raise SyncFailed(error.errno, error.strerror, target.path.name) from error
        failpoints.hit("wal.prepare.after_fill")
        with self._changed:
            target.ready_bytes += length

    def _run(self) -> None:
        while not self._closing and self.failure is None:
            if not self.step():
                with self._changed:
                    if not self._closing and self._missing() is None:
                        self._clock.wait(self._changed, 1.0)
            elif self.error is not None:
                with self._changed:
                    if not self._closing:
                        self._clock.wait(self._changed, self._options.space_retry_ms / 1000)
