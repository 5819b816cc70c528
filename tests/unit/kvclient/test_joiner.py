"""The joining of many callers' operations: the one outcome of each operation, on every path that there is to one."""

from __future__ import annotations

import math
from typing import Any

import pytest

from kvclient import (
    ClientClosed,
    Delete,
    Entry,
    NotWritten,
    OutcomeUnknown,
    Put,
    Retry,
    ServerError,
    Timeout,
    Unavailable,
)
from kvclient import _operations as operations
from kvclient._errors import unreachable
from kvclient._frames import Frame, Kind
from kvclient._joiner import MAX_FRAMES
from unit.kvclient.joining import POLICY, Line, Waiter, answer_to

ONCE = Retry(attempts=1)


@pytest.fixture
def line() -> Line:
    return Line()


def all_frames(line: Line) -> list[Frame]:
    """Take every frame that may be sent now."""
    return list(iter(line.joiner.next_frame, None))


# -- answered ---------------------------------------------------------------------------------------------------------


def test_an_answer_gives_each_its_outcome(line: Line) -> None:
    first, second, third = line.put(b"a"), line.put(b"b"), line.put(b"c")
    line.settle(line.send(), {1: "EMPTY_KEY"})
    assert (first.outcome.revision, second.code, third.outcome.revision) == (10, "EMPTY_KEY", 11)
    assert line.joiner.idle


def test_answers_may_come_in_any_order(line: Line) -> None:
    early = line.put(b"a")
    first = line.send()
    late = line.get(b"b")
    second = line.send()
    line.settle(second)
    assert (early.told, late.outcome) == ([], Entry(b"b", b"of b", 1, 1, 1))
    line.settle(first)
    assert early.outcome.revision == 10


@pytest.mark.parametrize("code", ["EMPTY_KEY", "CONDITION_FAILED", "DISK_FULL", "TABLES_FAILED", "LOG_FAILED", "POLICY_UNMET"])
@pytest.mark.parametrize("rejected", [False, True])
def test_a_refusal_that_does_not_pass_by_itself_is_told(line: Line, code: str, rejected: bool) -> None:
    waiters = [line.put(), line.put()]
    frame = line.send()
    if rejected:
        line.reject(frame, code)
    else:
        line.settle(frame, {0: code, 1: code})
    assert [waiter.code for waiter in waiters] == [code, code]
    assert waiters[0].outcome is not waiters[1].outcome
    assert line.joiner.idle


def test_an_answer_that_does_not_fit_leaves_writes_open_and_says_so_to_readers(line: Line) -> None:
    writer, reader, next_one = line.put(), line.get(), line.add(operations.delete(Delete(b"k"), POLICY))
    puts, gets, deletes = all_frames(line)
    line.settle(puts, commits=3)
    line.settle(gets, rejected=True)
    assert type(writer.outcome) is OutcomeUnknown
    assert type(reader.outcome) is ServerError
    line.settle(deletes)
    assert next_one.outcome.deleted == 1, "the other frames are none the worse for it"


class Faulty(Waiter):
    """Cannot be told a result."""

    def set_result(self, result: Any) -> None:
        raise RuntimeError("a fault of the client's own")


def test_a_fault_in_telling_one_caller_leaves_no_other_without_an_outcome(line: Line) -> None:
    for operation, kind in ((operations.put(b"k", b"v", POLICY), OutcomeUnknown), (operations.get(b"k"), ServerError)):
        waiters = [Waiter(), Faulty(), Waiter()]
        for waiter in waiters:
            line.joiner.add(*operation, 5.0, waiter)
        line.settle(line.send())
        assert not isinstance(waiters[0].outcome, Exception)
        for waiter in waiters[1:]:
            assert type(waiter.outcome) is kind
            assert "a fault of the client's own" in waiter.outcome.message


def test_an_answer_to_a_frame_that_was_never_sent_is_an_error_of_the_stream(line: Line) -> None:
    waiter = line.put()
    frame = line.send()
    stranger = Frame(Kind.PUTS)
    stranger.frame_id = 99
    with pytest.raises(ServerError, match="not under way: 99"):
        line.settle(stranger)
    assert waiter.told == []
    line.settle(frame)
    assert waiter.outcome.revision == 10


def test_a_second_answer_to_a_frame_is_an_error_of_the_stream(line: Line) -> None:
    waiter = line.put()
    frame = line.send()
    line.settle(frame)
    with pytest.raises(ServerError, match="not under way"):
        line.settle(frame, first=50)
    assert waiter.outcome.revision == 10


# -- refusals that pass by themselves ---------------------------------------------------------------------------------

PASSING = ["OVERLOADED", "NOT_WRITTEN", "MEMORY_FULL", "NOT_SERVING"]


