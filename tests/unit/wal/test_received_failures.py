"""A follower's log under a full disk, failed syncs, kills and power losses: what it said to be durable is, and it goes on."""

from __future__ import annotations

import errno
import random

import pytest

from kvserver.base import failpoints
from kvserver.base.errors import Corruption
from kvserver.base.fs import FileSystem, read_file
from kvserver.base.types import LogEnd, Position
from kvserver.wal import format as fmt
from kvserver.wal.recovery import recover
from kvserver.wal.space import SyncFailed
from support.crashes import record_crash_points, states
from support.faultfs import Fault, FaultFileSystem, FaultPlan, ProcessKilled, failing_calls
from support.histories import History, at, four_segments, starts_without_writes
from support.logs import CLUSTER_ID, PATHS, Group
from support.memdisk import LOST, Survival, Write
from support.memfs import MemoryFileSystem
from support.received_logs import Chunk, Follower


def source() -> History:
    """Three segments in two epochs, with marks; the last one is open and holds three groups."""
    history = History()
    history.put("a", "b")
    history.put("c")
    history.log.writer.write_mark()
    history.rotate()
    history.put("d")
    history.start()
    history.put("e")
    history.put("f", "g")
    history.put("h")
    history.log.writer.write_mark()
    return history


def all_chunks(history: History, most_bytes: int, base: Position | None = None) -> list[Chunk]:
    return Follower(base=base).missing(history.fs, history.log.writer, most_bytes)


def promote(fs: FileSystem, base: Position | None = None) -> tuple[list[Group], Position]:
    """Open the log as a primary does; return its groups and its end."""
    groups: list[Group] = []
    log = recover(fs, PATHS, CLUSTER_ID, None, lambda *group: groups.append(Group(*group)), base=base, wrote=lambda epoch: False)
    return groups, log.position


# A full disk


@pytest.mark.parametrize("written_bytes", [0, 1, 100, 4100])
@pytest.mark.parametrize("most_bytes", [1, 1 << 20])
def test_a_write_that_fails_leaves_the_log_as_it_was(most_bytes: int, written_bytes: int) -> None:
    history = source()
    sent = all_chunks(history, most_bytes)
    fault = Fault(error=errno.ENOSPC, kinds={"pwrite", "create"}, written_bytes=written_bytes)
    runs = 0
    for fs in failing_calls(MemoryFileSystem, fault):
        follower = Follower(fs)
        for chunk in sent:
            end, groups = follower.log.end, list(follower.groups)
            try:
                follower.take(chunk)
            except OSError as error:
                assert error.errno == errno.ENOSPC
                assert (follower.log.end, follower.groups) == (end, groups)
                crashed = Follower(fs.inner.power_loss(lambda _: LOST))
                assert (crashed.groups, crashed.log.end) == (groups, end)
                follower.take(chunk)
            follower.log.sync()
        assert follower.log.end == history.log.writer.end
        assert follower.groups == history.groups
        whole = {
            info.path: read_file(history.fs, info.path)[: info.length_bytes] for info in history.log.writer.extent().segments()
        }
        assert fs.inner.contents() == whole
        runs += 1
    assert runs > len(sent)


def test_a_disk_that_is_full_takes_what_fits_and_goes_on_when_there_is_room() -> None:
    history = source()
    for room in range(0, history.log.writer.total_bytes(), 331):
        disk = MemoryFileSystem()
        fs = FaultFileSystem(disk, FaultPlan(space_bytes=room))
        follower = Follower(fs)
        with pytest.raises(OSError, match="No space"):
            follower.follow(history.fs, history.log.writer, 1 << 20)
        fs.add_space(1 << 20)
        follower.follow(history.fs, history.log.writer, 1)  # in other pieces than those that did not fit
        assert follower.groups == history.groups
        again = Follower(disk.power_loss(lambda _: LOST))
        assert (again.groups, again.log.end) == (history.groups, history.log.writer.end)


