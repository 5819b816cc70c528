"""Order, visibility and held answers: invariants I1 to I4 of the pipeline, with a log that moves when told."""

from __future__ import annotations

import functools

import pytest

from kvserver.base.errors import Code, ConditionFailed, InvalidRequest, NamespaceExists, RevisionError
from kvserver.base.types import Version
from kvserver.commit.pipeline import AnyTicket
from kvserver.commit.requests import Batch, Committed, CreateNamespace, Delete, DeleteSpan, Found, Put, PutRun, RunDone
from kvserver.storage.ranges import EVERYTHING
from kvserver.wal.commit_record import PUT, Effect, encode_commit, encode_put_run
from kvserver.wal.group_commit import Submission
from support.fake_log import Desk, outcome


@pytest.fixture
def desk() -> Desk:
    return Desk()


def seen(desk: Desk, key: bytes) -> bytes | None:
    """Return what a reader sees now."""
    version = desk.state.memtable.get(1, key, desk.marks.visible)
    return version.value if version else None


# I1: one order for everything


def test_order_of_submission_is_order_of_revision_and_order_in_the_log(desk: Desk) -> None:
    tickets = [
        desk.put(b"a", b"1"),
        desk.submit(PutRun(1, [b"b", b"c"], [b"2", b"3"])),
        desk.submit(Batch([Put(1, b"d", b"4"), Put(1, b"e", b"5")])),
        desk.delete(b"a"),
    ]
    assert desk.marks.assigned == desk.marks.applied == 6
    desk.durable()
    assert [outcome(ticket) for ticket in tickets] == [
        Committed(2, 2, 1, 0),
        RunDone(3, 2),
        Committed(5, 5, 2, 0),
        Committed(6, 6, 0, 1),
    ]
    assert desk.log.written == [
        encode_commit([Effect(PUT, 1, b"a", b"1")]),
        encode_put_run(1, [b"b", b"c"], [b"2", b"3"]),
        encode_commit([Effect(PUT, 1, b"d", b"4"), Effect(PUT, 1, b"e", b"5")]),
        encode_commit([Effect(2, 1, b"a", b"")]),
    ]
    assert desk.pipeline.commits == 5


def test_a_submissions_bytes_and_waiter_cross_as_one_item(desk: Desk) -> None:
    ticket = desk.put(b"a")
    (item,) = desk.log.queue
    assert isinstance(item, Submission)
    assert (item.waiter, item.commits, item.data) == (ticket, 1, encode_commit([Effect(PUT, 1, b"a", b"value")]))


def test_evaluation_sees_what_nobody_was_told_of_yet(desk: Desk) -> None:
    desk.put(b"a", b"1", if_revision=0)
    desk.put(b"a", b"2", if_revision=2)
    refused = desk.put(b"a", b"3", if_revision=0)
    desk.durable()
    assert desk.state.memtable.get(1, b"a", 3) == Version(b"a", b"2", 2, 3, 2)
    assert isinstance(outcome(refused), ConditionFailed)


def test_answers_of_a_group_are_told_in_the_order_of_submission(desk: Desk) -> None:
    told: list[int] = []
    for number in range(20):
        ticket = desk.put(b"k%d" % (number % 3)) if number % 4 else desk.read(b"k1")
        ticket.on_done(functools.partial(told.append, number))
    assert told == [0], "a read of what never was waits for nothing"
    desk.durable(7)
    assert told == list(range(8))
    desk.durable()
    assert told == list(range(20))


# I2: visible never passes durable


def test_nothing_is_visible_before_its_group_is_durable(desk: Desk) -> None:
    first, second = desk.put(b"a", b"1"), desk.put(b"a", b"2")
    assert (desk.marks.visible, seen(desk, b"a")) == (1, None)
    assert not first.done
    desk.durable(1)
    assert (desk.marks.visible, desk.marks.durable, seen(desk, b"a")) == (2, 2, b"1")
    assert first.done
    assert not second.done
    desk.durable()
    assert (desk.marks.visible, seen(desk, b"a")) == (3, b"2")


