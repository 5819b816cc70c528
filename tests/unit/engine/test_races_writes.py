"""Writes against flushes: what was read before them stays true however the tables and the loop's turns fall between.

Nothing moves by itself here: ``tables`` does a job of the thread that reads and ingests, ``loop`` lets the event loop hear of it.
"""

from __future__ import annotations

import pytest

from kvserver.base.errors import Code, ConditionFailed, NotServing
from kvserver.base.types import FIRST_NAMESPACE
from kvserver.commit.pipeline import AnyTicket
from kvserver.commit.requests import (
    Batch,
    Committed,
    CreateNamespace,
    Delete,
    DeleteSpan,
    DropNamespace,
    Found,
    Put,
    PutRun,
    ReadRun,
    Request,
)
from kvserver.storage.ranges import EVERYTHING, KeySpan
from support.fake_log import outcome
from support.stores import content, do, flush, peek, settle, submit
from unit.engine.scene import Scene


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_rows_and_memory_read_at_two_sides_of_a_flush_have_no_hole_between_them(scene: Scene) -> None:
    """One key is known to memory when the other's row is asked for; the row comes after memory went into a table."""
    do(scene.db, PutRun(1, [b"table", b"other"], [b"1", b"2"]))
    flush(scene.db)
    do(scene.db, Put(1, b"memory", b"3"))
    scene.begin_flush()
    ticket = submit(scene.db, Batch([Delete(1, b"memory"), Delete(1, b"table"), Delete(1, b"never")]))
    scene.end_flush()
    settle(scene.db)
    assert scene.db.failure is None
    assert outcome(ticket) == Committed(5, 5, 0, 2)
    assert list(content(scene.db)) == [("", b"other")]


def test_a_deletion_of_a_span_read_at_two_sides_of_a_flush_finds_every_key_once(scene: Scene) -> None:
    do(scene.db, PutRun(1, [b"a", b"c"], [b"1", b"2"]))
    flush(scene.db)
    do(scene.db, PutRun(1, [b"b", b"d"], [b"3", b"4"]))
    do(scene.db, Delete(1, b"a"))
    scene.begin_flush()
    request = DeleteSpan(1, EVERYTHING)
    prepared = scene.db.reader.prepare([request])
    scene.end_flush()
    do(scene.db, Put(1, b"e", b"5"))
    ticket = scene.db.submit(request, lambda done: done, pin=prepared.answer())
    settle(scene.db)
    assert outcome(ticket).deleted == 4
    assert content(scene.db) == {}


@pytest.mark.parametrize("flushes", [1, 2])
def test_a_conditional_put_prepared_before_a_flush_is_judged_by_what_the_flush_moved(scene: Scene, flushes: int) -> None:
    do(scene.db, Put(1, b"other", b"1"))
    flush(scene.db)
    request = Put(1, b"key", b"mine", if_revision=0)
    pin = scene.prepared(request)
    theirs = do(scene.db, Put(1, b"key", b"theirs")).revision
    for number in range(flushes):
        flush(scene.db)
        do(scene.db, Put(1, b"%d" % number, b""))
    ticket = scene.db.submit(request, lambda done: done, pin=pin)
    settle(scene.db)
    error = outcome(ticket)
    assert isinstance(error, ConditionFailed)
    assert error.mod_revision == theirs


def test_a_memtable_stays_exactly_as_long_as_somebody_needs_it(scene: Scene) -> None:
    view = scene.db.state.view
    do(scene.db, Put(1, b"other", b"1"))
    flush(scene.db)
    pin = scene.prepared(Put(1, b"key", b"mine", if_revision=0))
    do(scene.db, Put(1, b"key", b"theirs"))
    flush(scene.db)
    scene.db.tick()
    assert len(view._retained) == 1
    del pin
    scene.db.tick()
    settle(scene.db)
    assert view._retained == []
    assert view.unflushed_bytes == 0


@pytest.mark.parametrize("first", [True, False], ids=["the first flush", "a later flush"])
@pytest.mark.parametrize("known", [True, False], ids=["known to memory", "never written"])
def test_a_delete_that_stands_in_line_while_memory_is_flushed(scene: Scene, first: bool, known: bool) -> None:
    if not first:
        do(scene.db, Put(1, b"older", b"0"))
        flush(scene.db)
    do(scene.db, Put(1, b"key" if known else b"other", b"1"))
    scene.hold_back()
    if known or first:
        ticket = submit(scene.db, Delete(1, b"key"))
    else:
        ticket = scene.db.submit(Delete(1, b"key"), lambda done: done, pin=scene.prepared(Delete(1, b"key")))
    absent = submit(scene.db, Put(1, b"key", b"2", if_revision=0))
    settle(scene.db)
    assert not ticket.done
    assert flush(scene.db) == scene.db.marks.visible
    scene.let_through()
    assert scene.db.failure is None
    assert outcome(ticket).deleted == known
    assert outcome(absent).put == 1
    version = peek(scene.db, 1, b"key", scene.db.marks.visible)
    assert version is not None
    assert (version.value, version.version) == (b"2", 1)


def test_two_deletes_of_one_key_that_had_to_be_read(scene: Scene) -> None:
    """The second is judged by rows in which the first is not, and must see it nevertheless."""
    do(scene.db, Put(1, b"key", b"1"))
    flush(scene.db)
    first, second = submit(scene.db, Delete(1, b"key")), submit(scene.db, Delete(1, b"key"))
    settle(scene.db)
    assert (outcome(first).deleted, outcome(second)) == (1, Committed(0, 3, 0, 0))


