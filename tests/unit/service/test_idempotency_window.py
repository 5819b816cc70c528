"""How long writes are remembered, what is forgotten first, and that what was forgotten is never carried out again."""

from __future__ import annotations

from typing import Any

import pytest

from kvproto.v1 import kv_pb2
from kvserver.commit.idempotency import FORGET_AT_ONCE, Answer, Answers, IdempotencyKey, decode_answer, encode_answer
from kvserver.commit.requests import ForgetAnswers
from kvserver.commit.state import State
from support.clocks import ManualClock
from support.memfs import MemoryFileSystem
from support.stores import do, flush, open_store, settle
from unit.service.framing import Frames, failures

CLIENT = bytes(16)
MINUTE = 60_000


class Node:
    """A store with a clock, and writes whose keys differ in number and time."""

    def __init__(self) -> None:
        self.disk = MemoryFileSystem()
        self.clock = ManualClock()
        self.start()

    def start(self) -> None:
        self.frames = Frames(open_store(self.disk, clock=self.clock))
        self.answers = self.frames.database.state.answers
        self.sent = 0

    def restart(self) -> None:
        self.disk.kill()
        self.disk = self.disk.another_process()
        self.start()

    def put(self, number: int, issued_ms: int) -> str:
        """Put a key under a number; return what became of it: ``"written"``, ``"again"``, or the code."""
        self.sent += 1
        before = self.frames.database.marks.assigned
        key = kv_pb2.IdempotencyKey(client_id=CLIENT, number=number, issued_ms=issued_ms)
        self.frames.puts(self.sent, [b"k"], idempotency=key)
        answer = self.frames.settled(self.sent)
        if answer.failures:
            assert self.frames.database.marks.assigned == before
            return failures(answer)[0]
        return "again" if self.frames.database.marks.assigned == before else "written"

    def tick(self) -> None:
        self.frames.database.tick()
        settle(self.frames.database)


@pytest.fixture
def node() -> Node:
    return Node()


# -- by time ----------------------------------------------------------------------------------------------------------


def test_a_write_is_remembered_for_its_window_and_expired_behind_it(node: Node) -> None:
    issued = node.clock.now_ms()
    assert node.put(1, issued) == "written"
    node.clock.advance_ms(10 * MINUTE - 1)
    node.tick()
    assert node.put(1, issued) == "again"
    node.clock.advance_ms(2)
    node.tick()
    assert len(node.answers) == 0
    assert node.put(1, issued) == "OUTCOME_EXPIRED"


def test_a_write_older_than_the_window_is_not_begun(node: Node) -> None:
    now = node.clock.now_ms()
    assert node.put(1, now - 10 * MINUTE - 1) == "OUTCOME_EXPIRED"
    assert node.put(2, now - 10 * MINUTE) == "written"
    assert node.put(3, now + MINUTE) == "written"
    assert node.put(4, now + MINUTE + 1) == "INVALID_FIELD"


def test_what_is_still_remembered_is_answered_whatever_the_clock_says(node: Node) -> None:
    issued = node.clock.now_ms()
    node.put(1, issued)
    node.clock.advance_ms(60 * MINUTE)
    assert node.put(1, issued) == "again"


def test_a_clock_that_goes_back_does_not_bring_what_was_forgotten_to_life(node: Node) -> None:
    """The floor is a row of the log: no clock has a say in it."""
    issued = node.clock.now_ms()
    node.put(1, issued)
    node.clock.advance_ms(11 * MINUTE)
    node.tick()
    node.clock.jump_wall_ms(-11 * MINUTE)
    assert node.put(1, issued) == "OUTCOME_EXPIRED"
    assert node.put(2, issued + 1) == "written"


