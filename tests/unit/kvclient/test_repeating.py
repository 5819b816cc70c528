"""What clients send again by themselves, what they never do, and what a caller learns in the end."""

from __future__ import annotations

from typing import Any

import pytest

from kvclient import HistoryLost, KvClientError, NotWritten, OutcomeUnknown, Retry, ServerError, Unavailable
from support.fake_server import FakeServer
from unit.kvclient.joining import outcomes

PASSING = ["OVERLOADED", "NOT_WRITTEN", "MEMORY_FULL", "NOT_SERVING"]
QUICK = Retry(attempts=3, first_pause_s=0.005, max_pause_s=0.01)


@pytest.fixture
def kv(connect: Any, fake: FakeServer) -> Any:
    return connect(fake.endpoint, retry=QUICK)


def sent(fake: FakeServer, method: str) -> int:
    return sum(name == method for name, _ in fake.requests)


CALLS = [
    ("Put", lambda kv: kv.put(b"k", b"v")),
    ("Delete", lambda kv: kv.delete(b"k")),
    ("Delete", lambda kv: kv.delete_range(b"a", b"b")),
    ("Put", lambda kv: kv.put_many([(b"k", b"v")])),
    ("Get", lambda kv: kv.get(b"k")),
    ("Get", lambda kv: kv.get(b"k", revision=1)),
    ("Status", lambda kv: kv.status()),
]


@pytest.mark.parametrize("code", PASSING)
@pytest.mark.parametrize(("method", "call"), CALLS)
async def test_a_refusal_that_passes_is_not_the_callers_business(
    kv: Any, fake: FakeServer, method: str, call: Any, code: str
) -> None:
    fake.refuse_next(method, code, times=2)
    await call(kv)
    assert sent(fake, method) == 3


@pytest.mark.parametrize(("method", "call"), CALLS)
async def test_one_that_does_not_pass_is_told_in_the_servers_words(kv: Any, fake: FakeServer, method: str, call: Any) -> None:
    fake.refuse_next(method, "OVERLOADED", "the line is full", "wait", times=3)
    with pytest.raises(KvClientError) as caught:
        await call(kv)
    error = caught.value
    if error.code == "MANY_FAILED":
        error = error.failures[0]  # type: ignore[attr-defined]
    assert (error.code, error.message, error.hint) == ("OVERLOADED", "the line is full", "wait")
    assert sent(fake, method) == 3


@pytest.mark.parametrize("code", ["OVERLOADED", "NOT_SERVING"])
async def test_a_frame_that_was_rejected_is_sent_again(kv: Any, fake: FakeServer, code: str) -> None:
    fake.refuse_next("Pipeline", code)
    results = await outcomes([kv.put(b"%d" % number, b"v") for number in range(10)])
    assert sorted(result.revision for result in results) == list(range(2, 12))


@pytest.mark.parametrize("code", ["DISK_FULL", "TABLES_FAILED", "LOG_FAILED", "EMPTY_KEY", "CONDITION_FAILED", "INTERNAL"])
async def test_any_other_refusal_is_told_at_once(kv: Any, fake: FakeServer, code: str) -> None:
    fake.refuse_next("Put", code)
    with pytest.raises(KvClientError) as caught:
        await kv.put(b"k", b"v")
    assert caught.value.code == code
    assert sent(fake, "Put") == 1


async def test_who_wants_nothing_repeated_has_nothing_repeated(connect: Any, fake: FakeServer) -> None:
    kv = connect(fake.endpoint, retry=Retry(attempts=1))
    for method, call in (("Put", kv.put(b"k", b"v")), ("Get", kv.get(b"k"))):
        fake.refuse_next(method, "OVERLOADED")
        with pytest.raises(NotWritten, match="OVERLOADED"):
            await call
        assert sent(fake, method) == 1
    fake.abort_next("Get", "UNAVAILABLE")
    with pytest.raises(Unavailable):
        await kv.get(b"k")