@pytest.mark.parametrize("code", PASSING)
@pytest.mark.parametrize("rejected", [False, True])
def test_what_was_refused_for_now_is_sent_again_after_a_pause(line: Line, code: str, rejected: bool) -> None:
    done, refused = line.put(b"a"), line.put(b"b")
    if rejected:
        line.reject(line.send(), code)
    else:
        line.settle(line.send(), {1: code})
    assert refused.told == []
    assert line.joiner.next_frame() is None, "not at once"
    assert 0.05 <= line.joiner.next_due() <= 0.1
    line.expire(0.049)
    assert line.joiner.next_frame() is None
    wakes = line.wakes
    line.run_out()
    assert line.wakes > wakes
    again = line.send()
    assert again.keys == ([b"a", b"b"] if rejected else [b"b"])
    line.settle(again, first=20)
    assert (done.outcome.revision, refused.outcome.revision) == ((20, 21) if rejected else (10, 20))


def test_it_is_sent_so_often_and_no_oftener(line: Line) -> None:
    reader, writer = line.get(), line.put()
    for attempt in range(1, 4):
        for frame in (line.send(), line.send()):
            assert frame.attempt == attempt
            line.reject(frame, "OVERLOADED")
        if attempt < 3:
            assert not reader.told
            while not line.joiner._line or len(line.joiner._line) < 2:
                line.run_out()
    assert (reader.code, writer.code) == ("OVERLOADED", "OVERLOADED")
    assert type(writer.outcome) is NotWritten
    assert line.joiner.idle


def test_without_attempts_left_nothing_is_sent_again() -> None:
    line = Line(ONCE)
    waiter = line.put()
    line.reject(line.send(), "OVERLOADED")
    assert waiter.code == "OVERLOADED"


def test_who_has_no_time_left_for_the_pause_is_told_the_refusal(line: Line) -> None:
    hasty, patient = line.put(deadline=0.04), line.put(deadline=5.0)
    line.reject(line.send(), "OVERLOADED")
    assert hasty.code == "OVERLOADED", "not that there was no room to send it: it had been sent"
    assert patient.told == []
    line.run_out()
    assert len(line.send().keys) == 1


def test_who_gave_up_is_not_sent_again(line: Line) -> None:
    waiters = [line.put(b"a"), line.put(b"b")]
    frame = line.send()
    waiters[0].given_up = True
    line.reject(frame, "OVERLOADED")
    line.run_out()
    assert line.send().keys == [b"b"]


# -- time -------------------------------------------------------------------------------------------------------------


def test_what_stands_in_line_when_its_time_is_up_was_certainly_not_written(line: Line) -> None:
    writer, reader, later = line.put(deadline=1.0), line.get(deadline=1.0), line.put(deadline=2.0)
    assert line.joiner.next_due() == 1.0
    line.expire(1.0)
    assert (type(writer.outcome), type(reader.outcome), later.told) == (NotWritten, Timeout, [])
    assert line.joiner.next_due() == 2.0
    assert len(line.send().keys) == 1, "the others are left out"


def test_what_is_under_way_when_its_time_is_up_is_open_if_it_writes(line: Line) -> None:
    writer, reader, later = line.put(deadline=1.0), line.get(deadline=1.0), line.put(deadline=2.0)
    puts, gets = all_frames(line)
    line.expire(1.5)
    assert (type(writer.outcome), type(reader.outcome), later.told) == (OutcomeUnknown, Timeout, [])
    assert line.joiner.next_due() == 2.0
    line.settle(puts)
    line.settle(gets)
    assert (writer.code, later.outcome.revision) == ("OUTCOME_UNKNOWN", 11), "a late answer tells only those who still wait"
    assert line.joiner.next_due() == math.inf


def test_what_waits_to_be_sent_again_when_its_time_is_up_was_not_written(line: Line) -> None:
    waiter = line.put(deadline=0.11)
    line.reject(line.send(), "OVERLOADED")
    line.joiner._later[0] = (5.0, *line.joiner._later[0][1:])
    assert line.joiner.next_due() == 0.11
    line.expire(0.11)
    assert type(waiter.outcome) is NotWritten
    line.expire(5.0)
    assert line.joiner.next_frame() is None


def test_frames_that_time_out_keep_their_room_until_they_are_answered(line: Line) -> None:
    under_way = []
    for _ in range(MAX_FRAMES):
        line.put(deadline=1.0)
        under_way.append(line.send())
    waiting = line.put(deadline=9.0)
    line.expire(1.0)
    assert not line.joiner.has_work
    line.settle(under_way[0])
    line.settle(line.send())
    assert waiting.outcome.revision == 10


def test_nobody_waits_for_nothing(line: Line) -> None:
    assert line.joiner.idle
    assert line.joiner.next_due() == math.inf
    line.expire(1e9)
    line.lose()
    line.joiner.fail_line(ClientClosed)
    assert line.joiner.next_frame() is None


def test_no_deadline_is_a_deadline_too(line: Line) -> None:
    waiter = line.put(deadline=math.inf)
    assert line.joiner.next_due() == math.inf
    line.expire(1e12)
    assert waiter.told == []


# -- the end of the stream --------------------------------------------------------------------------------------------


