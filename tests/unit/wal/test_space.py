"""Room for the log: how much there is, what happens when none can be had, and when a sync of it fails."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvserver.base.events import Event, SpaceAvailable, SpaceUnavailable
from kvserver.base.fs import read_file
from kvserver.base.paths import is_prepared
from kvserver.wal.format import SEGMENT_HEADER_LENGTH
from kvserver.wal.space import SEGMENT_RESERVE, LogSpace, SyncFailed
from support.faultfs import Fault, FaultFileSystem, FaultPlan
from support.logs import PATHS, SMALL
from support.memdisk import LOST, WHOLE
from support.memfs import MemoryFileSystem

PATIENCE_S = 30.0
FIRST_ROOM = SMALL.ahead_bytes - SEGMENT_HEADER_LENGTH - SEGMENT_RESERVE


class Keeper:
    """Log space on a disk that fails as planned, and what it reported."""

    def __init__(self, *faults: Fault, space_bytes: int | None = None) -> None:
        self.disk = MemoryFileSystem()
        self.disk.make_dir(PATHS.wal)
        self.fs = FaultFileSystem(self.disk, FaultPlan(faults, space_bytes))
        self.events: list[Event] = []
        self.space = LogSpace(self.fs, PATHS, SMALL, self.events.append)

    def settle(self) -> int:
        """Do all the work there is; return how many steps that took."""
        steps = 0
        while self.space.step() and self.space.error is None:
            steps += 1
        return steps

    def prepared(self) -> list[Path]:
        return [PATHS.wal / name for name in self.disk.list_dir(PATHS.wal) if is_prepared(name)]


def full(at: int = 1, **fields: object) -> Fault:
    return Fault(at=at, error=errno.ENOSPC, kinds={"create", "pwrite"}, forever=True, **fields)  # type: ignore[arg-type]


# Room


def test_there_is_no_room_before_the_first_segment() -> None:
    keeper = Keeper()
    assert keeper.space.room() == 0
    keeper.settle()
    assert keeper.space.room() == 0
    assert keeper.space.has_next()


def test_a_segment_is_handed_out_zero_filled_and_synced() -> None:
    keeper = Keeper()
    taken = keeper.space.take_next()
    assert taken.ready_bytes >= SMALL.ahead_bytes
    after = keeper.disk.power_loss(lambda change: LOST if change.path else WHOLE)
    assert read_file(after, taken.path) == bytes(taken.ready_bytes)
    assert not keeper.space.has_next()


def test_room_is_what_is_ready_in_the_open_segment_less_its_reserve() -> None:
    keeper = Keeper()
    keeper.space.take_next()
    assert keeper.space.room() == FIRST_ROOM
    keeper.space.advance(SEGMENT_HEADER_LENGTH + 1000)
    assert keeper.space.room() == FIRST_ROOM - 1000


def test_the_next_segment_counts_when_it_is_whole_and_less_what_changing_over_wastes() -> None:
    keeper = Keeper()
    keeper.space.take_next()
    rooms = [keeper.space.room()]
    while keeper.space.step():
        rooms.append(keeper.space.room())
    assert sorted(rooms) == rooms
    current = SMALL.ahead_bytes + SMALL.fill_step_bytes - SEGMENT_HEADER_LENGTH - SEGMENT_RESERVE
    following = SMALL.ahead_bytes - SEGMENT_HEADER_LENGTH - SEGMENT_RESERVE - SMALL.max_frame_bytes
    assert set(rooms) == {FIRST_ROOM, current, current + following}
    assert keeper.space.has_next()


def test_space_is_kept_ahead_of_the_writer_up_to_the_segments_size() -> None:
    keeper = Keeper()
    taken = keeper.space.take_next()
    for offset in range(SEGMENT_HEADER_LENGTH, SMALL.segment_bytes, 3000):
        keeper.space.advance(offset)
        keeper.settle()
        wanted = min(SMALL.segment_bytes, offset + SMALL.ahead_bytes)
        assert wanted <= taken.ready_bytes < wanted + SMALL.fill_step_bytes
        assert taken.ready_bytes <= SMALL.segment_bytes
    (following,) = set(keeper.prepared()) - {taken.path}
    assert len(read_file(keeper.disk, following)) == SMALL.segment_bytes, "the next one is filled while this one fills up"


def test_the_next_segment_is_filled_in_step_with_the_writer() -> None:
    keeper = Keeper()
    taken = keeper.space.take_next()
    filled = []
    for offset in range(SMALL.segment_bytes // 2, SMALL.segment_bytes - SMALL.ahead_bytes // 2, 1000):
        keeper.space.advance(offset)
        keeper.settle()
        (following,) = set(keeper.prepared()) - {taken.path}
        filled.append(len(read_file(keeper.disk, following)))
        wanted = SMALL.ahead_bytes + 2 * (offset - SMALL.segment_bytes // 2)
        assert wanted <= filled[-1] < wanted + SMALL.fill_step_bytes
    assert len(set(filled)) > 5, "piece by piece, not at once"


def test_a_segment_that_is_no_multiple_of_a_step_is_filled_to_its_end() -> None:
    keeper = Keeper()
    keeper.space = LogSpace(keeper.fs, PATHS, dataclasses.replace(SMALL, segment_bytes=50_001))
    taken = keeper.space.take_next()
    keeper.space.advance(49_000)
    keeper.settle()
    assert taken.ready_bytes == len(read_file(keeper.disk, taken.path)) == 50_001


def test_a_step_with_nothing_to_do_says_so() -> None:
    keeper = Keeper()
    assert keeper.settle() > 0
    assert keeper.space.step() is False


def test_every_change_is_told() -> None:
    keeper = Keeper()
    rooms: list[bool] = []
    keeper.space.on_change = lambda: rooms.append(keeper.space.has_next())
    steps = keeper.settle()
    assert rooms == [False] * (steps - 1) + [True]


# On one thread


def test_waiting_for_room_makes_it_where_no_thread_does() -> None:
    keeper = Keeper()
    taken = keeper.space.take_next()
    assert taken.ready_bytes == SMALL.ahead_bytes
    assert keeper.space.await_ready(SMALL.ahead_bytes) is True
    assert taken.ready_bytes == SMALL.ahead_bytes, "nothing was missing"
    assert keeper.space.await_ready(SMALL.ahead_bytes + 1) is True
    assert taken.ready_bytes == SMALL.ahead_bytes + SMALL.fill_step_bytes


def test_a_segment_after_the_other_can_be_taken() -> None:
    keeper = Keeper()
    paths = [keeper.space.take_next().path for _ in range(4)]
    assert len(set(paths)) == 4
    assert keeper.space.room() == FIRST_ROOM


def test_a_full_disk_at_the_first_segment_is_the_callers_error() -> None:
    keeper = Keeper(full())
    with pytest.raises(OSError, match="No space left") as refused:
        keeper.space.take_next()
    assert refused.value.errno == errno.ENOSPC
    assert not isinstance(refused.value, SyncFailed)


# Room that cannot be had


def test_an_error_is_kept_and_reported_once_and_nothing_is_lost_by_it() -> None:
    keeper = Keeper(space_bytes=SMALL.ahead_bytes)
    keeper.space.take_next()
    changes: list[OSError | None] = []
    keeper.space.on_change = lambda: changes.append(keeper.space.error)
    for _ in range(5):
        assert keeper.space.step() is True
    assert keeper.space.error is not None
    assert keeper.space.error.errno == errno.ENOSPC
    assert [type(event) for event in keeper.events] == [SpaceUnavailable]
    assert "No space left" in str(keeper.events[0])
    assert keeper.space.failure is None
    assert keeper.space.room() == FIRST_ROOM
    assert len(changes) == 5


def test_it_recovers_when_space_returns() -> None:
    keeper = Keeper(space_bytes=SMALL.ahead_bytes + 100)  # so that a write of zeros is cut short
    taken = keeper.space.take_next()
    keeper.settle()
    assert keeper.space.error is not None
    keeper.fs.add_space(1 << 20)
    keeper.settle()
    assert keeper.space.error is None
    assert [type(event) for event in keeper.events] == [SpaceUnavailable, SpaceAvailable]
    assert keeper.space.has_next()
    assert read_file(keeper.disk, taken.path) == bytes(taken.ready_bytes)


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_file_that_cannot_be_created_is_tried_again(error: int) -> None:
    keeper = Keeper(Fault(error=error, kinds={"create"}, at=2), Fault(error=error, kinds={"create"}, at=3))
    keeper.space.take_next()
    keeper.settle()
    assert keeper.space.error is not None
    keeper.settle()
    keeper.settle()
    assert keeper.space.error is None
    assert [type(event) for event in keeper.events] == [SpaceUnavailable, SpaceAvailable]
    assert keeper.space.has_next()


def test_where_the_open_segment_gets_no_room_the_next_one_is_named_instead() -> None:
    keeper = Keeper(full(where=lambda path: path == PATHS.prepared(0), at=SMALL.ahead_bytes // SMALL.fill_step_bytes + 4))
    current = keeper.space.take_next()
    assert current.path == PATHS.prepared(0)
    keeper.settle()
    while keeper.space.error is None:
        keeper.space.advance(current.ready_bytes - SEGMENT_RESERVE)
        keeper.settle()
    assert keeper.space.await_ready(current.ready_bytes) is True
    assert keeper.space.await_ready(current.ready_bytes + 1) is False
    assert keeper.space.take_next().path == PATHS.prepared(1)


# Syncs that fail


def test_a_failed_sync_is_final() -> None:
    keeper = Keeper(Fault(kinds={"datasync"}, at=3))
    with pytest.raises(SyncFailed):
        keeper.space.take_next()
    assert isinstance(keeper.space.failure, SyncFailed)
    assert keeper.space.error is None
    assert keeper.events == []
    assert keeper.space.step() is False, "it is never tried again"
    assert keeper.fs.counts["datasync"] == 3
    for ask in (keeper.space.take_next, lambda: keeper.space.await_ready(1), keeper.space.confirm_synced):
        with pytest.raises(SyncFailed):
            ask()


def test_a_failed_sync_of_the_next_segment_is_a_failure_too() -> None:
    steps = SMALL.ahead_bytes // SMALL.fill_step_bytes
    keeper = Keeper(Fault(kinds={"datasync"}, at=steps + 3))
    told: list[object] = []
    keeper.space.take_next()
    keeper.space.on_change = lambda: told.append(keeper.space.failure)
    keeper.settle()
    assert isinstance(keeper.space.failure, SyncFailed)
    assert told[-1] is keeper.space.failure
    with pytest.raises(SyncFailed):
        keeper.space.await_ready(SEGMENT_HEADER_LENGTH)


def test_any_other_error_is_a_failure_too(monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = Keeper()

    def out_of_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(keeper.fs, "create", out_of_memory)
    keeper.space.start()
    with pytest.raises(MemoryError):
        keeper.space.take_next()
    keeper.space.close()


# Leftovers


def test_what_an_earlier_process_left_is_removed_and_nothing_else() -> None:
    keeper = Keeper()
    kept = [PATHS.wal / name for name in ("00000001-0000000000000002.wal", "prepared-x.tmp", "prepared-1", "notes.tmp")]
    for path in [*kept, PATHS.prepared(0), PATHS.prepared(17)]:
        keeper.disk.plant(path, b"x")
    keeper.space.remove_leftovers()
    assert [PATHS.wal / name for name in keeper.disk.list_dir(PATHS.wal)] == sorted(kept)
    keeper.space.take_next()


def test_closing_removes_what_did_not_become_a_segment() -> None:
    keeper = Keeper()
    keeper.space.take_next()
    keeper.settle()
    assert len(keeper.prepared()) == 2
    keeper.space.close()
    assert keeper.prepared() == []


def test_a_next_segment_that_cannot_be_removed_is_left_to_the_next_open() -> None:
    keeper = Keeper(Fault(kinds={"remove"}))
    keeper.settle()
    keeper.space.close()
    LogSpace(keeper.fs, PATHS, SMALL).remove_leftovers()
    assert keeper.prepared() == []


# On a thread of its own


@contextlib.contextmanager
def running(keeper: Keeper) -> Iterator[Keeper]:
    keeper.space.start()
    yield keeper
    keeper.space.close()


def wait_for(keeper: Keeper, what: Callable[[], bool]) -> None:
    """Wait until it holds; every change of the space is a reason to look."""
    changed = threading.Event()
    keeper.space.on_change = changed.set
    while not what():
        assert changed.wait(PATIENCE_S), "nothing changed"
        changed.clear()


def test_the_thread_keeps_room_ready_while_segments_are_used_up() -> None:
    with running(Keeper()) as keeper:
        for _ in range(2):
            taken = keeper.space.take_next()
            for end in range(SEGMENT_HEADER_LENGTH, SMALL.segment_bytes, 1500):
                assert keeper.space.await_ready(end) is True
                assert taken.ready_bytes >= end
                keeper.space.advance(end)


def test_the_thread_comes_back_by_itself_when_space_does() -> None:
    with running(Keeper(space_bytes=2 * SMALL.ahead_bytes)) as keeper:
        keeper.space.take_next()
        keeper.space.advance(SMALL.ahead_bytes - SEGMENT_RESERVE)
        wait_for(keeper, lambda: keeper.space.error is not None)
        assert keeper.space.failure is None
        keeper.fs.add_space(2 * SMALL.segment_bytes)
        wait_for(keeper, lambda: keeper.space.error is None and keeper.space.has_next())
        assert [type(event) for event in keeper.events] == [SpaceUnavailable, SpaceAvailable]


def test_a_sync_under_way_is_waited_for_before_another_one_is_believed() -> None:
    """Of two threads that sync one file, the kernel tells one alone that writing it back failed."""
    syncing, go_on = threading.Event(), threading.Event()
    steps = SMALL.ahead_bytes // SMALL.fill_step_bytes

    def hold() -> None:
        syncing.set()
        assert go_on.wait(PATIENCE_S)

    keeper = Keeper(Fault(kinds={"datasync"}, at=steps + 1, action=hold))
    keeper.space.take_next()
    keeper.space.start()
    assert syncing.wait(PATIENCE_S)
    threading.Timer(0.05, go_on.set).start()
    with pytest.raises(SyncFailed):
        keeper.space.confirm_synced()
    keeper.space.close()


def test_a_waiting_writer_is_woken_by_a_failure() -> None:
    keeper = Keeper(Fault(kinds={"datasync"}, at=2))
    keeper.space.start()
    with pytest.raises(SyncFailed):
        keeper.space.take_next()
    keeper.space.close()