def test_the_floor_survives_a_start_and_a_flush(node: Node) -> None:
    issued = node.clock.now_ms()
    node.put(1, issued)
    node.put(2, issued + 11 * MINUTE - MINUTE // 2 - 10 * MINUTE)
    node.clock.advance_ms(10 * MINUTE + 1)
    node.tick()
    for flushed in (False, True):
        if flushed:
            flush(node.frames.database)
        node.restart()
        node.clock.jump_wall_ms(-5 * MINUTE)
        assert node.answers.floor_ms == issued
        assert len(node.answers) == 1
        assert node.put(1, issued) == "OUTCOME_EXPIRED"
        node.clock.jump_wall_ms(5 * MINUTE)


def test_many_are_forgotten_in_parts_one_commit_each(node: Node) -> None:
    count = 2 * FORGET_AT_ONCE + 5
    issued = node.clock.now_ms()
    for number in range(count):
        key = kv_pb2.IdempotencyKey(client_id=CLIENT, number=number, issued_ms=issued + number)
        node.frames.puts(number, [b"k"], idempotency=key)
    settle(node.frames.database)
    before = node.frames.database.marks.assigned
    node.clock.advance_ms(10 * MINUTE + count)
    node.tick()
    assert len(node.answers) == 0
    assert node.frames.database.marks.assigned == before + 3
    assert node.answers.floor_ms == issued + count - 1


def test_nothing_to_forget_makes_no_commit(node: Node) -> None:
    before = node.frames.database.marks.assigned
    node.tick()
    do(node.frames.database, ForgetAnswers(node.clock.now_ms()))
    assert node.frames.database.marks.assigned == before


# -- by number --------------------------------------------------------------------------------------------------------


def test_no_more_are_remembered_than_there_is_room_for_the_oldest_go_first(node: Node) -> None:
    node.answers.max_answers = 5
    issued = node.clock.now_ms()
    for number in range(20):
        assert node.put(number, issued + number) == "written"
        assert len(node.answers) <= 5
    for number in range(15):
        assert node.put(number, issued + number) == "OUTCOME_EXPIRED"
    for number in range(15, 20):
        assert node.put(number, issued + number) == "again"
    node.restart()
    assert [node.put(number, issued + number) for number in (14, 15)] == ["OUTCOME_EXPIRED", "again"]


def test_the_order_is_that_of_issue_not_of_arrival(node: Node) -> None:
    node.answers.max_answers = 2
    issued = node.clock.now_ms()
    assert node.put(1, issued + 10) == "written"
    assert node.put(2, issued) == "written"
    assert node.put(3, issued + 5) == "written"
    assert node.put(2, issued) == "OUTCOME_EXPIRED"
    assert node.put(1, issued + 10) == "again"
    assert node.put(4, issued) == "OUTCOME_EXPIRED", "it may be one that was forgotten"


def test_room_that_shrank_is_come_down_to(node: Node) -> None:
    issued = node.clock.now_ms()
    for number in range(10):
        node.put(number, issued + number)
    node.answers.max_answers = 4
    for number in range(10, 20):
        node.put(number, issued + number)
    assert len(node.answers) == 4


# -- every node alike -------------------------------------------------------------------------------------------------


def test_nodes_with_the_same_log_remember_the_same(node: Node) -> None:
    """Live commits and replay go through the same rows, evictions and floor included."""
    groups: list[tuple[int, int, bytes]] = []
    database = node.frames.database
    pass_on = database._leading.submit_to_log

    def tap(item: Any) -> None:
        if getattr(item, "commits", 0):
            groups.append((database.marks.assigned - item.commits + 1, item.commits, item.data))
        pass_on(item)

    database._leading.submit_to_log = tap  # type: ignore[method-assign]
    node.answers.max_answers = 7
    issued = node.clock.now_ms()
    for number in range(30):
        node.put(number, issued + number * 7 % 11)
    node.clock.advance_ms(10 * MINUTE + 9)
    node.tick()
    other = State()
    for group in groups:
        other.replay_group(*group)
    assert len(other.answers) == len(node.answers) < 7
    assert other.answers.floor_ms == node.answers.floor_ms >= issued
    for number in range(30):
        key = IdempotencyKey(CLIENT, number, issued)
        assert other.answers.find(key) == node.answers.find(key)


def test_the_order_by_age_does_not_outgrow_what_is_remembered() -> None:
    """A node that only replays never forgets by itself: it is told to."""
    primary, follower = Answers(), Answers()
    primary.max_answers = 10
    for number in range(1000):
        key = IdempotencyKey(CLIENT, number, number + 1)
        for effect in primary.effects_of(key, Answer(1, number, 1, 1, 0, key.issued_ms, 0)):
            value = effect.value if effect.value else None
            primary.apply(effect.key, value, number)
            follower.apply(effect.key, value, number)
    assert len(primary) == len(follower) == 10
    assert len(follower._by_age) == len(primary._by_age) == 10


# -- rows -------------------------------------------------------------------------------------------------------------


def test_an_answer_survives_its_row() -> None:
    answer = Answer(3, 1 << 40, 16_384, 16_384, 3, 1 << 41, (1 << 41) + 5, b"\x05\x00\x80")
    assert decode_answer(encode_answer(answer)) == answer


@pytest.mark.parametrize("row", [b"", b"\x01", bytes(60), b"\x02" + encode_answer(Answer(1, 2, 1, 1, 0, 5, 6))[1:]])
def test_a_row_that_is_none_is_refused(row: bytes) -> None:
    with pytest.raises(ValueError, match="no remembered answer"):
        decode_answer(row)