def test_giving_up_while_prepared_rows_are_read_is_certain(scene: Scene) -> None:
    do(scene.db, Put(1, b"key", b"1"))
    flush(scene.db)
    ticket = submit(scene.db, Delete(1, b"key"))
    assert ticket.waiting
    assert ticket.give_up()
    assert outcome(ticket).code is Code.NOT_WRITTEN
    settle(scene.db)
    assert outcome(ticket).code is Code.NOT_WRITTEN
    assert scene.db.marks.assigned == 2
    assert peek(scene.db, 1, b"key", 2) is not None


def test_giving_up_after_the_rows_were_read_in_line_is_certain_too(scene: Scene) -> None:
    do(scene.db, Put(1, b"key", b"1"))
    flush(scene.db)
    scene.hold_back()
    ticket = submit(scene.db, Delete(1, b"key"))
    settle(scene.db)
    assert ticket.waiting
    assert ticket.give_up()
    scene.let_through()
    assert scene.db.marks.assigned == 2


def test_a_write_that_is_being_prepared_when_the_log_fails_is_told_so(scene: Scene) -> None:
    do(scene.db, Put(1, b"key", b"1"))
    flush(scene.db)
    ticket = submit(scene.db, Delete(1, b"key"))
    scene.fail_the_log()
    settle(scene.db)
    assert isinstance(outcome(ticket), NotServing)


# Reads within a stream


def test_reads_of_a_stream_show_the_state_at_their_submission_whatever_follows_them(scene: Scene) -> None:
    do(scene.db, PutRun(1, [b"a", b"b", b"a"], [b"1", b"2", b"3"]))
    flush(scene.db)
    do(scene.db, Put(1, b"b", b"4"))
    read = submit(scene.db, ReadRun(1, [b"a", b"b", b"c"]))
    submit(scene.db, PutRun(1, [b"a", b"b", b"c"], [b"later"] * 3))
    submit(scene.db, Batch([Delete(1, b"b")]))
    scene.log()
    assert not read.done, "the rows have not come"
    flush(scene.db)
    settle(scene.db)
    found = outcome(read)
    assert isinstance(found, Found)
    seen = [
        version and (version.value, version.create_revision, version.mod_revision, version.version) for version in found.versions
    ]
    assert seen == [(b"3", 2, 4, 2), (b"4", 3, 5, 2), None]
    assert found.depends_on == 5


def test_reads_whose_rows_came_wait_for_what_they_show(scene: Scene) -> None:
    do(scene.db, Put(1, b"a", b"1"))
    flush(scene.db)
    submit(scene.db, Put(1, b"b", b"2"))
    read = submit(scene.db, ReadRun(1, [b"a", b"b"]))
    while scene.db._beside.run_once():
        scene.loop.run()
    assert not read.done, "it shows what a crash can take back"
    scene.log()
    assert read.done
    assert [version.mod_revision for version in outcome(read).versions] == [2, 3]


def test_rows_that_come_after_the_log_failed_change_no_answer(scene: Scene) -> None:
    """What was put is not durable: whoever reads the answer a turn after it was told must not find it there."""
    do(scene.db, Put(1, b"a", b"1"))
    flush(scene.db)
    submit(scene.db, Put(1, b"b", b"not durable"))
    read = submit(scene.db, ReadRun(1, [b"a", b"b"]))
    scene.fail_the_log()
    assert read.done
    settle(scene.db)
    assert isinstance(outcome(read), NotServing)


# Namespaces


def created(scene: Scene, name: str = "team") -> int:
    number: int = do(scene.db, CreateNamespace(name)).namespace_id
    do(scene.db, PutRun(number, [b"a", b"b"], [b"1", b"2"]))
    return number


@pytest.mark.parametrize("flushed", [True, False])
def test_writes_to_a_namespace_whose_drop_is_not_visible_are_refused_when_it_is(scene: Scene, flushed: bool) -> None:
    number = created(scene)
    if flushed:
        flush(scene.db)
    submit(scene.db, DropNamespace("team"))
    requests: list[Request] = [
        Put(number, b"a", b"late"),
        Put(number, b"a", b"late", if_revision=0),
        Delete(number, b"a"),
        DeleteSpan(number, KeySpan(b"a", b"b")),
        Batch([Put(1, b"fine", b""), Put(number, b"a", b"late")]),
        PutRun(number, [b"a"], [b"late"]),
        ReadRun(number, [b"a"]),
    ]
    tickets: list[AnyTicket] = [submit(scene.db, request) for request in requests]
    assert not any(ticket.done for ticket in tickets), "it would tell of a drop that a crash can take back"
    assert scene.db.namespace_id("team") == number
    settle(scene.db)
    assert [outcome(ticket).code for ticket in tickets] == [Code.UNKNOWN_NAMESPACE] * len(requests)
    assert scene.db.marks.visible == 5
    assert peek(scene.db, 1, b"fine", 5) is None


def test_a_name_can_be_used_again_at_once_and_has_none_of_the_old_keys(scene: Scene) -> None:
    old = created(scene)
    flush(scene.db)
    submit(scene.db, DropNamespace("team"))
    again = submit(scene.db, CreateNamespace("team"))
    settle(scene.db)
    number = outcome(again).namespace_id
    assert number not in (old, FIRST_NAMESPACE - 1)
    assert scene.db.namespace_id("team") == number
    assert peek(scene.db, number, b"a", scene.db.marks.visible) is None
    scene.db.tick()
    settle(scene.db)
    assert [entry.id for entry in scene.db.namespaces()] == [1, number]
