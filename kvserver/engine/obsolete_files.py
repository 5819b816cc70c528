"""Removes segments of the log that nothing needs any more. No other module does.

Whoever needs a part of the log says so by a named hold: the oldest revision whose commit it still has to read there. The
flush holds what is not in tables yet; a reader holds what it has not read. A segment goes when every hold is behind it, so
a log that fills the disk has a culprit with a name: ``Holds.lowest``.

What the next start needs of the log (``kvserver.wal.recovery``), and so what must not go, whatever the holds say:

- the open segment, and the newest sealed one until the open one has its name for good: a store whose epoch has begun and
  whose log has no segment has lost its log. ``NodeLog.sealed`` lists no others.
- the way from the tables' position to the first segment that is read. Mostly that segment's header names the position itself.
  But starts without a write leave segments that hold nothing but the begin of an epoch, and each begin changes the chain:
  where such segments lie right behind the tables' last revision, their headers are the only proof that what follows is
  the same history. They stay until a later commit is in the tables.

Removals need not be durable: a segment that comes back after a power loss, even with a gap behind it, is recognised by its
name and header, and is removed again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from kvserver.base import failpoints
from kvserver.base.events import Listener, SegmentsDeleted, SegmentsNotDeleted, ignore
from kvserver.base.fs import FileSystem
from kvserver.base.paths import DataPaths, SegmentName
from kvserver.wal.node_log import NodeLog
from kvserver.wal.segment import SegmentInfo

FLUSH = "flush"
"""The hold of what is not in tables yet: the revision after the flushed one. It is always there."""

ARCHIVE = "archive"
"""The hold of what is not archived yet: the revision after the archived one; from a start on, until more is known, everything."""


class HoldRefused(Exception):
    """What was to be held may be gone already."""


class Holds:
    """Who needs the log from which revision on. Safe for several threads."""

    def __init__(self, flush_from: int, log_from: int = 0) -> None:
        """Begin with the flush's hold. ``log_from``: the log's first revision; nothing below it can be held."""
        self._lock = threading.Lock()
        self._held = {FLUSH: flush_from}
        self._gone_below = log_from

    def set(self, name: str, revision: int) -> None:
        """Hold the log from this revision on, in place of what the name held before.

        On return no segment that holds it is removed, nor will be. Raises HoldRefused where that cannot be said. The flush
        moves its hold after its table is durable, never before.
        """
        with self._lock:
            if revision < self._gone_below:
                raise HoldRefused(f"{name} needs the log from revision {revision} on; it begins at {self._gone_below}")
            self._held[name] = revision

    def set_from(self, name: str, revision: int) -> None:
        """Hold the log from this revision on, or where that may be gone already, what is left behind it."""
        with self._lock:
            self._held[name] = max(revision, self._gone_below)

    def release(self, name: str) -> None:
        """Let go of what a name holds; no harm where it holds nothing. The flush never does (ValueError)."""
        if name == FLUSH:
            raise ValueError("what is not in tables is always held")
        with self._lock:
            self._held.pop(name, None)

    def list(self) -> dict[str, int]:
        """Return the revision of each hold, by name; a copy."""
        with self._lock:
            return dict(self._held)

    def lowest(self) -> tuple[str, int]:
        """Return the name and revision of the hold that keeps most of the log; of several, the first by name."""
        with self._lock:
            return self._lowest()

    def give_up(self) -> int:
        """Return the lowest revision held, and let nothing below it be held from now on: for the deleter."""
        with self._lock:
            self._gone_below = max(self._gone_below, self._lowest()[1])
            return self._gone_below

    def _lowest(self) -> tuple[str, int]:
        return min(self._held.items(), key=lambda hold: (hold[1], hold[0]))


class SegmentDeleter:
    """Removes obsolete segments. Its calls block; made on one thread at a time, beside the log thread and the event loop."""

    def __init__(self, fs: FileSystem, paths: DataPaths, log: NodeLog, holds: Holds, listener: Listener = ignore) -> None:
        self._fs = fs
        self._paths = paths
        self._log = log
        self._holds = holds
        self._listener = listener
        self._unsynced = False

    def delete_obsolete(self) -> list[SegmentName]:
        """Remove the sealed segments that nothing needs, oldest first, and return their names.

        Where the disk refuses, what is left stays for the next call, and an event says so; never raises OSError. Torn ends
        that recovery kept stay where they are: they are there to be looked at.
        """
        needed_from = self._holds.give_up()
        deleted: list[SegmentInfo] = []
        for info in self._log.sealed:
            if not is_obsolete(info, needed_from) or not self._remove(info):
                break
            deleted.append(info)
        if self._unsynced:
            self._sync(deleted)
        if deleted:
            total = sum(info.length_bytes for info in deleted)
            self._listener(SegmentsDeleted(len(deleted), total, self._log.first_revision()))
        return [info.name for info in deleted]

    def _remove(self, info: SegmentInfo) -> bool:
        """Remove one segment; say whether it is gone."""
        failpoints.hit("wal.release.before_remove")
        try:
            self._fs.remove(info.path)
        except FileNotFoundError:  # moved away by somebody's hand: that is as good
            pass
        except OSError as error:
            self._report(info.path.name, error)
            return False
        self._unsynced = True
        self._log.forget(info)
        failpoints.hit("wal.release.after_remove")
        return True

    def _sync(self, deleted: list[SegmentInfo]) -> None:
        """Make the removals durable, so that the space is free for good and nothing comes back."""
        try:
            self._log.sync_folder()
        except OSError as error:
            self._report(deleted[-1].path.name if deleted else self._paths.wal.name, error)
            return
        self._unsynced = False
        failpoints.hit("wal.release.after_dir_sync")

    def _report(self, name: str, error: OSError) -> None:
        self._listener(SegmentsNotDeleted(name, error.strerror or str(error)))


class LogHolds:
    """The holds of others than the database itself, and removing what they let go of. Belongs to the event loop."""

    def __init__(self, holds: Holds, delete: Callable[[], None]) -> None:
        """``delete`` has a thread look for what can go."""
        self._holds = holds
        self._delete = delete
        self._moved = False

    def hold(self, name: str, revision: int) -> None:
        """Hold the log from a revision on, in place of what the name held before. Raises HoldRefused where it may be gone."""
        _require_foreign(name)
        self._holds.set(name, revision)
        self._moved = True

    def release(self, name: str) -> None:
        """Let go of what a name holds; no harm where it holds nothing."""
        _require_foreign(name)
        self._holds.release(name)
        self._moved = True

    def tick(self) -> None:
        """Have removed what was let go of since the last time: holds move often, segments end seldom."""
        if self._moved:
            self._moved = False
            self._delete()


def _require_foreign(name: str) -> None:
    if name in (FLUSH, ARCHIVE):
        raise ValueError(f"the hold {name!r} is the database's own")


def is_obsolete(info: SegmentInfo, needed_from: int) -> bool:
    """Say whether a sealed segment holds nothing that is needed when the log is needed from this revision on."""
    last = info.end.revision
    holds_commits = last >= info.header.first_revision
    return last < needed_from if holds_commits else last < needed_from - 1
