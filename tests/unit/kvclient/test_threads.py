"""The blocking client in many threads, with faults: each call returns or raises, and nothing stays behind."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kvclient import Client, ClientClosed, Durability, KvClientError, NotWritten, OutcomeUnknown, Retry, Unavailable
from kvclient._joiner import MAX_FRAMES
from kvclient._stream import BlockedCaller
from kvproto.v1 import kv_pb2
from support.fake_server import FakeServer
from unit.kvclient.joining import in_line, under_way

LIMIT_S = 30.0


def in_threads(count: int, work: Callable[[int], None]) -> list[threading.Thread]:
    """Start so many threads with a number each."""
    threads = [threading.Thread(target=work, args=(number,), name=f"caller-{number}") for number in range(count)]
    for thread in threads:
        thread.start()
    return threads


def join_all(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(LIMIT_S)
        assert not thread.is_alive(), f"{thread.name} hangs"


def until(condition: Callable[[], Any]) -> None:
    """Return when a condition holds that other threads bring about and tell nobody of."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.002)


# -- one caller -------------------------------------------------------------------------------------------------------


def test_a_caller_sleeps_until_it_is_told() -> None:
    for tell, expected in (
        (lambda caller: caller.set_result(7), 7),
        (lambda caller: caller.set_exception(NotWritten("DISK_FULL", "no")), "DISK_FULL"),
    ):
        caller = BlockedCaller()
        assert not caller.done()
        assert not caller.wait(0.0)
        teller = threading.Timer(0.01, tell, [caller])
        teller.start()
        assert caller.wait(LIMIT_S)
        assert caller.done()
        if isinstance(expected, int):
            assert caller.outcome() == expected
        else:
            with pytest.raises(NotWritten, match=expected):
                caller.outcome()
        teller.join()


def test_who_gave_up_is_done() -> None:
    caller = BlockedCaller()
    caller.give_up()
    assert caller.done()


@pytest.mark.parametrize("timeout_s", [-1.0, 0.0, 1e-9])
def test_no_time_at_all_is_no_time(timeout_s: float) -> None:
    assert not BlockedCaller().wait(timeout_s)


