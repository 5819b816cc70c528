"""Which operations share a frame: as many as there are, not more than the bounds, fewer where answers have no room."""

from __future__ import annotations

import pytest

from kvclient import Delete, InvalidRequestError, _joiner
from kvclient import _operations as operations
from kvclient._channel import MAX_REQUEST_BYTES
from kvclient._frames import Frame, Kind
from kvclient._joiner import MAX_FRAME_BYTES, MAX_FRAME_OPERATIONS, MAX_FRAMES, MIN_READS, MIN_SHARE
from unit.kvclient.joining import POLICY, Line


@pytest.fixture
def line() -> Line:
    return Line()


def drained(line: Line) -> list[Frame]:
    """Answer frame after frame until nothing is left to send; return all that were sent."""
    frames: list[Frame] = []
    answered = 0
    while True:
        while (frame := line.joiner.next_frame()) is not None:
            frames.append(frame)
        if answered == len(frames):
            return frames
        line.settle(frames[answered])
        answered += 1


def under_way(line: Line) -> list[Frame]:
    """Have as many frames under way as there may be, with an operation each."""
    frames = []
    for number in range(MAX_FRAMES):
        line.put(b"under way %d" % number)
        frames.append(line.send())
    return frames


def test_a_lone_operation_leaves_at_once(line: Line) -> None:
    line.put(b"a")
    assert line.wakes == 1
    assert line.send().keys == [b"a"]
    assert line.joiner.next_frame() is None


def test_a_frame_is_what_arrived_while_the_last_ones_were_under_way(line: Line) -> None:
    sent = under_way(line)
    for number in range(MIN_SHARE):
        line.put(b"k%d" % number)
    assert not line.joiner.has_work, "no room under way"
    assert line.joiner.next_frame() is None
    line.settle(sent[-1])
    assert line.joiner.has_work
    assert len(line.send().keys) == MIN_SHARE
    assert line.joiner.next_frame() is None


def test_so_many_frames_share_what_is_there_that_all_of_them_are_under_way(line: Line) -> None:
    for number in range(300):
        line.put(b"%d" % number)
    frames = list(iter(line.joiner.next_frame, None))
    assert len(frames) == MAX_FRAMES
    assert sorted(key for frame in frames for key in frame.keys) == sorted(b"%d" % number for number in range(300))
    assert max(len(frame.keys) for frame in frames) <= 300 / MAX_FRAMES * 1.25 + 1


def test_a_thousand_callers_in_step_have_few_frames(line: Line) -> None:
    """Each caller comes again when it was answered: the frames must not fall apart into ever smaller ones."""
    for number in range(1_000):
        line.put(b"%d" % number)
    sent = [line.send() for _ in range(MAX_FRAMES)]
    for turn in range(300):
        frame = sent.pop(0)
        line.settle(frame)
        for key in frame.keys:
            line.put(key)
        sent.append(line.send())
        assert turn < 100 or len(sent[-1].keys) >= 1_000 / MAX_FRAMES / 2


def test_each_kind_has_a_frame_of_its_own_and_each_frame_a_number_of_its_own(line: Line) -> None:
    for _ in range(2):
        line.get()
        line.put()
        line.add(operations.delete(Delete(b"k"), POLICY))
        line.add(operations.put_if(b"k", b"v", True, None, POLICY))
    frames = drained(line)
    assert [frame.kind for frame in frames] == [Kind.GETS, Kind.PUTS, Kind.DELETES, Kind.MIXED]
    assert [len(frame.keys) for frame in frames] == [2] * 4
    assert len({frame.frame_id for frame in frames}) == 4


def test_a_frame_that_was_taken_is_filled_no_more(line: Line) -> None:
    line.put(b"a")
    taken = line.send()
    line.put(b"b")
    assert (taken.keys, line.send().keys) == ([b"a"], [b"b"])


def test_the_rest_of_a_frame_that_was_taken_in_part_is_filled_on(line: Line) -> None:
    for number in range(300):
        line.put(b"%d" % number)
    taken = line.send()
    line.put(b"more")
    frames = [taken, *drained_behind(line, taken)]
    assert [key for frame in frames for key in frame.keys] == [b"%d" % number for number in range(300)] + [b"more"]


def drained_behind(line: Line, taken: Frame) -> list[Frame]:
    line.settle(taken)
    return drained(line)


