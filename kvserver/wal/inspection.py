"""Looks at a log without changing it: for ``kvctl wal``, offline or beside a running server.

Beside a server the log moves while it is read: a segment that looked open may be sealed a moment later, and the last frame
may be half there. Whatever looks wrong is therefore read a second time before it is called wrong. And the oldest segments
may go, while they are read, because their commits are in tables now.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from kvserver.base.errors import Corruption
from kvserver.base.fs import FileSystem, read_file
from kvserver.base.paths import DataPaths, SegmentName, is_torn
from kvserver.base.types import CREATION_REVISION, NO_EPOCH, Position
from kvserver.wal import format as fmt
from kvserver.wal.commit_record import iter_commits
from kvserver.wal.junction import Junction
from kvserver.wal.reader import SegmentReader
from kvserver.wal.recovery import DECISIONS, Case, Decision, check_order, check_place, classify, list_segments
from kvserver.wal.segment import SegmentInfo

STATES = {
    Case.SEALED_INSIDE: "sealed",
    Case.SEALED_LAST: "sealed",
    Case.OPEN_LAST: "open",
    Case.TORN_LAST: "torn",
}
"""What a sound segment is called; every other case is damage."""


@dataclasses.dataclass(frozen=True, slots=True)
class SegmentReport:
    """What was seen of one segment."""

    name: SegmentName
    file: str
    state: str
    """``sealed``, ``open``, ``torn`` (the server cuts it at its next start) or ``damaged``."""
    header: fmt.SegmentHeader | None
    end: Position | None
    groups: int
    commits: int
    length_bytes: int
    problem: str
    """What is wrong and where, for people; empty where nothing is."""
    note: str = ""
    """What is as it may be, and yet worth knowing: that older segments are gone."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    """Where a segment lies in the log that is looked at."""

    is_last: bool
    before: SegmentInfo | None
    may_follow_gap: bool
    """Whether what is before it may be gone: it is the oldest, or the tables hold what is missing."""
    junction: Junction


def inspect_log(fs: FileSystem, paths: DataPaths, base: Position | None = None) -> Iterator[SegmentReport]:
    """Yield a report on each segment, oldest first, checking every byte and how the segments follow each other.

    A log may begin at any revision: the tables hold what was before. Only where ``base``, the position that they hold, is
    given, can it be told whether that is so; then the log is held to it as recovery does, and segments that they cover may be
    missing. A damaged segment ends the checks of what follows: history cannot be followed across it. Raises OSError.
    """
    names = list_segments(fs, paths)
    before: SegmentInfo | None = None
    junction = Junction(base)
    needed = junction.first_needed(names)
    for index, name in enumerate(names):
        place = _Place(index == len(names) - 1, before, index <= needed, junction)
        try:
            report = _inspect(fs, paths, name, place)
            if report.state in ("torn", "damaged") or (report.state == "open" and not place.is_last):
                report = _inspect(fs, paths, name, place)
        except FileNotFoundError:  # it was there a moment ago: the server removed it, and those before it
            needed = max(needed, index + 1)
            continue
        yield report
        if report.header is None or report.end is None or report.state == "damaged":
            return
        before = SegmentInfo(name, paths.segment(name), report.header, report.end, report.length_bytes)


def kept_torn_tails(fs: FileSystem, paths: DataPaths) -> list[str]:
    """Return the names of the files in which recovery kept what it cut."""
    return [name for name in fs.list_dir(paths.wal) if is_torn(name)]


def read_segment(fs: FileSystem, paths: DataPaths, name: SegmentName) -> SegmentReader:
    """Return a reader of one segment. Raises Corruption, OSError."""
    return SegmentReader(paths.segment(name), read_file(fs, paths.segment(name)))


def _inspect(fs: FileSystem, paths: DataPaths, name: SegmentName, place: _Place) -> SegmentReport:
    reader: SegmentReader | None = None
    state, problem, note = "damaged", "", ""
    try:
        reader = read_segment(fs, paths, name)
        note = _check_place(reader, name, place)
        _check_frames(reader, place.junction)
        case = classify(reader, place.is_last)
        if place.is_last and DECISIONS[case] is not Decision.REFUSE:
            place.junction.check_end(reader)
        state = STATES.get(case, "damaged")
        if DECISIONS[case] is Decision.REFUSE:
            problem = f"{reader.path.name}: damaged at offset {reader.offset}: {case.value}"
        elif case is Case.TORN_LAST:
            first, last = reader.bad_revisions()
            what = f"revisions {first} to {last}, never acknowledged" if first else "no whole commit"
            problem = f"{reader.path.name}: torn at offset {reader.offset} ({what}); the server cuts it at its next start"
    except Corruption as error:
        problem = error.message
    if reader is None:
        return SegmentReport(name, paths.segment(name).name, state, None, None, 0, 0, 0, problem)
    commits = reader.revision - reader.header.first_revision + 1
    return SegmentReport(
        name, reader.path.name, state, reader.header, reader.position, reader.groups, commits, reader.offset, problem, note
    )


def _check_place(reader: SegmentReader, name: SegmentName, place: _Place) -> str:
    """Check that a segment may stand where it does; return what is worth knowing about that. Raises Corruption."""
    header, before = reader.header, place.before
    cluster_id = header.cluster_id if before is None else before.header.cluster_id
    if before is None and header.previous.epoch == NO_EPOCH:
        creation = Position(NO_EPOCH, CREATION_REVISION, fmt.creation_chain(cluster_id))
        check_place(reader, name, cluster_id, None, creation)
    elif before is not None and not (place.may_follow_gap and header.previous_segment_id != before.header.segment_id):
        check_place(reader, name, cluster_id, before, before.end)
        return ""
    else:
        check_place(reader, name, cluster_id, None, None)
    if before is not None:
        check_order(before.header, header, reader.path)
    place.junction.begin(reader)
    if header.previous.epoch == NO_EPOCH:
        return ""
    return f"the log begins at revision {header.first_revision}" if before is None else "the segments before it are gone"


def _check_frames(reader: SegmentReader, junction: Junction) -> None:
    """Walk the frames and parse their commits. Raises Corruption."""
    junction.see(reader.start)
    for frame in reader.frames():
        if frame.header.kind == fmt.GROUP:
            junction.takes(reader, frame)
            try:
                for _ in iter_commits(frame.payload, frame.header.commits):
                    pass
            except ValueError as error:
                raise Corruption(reader.path, frame.offset, str(error)) from error
