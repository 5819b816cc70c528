"""Going back to where histories part: cut exactly there, nothing of what is given up lost from ``lost/``, never half a cut."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest

from kvserver.base.environment import Environment
from kvserver.base.errors import Code, ReplicationError
from kvserver.base.events import Event
from kvserver.base.paths import DataPaths
from kvserver.base.replication_events import LogRewound, SuffixLost
from kvserver.base.types import Epoch, LogEnd, Position
from kvserver.engine.swap import finish_swap
from kvserver.replication.rewind import Rewound, rewind
from kvserver.wal.format import GROUP
from kvserver.wal.inspection import inspect_log
from kvserver.wal.reader import SegmentReader
from kvserver.wal.recovery import list_segments
from support.crashes import record_crash_points, sampled_states
from support.logs import CREATION, PATHS, SmallLog, recover_log
from support.memfs import MemoryFileSystem, os_error
from support.received_logs import Follower
from support.recordfs import RecordingFileSystem


def made() -> tuple[MemoryFileSystem, list[Position]]:
    """Two epochs, five segments, marks and seals between; and the positions behind each group, the creation first."""
    log = SmallLog(MemoryFileSystem()).begin()
    found = [CREATION, log.writer.position]

    def put(*keys: str) -> None:
        log.put(*keys)
        found.append(log.writer.position)
        log.writer.write_mark()

    put("a", "b")
    put("c")
    log.writer.rotate()
    put("d", "e", "f")
    log.writer.rotate()
    put("g")
    log.writer.close()
    log = SmallLog(log.fs, new_segment_id=iter(range(100, 200)).__next__).begin(Epoch(2, 22), recover_log(log.fs).log)
    found.append(log.writer.position)
    put("h", "i")
    log.writer.rotate()
    put("j")
    put("k")
    log.writer.close()
    return log.fs, found  # type: ignore[return-value]


POSITIONS = made()[1]


def env(fs: object) -> Environment:
    return Environment(fs=fs)  # type: ignore[arg-type]


def place(fs: MemoryFileSystem, position: Position) -> LogEnd:
    """Return where the log first stands at a position."""
    if position == CREATION:
        return LogEnd(position, 0, 0)
    for name in list_segments(fs, PATHS):
        reader = SegmentReader(PATHS.segment(name), fs.contents()[PATHS.segment(name)])
        if reader.start == position and reader.header.previous != position:
            return LogEnd(position, reader.header.segment_id, reader.offset)
        for _ in reader.frames():
            if reader.position == position:
                return LogEnd(position, reader.header.segment_id, reader.offset)
    raise AssertionError(position)


def log_of(fs: MemoryFileSystem) -> dict[Path, bytes]:
    return {path: data for path, data in fs.contents().items() if path.parent == PATHS.wal}


def commits(fs: MemoryFileSystem, paths: DataPaths, above: int) -> list[int]:
    """Return the revisions above one that the segments in a folder hold, as ``kvctl wal dump`` reads them."""
    revisions: list[int] = []
    for name in list_segments(fs, paths):
        reader = SegmentReader(paths.segment(name), fs.contents()[paths.segment(name)])
        for frame in reader.frames():
            if frame.header.kind == GROUP:
                revisions += range(frame.header.first_revision, frame.header.last_revision + 1)
    return [revision for revision in revisions if revision > above]


def kept(fs: MemoryFileSystem) -> list[DataPaths]:
    return [DataPaths(PATHS.lost / name) for name in fs.list_dir(PATHS.lost)] if fs.exists(PATHS.lost) else []


@pytest.mark.parametrize("common", POSITIONS)
def test_the_log_is_cut_exactly_at_the_common_position(common: Position) -> None:
    fs, found = made()
    before, end = log_of(fs), found[-1]
    where = place(fs, common)
    events: list[Event] = []
    done = rewind(env(fs), PATHS, common, None, events.append)
    lost = end.revision - common.revision
    assert (done.lost_revisions, done.needs_copy) == (lost, False)
    follower = Follower(fs, wrote=lambda epoch: True)
    assert follower.log.end == where
    assert sum(group.commits for group in follower.groups) == common.revision - 1
    after = log_of(fs)
    for path, data in after.items():
        assert before[path].startswith(data), "verbatim"
    assert [event.lost_revisions for event in events if isinstance(event, LogRewound)] == [lost]
    if not lost:
        assert not kept(fs) and done.kept_in == ""
        return
    (folder,) = kept(fs)
    assert str(folder.root) == done.kept_in
    assert commits(fs, folder, common.revision) == list(range(common.revision + 1, end.revision + 1))
    assert not [report.problem for report in inspect_log(fs, folder) if report.problem]
    for name in list_segments(fs, folder):
        assert fs.contents()[folder.segment(name)] == before[PATHS.segment(name)]
    (told,) = [event for event in events if isinstance(event, SuffixLost)]
    assert (told.first_revision, told.last_revision, told.kept_from_revision) == (
        common.revision + 1,
        end.revision,
        told.first_revision,
    )
    assert told.files == tuple(folder.segment(name).name for name in list_segments(fs, folder))
    assert told.kept_in == done.kept_in


@pytest.mark.parametrize("common", POSITIONS)
def test_what_was_cut_can_be_taken_again(common: Position) -> None:
    fs, _ = made()
    whole = log_of(fs)
    rewind(env(fs), PATHS, common, None)
    follower = Follower(fs, wrote=lambda epoch: True)
    for path in sorted(whole):
        reader = SegmentReader(path, whole[path])
        end = follower.log.end
        segment_id = reader.header.segment_id
        if PATHS.wal / path.name in log_of(fs) and segment_id != end.segment_id:
            continue
        offset = end.offset if segment_id == end.segment_id else 0
        if whole[path][offset:]:
            follower.take((segment_id, offset, whole[path][offset:]))
            follower.log.sync()
    assert log_of(fs) == whole


def test_only_a_mark_and_a_seal_behind_the_position_lose_nothing() -> None:
    fs, found = made()
    events: list[Event] = []
    assert rewind(env(fs), PATHS, found[-1], None, events.append) == Rewound(0, "", False)
    assert [type(event) for event in events] == [LogRewound]
    assert not fs.exists(PATHS.lost)
    assert Follower(fs, wrote=lambda epoch: True).log.end.position == found[-1]


def test_a_segment_of_the_same_epoch_that_holds_nothing_goes_too() -> None:
    log = SmallLog(MemoryFileSystem()).begin()
    log.put("a")
    common = log.writer.position
    log.writer.rotate()
    log.writer.abandon()
    assert len(list_segments(log.fs, PATHS)) == 2
    rewind(env(log.fs), PATHS, common, None)
    assert len(list_segments(log.fs, PATHS)) == 1
    assert Follower(log.fs, wrote=lambda epoch: True).log.end.position == common  # type: ignore[arg-type]


@pytest.mark.parametrize("at", range(1, len(POSITIONS)))
def test_tables_beyond_the_position_need_a_copy_and_what_is_lost_is_kept_first(at: int) -> None:
    fs, found = made()
    common, flushed = found[at - 1], found[-1]
    before = log_of(fs)
    events: list[Event] = []
    done = rewind(env(fs), PATHS, common, flushed, events.append)
    lost = flushed.revision - common.revision
    assert (done.lost_revisions, done.needs_copy) == (lost, lost > 0)
    if lost:
        assert log_of(fs) == before, "nothing was cut"
        (folder,) = kept(fs)
        assert commits(fs, folder, common.revision) == list(range(common.revision + 1, flushed.revision + 1))
        assert not [event for event in events if isinstance(event, LogRewound)]


def test_what_is_in_tables_alone_is_said_to_be_in_no_file() -> None:
    fs, found = made()
    for name in list_segments(fs, PATHS)[:3]:
        fs.remove(PATHS.segment(name))
    events: list[Event] = []
    done = rewind(env(fs), PATHS, found[2], found[-1], events.append)
    (told,) = events
    assert isinstance(told, SuffixLost)
    assert (told.first_revision, told.last_revision, told.kept_from_revision) == (found[2].revision + 1, 12, 9)
    assert done.needs_copy


def test_tables_that_end_at_the_position_let_the_whole_log_go() -> None:
    fs, found = made()
    common = next(position for position in found if position.revision == 8 and position.epoch.number == 1)
    for name in list_segments(fs, PATHS)[:3]:
        fs.remove(PATHS.segment(name))
    done = rewind(env(fs), PATHS, common, common)
    assert not done.needs_copy and done.lost_revisions == 4
    assert list_segments(fs, PATHS) == []
    assert Follower(fs, base=common).log.end == LogEnd(common, 0, 0)


def test_tables_at_the_begin_of_a_later_epoch_need_a_copy_and_those_of_an_earlier_one_do_not() -> None:
    """A revision has a position in each epoch that begins behind it; a log passes through one only if it has that begin."""
    fs, _ = made()
    before = log_of(fs)
    begin = next(at for at, position in enumerate(POSITIONS) if position.epoch.number == 2)
    left, began = POSITIONS[begin - 1], POSITIONS[begin]
    assert left.revision == began.revision
    done = rewind(env(fs), PATHS, left, began)
    assert (done.lost_revisions, done.needs_copy) == (POSITIONS[-1].revision - left.revision, True)
    assert log_of(fs) == before
    assert rewind(env(fs), PATHS, left, left._replace(chain=bytes(16))).needs_copy, "no table of this log's"
    assert not rewind(env(fs), PATHS, began, left).needs_copy
    assert Follower(fs, base=left, wrote=lambda epoch: True).log.end.position == began


def test_a_segment_that_begins_where_the_tables_end_goes_too_where_nothing_proves_that_others_have_it() -> None:
    fs, found = made()
    common = next(position for position in found if position.revision == 4)
    fs.remove(PATHS.segment(list_segments(fs, PATHS)[0]))
    rewind(env(fs), PATHS, common, common)
    assert list_segments(fs, PATHS) == []


@pytest.mark.parametrize("change", ["chain", "revision", "epoch", "beyond"])
def test_a_position_that_the_log_does_not_pass_through_is_refused(change: str) -> None:
    fs, found = made()
    common = found[4]
    wrong = {
        "chain": common._replace(chain=bytes(16)),
        "revision": common._replace(revision=common.revision - 1),
        "epoch": common._replace(epoch=Epoch(1, 99)),
        "beyond": found[-1]._replace(revision=100),
    }[change]
    before = fs.contents()
    with pytest.raises(ReplicationError, match="does not pass through") as refused:
        rewind(env(fs), PATHS, wrong, None)
    assert refused.value.code is Code.WRONG_PEER
    assert fs.contents() == before


def test_the_same_rewind_again_keeps_nothing_twice_and_another_one_beside_it() -> None:
    fs, found = made()
    rewind(env(fs), PATHS, found[5], found[-1])
    rewind(env(fs), PATHS, found[5], found[-1])
    assert len(kept(fs)) == 1
    rewind(env(fs), PATHS, found[5], None)
    assert len(kept(fs)) == 1
    rewind(env(fs), PATHS, found[3], None)
    assert len(kept(fs)) == 2


def test_torn_and_damaged_ends_are_still_there_to_be_looked_at() -> None:
    fs, found = made()
    segment = PATHS.segment(list_segments(fs, PATHS)[0])
    fs.plant(PATHS.torn(segment, 4096), b"torn")
    fs.plant(PATHS.damaged(segment, 1), b"damaged")
    fs.plant(PATHS.prepared(3), b"")
    rewind(env(fs), PATHS, found[3], None)
    assert fs.contents()[PATHS.torn(segment, 4096)] == b"torn"
    assert fs.contents()[PATHS.damaged(segment, 1)] == b"damaged"
    assert not fs.exists(PATHS.prepared(3))


CRASHED = [POSITIONS[0], POSITIONS[3], POSITIONS[6], POSITIONS[-1]]


@pytest.mark.parametrize("common", CRASHED)
def test_power_lost_at_any_step_leaves_the_old_log_or_the_cut_one_and_what_was_lost(common: Position) -> None:
    fs, found = made()
    whole, end = log_of(fs), found[-1]
    where = place(fs, common)

    def run(recording: RecordingFileSystem[MemoryFileSystem]) -> None:
        rewind(env(recording), PATHS, common, None, lambda event: recording.mark(type(event).__name__))

    seen = {"old": 0, "cut": 0}
    for point in record_crash_points(fs, run):
        for state in sampled_states(point.disk, random.Random(1), 12):
            disk = state.disk
            finish_swap(env(disk), PATHS)
            log = log_of(disk)
            is_old = log == whole
            seen["old" if is_old else "cut"] += 1
            if point.marks("SuffixLost") or not is_old:
                in_lost = [revision for folder in kept(disk) for revision in commits(disk, folder, common.revision)]
                assert in_lost == list(range(common.revision + 1, end.revision + 1)), str(state)
            if not is_old:
                assert all(whole[path].startswith(data) for path, data in log.items()), str(state)
                assert Follower(disk, wrote=lambda epoch: True).log.end == where, str(state)
            rewind(env(disk), PATHS, common, None)
            assert Follower(disk, wrote=lambda epoch: True).log.end == where, "it can be done again"
            assert len(kept(disk)) <= 1
    assert seen["old"] > 5 and seen["cut"] > 5


class FullDisk(RecordingFileSystem[MemoryFileSystem]):
    """Files cannot be made from the n-th on."""

    def __init__(self, inner: MemoryFileSystem, at: int) -> None:
        super().__init__(inner)
        self._left = at

    def _use(self, path: Path) -> None:
        self._left -= 1
        if self._left < 0:
            raise os_error(errno.ENOSPC, path)

    def create(self, path: Path):  # type: ignore[no-untyped-def]
        self._use(path)
        return super().create(path)

    def link(self, existing: Path, new: Path) -> None:
        self._use(new)
        super().link(existing, new)


def test_a_full_disk_at_any_step_leaves_a_log_that_can_be_rewound_later() -> None:
    refused = 0
    for at in range(12):
        fs, found = made()
        whole = log_of(fs)
        try:
            rewind(env(FullDisk(fs, at)), PATHS, found[4], None)
        except OSError as error:
            assert error.errno == errno.ENOSPC
            refused += 1
            if not finish_swap(env(fs), PATHS):
                assert log_of(fs) == whole
        rewind(env(fs), PATHS, found[4], None)
        assert Follower(fs, wrote=lambda epoch: True).log.end.position == found[4]
    assert refused >= 6
