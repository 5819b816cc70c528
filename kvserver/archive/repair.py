"""Puts whole segments from the archive in the place of damaged ones, in the data folder of a node that does not run.

    1  find    every segment is read; one that does not check, and is not the open one, is damaged
    2  fetch   the same segment from the archive, checked byte by byte, into a file beside it
    3  aside   the damaged file gets a second name, under which it is kept
    4  rename  the whole one takes its place, at once

What makes it the same segment: its epoch and first revision, by which it is looked for, and then everything that the log still
knows of it: its own header if that can be read, and the segments before and behind it, which name where it begins and ends. A
crash after any step leaves a folder in which the same command goes on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from kvserver.archive.catalog import read_catalog
from kvserver.archive.dictionary import Dictionaries
from kvserver.archive.names import ArchiveNames
from kvserver.archive.records import SegmentEntry
from kvserver.archive.segment_reading import write_raw
from kvserver.archive.store import ObjectMissing, Store
from kvserver.base import failpoints
from kvserver.base.environment import Environment
from kvserver.base.errors import Code, Corruption, InvalidRequest, OpenRefused, Refused
from kvserver.base.fs import File, FileSystem, opened, read_file
from kvserver.base.identity_file import parse_identity
from kvserver.base.limits import MIB
from kvserver.base.paths import DataPaths, SegmentName
from kvserver.base.register import Register
from kvserver.base.types import Epoch, Position
from kvserver.wal import format as fmt
from kvserver.wal.checker import SegmentChecker, SegmentFacts
from kvserver.wal.recovery import list_segments

_READ_BYTES = 1 * MIB


class Repaired(NamedTuple):
    """A segment that was put back."""

    segment: str
    """Its file's name."""
    what: str
    """What was wrong."""
    kept_as: str
    """Under which name the damaged file is kept; empty: it was missing."""
    first_revision: int
    last_revision: int
    length_bytes: int


class Unrepaired(NamedTuple):
    """A segment that is damaged still."""

    segment: str
    what: str
    """What is wrong."""
    why: str
    """Why it was not put back."""


class RepairReport(NamedTuple):
    """What was done about a log."""

    segments: int
    """So many were read."""
    repaired: list[Repaired]
    unrepaired: list[Unrepaired]


@dataclasses.dataclass(slots=True)
class _Seen:
    """A segment, and what was seen of it."""

    name: SegmentName
    path: Path
    facts: SegmentFacts | None = None
    header: fmt.SegmentHeader | None = None
    """Of a damaged one, if that much can be read."""
    problem: str = ""
    is_open: bool = False
    """It ends as the open segment of a node that was stopped or killed does."""


def repair_segments(
    env: Environment,
    store: Store,
    data_dir: Path,
    segment: SegmentName | None = None,
    progress: Callable[[str, int], None] = lambda name, length: None,
    dry_run: bool = False,
    register: Callable[[FileSystem, DataPaths], Register] | None = None,
) -> RepairReport:
    """Put back what is damaged, or the one segment that is named, be it damaged or missing; change nothing else.

    With ``dry_run`` nothing is changed and nothing fetched: the report has what would be put back. ``register``: where the node
    claims its epochs; what the archive holds of epochs that it does not know is not taken.
    ``progress`` is told of each segment that was read, and its bytes. Raises OpenRefused where the folder is in use,
    InvalidRequest where it is none, RevisionError (NO_RESTORE_PLAN) where the archive holds nothing of the store, Corruption,
    StoreError, OSError.
    """
    paths = DataPaths(data_dir)
    if not env.fs.exists(paths.identity):
        hint = "name the folder given to kvserver serve --data-dir"
        raise InvalidRequest(Code.TARGET_UNUSABLE, f"{data_dir} is no data folder: it has no {paths.identity.name}", hint)
    try:
        lock = env.fs.lock(paths.lock)
    except BlockingIOError:
        raise OpenRefused(f"{data_dir} is in use by a server", "stop the server, repair, and start it again") from None
    try:
        cluster_id = parse_identity(paths, read_file(env.fs, paths.identity)).cluster_id
        claimed = {one.epoch for one in register(env.fs, paths).records()} if register is not None else None
        return _Repair(env, store, paths, cluster_id, claimed, dry_run).run(segment, progress)
    finally:
        lock.release()


