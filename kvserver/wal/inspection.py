"""Looks at a log without changing it: for ``kvctl wal``, offline or beside a running server.

Beside a server the log moves while it is read: a segment that looked open may be sealed a moment later, and the last frame
may be half there. Whatever looks wrong is therefore read a second time before it is called wrong.
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
from kvserver.wal.reader import SegmentReader
from kvserver.wal.recovery import DECISIONS, Case, Decision, check_place, classify, list_segments
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


def inspect_log(fs: FileSystem, paths: DataPaths) -> Iterator[SegmentReport]:
    """Yield a report on each segment, oldest first, checking every byte and how the segments follow each other.

    A damaged segment ends the checks of what follows: history cannot be followed across it. Raises OSError.
    """
    names = list_segments(fs, paths)
    before: SegmentInfo | None = None
    for index, name in enumerate(names):
        is_last = index == len(names) - 1
        report = _inspect(fs, paths, name, is_last, before)
        if report.state in ("torn", "damaged") or (report.state == "open" and not is_last):
            report = _inspect(fs, paths, name, is_last, before)
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


def _inspect(fs: FileSystem, paths: DataPaths, name: SegmentName, is_last: bool, before: SegmentInfo | None) -> SegmentReport:
    reader: SegmentReader | None = None
    state, problem = "damaged", ""
    try:
        reader = read_segment(fs, paths, name)
        cluster_id = reader.header.cluster_id if before is None else before.header.cluster_id
        end = Position(NO_EPOCH, CREATION_REVISION, fmt.creation_chain(cluster_id)) if before is None else before.end
        check_place(reader, name, cluster_id, before, end)
        _check_frames(reader)
        case = classify(reader, is_last)
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
        name, reader.path.name, state, reader.header, reader.position, reader.groups, commits, reader.offset, problem
    )


def _check_frames(reader: SegmentReader) -> None:
    """Walk the frames and parse their commits. Raises Corruption."""
    for frame in reader.frames():
        if frame.header.kind == fmt.GROUP:
            try:
                for _ in iter_commits(frame.payload, frame.header.commits):
                    pass
            except ValueError as error:
                raise Corruption(reader.path, frame.offset, str(error)) from error