def test_what_was_taken_before_a_failed_write_can_be_synced() -> None:
    history = source()
    sent = all_chunks(history, 1)
    fs = FaultFileSystem(MemoryFileSystem(), FaultPlan([Fault(at=3, error=errno.ENOSPC, kinds={"pwrite"}, written_bytes=50)]))
    follower = Follower(fs)
    follower.take(sent[0])
    follower.take(sent[1])
    with pytest.raises(OSError, match="No space"):
        follower.take(sent[2])
    follower.log.sync()
    assert follower.log.end.offset == sent[2][1]
    assert len(read_file(fs, history.segments()[0].path)) == sent[2][1] + 50
    follower.log.close()
    assert len(read_file(fs.inner.power_loss(lambda _: LOST), history.segments()[0].path)) == sent[2][1]


def test_nothing_that_a_failed_write_left_can_come_back_behind_a_seal() -> None:
    """The rest of a failed write is cut, durably, before anything else is written at its place."""
    history = four_segments()
    sent = all_chunks(history, 1)
    seal = next(index for index, chunk in enumerate(sent) if chunk[:2] == (1002, 0)) - 1
    failing = Fault(at=seal + 1, error=errno.ENOSPC, kinds={"pwrite"}, written_bytes=90)
    disk = MemoryFileSystem()
    fs = FaultFileSystem(disk, FaultPlan([failing]))
    follower = Follower(fs)
    for chunk in sent[:seal]:
        follower.take(chunk)
    follower.log.sync()
    with pytest.raises(OSError, match="No space"):
        follower.take(sent[seal])
    follower.take(sent[seal])
    lost = [change for change in disk.unsynced() if isinstance(change.change, Write)]
    assert [change.change.data for change in lost] == [sent[seal][2]]  # type: ignore[union-attr]


def test_what_a_failed_write_left_is_cut_before_less_is_written_there() -> None:
    history = source()
    small = all_chunks(history, 1)
    segment_id, offset, _ = small[1]
    large = (segment_id, offset, b"".join(chunk[2] for chunk in small[1:3]))
    assert small[2][0] == segment_id
    disk = MemoryFileSystem()
    fault = Fault(at=2, error=errno.ENOSPC, kinds={"pwrite"}, written_bytes=len(large[2]) - 8)
    follower = Follower(FaultFileSystem(disk, FaultPlan([fault])))
    follower.take(small[0])
    with pytest.raises(OSError, match="No space"):
        follower.take(large)
    follower.take(small[1])
    follower.log.sync()
    assert len(read_file(disk, history.segments()[0].path)) == follower.log.end.offset == small[2][1]


# A failed sync


def test_a_failed_sync_is_final() -> None:
    history = source()
    sent = all_chunks(history, 1)
    disk = MemoryFileSystem()
    follower = Follower(disk)
    follower.take(sent[0])
    follower.log.sync()
    end = follower.log.end
    follower.take(sent[1])
    disk.fail_next_sync()
    errors = []
    for call in (follower.log.sync, follower.log.sync, lambda: follower.take(sent[1]), lambda: follower.take(sent[2])):
        with pytest.raises(OSError) as caught:
            call()
        errors.append(caught.value)
    assert len(set(map(id, errors))) == 1
    assert follower.log.end == end
    follower.log.close()
    follower.log.abandon()


def test_a_sync_that_fails_while_the_rest_of_a_failed_write_is_cut_is_final_too() -> None:
    history = source()
    sent = all_chunks(history, 1)
    disk = MemoryFileSystem()
    full = Fault(at=2, error=errno.ENOSPC, kinds={"pwrite"}, written_bytes=50)
    follower = Follower(FaultFileSystem(disk, FaultPlan([full])))
    follower.take(sent[0])
    with pytest.raises(OSError, match="No space"):
        follower.take(sent[1])
    disk.fail_next_sync()
    errors = []
    for call in (lambda: follower.take(sent[1]), follower.log.sync, lambda: follower.take(sent[1])):
        with pytest.raises(SyncFailed) as caught:
            call()
        errors.append(caught.value)
    assert len(set(map(id, errors))) == 1


