"""Reads the log back at open: every case by name, one decision for each, and nothing shown before it is durable.

What a segment looks like is put into one of the cases of ``Case``; ``DECISIONS`` says what is done. The table, with how a
crash leads to each case, stands in ``docs/durability.md``, and the tests walk it.

Two rules carry the rest. Only a later frame is proof that a bad place was once durable: then it is damage and the node
refuses; without such proof it is the group that was being written when the machine stopped, and is cut, kept and reported.
And what was read back is not durable yet: after ``kill -9`` it may live in the page cache alone, and after a failed sync its
pages may be marked clean, so everything unproven is written again before the sync.

A follower goes on where its log ends: its last segment is made durable and not sealed, for only a primary decides a seal.
What a frame says of durability is true of the disk of the primary that wrote it. Of a segment that was received, nothing is
proven by it: all of it is written again, and a bad place is cut also where a later frame follows, because several frames are
written before one sync. What those frames show is reported: this node may have acknowledged it, and has to fetch it again.

Where there are tables, they hold the beginning, and the oldest segments may be gone: see ``kvserver.wal.junction``. Of a segment
that the tables cover whole, nothing is read but its header block.

The form, a decision table over what is seen, follows TigerBeetle's journal recovery (tigerbeetle/tigerbeetle,
``src/vsr/journal.zig``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import shlex
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from kvserver.base import failpoints
from kvserver.base.errors import Corruption
from kvserver.base.events import Listener, TornTailCut, ignore
from kvserver.base.fs import FileSystem, create_once, opened, read_file
from kvserver.base.paths import DataPaths, SegmentName, parse_segment
from kvserver.base.types import CREATION_REVISION, NO_EPOCH, Epoch, LogEnd, Position
from kvserver.wal import format as fmt
from kvserver.wal.junction import RESTORE_HINT, Junction
from kvserver.wal.reader import End, SegmentReader, read_head
from kvserver.wal.segment import SegmentInfo, SegmentWriter

Apply = Callable[[int, int, bytes], None]
"""``apply(first_revision, count, payload)`` for each group in order; a ValueError becomes Corruption at its frame."""


class Case(enum.Enum):
    """What a segment's end looks like, and where in the log it lies."""

    SEALED_INSIDE = "a sealed segment with others behind it"
    UNSEALED_INSIDE = "a segment without a seal although others follow"
    DAMAGED_INSIDE = "a bad place in a segment although others follow"
    SEALED_LAST = "the last segment, sealed: the process ended between two segments, or cleanly"
    OPEN_LAST = "the last segment ends with a good frame and space"
    TORN_LAST = "a bad place at the end of the last segment that nothing proves to have been durable"
    PROVEN_LAST = "a bad place in the last segment that a later frame proves to have been durable"
    TRAILING = "something behind a seal"


class Decision(enum.Enum):
    """What is done about a case."""

    KEEP = "leave it as it is"
    SECURE = "write what is unproven again, sync, and seal if it is not sealed; a follower never seals"
    CUT = "keep the bad end aside, cut it, then as SECURE"
    REFUSE = "refuse to open: CORRUPTION"


DECISIONS = {
    Case.SEALED_INSIDE: Decision.KEEP,
    Case.UNSEALED_INSIDE: Decision.REFUSE,
    Case.DAMAGED_INSIDE: Decision.REFUSE,
    Case.SEALED_LAST: Decision.SECURE,
    Case.OPEN_LAST: Decision.SECURE,
    Case.TORN_LAST: Decision.CUT,
    Case.PROVEN_LAST: Decision.REFUSE,
    Case.TRAILING: Decision.REFUSE,
}

RECEIVED_DECISIONS = DECISIONS | {Case.PROVEN_LAST: Decision.CUT}
"""About a segment that a follower received, as long as it stays one."""

PROVEN_HINT = (
    "start the node as a follower: it fetches again what is missing; if it is to be the primary: see what can still be read "
    "with: kvctl wal verify DATA_DIR; then restore the file from a copy"
)
"""What to do about a received segment that a primary refuses and a follower repairs."""

SEALED_HINT = (
    "see what can still be read with: kvctl wal verify DATA_DIR; if the store has an archive, fetch the segment again with: "
    "kvctl wal repair --data-dir DATA_DIR --from archive --archive URL; else restore the file from a copy"
)
"""What to do about a damaged segment that was sealed: then it may have been archived."""

_MOVE_AWAY = "the tables hold the revisions of this segment, it is not needed: move the file out of wal/, and start again"


