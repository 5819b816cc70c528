"""What the engine does for an archiver: it keeps the log, lets go of what is archived, seals, slows down and refuses."""

from __future__ import annotations

import asyncio
import errno

import pytest

from kvserver.base.errors import Code, NotServing, Refused
from kvserver.base.options import TableOptions
from kvserver.base.types import Position
from kvserver.commit.refusals import archive_behind
from kvserver.commit.requests import Delete, Put, PutRun, ReadRun
from kvserver.engine.database import Database
from kvserver.engine.obsolete_files import ARCHIVE, FLUSH
from kvserver.wal.group_commit import SEAL_NOW
from kvserver.wal.recovery import list_segments
from support.clocks import ManualClock
from support.faultfs import Fault, FaultFileSystem, FaultPlan
from support.logs import PATHS
from support.memfs import MemoryFileSystem
from support.stores import TIGHT, LoopTurns, do, flush, open_store, settle, submit


def firsts(disk: MemoryFileSystem) -> list[int]:
    """Return the first revision of each segment that is there."""
    return [name.first_revision for name in list_segments(disk, PATHS)]


def move(database: Database) -> None:
    """Let everything move until nothing is under way, room made ready included."""
    settle(database)
    while database._space.step() and database._space.error is None:
        settle(database)
    settle(database)


def seal(database: Database) -> int:
    """Seal all so far; return the last sealed revision."""
    ticket = database.seal()
    move(database)
    return ticket.answer()


def three_segments(disk: MemoryFileSystem, hold_archive: bool = True) -> Database:
    """Return a store with the revisions 2, 3 and 4 in a sealed segment each, all of them flushed."""
    database = open_store(disk, hold_archive=hold_archive)
    for number in range(3):
        do(database, Put(1, b"k%d" % number, b"value"))
        seal(database)
    flush(database)
    database.tick()
    settle(database)
    return database


# The hold


def test_without_an_archive_nothing_is_held_for_it() -> None:
    disk = MemoryFileSystem()
    database = three_segments(disk, hold_archive=False)
    assert database.holds() == [(FLUSH, 5)]
    assert firsts(disk) == [5]


def test_the_whole_log_is_kept_until_something_is_archived() -> None:
    disk = MemoryFileSystem()
    database = three_segments(disk)
    assert database.holds() == [(ARCHIVE, 2), (FLUSH, 5)]
    assert firsts(disk) == [2, 3, 4, 5]


def test_the_hold_is_there_after_every_start_however_many_there_are() -> None:
    """The store cannot be reached at all: not one segment goes, whatever is flushed."""
    disk = MemoryFileSystem()
    three_segments(disk).close()
    for start in range(2, 6):
        database = open_store(disk, hold_archive=True, seed=start)
        assert dict(database.holds())[ARCHIVE] == 2
        do(database, Put(1, b"start", b"%d" % start))
        flush(database)
        database.tick()
        settle(database)
        assert firsts(disk)[:3] == [2, 3, 4]
        database.close()


def test_what_is_archived_goes_and_the_rest_stays() -> None:
    disk = MemoryFileSystem()
    database = three_segments(disk)
    segments = database.sealed_segments()
    assert [(info.name.first_revision, info.end.revision) for info in segments] == [(2, 2), (3, 3), (4, 4)]
    database.on_archived(segments[1].end)
    settle(database)
    assert (database.marks.archived, dict(database.holds())[ARCHIVE]) == (3, 4)
    assert firsts(disk) == [4, 5]
    database.marks.check()
    database.on_archived(segments[2].end)
    settle(database)
    assert firsts(disk) == [5]


def test_what_is_archived_and_not_flushed_stays() -> None:
    disk = MemoryFileSystem()
    database = open_store(disk, hold_archive=True)
    do(database, Put(1, b"k", b"value"))
    seal(database)
    database.on_archived(database.sealed_segments()[-1].end)
    settle(database)
    assert firsts(disk) == [2, 3]


def test_a_place_behind_which_the_log_begins_already_moves_the_mark_and_no_hold() -> None:
    """What is archived was let go before the last start; then the archive says how far it is."""
    disk = MemoryFileSystem()
    database = three_segments(disk)
    segments = database.sealed_segments()
    database.on_archived(segments[2].end)
    settle(database)
    database.close()
    again = open_store(disk, hold_archive=True, seed=2)
    assert dict(again.holds())[ARCHIVE] == 5
    again.on_archived(segments[0].end)
    assert (again.marks.archived, dict(again.holds())[ARCHIVE]) == (2, 5)
    again.on_archived(segments[2].end)
    assert (again.marks.archived, dict(again.holds())[ARCHIVE]) == (4, 5)
    again.on_archived(segments[1].end)
    assert again.marks.archived == 4, "marks move upwards only"