class _Repair:
    def __init__(
        self, env: Environment, store: Store, paths: DataPaths, cluster_id: bytes, claimed: set[Epoch] | None, dry_run: bool
    ) -> None:
        self._env = env
        self._fs = env.fs
        self._store = store
        self._paths = paths
        self._names = ArchiveNames(cluster_id)
        self._claimed = claimed
        """The epochs that the node's register knows; None: it was not asked."""
        self._dry_run = dry_run
        self._entries: dict[SegmentName, list[SegmentEntry]] | None = None

    def run(self, wanted: SegmentName | None, progress: Callable[[str, int], None]) -> RepairReport:
        """Find what is damaged and put it back."""
        names = list_segments(self._fs, self._paths)
        seen = []
        for name in sorted({*names, *([wanted] if wanted is not None else [])}):
            one = self._look(name, is_last=name == names[-1] if names else False, exists=name in names)
            progress(one.path.name, self._length(one.path) if name in names else 0)
            seen.append(one)
        report = RepairReport(len(names), [], [])
        for index, one in enumerate(seen):
            if wanted is not None and one.name != wanted:
                continue
            if one.problem:
                self._settle(seen, index, report, is_named=wanted is not None)
        return report

    def _look(self, name: SegmentName, is_last: bool, exists: bool) -> _Seen:
        """Read a segment and say what is wrong with it."""
        one = _Seen(name, self._paths.segment(name))
        if not exists:
            one.problem = "it is missing"
            return one
        try:
            with opened(self._fs.open(one.path)) as file:
                self._look_at_header(one, file)
                if not one.problem:
                    one.facts = _checked(one.path, file)
        except Corruption as error:
            one.problem = f"damaged at offset {error.offset}: {error.what}"
            one.is_open = is_last
        except OSError as error:
            one.problem = f"it cannot be read: {error.strerror or error}"
        return one

    def _look_at_header(self, one: _Seen, file: File) -> None:
        try:
            header = fmt.decode_segment_header(file.pread(fmt.SEGMENT_HEADER_LENGTH, 0))
        except ValueError as error:
            one.problem = str(error)
            return
        if SegmentName(header.epoch.number, header.first_revision) != one.name:
            one.problem = "its header does not fit its name"
        elif header.cluster_id != self._names.cluster_id:
            one.problem = f"it belongs to another cluster, {header.cluster_id.hex()}"
        else:
            one.header = header

    def _settle(self, seen: list[_Seen], index: int, report: RepairReport, is_named: bool) -> None:
        """Put one segment back, or say why not. An open one that the archive does not hold is as it should be."""
        one = seen[index]
        fitting = []
        why = "the archive does not hold it"
        for entry in self._archived(one.name):
            why = _misfit(entry, one, seen[index - 1] if index else None, seen[index + 1] if index + 1 < len(seen) else None)
            if not why and self._claimed is not None and entry.end.epoch not in self._claimed:
                why = "the archive's is of an epoch that another node has begun: it is of another history"
            if not why:
                fitting.append(entry)
        if not fitting:
            if one.is_open:
                why = f"it is the open segment, and the next start cuts what a crash has left of it; {why}"
            if is_named or not one.is_open:
                report.unrepaired.append(Unrepaired(one.path.name, one.problem, why))
            return
        if self._dry_run:
            found = fitting[0]
            revisions = (found.id.first_revision, found.end.revision)
            report.repaired.append(Repaired(one.path.name, one.problem, "", *revisions, found.raw_length))
            return
        try:
            one.facts = self._fetch(fitting[0])
        except (Corruption, ObjectMissing) as error:
            report.unrepaired.append(
                Unrepaired(one.path.name, one.problem, f"the archive's is not whole either: {error.message}")
            )
            return
        kept_as = self._keep_aside(one.path)
        failpoints.hit("repair.after_aside")
        self._fs.rename(self._paths.prepared(0), one.path)
        self._fs.sync_dir(self._paths.wal)
        failpoints.hit("repair.after_rename")
        end, length = one.facts.end, one.facts.raw_length
        report.repaired.append(Repaired(one.path.name, one.problem, kept_as, one.name.first_revision, end.revision, length))

    def _archived(self, name: SegmentName) -> list[SegmentEntry]:
        """Return what the archive has under an epoch and a first revision."""
        if self._entries is None:
            self._entries = {}
            for part in read_catalog(self._store, self._names.cluster_id).epochs:
                for entry in part.entries:
                    key = SegmentName(entry.id.epoch_number, entry.id.first_revision)
                    self._entries.setdefault(key, []).append(entry)
        return self._entries.get(name, [])

    def _fetch(self, entry: SegmentEntry) -> SegmentFacts:
        """Fetch the raw segment into the file that a start removes, should this not end."""
        temporary = self._paths.prepared(0)
        if self._fs.exists(temporary):
            self._fs.remove(temporary)
        if self._fs.free_bytes(self._paths.wal) < entry.raw_length + _READ_BYTES:
            what = f"the segment takes {entry.raw_length:,} bytes, and the disk of {self._paths.wal} has less free"
            raise Refused(Code.DISK_FULL, what, "free space and try again")
        with opened(self._fs.create(temporary)) as file:
            facts = write_raw(self._store, self._names, entry, Dictionaries(self._store, self._names), file)
            file.sync()
        failpoints.hit("repair.after_fetch")
        return facts

    def _keep_aside(self, path: Path) -> str:
        """Give a damaged file a second name, unless it has one from an attempt before; return that name."""
        if not self._fs.exists(path):
            return ""
        number = 1
        while self._fs.exists(kept := self._paths.damaged(path, number)):
            if _same(self._fs, path, kept):
                return kept.name
            number += 1
        self._fs.link(path, kept)
        self._fs.sync_dir(self._paths.wal)
        return kept.name

    def _length(self, path: Path) -> int:
        found = self._fs.info(path)
        return found.length_bytes if found is not None else 0