@dataclasses.dataclass(frozen=True, slots=True)
class RecoveredLog:
    """What the log held, all of it durable now."""

    position: Position
    segments: list[SegmentInfo]
    """Oldest first. Of those that the tables cover whole, ``end`` is where the next one begins."""
    epochs: list[tuple[Epoch, Position]]
    """Each epoch of these segments with the position at which it began, oldest first; none that is older than a gap."""
    time_ms: int
    """The highest time in any frame."""
    bytes_read: int
    open_groups: int | None = None
    """Groups in the last segment where a follower goes on with it; None: it is sealed, or there is none."""
    needs_revision: int = 0
    """This node may have acknowledged everything up to there, and lost some of it again; 0: nothing."""

    @property
    def end(self) -> LogEnd:
        """Return where the log ends."""
        if not self.segments:
            return LogEnd(self.position, 0, 0)
        return LogEnd(self.position, self.segments[-1].header.segment_id, self.segments[-1].length_bytes)


def list_segments(fs: FileSystem, paths: DataPaths) -> list[SegmentName]:
    """Return the names of the segments in a data folder, oldest first."""
    names = (parse_segment(name) for name in fs.list_dir(paths.wal))
    return sorted(name for name in names if name is not None)


def classify(reader: SegmentReader, is_last: bool) -> Case:
    """Return the case of a segment whose frames were read to their end."""
    if reader.end is End.TRAILING:
        return Case.TRAILING
    if reader.end is End.SEALED:
        return Case.SEALED_LAST if is_last else Case.SEALED_INSIDE
    if not is_last:
        return Case.DAMAGED_INSIDE if reader.end is End.BAD else Case.UNSEALED_INSIDE
    if reader.end is End.OPEN:
        return Case.OPEN_LAST
    later = reader.find_later_frame(reader.offset)
    proven = later is not None and later.durable_length > reader.offset
    return Case.PROVEN_LAST if proven else Case.TORN_LAST


def recover(
    fs: FileSystem,
    paths: DataPaths,
    cluster_id: bytes,
    known: Position | None,
    apply: Apply,
    listener: Listener = ignore,
    begun: Epoch | None = None,
    base: Position | None = None,
    behind_group: Callable[[Position], None] = lambda position: None,
    follower: bool = False,
    wrote: Callable[[Epoch], bool] = lambda epoch: True,
    must_refetch: Callable[[int], None] = lambda revision: None,
) -> RecoveredLog:
    """Read the log, hand every group behind the tables to ``apply``, make all of it durable, and seal the last segment.

    ``base`` is the position that the tables hold, the end of a frame; None where there are no tables. ``behind_group`` is told
    the position behind each group that was handed to ``apply``.
    ``known`` is the newest position, ``begun`` the newest epoch, that something else than the log (the register) knows to
    have been durable: a log that does not reach them has lost its newest segments, which it could not tell by itself.
    A ``follower`` seals nothing and may be behind the register. ``wrote`` says whether this node wrote all that is in this folder
    of an epoch as primary; what it did not, it received. ``must_refetch`` is told ``needs_revision``, to keep it, before the cut.
    Raises Corruption; OSError where the disk does not do what it is asked.
    """
    names = list_segments(fs, paths)
    junction = Junction(base)
    obsolete = names[: junction.first_needed(names)]
    end = base or Position(NO_EPOCH, CREATION_REVISION, fmt.creation_chain(cluster_id))
    segments: list[SegmentInfo] = []
    time_ms, bytes_read = 0, len(obsolete) * fmt.SEGMENT_HEADER_LENGTH
    open_groups, needs = None, 0
    if follower:
        known = begun = None
    for name in names[len(obsolete) :]:
        is_last = name == names[-1]
        with contextlib.nullcontext() if is_last else _naming_repair(paths):
            reader = SegmentReader(paths.segment(name), read_file(fs, paths.segment(name)))
            if base is not None and len(segments) == 0:
                check_place(reader, name, cluster_id, None, None)
                junction.begin(reader)
                segments = _skip_obsolete(fs, paths, obsolete, cluster_id, reader, junction)
            else:
                check_place(reader, name, cluster_id, segments[-1] if segments else None, end)
            _replay(reader, apply, behind_group, junction)
            case = classify(reader, is_last)
            received = not wrote(reader.header.epoch)
            decision = decide(case, follower, received)
            if is_last and decision is not Decision.REFUSE:
                junction.check_end(reader)
                _check_reaches(known, begun, reader.position, reader.header.epoch, reader.path)
            if case is Case.PROVEN_LAST and decision is Decision.CUT:
                needs = reader.find_last_revision(reader.offset)
                must_refetch(needs)
            if is_last and follower and case is not Case.SEALED_LAST:
                open_groups = reader.groups
            _carry_out(fs, paths, reader, case, decision, _Securing(received or follower, not follower), listener)
        end = reader.position
        time_ms = max(time_ms, reader.time_ms)
        bytes_read += reader.offset
        segments.append(SegmentInfo(name, reader.path, reader.header, end, reader.offset))
    if not names:
        _check_reaches(known, begun, end, NO_EPOCH, paths.wal)
    return RecoveredLog(end, segments, _epochs(info.header for info in segments), time_ms, bytes_read, open_groups, needs)


