"""The line of a client that repeats under keys: frames with a key stay whole, and what is open stays open."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from kvclient import Durability, Put
from kvclient import _errors as errors
from kvclient import _operations as operations
from kvclient._joiner import MAX_FRAMES, Joiner
from kvclient._retry import MAX_HOPS, Retry
from kvproto.v1 import kv_pb2
from unit.kvclient.joining import FAR, POLICY, Line


def keys() -> Callable[[], kv_pb2.IdempotencyKey]:
    numbers = count(1)
    return lambda: kv_pb2.IdempotencyKey(client_id=bytes(16), number=next(numbers), issued_ms=1)


class KeyedLine(Line):
    def __init__(self, **retry: Any) -> None:
        super().__init__()
        options: dict[str, Any] = {"attempts": 3, "first_pause_s": 0.1, "max_pause_s": 0.4, "idempotent": True, **retry}
        self.joiner = Joiner(self._woken, Retry(**options), keys())

    def write(self, deadline: float = FAR) -> Any:
        return self.add(operations.with_key(operations.write([Put(b"k", b"v")], POLICY), keys()()), deadline)

    def delete(self, key: bytes = b"k", deadline: float = FAR) -> Any:
        return self.add(operations.delete(operations.types.Delete(key), POLICY), deadline)


@pytest.fixture
def line() -> KeyedLine:
    return KeyedLine()


def test_a_frame_gets_its_key_when_it_leaves(line: KeyedLine) -> None:
    line.put()
    line.delete()
    line.get()
    line.write()
    frames = [line.send() for _ in range(MAX_FRAMES)]
    line.settle(frames[0])
    frames.append(line.send())
    assert [frame.idempotency and frame.idempotency.number for frame in frames] == [1, 2, None, None]
    assert [frame.by_key for frame in frames] == [False, False, False, True]
    assert frames[0].request("", None).idempotency.number == 1
    assert not frames[3].request("", None).HasField("idempotency")


def test_a_lost_frame_comes_again_whole_and_under_its_key(line: KeyedLine) -> None:
    waiters = [line.put(b"k%d" % number) for number in range(5)]
    first = line.send()
    before = first.request("ns", None)
    waiters[1].given_up = waiters[3].given_up = True
    line.lose()
    assert not any(waiter.told for waiter in waiters)
    line.run_out()
    again = line.send()
    assert again.frame_id != before.frame_id
    sent = again.request("ns", None)
    sent.frame_id = before.frame_id
    assert sent == before
    line.settle(again)
    assert [len(waiter.told) for waiter in waiters] == [1, 0, 1, 0, 1]


def test_it_is_not_joined_with_others_nor_shared_out(line: KeyedLine) -> None:
    for number in range(200):
        line.put(b"k%d" % number)
    first = line.send()
    line.lose()
    line.run_out()
    for number in range(200):
        line.put(b"later%d" % number)
    was, sent = list(first.keys), []
    while (frame := line.joiner.next_frame()) is not None:
        sent.append(frame)
        line.settle(frame)
    assert [list(frame.keys) for frame in sent if frame is first] == [was]
    assert len({frame.idempotency.number for frame in sent if frame.idempotency}) == len(sent)
    assert sum(len(frame.keys) for frame in sent) == 400


def test_one_that_nobody_waits_for_does_not_come_again(line: KeyedLine) -> None:
    waiter = line.put()
    line.send()
    waiter.given_up = True
    line.lose()
    assert line.joiner.idle
    other = line.put()
    line.send()
    line.lose()
    other.given_up = True
    line.run_out()
    assert line.joiner.next_frame() is None


def test_after_the_last_attempt_it_is_open(line: KeyedLine) -> None:
    waiter = line.put()
    for _ in range(2):
        line.send()
        line.lose()
        line.run_out()
    line.send()
    line.lose()
    assert waiter.code == "OUTCOME_UNKNOWN"


@pytest.mark.parametrize("end", ["deadline in line", "deadline later", "no node", "closing", "refused", "not carried out"])
def test_what_was_open_once_stays_open_whatever_comes(line: KeyedLine, end: str) -> None:
    waiter = line.put(deadline=5.0)
    line.send()
    line.lose()
    match end:
        case "deadline later":
            line.expire(5.0)
        case "deadline in line":
            line.run_out()
            line.expire(5.0)
        case "no node":
            line.run_out()
            line.joiner.fail_line(lambda: errors.unreachable("h:1", "UNAVAILABLE", ""))
        case "closing":
            line.run_out()
            line.send()
            line.lose(closing=True)
        case "refused":
            line.run_out()
            line.reject(line.send(), "DISK_FULL")
        case _:
            for _ in range(2):
                line.run_out()
                line.send()
                line.lose(carried_out=False)
    assert waiter.code == "OUTCOME_UNKNOWN"
    assert isinstance(waiter.outcome, errors.OutcomeUnknown)


@pytest.mark.parametrize("code", ["CONDITION_FAILED", "OUTCOME_EXPIRED", "INVALID_FIELD", "KEY_TOO_LARGE"])
def test_what_was_judged_behind_the_key_is_told_as_it_is(line: KeyedLine, code: str) -> None:
    waiter = line.write()
    line.send()
    line.lose()
    line.run_out()
    line.settle(line.send(), {0: code})
    assert waiter.code == code


@pytest.mark.parametrize("code", ["DISK_FULL", "UNKNOWN_NAMESPACE", "POLICY_UNMET", "LOG_FAILED", "WRONG_PEER"])
def test_what_was_not_judged_leaves_the_first_time_open(line: KeyedLine, code: str) -> None:
    waiter = line.write()
    line.send()
    line.lose()
    line.run_out()
    line.settle(line.send(), {0: code})
    assert isinstance(waiter.outcome, errors.OutcomeUnknown)


def test_the_first_refusal_is_certain(line: KeyedLine) -> None:
    waiter = line.put()
    line.reject(line.send(), "DISK_FULL")
    assert isinstance(waiter.outcome, errors.NotWritten)


def test_a_frame_refused_for_now_comes_again_under_its_key(line: KeyedLine) -> None:
    line.put()
    first = line.send()
    line.reject(first, "OVERLOADED")
    line.run_out()
    assert line.send().idempotency == first.idempotency


def test_a_part_that_was_refused_is_another_write(line: KeyedLine) -> None:
    """From a node that knows no keys: the whole frame again would be carried out again."""
    line.put(b"a"), line.put(b"b")
    first = line.send()
    line.settle(first, {1: "OVERLOADED"})
    line.run_out()
    again = line.send()
    assert again.keys == [b"b"]
    assert again.idempotency is not None and again.idempotency != first.idempotency


def test_mixed_operations_come_again_one_by_one(line: KeyedLine) -> None:
    first, second = line.write(), line.write()
    line.send()
    first.given_up = True
    line.lose()
    line.run_out()
    again = line.send()
    assert len(again.keys) == 1
    line.settle(again)
    assert len(second.told) == 1


def test_hops_are_no_attempts_and_end_too() -> None:
    line = KeyedLine(attempts=2)
    waiter = line.put()
    for _ in range(MAX_HOPS):
        line.reject(line.send(), "NOT_PRIMARY")
        assert not waiter.told
        line.run_out()
    line.reject(line.send(), "NOT_PRIMARY")  # it counts as a refusal now
    line.run_out()
    line.reject(line.send(), "NOT_PRIMARY")
    assert isinstance(waiter.outcome, errors.NotPrimary)


def test_a_hop_that_comes_too_late_is_told(line: KeyedLine) -> None:
    waiter = line.put(deadline=0.01)
    line.reject(line.send(), "NOT_PRIMARY")
    assert isinstance(waiter.outcome, errors.NotPrimary)


def test_memory_writes_have_keys_too(line: KeyedLine) -> None:
    line.add(operations.put(b"k", b"v", Durability.MEMORY))
    assert line.send().idempotency is not None