def test_a_memory_write_is_answered_at_once_and_visible_when_durable(desk: Desk) -> None:
    ticket = desk.put(b"a", b"1", memory=True)
    assert ticket.done
    assert outcome(ticket) == Committed(2, 2, 1, 0)
    run = desk.submit(PutRun(1, [b"b"], [b"2"]), memory=True)
    assert outcome(run) == RunDone(3, 1)
    assert (desk.marks.visible, seen(desk, b"a"), seen(desk, b"b")) == (1, None, None)
    desk.durable()
    assert (desk.marks.visible, seen(desk, b"a"), seen(desk, b"b")) == (3, b"1", b"2")


def test_a_memory_writes_caller_may_ask_for_more_at_once(desk: Desk) -> None:
    """Called back from the line, it submits the next write before the first call has come back."""
    desk.put(b"other")
    desk.durable()
    desk.pipeline.request_seal()
    first = desk.put(b"a", b"1", memory=True)
    later: list[AnyTicket] = []
    first.on_done(lambda: later.append(desk.put(b"a", b"2", memory=True)))
    desk.seal()
    assert [outcome(ticket).revision for ticket in (first, *later)] == [3, 4]
    desk.settle()
    assert desk.marks.visible == 4
    assert desk.state.memtable.get(1, b"a", 4) == Version(b"a", b"2", 3, 4, 2)


# I3: every answer waits for what it shows


@pytest.mark.parametrize("memory", [False, True])
def test_a_failed_condition_is_told_when_the_version_it_saw_is_durable(desk: Desk, memory: bool) -> None:
    desk.put(b"a")
    desk.put(b"other")
    refused = desk.put(b"a", if_revision=0, memory=memory)
    assert not refused.done
    desk.durable(2)
    assert not refused.done, "it came back with its own place in the queue"
    desk.durable()
    assert isinstance(outcome(refused), ConditionFailed)


def test_a_failed_condition_on_what_is_visible_is_told_at_once(desk: Desk) -> None:
    desk.put(b"a")
    desk.durable()
    desk.put(b"other")
    refused = desk.put(b"a", if_revision=0)
    assert isinstance(outcome(refused), ConditionFailed)
    never = desk.put(b"never", if_revision=9)
    assert isinstance(outcome(never), ConditionFailed)


def test_an_absent_key_waits_for_the_deletion_that_made_it_absent(desk: Desk) -> None:
    desk.put(b"a")
    desk.durable()
    desk.delete(b"a")
    again = desk.delete(b"a")
    conditional = desk.put(b"a", if_revision=2)
    read = desk.read(b"a")
    never = desk.delete(b"never")
    assert outcome(never) == Committed(0, 0, 0, 0)
    assert not (again.done or conditional.done or read.done)
    desk.durable()
    assert outcome(again) == Committed(0, 3, 0, 0)
    assert isinstance(outcome(conditional), ConditionFailed)
    assert outcome(read) == Found([None], 3)


def test_a_read_waits_for_the_newest_version_it_shows(desk: Desk) -> None:
    desk.put(b"a", b"1")
    desk.durable()
    desk.put(b"b", b"2")
    at_once, later = desk.read(b"a", b"never"), desk.read(b"a", b"b")
    assert outcome(at_once) == Found([Version(b"a", b"1", 2, 2, 1), None], 2)
    assert not later.done
    desk.durable()
    assert outcome(later) == Found([Version(b"a", b"1", 2, 2, 1), Version(b"b", b"2", 3, 3, 1)], 3)


def test_a_run_of_reads_sees_the_newest_state_and_says_how_new_it_is(desk: Desk) -> None:
    desk.put(b"a")
    desk.put(b"b")
    deleted = desk.delete(b"a")
    desk.put(b"unseen")
    reads = [desk.read(b"b", b"x"), desk.read(b"b", b"a"), desk.read(b"x"), desk.read()]
    desk.durable()
    b = Version(b"b", b"value", 3, 3, 1)
    assert outcome(deleted).revision == 4
    assert [outcome(read) for read in reads] == [Found([b, None], 3), Found([b, None], 4), Found([None], 0), Found([], 0)]