def test_nothing_is_archived_past_what_is_visible() -> None:
    database = three_segments(MemoryFileSystem())
    end = database.sealed_segments()[-1].end
    with pytest.raises(ValueError, match="revision 5 cannot be archived; the newest that is visible is 4"):
        database.on_archived(Position(end.epoch, 5, end.chain))
    assert (database.marks.archived, dict(database.holds())[ARCHIVE]) == (0, 2)


def test_what_is_given_up_moves_the_hold_and_not_the_mark() -> None:
    disk = MemoryFileSystem()
    database = three_segments(disk)
    database.on_archive_gave_up(database.sealed_segments()[0].end)
    settle(database)
    assert (database.marks.archived, dict(database.holds())[ARCHIVE]) == (0, 3)
    assert firsts(disk) == [3, 4, 5]


# Seals on demand


def test_a_segment_is_sealed_on_demand_whatever_its_age() -> None:
    database = open_store(MemoryFileSystem())
    do(database, Put(1, b"a", b"1"))
    do(database, Put(1, b"b", b"2"))
    assert seal(database) == 3
    assert [info.end.revision for info in database.sealed_segments()] == [3]
    do(database, Put(1, b"c", b"3"))
    assert seal(database) == 4


def test_what_is_under_way_is_sealed_too_and_what_comes_later_goes_into_the_next_segment() -> None:
    database = open_store(MemoryFileSystem())
    first = submit(database, Put(1, b"a", b"1"))
    ticket = database.seal()
    later = submit(database, Put(1, b"b", b"2"))
    assert (first.done, ticket.done, later.done) == (False, False, False)
    while database._space.step():
        pass
    settle(database)
    assert (ticket.answer(), later.answer().revision) == (2, 3)
    assert [info.end.revision for info in database.sealed_segments()] == [2]


def test_an_empty_segment_is_not_sealed() -> None:
    database = open_store(MemoryFileSystem())
    assert (seal(database), seal(database)) == (1, 1)
    do(database, Put(1, b"a", b"1"))
    assert (seal(database), seal(database)) == (2, 2)
    assert len(database.sealed_segments()) == 1


def test_a_seal_by_age_under_way_serves_those_who_ask_meanwhile() -> None:
    clock = ManualClock()
    database = open_store(MemoryFileSystem(), clock=clock)
    do(database, Put(1, b"a", b"1"))
    clock.advance_ms(TIGHT.seal_age_ms)
    database.tick()
    tickets = [database.seal(), database.seal()]
    move(database)
    assert [ticket.answer() for ticket in tickets] == [2, 2]
    assert len(database.sealed_segments()) == 1


def test_a_seal_by_age_that_came_to_nothing_is_followed_by_one_on_demand() -> None:
    loop = LoopTurns()
    database = open_store(MemoryFileSystem(), post=loop)
    do(database, Put(1, b"a", b"1"))
    assert database.pipeline.request_seal(), "not old enough, so nothing will come of it"
    ticket = database.seal()
    move(database)
    assert ticket.answer() == 2


def test_a_seal_waits_for_room_without_asking_in_a_circle() -> None:
    """A disk without room for the next segment: the log is asked once in a tick, and writes go on meanwhile."""
    prepared = Fault(at=3, error=errno.ENOSPC, kinds={"create"}, where=lambda path: "prepared" in path.name, forever=True)
    fs = FaultFileSystem(MemoryFileSystem(), FaultPlan([prepared]))
    database = open_store(fs)
    do(database, Put(1, b"a", b"1"))
    assert seal(database) == 2, "with the segment that was prepared before"
    controls: list[object] = []
    hand_over = database._leading.committer.submit
    database._leading.committer.submit = lambda item: (controls.append(item), hand_over(item))[1]  # type: ignore[method-assign]
    do(database, Put(1, b"b", b"2"))
    ticket = database.seal()
    for _ in range(3):
        settle(database)
        database.tick()
    settle(database)
    assert [item for item in controls if item is SEAL_NOW] == [SEAL_NOW] * 4
    assert not ticket.done
    do(database, Put(1, b"c", b"3"))
    fs._gate._faults.clear()  # room is made, and nobody has to wait for a tick
    move(database)
    assert ticket.answer() == 4