def test_frames_are_bounded_in_operations(line: Line) -> None:
    count = 4 * MAX_FRAMES * MAX_FRAME_OPERATIONS
    for number in range(count):
        line.put(b"%d" % number)
    frames = drained(line)
    assert max(len(frame.keys) for frame in frames) <= MAX_FRAME_OPERATIONS
    assert sum(len(frame.keys) for frame in frames) == count
    assert len(frames) < 2 * count / MAX_FRAME_OPERATIONS + 10 * MAX_FRAMES


def test_frames_are_bounded_in_bytes_and_one_that_is_larger_goes_alone(line: Line) -> None:
    third = bytes(MAX_FRAME_BYTES // 3)
    for key, value in ((b"a", third), (b"b", third), (b"c", third), (b"d", 6 * third), (b"e", b"")):
        line.put(key, value)
    frames = drained(line)
    assert [frame.keys for frame in frames] == [[b"a", b"b"], [b"c"], [b"d"], [b"e"]]
    assert [frame.request("", None).ByteSize() <= MAX_FRAME_BYTES for frame in frames] == [True, True, False, True]


def test_bytes_are_bounded_too_where_the_small_ones_left_first(line: Line) -> None:
    """What stays in line of a frame that was taken in part may be most of its bytes."""
    for number in range(MIN_SHARE):
        line.put(b"small %d" % number, b"")
    big = bytes(MAX_FRAME_BYTES // 5 - 100)
    for number in range(MIN_SHARE // 4 + 1):
        line.put(b"big %d" % number, big)
    assert len(line.send().keys) == MIN_SHARE
    for number in range(5):
        line.put(b"more %d" % number, big)
    assert max(frame.request("", None).ByteSize() for frame in drained(line)) <= MAX_FRAME_BYTES


def test_what_fits_no_message_is_refused_before_it_stands_in_line(line: Line) -> None:
    largest = MAX_REQUEST_BYTES - _joiner.MIN_ROOM_BYTES - operations.OPERATION_BYTES - 1
    line.put(b"k", bytes(largest))
    with pytest.raises(InvalidRequestError) as caught:
        line.put(b"k", bytes(largest + 1))
    assert (caught.value.code, caught.value.hint) == ("COMMIT_TOO_LARGE", "write it in several parts")
    (frame,) = drained(line)
    assert frame.request("n" * 255, None).ByteSize() <= MAX_REQUEST_BYTES


def test_those_who_gave_up_are_left_out(line: Line) -> None:
    waiters = [line.put(b"%d" % number) for number in range(5)]
    waiters[1].given_up = waiters[4].given_up = True
    frame = line.send()
    assert (frame.keys, frame.values) == ([b"0", b"2", b"3"], [b"v"] * 3)
    line.settle(frame)
    assert [len(waiter.told) for waiter in waiters] == [1, 0, 1, 1, 0]


def test_a_frame_whose_callers_all_gave_up_is_not_sent(line: Line) -> None:
    line.put().given_up = True
    line.get().given_up = True
    line.add(operations.delete(Delete(b"last"), POLICY))
    assert line.send().keys == [b"last"]
    assert line.joiner.next_frame() is None


@pytest.mark.parametrize("end", ["time is up", "gave up"])
def test_frames_that_nobody_waits_for_any_more_do_not_fill_the_memory(line: Line, end: str) -> None:
    """A node that answers nothing, and callers who come again and again."""
    sent = under_way(line)
    for turn in range(50):
        waiters = [line.put(b"%d" % number, deadline=turn + 1.0) for number in range(20)]
        waiters += [line.get(b"%d" % number, deadline=turn + 1.0) for number in range(20)]
        for waiter in waiters:
            waiter.given_up = end == "gave up"
        line.expire(turn + 1.0)
        assert sum(len(frame.keys) for frame in line.joiner._line) == 0
    line.put(b"next")
    line.settle(sent[0])
    assert line.send().keys == [b"next"]


def test_what_waits_to_be_sent_again_for_nobody_is_let_go_too(line: Line) -> None:
    waiters = [line.put(deadline=5.0), line.get(deadline=5.0)]
    for frame in (line.send(), line.send()):
        line.reject(frame, "OVERLOADED")
    assert len(line.joiner._later) == 2
    waiters[0].given_up = True
    line.expire(0.01)
    assert [frame.kind for _, _, frame in line.joiner._later] == [Kind.GETS]
    line.run_out()
    assert line.send().kind is Kind.GETS


@pytest.mark.parametrize("cut_in", ["keys", "values", "waiters", "deadlines"])
def test_an_interrupt_in_the_middle_of_an_add_puts_nobody_off_by_one(line: Line, cut_in: str) -> None:
    """As Control-C does, which may come between any two steps."""
    first = line.put(b"a", b"1")
    frame = line.joiner._open[Kind.PUTS]
    assert frame is not None
    for column in ("keys", "values", "waiters", "deadlines"):
        if column == cut_in:
            break
        getattr(frame, column).append(getattr(frame, column)[0])
    line.joiner.repair(Kind.PUTS)
    second = line.put(b"b", b"2")
    sent = line.send()
    assert (sent.keys, sent.values, sent.waiters) == ([b"a", b"b"], [b"1", b"2"], [first, second])
    line.joiner.repair(Kind.PUTS)


def test_a_connection_is_looked_for_as_long_as_somebody_in_line_waits_for_it(line: Line) -> None:
    assert line.joiner.last_deadline() < 0, "nobody does"
    line.put(deadline=3.0)
    line.put(deadline=7.0)
    line.get(deadline=5.0)
    assert line.joiner.last_deadline() == 7.0
    line.expire(7.0)
    line.get(deadline=8.0)
    assert line.joiner.last_deadline() == 8.0


# -- answers that are too large ---------------------------------------------------------------------------------------


def test_reads_that_found_no_room_come_at_once_and_fewer_at_a_time(line: Line) -> None:
    waiters = [line.get(b"%d" % number) for number in range(MIN_SHARE)]
    line.settle(line.send(), dict.fromkeys(range(2, MIN_SHARE), "FRAME_TOO_LARGE"))
    assert [bool(waiter.told) for waiter in waiters] == [True] * 2 + [False] * (MIN_SHARE - 2)
    again = drained(line)
    assert [len(frame.keys) for frame in again] == [8, 6]
    assert [waiter.outcome.value for waiter in waiters] == [b"of %d" % number for number in range(MIN_SHARE)]


def test_later_frames_of_reads_are_smaller_too_and_grow_again(line: Line) -> None:
    def largest() -> int:
        for number in range(1_000):
            line.get(b"%d" % number)
        return max(len(frame.keys) for frame in drained(line))

    assert largest() > 300
    for number in range(100):
        line.get(b"%d" % number)
    frame = line.send()
    line.settle(frame, {len(frame.keys) - 1: "FRAME_TOO_LARGE"})
    drained(line)
    sizes = [largest() for _ in range(3)]
    assert sizes[0] <= len(frame.keys) // 2 + 5 * MIN_READS
    assert sizes == sorted(set(sizes)), "each a little larger than the one before"


def test_frames_of_reads_never_grow_beyond_the_bound(line: Line) -> None:
    line.joiner._max_reads = MAX_FRAME_OPERATIONS - 1
    line.get()
    line.settle(line.send())
    for number in range(4 * MAX_FRAMES * MAX_FRAME_OPERATIONS):
        line.get(b"%d" % number)
    assert max(len(frame.keys) for frame in drained(line)) <= MAX_FRAME_OPERATIONS


def test_one_value_that_fits_no_answer_is_an_error(line: Line) -> None:
    waiter = line.get()
    line.settle(line.send(), {0: "FRAME_TOO_LARGE"})
    assert waiter.code == "FRAME_TOO_LARGE"


@pytest.mark.parametrize("count", [2, MIN_READS, 1_000])
@pytest.mark.parametrize("rejected", [False, True])
def test_a_server_that_always_calls_frames_too_large_comes_to_an_end(line: Line, count: int, rejected: bool) -> None:
    waiters = [line.get(b"%d" % number) for number in range(count)]
    for _ in range(4 * count):
        if not line.joiner.has_work:
            break
        frame = line.send()
        if rejected:
            line.reject(frame, "FRAME_TOO_LARGE")
        else:
            line.settle(frame, dict.fromkeys(range(len(frame.keys)), "FRAME_TOO_LARGE"))
    assert {waiter.code for waiter in waiters} == {"FRAME_TOO_LARGE"}