def test_refusals_that_show_the_state_wait_for_it(desk: Desk) -> None:
    desk.put(b"a")
    desk.submit(CreateNamespace("orders"))
    duplicate = desk.submit(Batch([Put(1, b"a", b""), Delete(1, b"a")]))
    exists = desk.submit(CreateNamespace("orders"))
    nothing = desk.submit(DeleteSpan(2, EVERYTHING))
    assert not (duplicate.done or exists.done or nothing.done)
    desk.durable(2)
    assert not (duplicate.done or exists.done or nothing.done)
    desk.durable()
    assert isinstance(outcome(duplicate), InvalidRequest)
    assert isinstance(outcome(exists), NamespaceExists)
    assert outcome(nothing) == Committed(0, 3, 0, 0)


def test_a_batch_whose_first_condition_held_waits_for_what_that_shows(desk: Desk) -> None:
    desk.put(b"old")
    desk.durable()
    desk.put(b"new")
    refused = desk.submit(Batch([Put(1, b"new", b"", if_revision=3), Put(1, b"old", b"", if_revision=9)]))
    assert not refused.done, "naming the second key says that the first condition held"
    desk.durable()
    assert isinstance(outcome(refused), ConditionFailed)


def test_an_answer_that_waits_comes_back_with_what_it_waits_for_at_the_latest(desk: Desk) -> None:
    tickets = [desk.put(b"a"), desk.read(b"a"), desk.put(b"a", if_revision=9), desk.delete(b"x"), desk.put(b"b")]
    desk.durable(3)
    assert [ticket.done for ticket in tickets] == [True, True, True, True, False]


# Waiting for a revision


def test_waiting_for_a_revision_ends_when_it_is_visible(desk: Desk) -> None:
    desk.put(b"a")
    desk.put(b"b")
    waits = desk.pipeline.when_visible(2)
    assert not waits.done
    desk.durable()
    assert waits.answer() == 2
    assert desk.pipeline.when_visible(3).answer() == 3
    assert desk.log.queue == [], "what is visible needs nothing of the log"


def test_a_revision_that_was_not_given_out_is_refused(desk: Desk) -> None:
    desk.put(b"a")
    error = outcome(desk.pipeline.when_visible(3))
    assert isinstance(error, RevisionError)
    assert error.code is Code.FUTURE_REVISION
    assert "the newest is 1" in error.message, "a revision that is not visible is not named"
    assert error.hint


# Sealing


def test_a_seal_lets_nothing_through_until_it_is_done(desk: Desk) -> None:
    desk.put(b"a")
    desk.pipeline.request_seal()
    desk.pipeline.request_seal()
    assert len(desk.log.queue) == 2, "it goes behind what is under way, and once"
    desk.durable()
    written, read = desk.put(b"b"), desk.read(b"a")
    assert (desk.marks.assigned, desk.pipeline.waiting) == (2, 2)
    assert not written.done
    assert not read.done
    desk.seal()
    assert desk.marks.assigned == 3
    assert outcome(read).versions[0].value == b"value"
    desk.durable()
    assert outcome(written) == Committed(3, 3, 1, 0)


def test_what_is_already_visible_is_answered_during_a_seal(desk: Desk) -> None:
    desk.put(b"a")
    desk.durable()
    desk.pipeline.request_seal()
    assert desk.pipeline.when_visible(2).answer() == 2


def test_a_callback_that_raises_keeps_no_other_answer_back(desk: Desk) -> None:
    first, second = desk.put(b"a"), desk.put(b"b")

    def fail() -> None:
        raise RuntimeError("a fault of the caller's")

    first.on_done(fail)
    with pytest.raises(RuntimeError):
        desk.durable()
    assert second.done
