"""What once made a caller wait for ever, spin, or suffer for another one's haste."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from kvclient import (
    AsyncClient,
    Client,
    InvalidRequestError,
    KvClientError,
    OutcomeUnknown,
    Retry,
    ServerError,
    Timeout,
    WriteResult,
)
from kvclient._connection import Connection
from kvclient._frames import Kind
from kvclient._types import NO_SESSION
from support.fake_server import FakeServer
from unit.kvclient.joining import FAR, Line, Waiter

LIMIT_S = 20.0


# -- the line ---------------------------------------------------------------------------------------------------------


def test_no_number_of_attempts_is_too_large_for_the_pause() -> None:
    assert 0 < Retry(attempts=1_000_000).pause_s(900_000) <= 1.0


def test_an_answer_that_cannot_be_taken_in_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line()
    write, read = line.put(), line.get()
    frames = [line.send(), line.send()]

    def breaks(self: Retry, attempt: int) -> float:
        raise OverflowError("of the client's own")

    monkeypatch.setattr(Retry, "pause_s", breaks)
    for frame in frames:
        line.settle(frame, {0: "OVERLOADED"})
    assert isinstance(write.outcome, OutcomeUnknown)
    assert isinstance(read.outcome, ServerError)


def test_frames_that_nobody_waits_for_leave_the_line() -> None:
    line = Line()
    waiters = [line.put(b"%d" % number, deadline=5.0) for number in range(100)]
    line.expire(6.0)
    assert all(waiter.told for waiter in waiters)
    assert line.joiner.idle and not line.joiner.has_work
    line.put(b"later")  # begins a frame of its own
    assert line.send().keys == [b"later"]


def test_what_waits_to_be_sent_again_leaves_with_its_callers() -> None:
    line = Line()
    waiter = line.put(deadline=0.2)
    line.settle(line.send(), {0: "OVERLOADED"})
    waiter.given_up = True
    line.expire(0.01)
    assert line.joiner.idle


def test_an_interrupt_within_an_operations_entry_leaves_no_one_off_by_one() -> None:
    line = Line()
    line.put(b"a")
    frame = line.joiner._line[0]
    frame.keys.append(b"interrupted")  # and no further
    line.joiner.repair(Kind.PUTS)
    after = line.put(b"b", b"of b")
    sent = line.send()
    assert (sent.keys, sent.values, sent.waiters[1]) == ([b"a", b"b"], [b"v", b"of b"], after)


def test_an_empty_frame_has_no_deadline() -> None:
    line = Line()
    line.put()
    line.joiner._line[0].cut(0)
    assert line.joiner.last_deadline() < 0
    assert line.joiner.next_frame() is None


def test_a_waiter_joins_behind_frames_that_were_dropped() -> None:
    line = Line()
    gone, stays = Waiter(), Waiter()
    line.joiner.add(Kind.GETS, b"gone", b"", 20, 1.0, gone)
    line.joiner.add(Kind.PUTS, b"stays", b"v", 20, FAR, stays)
    line.expire(2.0)
    assert [line.send().keys, line.joiner.next_frame()] == [[b"stays"], None]


# -- the connection ---------------------------------------------------------------------------------------------------


def test_haste_of_one_breaks_nothing_that_another_has_under_way() -> None:
    with FakeServer() as fake, Client(fake.endpoint, timeout_s=LIMIT_S) as kv:
        kv.put(b"x", b"y")
        held, held_reads = fake.hold("Put"), fake.hold("Get")
        outcome: list[Any] = []

        def patient() -> None:
            try:
                outcome.append(kv.put(b"k", b"v"))
            except KvClientError as error:
                outcome.append(error)

        thread = threading.Thread(target=patient)
        thread.start()
        assert fake.entered["Put"].wait(LIMIT_S)
        for _ in range(60):
            with pytest.raises(KvClientError):
                kv.get(b"x", revision=2, timeout_s=0.001)
        held.set()
        held_reads.set()
        thread.join(LIMIT_S)
        assert isinstance(outcome[0], WriteResult)


def test_a_node_that_was_slow_once_is_not_left_for_another() -> None:
    with FakeServer() as first, FakeServer() as second, Client([first.endpoint, second.endpoint], timeout_s=LIMIT_S) as kv:
        kv.put(b"k", b"v")
        held = first.hold("Get")
        with pytest.raises(Timeout):
            kv.get(b"k", revision=1, timeout_s=0.1)
        held.set()
        assert kv.get(b"k", revision=2) is not None
        assert not [name for name, _ in second.requests if name == "Get"]


def test_to_leave_a_node_never_waits_for_those_who_look_for_one() -> None:
    connection = Connection("127.0.0.1:1", LIMIT_S, False, NO_SESSION, Retry())
    connection._ready = True
    left = threading.Event()
    with connection._connecting:
        threading.Thread(target=lambda: (connection.leave("127.0.0.1:1", turn=True), left.set())).start()
        assert left.wait(LIMIT_S)
    assert not connection._ready


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("name", ["\udcff", 7])
def test_a_namespace_that_is_no_text_is_refused_at_once(kind: type, name: Any) -> None:
    with pytest.raises((InvalidRequestError, TypeError), match="namespace"):
        kind("127.0.0.1:1", name)


def test_a_limit_beyond_counting_is_none() -> None:
    with FakeServer() as fake, Client(fake.endpoint, timeout_s=1e300) as kv:
        assert kv.put(b"k", b"v").revision == 2
        assert kv.status().epoch


async def test_a_task_that_is_cancelled_while_it_closes_is_cancelled() -> None:
    with FakeServer() as fake:
        kv = AsyncClient(fake.endpoint)
        await kv.put(b"k", b"v")
        closing = asyncio.ensure_future(kv.close())
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await kv.close()
