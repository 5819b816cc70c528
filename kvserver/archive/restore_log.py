"""The log that a restore adds to its base: segments fetched ahead by threads, and their groups in order, up to the target.

Every byte is checked before it is read here: who fetches a segment holds it to its object, to the manifest's entry, and to the
chain of history. What is read back from the scratch folder a moment later is held to its checksums, and each segment to the
position that the one before it ended at. So nothing of a wrong archive gets into the tables.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from kvserver.archive.dictionary import Dictionaries
from kvserver.archive.errors import damaged, no_plan
from kvserver.archive.lineage import Leg
from kvserver.archive.names import ArchiveNames
from kvserver.archive.records import SegmentEntry
from kvserver.archive.segment_reading import write_raw
from kvserver.archive.store import Store
from kvserver.base import failpoints
from kvserver.base.environment import Environment
from kvserver.base.errors import Corruption
from kvserver.base.fs import opened
from kvserver.base.paths import DataPaths, SegmentName
from kvserver.base.types import Position
from kvserver.wal.cut import cut_chain, cut_group
from kvserver.wal.log_range import LogRangeReader, RangeFrame


class Part(NamedTuple):
    """A segment of which something is wanted, and where it stands in history."""

    leg: Leg
    entry: SegmentEntry


class Group(NamedTuple):
    """A group of commits, and the position behind it."""

    frame: RangeFrame
    position: Position
    cluster_id: bytes
    """Whose log it is."""


def parts_behind(legs: Sequence[Leg], position: Position, revision: int) -> list[Part]:
    """Return the segments that lead from a position on, oldest first, as far as the revision; none that holds no commit."""
    parts = []
    for leg in legs:
        left = leg.upto is not None and leg.upto.revision <= position.revision
        if leg.epoch.number < position.epoch.number or (leg.epoch.number == position.epoch.number and left):
            continue
        wanted = (one for one in leg.with_commits if one.end.revision > position.revision and one.start.revision < revision)
        parts += [Part(leg, entry) for entry in wanted]
    return parts


class FetchedLog:
    """Segments that are fetched into a scratch folder, a bounded number of bytes ahead of what is read. To be closed."""

    def __init__(
        self, env: Environment, store: Store, paths: DataPaths, parts: Sequence[Part], workers: int, ahead_bytes: int
    ) -> None:
        self._fs = env.fs
        self._store = store
        self._folder = paths
        self._paths = DataPaths(paths.restoring)
        self._waiting = collections.deque(parts)
        self._under_way: collections.deque[tuple[Part, Future[Path]]] = collections.deque()
        self._ahead_bytes = ahead_bytes
        self._held_bytes = 0
        """Of segments that are in the folder, or on their way there."""
        self._dictionaries: dict[bytes, Dictionaries] = {}
        self._numbers = itertools.count(1)
        self._fs.make_dir(self._paths.wal)
        self._log = LogRangeReader(self._fs, self._paths, prove_chain=False)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="restore-fetch")

    def close(self) -> None:
        """End the threads, once what is under way is done."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def groups(self, begin: Position, revision: int, on_segment: Callable[[SegmentEntry], None]) -> Generator[Group, None, None]:
        """Yield the groups from a position to a revision, the last one cut where it goes beyond.

        ``on_segment`` is told of each segment whose groups were all taken. Raises Corruption, StoreError, OSError.
        """
        at = begin
        while at.revision < revision:
            (leg, entry), path = self._next(at, revision)
            at = _entered(leg, entry, at)
            last = min(revision, leg.last_revision)
            with contextlib.closing(self._log.frames(at, entry.end)) as frames:
                for frame in frames:
                    group = _up_to(last, frame, at, leg)
                    at = group.position
                    yield group
                    if at.revision == last:
                        break
            if leg.upto is not None and at.revision == leg.upto.revision and at != leg.upto:
                raise _other_history(leg, entry, f"at revision {at.revision} it is not what the next epoch follows")
            on_segment(entry)
            self._fs.remove(path)
            self._held_bytes -= entry.raw_length

    def _next(self, at: Position, revision: int) -> tuple[Part, Path]:
        """Return the next segment once it is there, and have those behind it fetched."""
        self._fetch_ahead()
        if not self._under_way:
            raise no_plan(
                f"the log in the archive ends at revision {at.revision}, before revision {revision}",
                "see what it holds with: kvctl archive list",
            )
        part, future = self._under_way.popleft()
        path = future.result()
        failpoints.hit("restore.after_segment")
        return part, path

    def _fetch_ahead(self) -> None:
        while self._waiting:
            length = self._waiting[0].entry.raw_length
            if self._under_way and self._held_bytes + length > self._ahead_bytes:
                return
            part = self._waiting.popleft()
            self._held_bytes += length
            self._under_way.append((part, self._pool.submit(self._fetch, part)))

    def _fetch(self, part: Part) -> Path:
        leg, entry = part
        names = ArchiveNames(leg.cluster_id)
        temporary = self._folder.being_fetched(next(self._numbers))
        with opened(self._fs.create(temporary)) as file:
            facts = write_raw(self._store, names, entry, self._dictionaries_of(names), file)
        if facts.header.cluster_id != leg.cluster_id or facts.header.branch != leg.branch:
            raise _other_history(leg, entry, "its header names another cluster or another begin of its epoch")
        path = self._paths.segment(SegmentName(entry.id.epoch_number, entry.id.first_revision))
        self._fs.rename(temporary, path)
        return path

    def _dictionaries_of(self, names: ArchiveNames) -> Dictionaries:
        return self._dictionaries.setdefault(names.cluster_id, Dictionaries(self._store, names))


def _entered(leg: Leg, entry: SegmentEntry, at: Position) -> Position:
    """Return the position from which a segment's groups are wanted. Raises Corruption where it does not follow what was reached.

    An epoch begins where the one before it was left; between two that hold commits there may be some that hold none.
    """
    if at.revision == entry.start.revision and (at == entry.start or at.epoch.number < leg.epoch.number):
        return entry.start
    if at.revision > entry.start.revision and at.epoch == leg.epoch:
        return at
    raise _other_history(leg, entry, f"it does not follow epoch {at.epoch.number}, revision {at.revision}")


def _up_to(last: int, frame: RangeFrame, at: Position, leg: Leg) -> Group:
    """Return a group and the position behind it, cut where it goes beyond a revision. Raises Corruption."""
    header = frame.header
    if header.last_revision <= last:
        return Group(frame, Position(leg.epoch, header.last_revision, header.chain), leg.cluster_id)
    try:
        kept, payload = cut_group(header, frame.payload, last)
    except ValueError as error:
        raise Corruption(frame.path, frame.offset, str(error)) from error
    position = Position(leg.epoch, last, cut_chain(at.chain, header.first_revision, payload))
    return Group(RangeFrame(frame.offset, kept, payload, frame.path, frame.epoch), position, leg.cluster_id)


def _other_history(leg: Leg, entry: SegmentEntry, what: str) -> Corruption:
    return damaged(ArchiveNames(leg.cluster_id).segment(entry.id), 0, f"the segment is of another history: {what}")