def _checked(path: Path, file: File) -> SegmentFacts:
    """Read every byte of a sealed segment. Raises Corruption, OSError."""
    checker = SegmentChecker(path)
    at = 0
    while piece := file.pread(_READ_BYTES, at):
        checker.feed(piece)
        at += len(piece)
    return checker.finish()


def _misfit(entry: SegmentEntry, one: _Seen, before: _Seen | None, behind: _Seen | None) -> str:
    """Say why an archived segment is not the damaged one; nothing where all that is known of that says it is."""
    if one.header is not None and one.header.segment_id != entry.segment_id:
        return "the archive holds another segment of this epoch and revision: its own header names another id"
    if before is not None and before.facts is not None and not _joins(before.facts.end, entry.previous):
        return "the archive's does not follow the segment before it: it is of another history"
    if behind is None or behind.facts is None:
        return ""
    header = behind.facts.header
    directly = header.previous_segment_id == entry.segment_id
    if (directly and header.previous != entry.end) or not _joins(entry.end, header.previous):
        return "the segment behind it does not follow the archive's: that is of another history"
    same_place = header.previous.epoch.number == entry.end.epoch.number and header.previous.revision == entry.end.revision
    if same_place and not directly:
        return "the segment behind it follows another one than the archive's: that is of another history"
    return ""


def _joins(end: Position, previous: Position) -> bool:
    """Say whether what follows ``previous`` may lie behind a segment that ends there: next to it, or with others between them."""
    if end[:2] == previous[:2]:
        return end == previous
    return end.epoch.number < previous.epoch.number or (end.epoch == previous.epoch and end.revision < previous.revision)


def _same(fs: FileSystem, one: Path, other: Path) -> bool:
    """Say whether two files hold the same bytes, as far as they can be read."""
    try:
        with opened(fs.open(one)) as left, opened(fs.open(other)) as right:
            if left.size() != right.size():
                return False
            return all(left.pread(_READ_BYTES, at) == right.pread(_READ_BYTES, at) for at in range(0, left.size(), _READ_BYTES))
    except OSError:
        return False