def decide(case: Case, follower: bool, received: bool) -> Decision:
    """Return what is done about a case in a segment that was received or not."""
    return (RECEIVED_DECISIONS if follower and received else DECISIONS)[case]


@contextlib.contextmanager
def _naming_repair(paths: DataPaths) -> Iterator[None]:
    """Say of a sealed segment that does not check that its archive may have it; where another remedy is named, that stands."""
    try:
        yield
    except Corruption as error:
        if error.hint != Corruption.USUAL_HINT:
            raise
        hint = SEALED_HINT.replace("DATA_DIR", shlex.quote(str(paths.root)))
        raise Corruption(error.path, error.offset, error.what, hint) from error


def _skip_obsolete(
    fs: FileSystem, paths: DataPaths, names: list[SegmentName], cluster_id: bytes, needed: SegmentReader, junction: Junction
) -> list[SegmentInfo]:
    """Check the header blocks of the segments that the tables cover whole, the first one ``needed`` behind them.

    Some between them may be gone: a power loss may undo one removal and not another. The last ones may hold nothing but the
    begin of an epoch; the tables' position may lie before those, and their headers then prove the way from it to the log.
    Raises Corruption, OSError.
    """
    found: list[SegmentInfo] = []
    follower, linked = needed, True
    for name in reversed(names):
        path = paths.segment(name)
        try:
            reader, length = read_head(fs, path)
            check_place(reader, name, cluster_id, None, None)
            check_order(reader.header, follower.header, path)
        except Corruption as error:
            only_proof = junction.base is not None and name.first_revision > junction.base.revision
            raise Corruption(path, error.offset, error.what, RESTORE_HINT if only_proof else _MOVE_AWAY) from error
        linked = linked and follower.header.previous == reader.start
        if linked:
            junction.see(reader.header.previous)
        found.append(SegmentInfo(name, path, reader.header, follower.header.previous, length))
        follower = reader
    return found[::-1]


def _epochs(headers: Iterable[fmt.SegmentHeader]) -> list[tuple[Epoch, Position]]:
    """Return each epoch with its begin; after a gap only those from there on: others may have begun and ended in it."""
    found: list[tuple[Epoch, Position]] = []
    before_id = 0
    for header in headers:
        if header.previous_segment_id != before_id:
            found = []
        if not found or header.epoch != found[-1][0]:
            found.append((header.epoch, header.branch))
        before_id = header.segment_id
    return found


def _check_reaches(known: Position | None, begun: Epoch | None, end: Position, newest: Epoch, last: Path) -> None:
    """Check, before anything is cut, that the log reaches what is known to have been durable. Raises Corruption."""
    if known is not None and known.revision > end.revision:
        raise Corruption(
            last,
            0,
            f"the log ends at revision {end.revision}, but revision {known.revision} was durable; segments are missing",
        )
    if begun is not None and newest.number < begun.number:  # segments are deleted from the front, never the newest epoch's last
        raise Corruption(last, 0, f"the log ends before epoch {begun.number}, whose first segment was durable; it is missing")


