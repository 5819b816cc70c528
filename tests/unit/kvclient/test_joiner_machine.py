"""Random lives of a joiner: every operation has one outcome in the end, and no write is called undone that may be done.

The machine is caller, stream and server at once. It keeps a book of its own: in which frames each write was handed to the
stream, and whether the server refused that write there. What the joiner tells the callers is held against the book.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, precondition, rule

from kvclient import BatchResult, Delete, DeletePrefix, DeleteResult, Durability, Entry, OutcomeUnknown, Put, Retry, WriteResult
from kvclient import _errors as errors
from kvclient import _joiner as joiner_module
from kvclient import _operations as operations
from kvclient._frames import Frame, Kind
from kvproto.v1 import errors_pb2, kv_pb2
from unit.kvclient.joining import Line, Waiter, answer_to, failure, rejection_of

SMALL = {"MAX_FRAME_OPERATIONS": 5, "MAX_FRAME_BYTES": 200, "MIN_READS": 2, "MIN_SHARE": 2}
"""Bounds that a short life meets."""

CODES = [errors_pb2.ErrorCode.Name(number) for number in errors_pb2.ErrorCode.values() if number]
FAULTS = {"INTERNAL", "CORRUPTION", "OUTCOME_UNKNOWN"}
"""What leaves a write open when a server says it of one operation."""

DURABILITIES = st.sampled_from([Durability.POLICY, Durability.MEMORY])
KEYS = st.sampled_from([b"a", b"b", b"c", b"absent"])


@dataclasses.dataclass
class Caller:
    """One operation, and all that is known of it outside the joiner."""

    operation: operations.Operation[Any]
    deadline: float
    waiter: Waiter
    sent: int = 0
    refused: int = 0
    """In so many of the frames in which it was sent it was certainly not carried out."""

    @property
    def writes(self) -> bool:
        return self.operation.kind is not Kind.GETS

    @property
    def certainly_undone(self) -> bool:
        return self.sent == self.refused


class JoinerMachine(RuleBasedStateMachine):
    """Callers come, frames go, answers are right, wrong, late or missing."""

    frames = Bundle("frames")

    def __init__(self) -> None:
        super().__init__()
        self.kept = {name: getattr(joiner_module, name) for name in SMALL}
        for name, value in SMALL.items():
            setattr(joiner_module, name, value)
        self.line = Line()
        self.callers: dict[int, Caller] = {}
        self.under_way: dict[int, Frame] = {}
        self.seen_ids: set[int] = set()

    def teardown(self) -> None:
        try:
            self.everybody_is_told_in_the_end()
        finally:
            for name, value in self.kept.items():
                setattr(joiner_module, name, value)

    # -- callers --------------------------------------------------------------------------------------------------

    @initialize(attempts=st.integers(1, 3))
    def begin(self, attempts: int) -> None:
        self.line = Line(Retry(attempts=attempts, first_pause_s=0.5, max_pause_s=2.0))

    @rule(
        kind=st.sampled_from(["get", "put", "delete", "put_if", "delete_prefix", "write"]),
        key=KEYS,
        value=st.binary(max_size=250),
        durability=DURABILITIES,
        within=st.sampled_from([0.1, 1.0, 3.0, 100.0, math.inf]),
        count=st.sampled_from([1, 1, 3, 12]),
    )
    def add(self, kind: str, key: bytes, value: bytes, durability: Durability, within: float, count: int) -> None:
        made: dict[str, Any] = {
            "get": lambda: operations.get(key),
            "put": lambda: operations.put(key, value, durability),
            "delete": lambda: operations.delete(Delete(key), durability),
            "put_if": lambda: operations.put_if(key, value, True, None, durability),
            "delete_prefix": lambda: operations.delete(DeletePrefix(key), durability),
            "write": lambda: operations.write([Put(key, value)], durability),
        }
        for _ in range(count):
            operation = made[kind]()
            waiter = self.line.add(operation, self.line.now + within)
            self.callers[id(waiter)] = Caller(operation, self.line.now + within, waiter)

    @precondition(lambda self: self.waiting())
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.waiting())).waiter.given_up = True

    # -- the stream -----------------------------------------------------------------------------------------------

    @rule(target=frames)
    def send(self) -> Any:
        had_work = self.line.joiner.has_work
        frame = self.line.joiner.next_frame()
        if frame is None:
            assert not had_work or not any(caller.sent == 0 for caller in self.waiting())
            return multiple()
        assert had_work
        assert frame.frame_id not in self.seen_ids
        assert 0 < len(frame.keys) <= joiner_module.MAX_FRAME_OPERATIONS
        assert len(frame.keys) == len(frame.values) == len(frame.waiters) == len(frame.deadlines)
        size = sum(self.caller(waiter).operation.size_bytes for waiter in frame.waiters)
        assert size <= joiner_module.MAX_FRAME_BYTES or len(frame.keys) == 1
        for key, waiter in zip(frame.keys, frame.waiters, strict=True):
            caller = self.caller(waiter)
            assert not waiter.done(), "who does not wait is left out"
            assert (caller.operation.kind, caller.operation.key) == (frame.kind, key)
            caller.sent += 1
        self.seen_ids.add(frame.frame_id)
        self.under_way[frame.frame_id] = frame
        return frame

    @rule(frame=consumes(frames), data=st.data())
    def answer(self, frame: Frame, data: st.DataObject) -> None:
        """Some of the operations fail, the others are done."""
        places = st.dictionaries(st.integers(0, len(frame.keys) - 1), st.sampled_from(CODES))
        failed = data.draw(places)
        for place, code in failed.items():
            self.note_refusal(frame, [place], code not in FAULTS)
        self.take(frame, answer_to(frame, failed))

    @rule(frame=consumes(frames), code=st.sampled_from(CODES))
    def reject(self, frame: Frame, code: str) -> None:
        self.note_refusal(frame, range(len(frame.keys)), code != "OUTCOME_UNKNOWN")
        self.take(frame, rejection_of(frame, code))

    @rule(frame=consumes(frames), data=st.data())
    def answer_what_does_not_fit(self, frame: Frame, data: st.DataObject) -> None:
        answer = answer_to(frame)
        spoil = data.draw(st.sampled_from(["reason", "place", "count"]))
        if spoil == "reason":
            answer.rejected = True
        elif spoil == "place":
            answer.failures.append(failure(len(frame.keys), "EMPTY_KEY"))
        else:
            answer.commits += 1
            answer.gets.values.append(b"")
            answer.results.add()
        self.take(frame, answer)

    def note_refusal(self, frame: Frame, places: Iterable[int], certain: bool) -> None:
        """Write into the book that operations were not carried out; of a frame that was lost nobody heard it."""
        if frame.frame_id in self.under_way and certain:
            for place in places:
                self.caller(frame.waiters[place]).refused += 1

    def take(self, frame: Frame, answer: kv_pb2.PipelineResponse) -> None:
        if frame.frame_id in self.under_way:
            del self.under_way[frame.frame_id]
            self.line.joiner.settle(answer, self.line.now)
        else:  # it went with a stream that was lost; what comes now was told to nobody
            self.cannot_be_settled(answer)

    def cannot_be_settled(self, answer: kv_pb2.PipelineResponse) -> None:
        before = [len(caller.waiter.told) for caller in self.callers.values()]
        with pytest.raises(errors.ServerError):
            self.line.joiner.settle(answer, self.line.now)
        assert [len(caller.waiter.told) for caller in self.callers.values()] == before

    @rule(number=st.integers(1 << 40, 1 << 41))
    def answer_nothing_that_was_asked(self, number: int) -> None:
        self.cannot_be_settled(kv_pb2.PipelineResponse(frame_id=number))

    @rule(carried_out=st.booleans())
    def lose(self, carried_out: bool) -> None:
        if not carried_out:
            for frame in self.under_way.values():
                self.note_refusal(frame, range(len(frame.keys)), True)
        self.under_way.clear()
        make = errors.cut_off if carried_out else lambda endpoint, writes: errors.Unavailable("NOT_SERVING", endpoint)
        self.line.joiner.lost(lambda writes: make("h:1", writes=writes), self.line.now, carried_out=carried_out)

    @rule()
    def find_no_connection(self) -> None:
        self.line.joiner.fail_line(lambda: errors.unreachable("h:1", "UNAVAILABLE", "refused"))

    # -- time -----------------------------------------------------------------------------------------------------

    @rule(seconds=st.floats(0.0, 5.0))
    def let_time_pass(self, seconds: float) -> None:
        self.line.expire(self.line.now + seconds)
        assert not [caller for caller in self.waiting() if caller.deadline <= self.line.now], "their time was up"

    @precondition(lambda self: not math.isinf(self.line.joiner.next_due()))
    @rule()
    def wake_when_due(self) -> None:
        before = self.line.joiner.next_due()
        self.line.expire(max(before, self.line.now))
        assert self.line.joiner.next_due() > self.line.now, "or the driver would turn on the spot"

    # -- what must hold -------------------------------------------------------------------------------------------

    def waiting(self) -> list[Caller]:
        return [caller for caller in self.callers.values() if not caller.waiter.done()]

    def caller(self, waiter: Any) -> Caller:
        return self.callers[id(waiter)]

    @invariant()
    def nobody_is_told_twice_and_nothing_false(self) -> None:
        for caller in self.callers.values():
            told = caller.waiter.told
            assert len(told) <= 1, f"told twice: {told}"
            if told:
                check(caller, told[0])

    @invariant()
    def bounded(self) -> None:
        assert len(self.under_way) <= joiner_module.MAX_FRAMES
        assert self.line.joiner.has_work is False or len(self.under_way) < joiner_module.MAX_FRAMES

    @invariant()
    def woken_in_time(self) -> None:
        due = self.line.joiner.next_due()
        assert all(caller.deadline >= due for caller in self.waiting())

    def everybody_is_told_in_the_end(self) -> None:
        """Close as clients do: then nobody waits any more."""
        for frame in self.under_way.values():
            assert len(frame.waiters) > 0
        self.line.lose(closing=True)
        self.line.joiner.fail_line(errors.ClientClosed)
        assert self.waiting() == []
        assert self.line.joiner.idle
        self.nobody_is_told_twice_and_nothing_false()


def check(caller: Caller, outcome: Any) -> None:
    """Hold what a caller was told against the book."""
    if isinstance(outcome, errors.KvClientError):
        if isinstance(outcome, OutcomeUnknown):
            assert caller.writes or outcome.from_server, "a read has no open outcome, unless a server says so"
            assert caller.sent > 0
        elif caller.writes:
            assert caller.certainly_undone, f"told {outcome!r} of a write that may be done"
        return
    assert caller.sent > 0
    expected = {
        Kind.GETS: (Entry, type(None)),
        Kind.PUTS: (WriteResult,),
        Kind.DELETES: (DeleteResult,),
    }.get(caller.operation.kind, (WriteResult, DeleteResult, BatchResult))
    assert isinstance(outcome, expected)
    if isinstance(outcome, Entry):
        assert (outcome.key, outcome.value) == (caller.operation.key, b"of " + caller.operation.key)


TestJoinerMachine = JoinerMachine.TestCase
TestJoinerMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