@pytest.mark.parametrize("kinds", [{"datasync", "sync"}, {"sync_dir"}, {"rename"}, {"truncate"}])
def test_after_any_call_of_a_sync_that_fails_a_start_finds_what_was_durable(kinds: set[str]) -> None:
    history = source()
    sent = all_chunks(history, 200)
    for fs in failing_calls(MemoryFileSystem, Fault(kinds=kinds)):  # type: ignore[arg-type]
        ended = LogEnd(at(history, 1), 0, 0)
        try:
            follower = Follower(fs)
            for chunk in sent:
                follower.take(chunk)
                follower.log.sync()
                ended = follower.log.end
        except OSError:
            fs.inner.kill()
        for disk in (fs.inner.power_loss(lambda _: LOST), fs.inner):
            again = Follower(disk)
            assert again.log.end.position.revision >= ended.position.revision
            again.follow(history.fs, history.log.writer)
            assert (again.groups, again.log.end) == (history.groups, history.log.writer.end)


@pytest.mark.parametrize("opens", ["follower", "primary"])
def test_what_was_read_back_is_written_again_whole(opens: str) -> None:
    """After a failed sync all pages are clean, and the frames behind them prove nothing: they speak of another disk."""
    history = source()
    sent = all_chunks(history, 1 << 20)
    disk = MemoryFileSystem()
    follower = Follower(disk)
    for chunk in sent[:-1]:
        follower.take(chunk)
    last = sent[-1]
    follower.take((*last[:2], last[2][: fmt.SEGMENT_HEADER_LENGTH]))
    follower.log.sync()
    follower.take((last[0], fmt.SEGMENT_HEADER_LENGTH, last[2][fmt.SEGMENT_HEADER_LENGTH :]))
    disk.fail_next_sync()
    with pytest.raises(OSError):
        follower.log.sync()
    disk.kill()
    groups = Follower(disk).groups if opens == "follower" else promote(disk)[0]
    assert groups == history.groups
    assert Follower(disk.power_loss(lambda _: LOST)).groups == groups


# Kills and power losses


def check_state(disk: MemoryFileSystem, history: History, acknowledged: LogEnd, base: Position | None) -> None:
    """Check that a follower that starts on a disk has what it acknowledged and comes to the whole log."""
    as_primary = disk.clone()
    follower = Follower(disk, base)
    end = follower.recovered.end
    assert end.position.revision >= acknowledged.position.revision
    if end.segment_id == acknowledged.segment_id:
        assert end.offset >= acknowledged.offset
    wanted = history.groups if base is None else history.behind(base)
    assert follower.groups == wanted[: len(follower.groups)]
    assert follower.told == ([follower.recovered.needs_revision] if follower.recovered.needs_revision else [])
    if follower.told:
        assert end.position.revision <= follower.told[0] <= history.end.revision
    again = Follower(disk.power_loss(lambda _: LOST), base)
    assert (again.groups, again.recovered.end) == (follower.groups, end)
    follower.follow(history.fs, history.log.writer)
    assert (follower.groups, follower.log.end) == (wanted, history.log.writer.end)
    try:
        groups, position = promote(as_primary, base)
    except Corruption as refused:
        assert "a later frame proves" in refused.what and "start the node as a follower" in refused.hint
        assert again.recovered.position.revision < history.end.revision
        return
    assert position == end.position
    assert groups == wanted[: len(groups)]