def test_a_lost_stream_leaves_writes_open_and_reads_go_back_in_line(line: Line) -> None:
    writer, reader, read_again = line.put(), line.get(b"a"), line.get(b"b")
    puts, gets = all_frames(line)
    in_line = line.put(b"later")
    line.lose()
    assert type(writer.outcome) is OutcomeUnknown
    assert (reader.told, in_line.told) == ([], [])
    assert line.send().keys == [b"later"], "what stood in line stays there"
    line.run_out()
    again = line.send()
    assert (again.kind, again.keys, again.attempt) == (Kind.GETS, [b"a", b"b"], 2)
    line.settle(again)
    assert (reader.outcome.value, read_again.outcome.value) == (b"of a", b"of b")
    for frame in (puts, gets):
        with pytest.raises(ServerError, match="not under way"):
            line.settle(frame)


def test_a_read_goes_back_so_often_and_no_oftener(line: Line) -> None:
    reader = line.get()
    for _ in range(2):
        line.send()
        line.lose()
        assert reader.told == []
        line.run_out()
    line.send()
    line.lose()
    assert type(reader.outcome) is Unavailable


def test_writes_go_back_too_where_the_server_carried_out_nothing_more(line: Line) -> None:
    waiters = [line.put(b"a"), line.add(operations.write([Put(b"b", b"1")], POLICY))]
    sent = all_frames(line)
    line.lose(carried_out=False)
    assert [waiter.told for waiter in waiters] == [[], []]
    line.run_out()
    line.run_out()
    again = all_frames(line)
    assert sorted(frame.kind for frame in again) == [frame.kind for frame in sent]
    for frame in again:
        line.settle(frame)
    assert [waiter.outcome.revision for waiter in waiters] == [10, 10]


def test_a_write_that_may_not_go_back_any_more_gets_the_error_of_the_stream() -> None:
    line = Line(ONCE)
    waiter = line.put()
    line.send()
    line.joiner.lost(lambda writes: Unavailable("NOT_SERVING", "it is stopping"), 0.0, carried_out=False)
    assert waiter.code == "NOT_SERVING"


def test_where_all_gave_up_nothing_goes_back(line: Line) -> None:
    line.get(deadline=1.0)
    line.send()
    line.expire(1.0)
    line.lose()
    assert line.joiner.idle
    next_one = line.get(deadline=2.0)
    assert line.joiner.last_deadline() == 2.0
    line.settle(line.send())
    assert next_one.outcome.value == b"of k"


def test_who_gave_up_does_not_go_back(line: Line) -> None:
    first, second = line.get(b"a"), line.get(b"b")
    line.send()
    first.given_up = True
    line.lose()
    line.run_out()
    assert line.send().keys == [b"b"]
    assert second.told == []


def test_closing_sends_nothing_back(line: Line) -> None:
    writer, reader = line.put(), line.get()
    all_frames(line)
    in_line, waiting = line.put(), line.get(b"x")
    line.lose(closing=True)
    line.joiner.fail_line(ClientClosed)
    assert (type(writer.outcome), type(reader.outcome)) == (OutcomeUnknown, Unavailable)
    assert (type(in_line.outcome), type(waiting.outcome)) == (ClientClosed, ClientClosed)
    assert line.joiner.idle


def test_without_a_connection_everybody_in_line_is_told_and_nobody_under_way() -> None:
    line = Line()
    under_way = line.put(b"under way")
    line.send()
    refused = line.put(b"refused")
    line.reject(line.send(), "OVERLOADED")
    waiters = [line.put(), line.get(), refused]
    line.joiner.fail_line(lambda: unreachable("h:1", "UNAVAILABLE", "refused"))
    assert [type(waiter.outcome) for waiter in waiters] == [Unavailable] * 3
    assert len({id(waiter.outcome) for waiter in waiters}) == 3
    assert under_way.told == []
    fresh = line.put(b"fresh")
    assert line.send().keys == [b"fresh"], "the frames that were open are not filled any more"
    assert fresh.told == []


def test_a_waiter_that_was_told_is_never_told_again(line: Line) -> None:
    """Every way to an outcome, one after the other, to callers who have theirs."""
    waiters: list[Any] = [line.put(deadline=1.0), line.get(deadline=1.0)]
    puts, gets = all_frames(line)
    line.expire(2.0)
    line.settle(puts)
    line.joiner.settle(answer_to(gets, {0: "EMPTY_KEY"}), 2.0)
    more = [line.put(deadline=3.0), line.get(deadline=3.0)]
    line.expire(4.0)
    line.joiner.fail_line(ClientClosed)
    late = [line.put(deadline=5.0), line.get(deadline=5.0)]
    all_frames(line)
    line.expire(6.0)
    line.lose()
    assert [len(waiter.told) for waiter in (*waiters, *more, *late)] == [1] * 6


def test_the_waiter_for_tests_sees_a_second_outcome() -> None:
    waiter = Waiter()
    waiter.set_result(1)
    waiter.set_result(2)
    with pytest.raises(AssertionError, match="2 outcomes"):
        _ = waiter.outcome