def check_place(
    reader: SegmentReader, name: SegmentName, cluster_id: bytes, before: SegmentInfo | None, end: Position | None
) -> None:
    """Check that a segment is this store's and continues exactly where the one before it ended. Raises Corruption.

    ``end`` None: what was before it is gone, and taken to be what the header says.
    """
    header = reader.header
    if header.cluster_id != cluster_id:
        raise Corruption(reader.path, 0, f"the segment belongs to another cluster ({header.cluster_id.hex()})")
    if SegmentName(header.epoch.number, header.first_revision) != name:
        raise Corruption(reader.path, 0, "the segment's header does not fit its name")
    before_id = before.header.segment_id if before is not None else 0
    if end is None:
        end, before_id = header.previous, header.previous_segment_id
    if header.first_revision != end.revision + 1 or header.previous != end or header.previous_segment_id != before_id:
        raise Corruption(
            reader.path,
            0,
            f"the segment follows revision {header.previous.revision}, but the log before it ends at {end.revision}; "
            "a segment is missing or from another history",
        )
    if header.epoch != end.epoch and (header.branch != end or header.epoch.number <= end.epoch.number):
        raise Corruption(reader.path, 0, "the segment's epoch does not continue the one before it")


def check_order(header: fmt.SegmentHeader, follower: fmt.SegmentHeader, path: Path) -> None:
    """Check that a segment lies before another one, be there a gap between them or not. Raises Corruption of the path."""
    behind, revision = follower.previous, header.first_revision - 1
    in_order = header.epoch == behind.epoch or header.epoch.number < behind.epoch.number
    if not in_order or revision > behind.revision:
        raise Corruption(
            path,
            0,
            f"the segment begins behind revision {revision} in epoch {header.epoch.number}, but the one after it follows "
            f"epoch {behind.epoch.number}, revision {behind.revision}; one of them is of another history",
        )


def _replay(reader: SegmentReader, apply: Apply, behind_group: Callable[[Position], None], junction: Junction) -> None:
    junction.see(reader.start)
    for frame in reader.frames():
        if frame.header.kind == fmt.GROUP and junction.takes(reader, frame):
            try:
                apply(frame.header.first_revision, frame.header.commits, frame.payload)
                behind_group(reader.position)
            except ValueError as error:
                raise Corruption(reader.path, frame.offset, str(error)) from error


@dataclasses.dataclass(frozen=True, slots=True)
class _Securing:
    """How the last segment is made durable."""

    whole: bool
    """Nothing in it is proven to have been durable here."""
    seals: bool


def _carry_out(
    fs: FileSystem, paths: DataPaths, reader: SegmentReader, case: Case, decision: Decision, how: _Securing, listener: Listener
) -> None:
    if decision is Decision.REFUSE:
        hint = PROVEN_HINT if case is Case.PROVEN_LAST and how.whole and how.seals else ""
        raise Corruption(reader.path, reader.offset, case.value, hint)
    if decision is Decision.KEEP:
        if reader.offset != len(reader.data):
            raise Corruption(reader.path, reader.offset, "the file does not end with its seal")
        return
    if decision is Decision.CUT:
        _keep_torn_tail(fs, paths, reader, listener)
    begin = fmt.SEGMENT_HEADER_LENGTH if how.whole else reader.proven_length
    _secure(fs, paths, reader, begin, seal=how.seals and case is not Case.SEALED_LAST)


def _keep_torn_tail(fs: FileSystem, paths: DataPaths, reader: SegmentReader, listener: Listener) -> None:
    """Copy what is about to be cut into a file of its own, durably, and report it."""
    kept: Path = paths.torn(reader.path, reader.offset)
    tail = reader.data[reader.offset :].rstrip(b"\0")
    # A file of this name is whole, and was kept by an earlier recovery that did not end: what lies here now is the same,
    # or what that recovery itself was writing behind the cut. The temporary name is swept up at every open.
    if not fs.exists(kept):
        create_once(fs, kept, paths.prepared(0), tail)
    failpoints.hit("wal.recover.after_torn_saved")
    first, last = reader.bad_revisions()
    listener(TornTailCut(reader.path.name, reader.offset, len(tail), first, last, kept.name))


def _secure(fs: FileSystem, paths: DataPaths, reader: SegmentReader, begin: int, seal: bool) -> None:
    """Make durable what was read, from the first byte on that nothing proves to have been; then seal it, if asked to."""
    with opened(fs.open(reader.path, writable=True)) as file:
        file.truncate(reader.offset)
        failpoints.hit("wal.recover.after_cut")
        file.pwrite(reader.data[begin : reader.offset], begin)
        failpoints.hit("wal.recover.after_rewrite")
        file.sync()
        fs.sync_dir(paths.wal)
        failpoints.hit("wal.recover.after_rewrite_sync")
        if seal:
            writer = SegmentWriter.resume(reader, file)
            writer.seal(reader.time_ms)
            reader.offset = writer.offset
            failpoints.hit("wal.recover.after_seal")
