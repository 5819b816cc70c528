"""Puts in bulk: order, bounds, failures, and what is known when a stream ends early."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from kvclient import Client, Durability, InvalidRequestError, NotWritten, OutcomeUnknown, Unavailable, UnknownNamespace
from kvclient.bulk import PutFrame, PutStream
from support.fake_server import FakeServer
from support.fake_store import FakeError


def frames(count: int, size: int = 4) -> Iterator[PutFrame[int]]:
    for number in range(count):
        keys = [b"%03d/%d" % (number, place) for place in range(size)]
        yield PutFrame(keys, [b"v" + key for key in keys], number)


def test_every_frame_is_answered_with_its_revisions(fake: FakeServer) -> None:
    with Client(fake.endpoint) as kv:
        with PutStream(kv, frames(50)) as stream:
            answers = list(stream)
        assert [(answer.number, answer.frame.tag) for answer in answers] == [(n + 1, n) for n in range(50)]
        assert [answer.first_revision for answer in answers] == list(range(2, 202, 4))
        assert {(answer.commits, answer.reached) for answer in answers} == {(4, Durability.LOCAL)}
        assert kv.session.revision == 201
        entry = kv.get(b"049/3")
        assert entry is not None
        assert (entry.value, entry.mod_revision) == (b"v049/3", 201)


def test_no_more_frames_are_under_way_than_allowed(fake: FakeServer) -> None:
    fake.pipeline_mute = True
    taken = 0

    def counted() -> Iterator[PutFrame[int]]:
        nonlocal taken
        for frame in frames(50):
            taken += 1
            yield frame

    with Client(fake.endpoint) as kv:
        with PutStream(kv, counted(), max_in_flight=3, stall_timeout_s=0.3) as stream:
            with pytest.raises(OutcomeUnknown, match="3 frames were under way"):
                list(stream)
    assert len(fake.frames) == 3
    assert taken <= 4


def test_memory_and_namespace_travel_with_each_frame(fake: FakeServer) -> None:
    with Client(fake.endpoint) as kv:
        kv.create_namespace("n")
    with Client(fake.endpoint, "n") as kv:
        with PutStream(kv, frames(2), durability=Durability.MEMORY) as stream:
            assert {answer.reached for answer in stream} == {Durability.MEMORY}
        assert kv.count() == 8, "the session waits for what was only in memory"


def test_failures_are_sparse_and_leave_the_others_alone(fake: FakeServer) -> None:
    fake.pipeline_failures[b"001/2"] = FakeError("MEMORY_FULL", "too much")
    with Client(fake.endpoint) as kv:
        with PutStream(kv, frames(3)) as stream:
            answers = list(stream)
        assert [len(answer.failures) for answer in answers] == [0, 1, 0]
        failure = answers[1].failures[0]
        assert (failure.index, type(failure.error), failure.error.code) == (2, NotWritten, "MEMORY_FULL")
        assert kv.count() == 11


def test_a_rejected_frame_says_why(fake: FakeServer) -> None:
    with Client(fake.endpoint, "nowhere") as kv, PutStream(kv, frames(1)) as stream:
        (answer,) = stream
    assert answer.rejected
    assert type(answer.failures[0].error) is UnknownNamespace


def test_an_error_of_the_source_comes_after_what_was_sent(fake: FakeServer) -> None:
    def broken() -> Iterator[PutFrame[int]]:
        yield from frames(5)
        raise InvalidRequestError("INVALID_FIELD", "line 21")

    seen = []
    with Client(fake.endpoint) as kv, PutStream(kv, broken()) as stream:
        with pytest.raises(InvalidRequestError, match="line 21"):
            for answer in stream:
                seen.append(answer.number)
    assert seen == [1, 2, 3, 4, 5]


def test_stopping_answers_what_is_under_way_and_sends_no_more(fake: FakeServer) -> None:
    answered = 0
    with Client(fake.endpoint) as kv:
        with PutStream(kv, frames(10_000), max_in_flight=2) as stream:
            for _ in stream:
                answered += 1
                stream.stop_sending()
        assert 1 <= answered <= 4
        assert len(fake.frames) == answered


def test_stopping_does_not_wait_for_a_source_that_waits(fake: FakeServer) -> None:
    never = threading.Event()

    def endless() -> Iterator[PutFrame[int]]:
        yield from frames(1)
        never.wait(30)

    began = time.monotonic()
    with Client(fake.endpoint) as kv, PutStream(kv, endless()) as stream:
        for _ in stream:
            stream.stop_sending()
    assert time.monotonic() - began < 10
    never.set()


def test_a_slow_source_is_no_stall(fake: FakeServer) -> None:
    def slow() -> Iterator[PutFrame[int]]:
        for frame in frames(2):
            time.sleep(0.08)
            yield frame

    with Client(fake.endpoint) as kv, PutStream(kv, slow(), stall_timeout_s=0.02) as stream:
        assert len(list(stream)) == 2


def test_a_broken_connection_leaves_the_rest_open(fake: FakeServer) -> None:
    fake.pipeline_breaks_after = 3
    seen = []
    with Client(fake.endpoint) as kv, PutStream(kv, frames(100)) as stream:
        with pytest.raises(OutcomeUnknown):
            for answer in stream:
                seen.append(answer.number)
    assert seen == [1, 2, 3]


def test_a_missing_server_is_certain() -> None:
    with FakeServer() as gone:
        endpoint = gone.endpoint
    with Client(endpoint) as kv:
        with pytest.raises(Unavailable), PutStream(kv, frames(1)):
            pass