def test_an_interrupted_caller_is_left_out(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when somebody presses Control-C: what was not sent yet is not sent any more."""
    release = fake.hold("Put")
    with Client(fake.endpoint) as kv:
        held = [in_threads(1, lambda number: kv.put(b"held", b"v"))[0]]
        for expected in range(1, MAX_FRAMES + 1):
            until(lambda count=expected: under_way(kv) == count)
            if expected < MAX_FRAMES:
                held += in_threads(1, lambda number: kv.put(b"held", b"v"))

        def interrupted(caller: BlockedCaller, timeout_s: float) -> bool:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(BlockedCaller, "wait", interrupted)
            with pytest.raises(KeyboardInterrupt):
                kv.put(b"interrupted", b"v")
        assert in_line(kv) == 1
        release.set()
        join_all(held)
        kv.put(b"next", b"v")
    assert {key for _, key in fake.store.rows} == {b"held", b"next"}


# -- many ------------------------------------------------------------------------------------------------------------


class Troubles:
    """A server's answers spoilt at random, in ways of which it is known whether the writes were made."""

    def __init__(self, fake: FakeServer, seed: int) -> None:
        self._fake = fake
        self._random = random.Random(seed)

    def __call__(self, frame: Any, answer: kv_pb2.PipelineResponse) -> Iterator[kv_pb2.PipelineResponse]:
        drawn = self._random.random()
        if drawn < 0.03:
            answer.frame_id += 1 << 32  # an answer to nothing: the stream ends
        elif drawn < 0.06:
            answer.commits += 1  # does not fit
            answer.gets.values.append(b"")
            answer.results.add()
        elif drawn < 0.09:
            self._fake.abort_next("Put", "UNAVAILABLE", "Socket closed")
        elif drawn < 0.12:
            self._fake.refuse_next("Put", "OVERLOADED")
        elif drawn < 0.15:
            self._fake.refuse_next("Pipeline", "NOT_WRITTEN")
        elif drawn < 0.18:
            self._fake.end_next("Put", "NOT_SERVING")
        elif drawn < 0.19:
            time.sleep(1.2)  # an answer for which nobody waits any more
        yield answer


@pytest.mark.parametrize("seed", range(2))
def test_thirty_two_threads_and_a_server_full_of_faults(fake: FakeServer, seed: int) -> None:
    """Every call ends, and what each caller was told agrees with what the server has."""
    told: dict[bytes, Any] = {}
    odd: list[BaseException] = []
    fake.pipeline_answers = Troubles(fake, seed)

    def work(name: int) -> None:
        for number in range(20):
            key = b"%d/%d" % (name, number)
            try:
                told[key] = kv.put(key, key, durability=Durability.MEMORY if number % 3 else Durability.POLICY, timeout_s=1.0)
                entry = kv.get(key, timeout_s=1.0)
                assert entry is not None
                assert entry.value == key
            except KvClientError as error:
                told.setdefault(key, error)
            except BaseException as error:
                odd.append(error)

    with Client(fake.endpoint, retry=Retry(first_pause_s=0.005, max_pause_s=0.05)) as kv:
        join_all(in_threads(32, work))
    assert odd == []
    assert len(told) == 640
    for key, outcome in told.items():
        made = [row.revision for row in fake.store.rows.get(("", key), ())]
        if not isinstance(outcome, KvClientError):
            assert made == [outcome.revision]
        elif isinstance(outcome, OutcomeUnknown):
            assert len(made) <= 1
        else:
            assert made == [], f"{key!r} was said not to be there: {outcome!r}"
    kinds = Counter(type(outcome).__name__ for outcome in told.values())
    assert kinds["WriteResult"] > 200, kinds


def test_a_client_that_is_closed_while_threads_wait(fake: FakeServer) -> None:
    outcomes: dict[int, BaseException | None] = {}
    fake.hold("Put")

    def work(number: int) -> None:
        try:
            kv.put(b"k%d" % number, b"v")
            outcomes[number] = None
        except BaseException as error:
            outcomes[number] = error

    kv = Client(fake.endpoint)
    threads = in_threads(32, work)
    until(lambda: under_way(kv) + in_line(kv) == 32 and under_way(kv) > 0)
    sent = {request.key for request in (request for _, request in fake.requests)}
    kv.close()
    join_all(threads)
    fake._held["Put"].set()
    assert len(outcomes) == 32
    for number, error in outcomes.items():
        assert type(error) in (OutcomeUnknown, ClientClosed), repr(error)
        assert type(error) is OutcomeUnknown or b"k%d" % number not in sent
    with pytest.raises(ClientClosed):
        kv.put(b"k", b"v")


def test_closing_while_a_connection_is_looked_for() -> None:
    with FakeServer() as gone:
        endpoint = gone.endpoint
    kv = Client(endpoint, wait_for_ready=True, timeout_s=LIMIT_S)
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            kv.put(b"k", b"v") if number % 2 else kv.get(b"k")
        except BaseException as error:
            errors.append(error)

    threads = in_threads(8, work)
    until(lambda: in_line(kv) == in_line(kv, "reads") == 4)
    kv.close()
    join_all(threads)
    assert {type(error) for error in errors} == {ClientClosed}
    assert len(errors) == 8


def test_threads_that_come_and_go_while_others_close(fake: FakeServer) -> None:
    """Closing at any moment: nobody hangs, whether the operation was before, within or behind it."""
    for turn in range(10):
        kv = Client(fake.endpoint)
        kinds: set[type] = set()

        def work(number: int, kv: Client = kv, kinds: set[type] = kinds) -> None:
            for _ in range(50):
                try:
                    kv.put(b"k%d" % number, b"v")
                    kv.get(b"k%d" % number)
                except KvClientError as error:
                    kinds.add(type(error))
                    return

        threads = in_threads(8, work)
        if turn % 2:
            until(lambda kv=kv: under_way(kv) or in_line(kv))
        kv.close()
        join_all(threads)
        assert kinds <= {ClientClosed, OutcomeUnknown, Unavailable}


CLOSES_IN_BETWEEN = """
import threading
from kvclient import Client, ClientClosed, _connection
from support.fake_server import FakeServer

make_stub = _connection.kv_pb2_grpc.KVStub

def closing(channel):
    closer = threading.Thread(target=kv.close)
    closer.start()
    closer.join(1.0)  # time enough for whoever is not kept from it
    return make_stub(channel)

_connection.kv_pb2_grpc.KVStub = closing
with FakeServer() as fake:
    kv = Client(fake.endpoint)
    try:
        kv.get(b"k")
    except ClientClosed:
        print("closed")
"""


def test_closing_while_a_channel_is_made_does_not_end_the_process() -> None:
    """gRPC follows a null pointer when a stub is made on a channel that was closed."""
    tests = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", CLOSES_IN_BETWEEN],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([tests, *sys.path])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "closed\n"), done.stderr[-2000:]


# -- nothing stays behind ---------------------------------------------------------------------------------------------


def of_clients() -> set[threading.Thread]:
    """Return the threads that are not the fake server's own."""
    return {thread for thread in threading.enumerate() if not thread.name.startswith("fake")}


@pytest.mark.parametrize("ending", ["idle", "under way", "server gone", "never used", "never connected"])
def test_no_thread_is_left_behind(fake: FakeServer, ending: str) -> None:
    before = of_clients()
    endpoint = fake.endpoint
    if ending == "never connected":
        with FakeServer() as gone:
            endpoint = gone.endpoint
    kv = Client(endpoint)
    callers: list[threading.Thread] = []
    if ending == "under way":
        fake.hold("Put")
        callers = in_threads(4, lambda number: _swallow(lambda: kv.put(b"k%d" % number, b"v")))
        until(lambda: under_way(kv))
    elif ending != "never used":
        _swallow(lambda: kv.put(b"k", b"v"))
        _swallow(lambda: kv.get(b"k"))
        _swallow(lambda: kv.put_many([(b"k", b"v")] * 100))
    if ending == "server gone":
        fake.stop()
        _swallow(lambda: kv.put(b"k", b"v"))
    kv.close()
    kv.close()
    join_all(callers)
    for thread in of_clients() - before:
        thread.join(LIMIT_S)
    assert of_clients() <= before


def _swallow(call: Callable[[], Any]) -> None:
    try:
        call()
    except KvClientError:
        return