def test_those_who_wait_for_a_seal_are_told_when_the_log_fails() -> None:
    disk = MemoryFileSystem()
    database = open_store(disk)
    do(database, Put(1, b"a", b"1"))
    while database._space.step():
        pass
    disk.fail_next_sync()
    submit(database, Put(1, b"b", b"2"))
    ticket = database.seal()
    settle(database)
    for told in (ticket, database.seal()):
        with pytest.raises(NotServing) as failure:
            told.answer()
        assert failure.value.code is Code.LOG_FAILED


def test_those_who_wait_for_a_seal_are_told_when_the_store_closes() -> None:
    database = open_store(MemoryFileSystem())
    submit(database, Put(1, b"a", b"1"))
    ticket = database.seal()
    database.close()
    for told in (ticket, database.seal()):
        with pytest.raises(NotServing, match="stopping"):
            told.answer()


def test_a_seal_is_answered_while_the_log_runs_on_its_own_thread() -> None:
    async def run() -> int:
        loop = asyncio.get_running_loop()
        database = open_store(MemoryFileSystem(), threads=True, post=loop.call_soon_threadsafe)
        try:
            await database.submit(Put(1, b"a", b"1"), lambda done: done)
            return await database.seal()
        finally:
            await asyncio.to_thread(database.close)

    assert asyncio.run(run()) == 2


# Pressure


def test_writes_are_refused_before_they_get_a_revision_and_reads_are_not() -> None:
    database = open_store(MemoryFileSystem())
    do(database, Put(1, b"a", b"1"))
    database.set_pressure(archive_behind("2 GiB wait"), 100)
    for request in (Put(1, b"a", b"2"), Put(1, b"b", b"", 0), Delete(1, b"a"), PutRun(1, [b"c", b"d"], [b"", b""])):
        with pytest.raises(Refused, match="2 GiB wait") as refusal:
            do(database, request)
        assert refusal.value.code is Code.ARCHIVE_BEHIND
    assert (database.marks.assigned, database.pipeline.refused) == (2, 4)
    assert do(database, ReadRun(1, [b"a"])).versions[0].value == b"1"
    database.set_pressure(None, 0)
    assert do(database, Put(1, b"a", b"2")).revision == 3


def test_each_refusal_is_an_error_of_its_own() -> None:
    """One that is raised again and again would hold on to every caller's frames."""
    database = open_store(MemoryFileSystem())
    refusing = archive_behind("so much")
    database.set_pressure(refusing, 0)
    errors = []
    for _ in range(3):
        with pytest.raises(Refused) as refusal:
            do(database, Put(1, b"a", b"1"))
        errors.append(refusal.value)
    assert len({id(error) for error in [*errors, refusing]}) == 4
    assert {(error.code, error.message, error.hint) for error in errors} == {(refusing.code, refusing.message, refusing.hint)}


def test_those_who_stand_in_line_are_refused_too() -> None:
    database = open_store(MemoryFileSystem())
    database.pipeline.request_seal()
    waiting = submit(database, Put(1, b"a", b"1"))
    assert database.pipeline.waiting == 1
    database.set_pressure(archive_behind("so much"), 0)
    settle(database)
    with pytest.raises(Refused):
        waiting.answer()
    assert (database.pipeline.waiting, database.marks.assigned) == (0, 1)


def test_those_who_stand_in_line_are_admitted_when_the_pressure_ends() -> None:
    database = open_store(MemoryFileSystem())
    database.set_pressure(archive_behind("so much"), 0)
    database.set_pressure(None, 0)
    assert do(database, Put(1, b"a", b"1")).revision == 2


def test_a_flush_goes_on_while_writes_are_refused() -> None:
    database = open_store(MemoryFileSystem())
    do(database, Put(1, b"a", b"1"))
    database.set_pressure(archive_behind("so much"), 1)
    assert flush(database) == 2
    assert seal(database) == 2


def test_history_is_not_given_up_while_writes_are_refused_and_afterwards_it_is() -> None:
    """The commit that moves the window is refused like any other; the next tick makes it again."""
    clock = ManualClock()
    options = TableOptions(bucket_revisions=4, history_revisions=4, history_ms=0)
    database = open_store(MemoryFileSystem(), clock=clock, tables=options)
    do(database, PutRun(1, [b"k"] * 1, [b"v"]))
    for number in range(20):
        do(database, Put(1, b"k", b"%d" % number))
    database.set_pressure(archive_behind("so much"), 0)
    database.tick()
    settle(database)
    assert database.oldest_readable < 16
    database.set_pressure(None, 0)
    database.tick()
    settle(database)
    assert database.oldest_readable == 16