async def test_who_has_no_time_for_the_pause_learns_of_the_refusal(connect: Any, fake: FakeServer) -> None:
    kv = connect(fake.endpoint, retry=Retry(attempts=3, first_pause_s=60.0, max_pause_s=60.0))
    for method, call in (("Put", kv.put(b"k", b"v")), ("Get", kv.get(b"k"))):
        fake.refuse_next(method, "OVERLOADED", "the line is full")
        with pytest.raises(NotWritten, match="the line is full"):
            await call


async def test_a_read_whose_stream_broke_is_sent_again(kv: Any, fake: FakeServer) -> None:
    await kv.put(b"k", b"v")
    fake.abort_next("Get", "UNAVAILABLE", "Socket closed")
    fake.abort_next("Get", "INTERNAL", "out of order")
    assert (await kv.get(b"k")).value == b"v"
    assert sent(fake, "Get") == 3


@pytest.mark.parametrize(("status", "kind"), [("UNAVAILABLE", Unavailable), ("INTERNAL", ServerError), ("UNKNOWN", ServerError)])
async def test_a_read_whose_streams_all_break_says_how(kv: Any, fake: FakeServer, status: str, kind: type) -> None:
    for _ in range(3):
        fake.abort_next("Get", status, "Socket closed")
    with pytest.raises(kind, match="Socket closed"):
        await kv.get(b"k")
    assert sent(fake, "Get") == 3


async def test_a_write_whose_stream_broke_is_never_sent_again(kv: Any, fake: FakeServer) -> None:
    fake.abort_next("Put", "UNAVAILABLE", "Socket closed")
    found = await outcomes([kv.put(b"%d" % number, b"v") for number in range(10)])
    assert OutcomeUnknown in {type(outcome) for outcome in found}
    keys = [request.key for name, request in fake.requests if name == "Put"]
    assert len(set(keys)) == len(keys)
    for number, outcome in enumerate(found):
        assert isinstance(outcome, OutcomeUnknown) or outcome.revision == fake.store.rows["", b"%d" % number][0].revision


async def test_writes_that_a_stopping_server_says_it_left_undone_are_sent_again(kv: Any, fake: FakeServer) -> None:
    """NOT_SERVING at the end of a stream is a promise: what has no answer was not carried out."""
    fake.end_next("Put", "NOT_SERVING", "it is stopping")
    assert (await kv.put(b"k", b"v")).revision == 2
    assert sent(fake, "Put") == 2
    assert len(fake.store.rows["", b"k"]) == 1


async def test_one_that_stops_for_good_says_so_itself(kv: Any, fake: FakeServer) -> None:
    for _ in range(3):
        fake.end_next("Put", "NOT_SERVING", "it is stopping")
    with pytest.raises(Unavailable, match="it is stopping") as caught:
        await kv.put(b"k", b"v")
    assert (caught.value.code, caught.value.from_server) == ("NOT_SERVING", True)


@pytest.mark.parametrize("code", ["INTERNAL", "CORRUPTION", "OUTCOME_UNKNOWN"])
async def test_other_words_at_the_end_of_a_stream_promise_nothing(kv: Any, fake: FakeServer, code: str) -> None:
    fake.end_next("Put", code, "something broke")
    with pytest.raises(OutcomeUnknown, match="something broke"):
        await kv.put(b"k", b"v")
    assert sent(fake, "Put") == 1


async def test_lost_history_is_told_to_every_reader_until_it_is_forgotten(kv: Any, fake: FakeServer) -> None:
    await kv.put(b"kept", b"v")
    fake.store.assigned = fake.store.visible = 50
    await kv.put(b"lost", b"v")
    fake.store.restart()
    fake.store.branches[1] = 10
    found = await outcomes([kv.get(b"kept") for _ in range(20)])
    assert {type(outcome) for outcome in found} == {HistoryLost}
    assert found[0].details == {"branch": "10", "next_epoch": "2"}
    assert type((await outcomes([kv.get(b"kept")]))[0]) is HistoryLost
    kv.forget_session()
    assert (await kv.get(b"kept")).value == b"v"