@pytest.mark.parametrize("most_bytes", [1, 300, 1 << 20])
@pytest.mark.parametrize("chunks_a_sync", [1, 3])
def test_power_may_fail_after_any_call(most_bytes: int, chunks_a_sync: int) -> None:
    history = source()
    sent = all_chunks(history, most_bytes)
    disk = MemoryFileSystem()
    nothing = Follower(disk).log.end

    def run(fs: FileSystem) -> None:
        follower = Follower(fs)
        for index, chunk in enumerate(sent, 1):
            follower.take(chunk)
            if index % chunks_a_sync == 0 or index == len(sent):
                follower.log.sync()
                fs.mark("ack", follower.log.end)  # type: ignore[attr-defined]

    rng = random.Random(most_bytes)
    for point in record_crash_points(disk, run):
        acknowledged = (point.marks("ack") or [nothing])[-1]
        assert isinstance(acknowledged, LogEnd)
        for state in states(point.disk, rng, limit=40):
            check_state(state.disk, history, acknowledged, None)


@pytest.mark.parametrize("make", [four_segments, starts_without_writes])
def test_power_may_fail_while_a_log_behind_tables_begins(make: object) -> None:
    assert callable(make)
    history = make()
    for base in sorted(set(history.positions[1:]), key=lambda position: (position.revision, position.epoch)):
        disk = MemoryFileSystem()
        sent = all_chunks(history, 1, base)

        def run(fs: FileSystem, base: Position = base, sent: list[Chunk] = sent) -> None:
            follower = Follower(fs, base)
            for chunk in sent:
                follower.take(chunk)
                follower.log.sync()
                fs.mark("ack", follower.log.end)  # type: ignore[attr-defined]

        rng = random.Random(base.revision)
        Follower(disk, base)
        for point in record_crash_points(disk, run):
            acknowledged = (point.marks("ack") or [LogEnd(base, 0, 0)])[-1]
            assert isinstance(acknowledged, LogEnd)
            for state in states(point.disk, rng, limit=4):
                check_state(state.disk, history, acknowledged, base)


def test_power_may_fail_while_a_follower_starts() -> None:
    history = source()
    sent = all_chunks(history, 1 << 20)
    disk = MemoryFileSystem()
    follower = Follower(disk)
    for chunk in sent[:-1]:
        follower.take(chunk)
    follower.take((*sent[-1][:2], sent[-1][2][: fmt.SEGMENT_HEADER_LENGTH]))
    follower.log.sync()
    acknowledged = follower.log.end
    follower.take((sent[-1][0], fmt.SEGMENT_HEADER_LENGTH, sent[-1][2][fmt.SEGMENT_HEADER_LENGTH :]))

    def hole(item: object) -> Survival:
        return Survival(((100, 10_000),), grown=True)

    rng = random.Random(6)
    torn = disk.power_loss(hole)  # type: ignore[arg-type]
    told = Follower(torn.clone()).told
    assert told == [history.end.revision]
    for point in record_crash_points(torn, lambda fs: Follower(fs)):
        for state in states(point.disk, rng, limit=20):
            check_state(state.disk, history, acknowledged, None)


@pytest.mark.parametrize(
    "place",
    [
        *("wal.before_write", "wal.after_write", "wal.after_sync"),
        *("wal.seal.after_truncate", "wal.seal.after_sync"),
        *("wal.create.after_header", "wal.create.after_header_sync", "wal.create.after_rename", "wal.create.after_dir_sync"),
    ],
)
def test_a_kill_at_any_place_costs_nothing_that_was_acknowledged(place: str) -> None:
    history = source()
    sent = all_chunks(history, 200)
    for at_passage in (1, 2, 3):
        disk = MemoryFileSystem()
        follower = Follower(disk)
        passages = iter(range(1, 1000))

        def kill(passages: object = passages, at_passage: int = at_passage) -> None:
            if next(passages) == at_passage:  # type: ignore[call-overload]
                raise ProcessKilled

        failpoints.arm(place, kill)
        acknowledged, killed = follower.log.end, False
        try:
            for chunk in sent:
                follower.take(chunk)
                follower.log.sync()
                acknowledged = follower.log.end
        except ProcessKilled:
            killed = True
        finally:
            failpoints.disarm_all()
        assert killed or at_passage > 1
        disk.kill()
        check_state(disk.power_loss(lambda _: LOST), history, acknowledged, None)
        check_state(disk, history, acknowledged, None)
