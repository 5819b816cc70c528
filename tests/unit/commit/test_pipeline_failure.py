"""After the log failed: everyone is told what is true, and nothing is evaluated, shown or acknowledged (invariant I6)."""

from __future__ import annotations

import pytest

from kvserver.base.errors import Code, NotServing, OutcomeUnknown
from kvserver.commit.pipeline import CommitPipeline
from kvserver.commit.requests import Committed, Found, PutRun
from support.fake_log import Desk, outcome


@pytest.fixture
def desk() -> Desk:
    return Desk()


def is_log_failed(answer: object) -> bool:
    return isinstance(answer, NotServing) and answer.code is Code.LOG_FAILED


def test_everyone_is_told_what_is_true() -> None:
    desk = Desk(room_bytes=2000)
    written = desk.put(b"a")
    desk.durable()
    desk.pipeline.request_seal()
    desk.seal()
    under_way = [desk.put(b"b"), desk.submit(PutRun(1, [b"c", b"d"], [b"", b""]))]
    only_waiting = [desk.read(b"b"), desk.put(b"b", if_revision=9), desk.pipeline.when_visible(3)]
    in_line = [desk.put(b"e", bytes(2000)), desk.read(b"a")]
    gave_up = desk.put(b"f")
    gave_up.give_up()
    error = desk.fail()
    assert outcome(written) == Committed(2, 2, 1, 0)
    assert all(isinstance(outcome(ticket), OutcomeUnknown) for ticket in under_way)
    assert all(is_log_failed(outcome(ticket)) for ticket in [*only_waiting, *in_line])
    assert outcome(gave_up).code is Code.NOT_WRITTEN
    assert desk.pipeline.failure is error
    assert desk.failures == [error]


def test_nothing_moves_after_it(desk: Desk) -> None:
    desk.put(b"a")
    desk.durable()
    desk.put(b"b")
    desk.fail()
    before = (repr(desk.marks), desk.pipeline.commits, list(desk.log.queue))
    answers = [desk.put(b"c"), desk.put(b"c", memory=True), desk.delete(b"a"), desk.read(b"a"), desk.put(b"a", if_revision=0)]
    assert all(is_log_failed(outcome(ticket)) for ticket in answers)
    desk.pipeline.request_seal()
    desk.pipeline.admit_waiting()
    assert (repr(desk.marks), desk.pipeline.commits, list(desk.log.queue)) == before
    assert desk.state.memtable.newest(1, b"c") is None


def test_what_was_visible_stays_so(desk: Desk) -> None:
    desk.put(b"a")
    desk.durable()
    desk.put(b"b")
    desk.fail()
    assert desk.pipeline.when_visible(2).answer() == 2
    assert is_log_failed(outcome(desk.pipeline.when_visible(3)))


def test_groups_that_come_back_later_are_failures_too(desk: Desk) -> None:
    first, second, third = desk.put(b"a"), desk.put(b"b"), desk.put(b"c")
    error = desk.fail(1)
    desk.fail(1)
    desk.fail()
    assert all(isinstance(outcome(ticket), OutcomeUnknown) for ticket in (first, second, third))
    assert desk.failures == [error], "told once, and by the first error"
    assert desk.pipeline.failure is error


def test_a_group_that_crosses_a_failure_told_elsewhere_is_not_acknowledged(desk: Desk) -> None:
    """The space keeper's failed sync is told on its own; a group that was under way may come back well behind it."""
    ticket = desk.put(b"a")
    group = desk.log.write(desk.log.take())
    desk.fail()
    desk.pipeline.on_group_done(group)
    assert isinstance(outcome(ticket), OutcomeUnknown)
    assert desk.marks.visible == 1


def test_a_memory_write_that_was_told_stays_told(desk: Desk) -> None:
    ticket = desk.put(b"a", memory=True)
    desk.fail()
    assert outcome(ticket) == Committed(2, 2, 1, 0)
    assert desk.marks.visible == 1


def test_an_answer_before_the_failure_is_not_taken_back(desk: Desk) -> None:
    desk.put(b"a")
    desk.durable()
    read = desk.read(b"a")
    desk.fail()
    assert isinstance(outcome(read), Found)


def test_a_callback_that_asks_again_is_refused(desk: Desk) -> None:
    later = []
    desk.put(b"a").on_done(lambda: later.append(desk.put(b"b")))
    desk.fail()
    assert [is_log_failed(outcome(ticket)) for ticket in later] == [True]


def test_a_failure_between_log_and_memory_is_final(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes were handed over, memory was not filled: from here on memory could show what the log does not say."""

    def out_of_memory(*_: object) -> None:
        raise MemoryError

    before = desk.put(b"a")
    monkeypatch.setattr(desk.state.memtable, "put_run", out_of_memory)
    assert isinstance(outcome(desk.put(b"b")), OutcomeUnknown)
    assert isinstance(desk.pipeline.failure, MemoryError)
    assert [type(error) for error in desk.failures] == [MemoryError]
    assert is_log_failed(outcome(desk.put(b"c")))
    desk.durable()
    assert isinstance(outcome(before), OutcomeUnknown)
    assert (desk.marks.visible, desk.marks.applied) == (1, 2)


def test_who_caused_a_failure_is_told_that_the_outcome_is_unknown(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.put(b"a")
    desk.durable()
    desk.pipeline.request_seal()
    ticket, behind = desk.put(b"b"), desk.put(b"c")

    def out_of_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(CommitPipeline, "_carry_out_put", out_of_memory)
    desk.seal()
    assert isinstance(outcome(ticket), OutcomeUnknown)
    assert is_log_failed(outcome(behind)), "nobody would ever come to answer it"


def test_a_callback_that_raises_at_a_failure_keeps_no_other_answer_back(desk: Desk) -> None:
    first, second = desk.put(b"a"), desk.put(b"b")

    def fail() -> None:
        raise RuntimeError("a fault of the caller's")

    first.on_done(fail)
    with pytest.raises(RuntimeError):
        desk.fail()
    assert isinstance(outcome(second), OutcomeUnknown)
