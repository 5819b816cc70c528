"""The store that misbehaves: each of its faults does what it says, once, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from kvserver.archive.store import (
    ObjectExists,
    ObjectInfo,
    ObjectMissing,
    ReplaceConflict,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from kvserver.base.limits import MIB
from support.clocks import ManualClock
from support.fault_store import (
    REFUSED,
    SERVER_ERROR,
    FaultStore,
    StoreFault,
    ambiguous,
    failing_store_calls,
    partial_upload,
    quicker_writer,
    slow,
    spoiled,
    stale_listing,
    vanishing,
)
from support.faultfs import ProcessKilled
from support.memory_store import MemoryStore


def filled() -> MemoryStore:
    store = MemoryStore()
    store.create("a/1", [b"one"])
    store.create("a/2", [bytes(2 * MIB), b"two"])
    return store


def test_without_a_script_it_is_the_store_inside() -> None:
    store = FaultStore(filled())
    assert store.url == "memory://archive"
    assert store.create("b", [b"x"]) == 1
    with pytest.raises(ObjectExists):
        store.create("b", [b"y"])
    with pytest.raises(ObjectMissing):
        store.read("none")
    token = store.replace("R", b"1", None)
    with pytest.raises(ReplaceConflict):
        store.replace("R", b"2", None)
    assert store.held("R") == (b"1", token)
    store.delete("a/1")
    assert list(store.list("")) == [ObjectInfo("R", 1), ObjectInfo("a/2", 2 * MIB + 3), ObjectInfo("b", 1)]
    assert list(store.folders("")) == ["a/"]
    assert store.fired == 0 and store.counts["create"] == 2


@pytest.mark.parametrize(
    ("fault", "error", "text"),
    [
        (StoreFault(), StoreUnavailable, "connection refused"),
        (StoreFault(error=SERVER_ERROR), StoreUnavailable, "500"),
        (StoreFault(error=REFUSED), StoreRefused, "credentials are wrong"),
    ],
)
@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.create("b", [b"x"]),
        lambda store: store.read("a/1"),
        lambda store: list(store.stream("a/1")),
        lambda store: store.length("a/1"),
        lambda store: list(store.list("")),
        lambda store: store.folders(""),
        lambda store: store.delete("a/1"),
        lambda store: store.held("a/1"),
        lambda store: store.replace("a/1", b"x", MemoryStore.held(filled(), "a/1").token),  # type: ignore[union-attr]
    ],
)
def test_every_call_can_fail_and_then_changes_nothing(
    fault: StoreFault, error: type[StoreError], text: str, call: Callable[[FaultStore], object]
) -> None:
    inner = filled()
    store = FaultStore(inner, [fault])
    with pytest.raises(error, match=text):
        call(store)
    assert inner.objects == filled().objects
    assert store.fired == 1
    call(store)
    assert store.fired == 1


def test_a_fault_strikes_the_nth_call_of_its_kind_and_name() -> None:
    store = FaultStore(filled(), [StoreFault(at=2, calls={"read"}, where=lambda name: name == "a/1")])
    store.read("a/1")
    store.read("a/2")
    store.length("a/1")
    with pytest.raises(StoreUnavailable):
        store.read("a/1")
    store.read("a/1")
    store.add(StoreFault(calls={"length"}, forever=True))
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            store.length("a/2")
    assert store.struck == [("read", "a/1"), *[("length", "a/2")] * 3]
    store.heal()
    assert store.length("a/2") == 2 * MIB + 3


def test_a_slow_store_takes_time_on_its_clock() -> None:
    clock = ManualClock(auto_advance=True)
    store = FaultStore(filled(), [slow(700, at=2, forever=True)], clock)
    store.read("a/1")
    assert clock.monotonic() == 0
    assert store.read("a/1") == b"one"
    store.delete("a/1")
    assert clock.monotonic() == 1.4


def test_a_partial_upload_draws_parts_and_leaves_nothing() -> None:
    store = FaultStore(filled(), [partial_upload(2)])
    drawn = []

    def parts() -> Iterator[bytes]:
        for number in range(5):
            drawn.append(number)
            yield b"x"

    with pytest.raises(StoreUnavailable):
        store.create("b", parts())
    assert drawn == [0, 1]
    with pytest.raises(ObjectMissing):
        store.read("b")


@pytest.mark.parametrize("took_effect", [True, False])
def test_an_ambiguous_answer_may_have_taken_effect(took_effect: bool) -> None:
    store = FaultStore(filled(), [ambiguous(took_effect, at=number) for number in (1, 2, 3)])
    with pytest.raises(StoreUnavailable):
        store.create("b", [b"x"])
    with pytest.raises(StoreUnavailable):
        store.replace("R", b"1", None)
    with pytest.raises(StoreUnavailable):
        store.delete("a/1")
    assert ("b" in dict(store.list(""))) is took_effect
    assert (store.held("R") is not None) is took_effect
    assert ("a/1" in dict(store.list(""))) is not took_effect


def test_a_quicker_writer_wins() -> None:
    inner = filled()
    store = FaultStore(inner, [quicker_writer(lambda: inner.create("b", [b"theirs"]))])
    with pytest.raises(ObjectExists):
        store.create("b", [b"mine"])
    assert store.read("b") == b"theirs"


def test_a_store_can_vanish_in_the_middle_of_a_stream() -> None:
    store = FaultStore(filled(), [vanishing(2)])
    stream = store.stream("a/2")
    assert [len(next(stream)), len(next(stream))] == [MIB, MIB]
    with pytest.raises(StoreUnavailable):
        next(stream)
    assert sum(map(len, store.stream("a/2"))) == 2 * MIB + 3


def test_a_stale_listing_lacks_the_last_changes() -> None:
    store = FaultStore(filled(), [stale_listing(2)])
    store.create("a/3", [b"x"])
    store.create("b", [b"x"])
    store.delete("a/1")
    assert [info.name for info in store.list("a/")] == ["a/1", "a/2", "a/3"]
    assert [info.name for info in store.list("")] == ["a/2", "a/3", "b"]


def test_what_is_read_can_be_spoiled() -> None:
    store = FaultStore(filled(), [spoiled(bytes.upper, forever=True)])
    assert store.read("a/1") == b"ONE"
    assert b"".join(store.stream("a/1")) == b"ONE"
    held = store.held("a/1")
    assert held is not None and held.data == b"ONE"


def test_a_killed_process_makes_no_further_call() -> None:
    inner = filled()
    store = FaultStore(inner, [StoreFault(calls={"create"}, kills=True, performed=True)])
    with pytest.raises(ProcessKilled):
        store.create("b", [b"x"])
    for call in (lambda: store.read("b"), lambda: next(store.stream("b")), lambda: next(store.list(""))):
        with pytest.raises(ProcessKilled):
            call()
    assert inner.read("b") == b"x"


def test_a_loop_over_the_calls_strikes_each_once_and_ends() -> None:
    struck = []
    for store in failing_store_calls(filled, StoreFault()):
        try:
            store.read("a/1")
            store.create("b", [b"x"])
            list(store.list(""))
        except StoreUnavailable:
            pass
        struck += store.struck or ["none"]
    assert struck == [("read", "a/1"), ("create", "b"), ("list", ""), "none"]
