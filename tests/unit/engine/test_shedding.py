"""Memtables that are let go: in pieces, with pauses, and never slower than others are filled."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

import pytest

from kvserver.base.clock import SystemClock
from kvserver.engine.shedding import MOST_VERSIONS, PAUSE_S, VERSIONS, Shedder
from kvserver.storage.memtable import Memtable
from support.clocks import ManualClock


def memtable(versions: int) -> Memtable:
    table = Memtable()
    keys = [b"%d" % number for number in range(versions)]
    table.put_run(1, keys, keys, 2)
    return table


def left(table: Memtable) -> int:
    found = table.find(1)
    return len(found.chains) if found is not None else 0


PAUSE_MS = round(PAUSE_S * 1000)


class Turns:
    """An event loop that does one turn when it is told to."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], None]] = []

    def __call__(self, callback: Callable[[], None]) -> None:
        self.callbacks.append(callback)

    def one(self) -> None:
        self.callbacks.pop(0)()


def test_one_piece_a_turn_until_nothing_is_left() -> None:
    turns, table = Turns(), memtable(2 * VERSIONS + 1)
    shedder = Shedder(turns, ManualClock())
    shedder.add([table])
    seen = []
    while turns.callbacks:
        turns.one()
        seen.append(left(table))
    assert seen == [VERSIONS + 1, 1, 0]
    shedder.add([])
    assert not turns.callbacks, "nothing to do, nothing asked for"
    shedder.add([memtable(1)])
    assert len(turns.callbacks) == 1


def test_the_later_a_turn_comes_the_larger_the_piece_up_to_a_bound() -> None:
    turns, clock, first, second = Turns(), ManualClock(), memtable(5 * VERSIONS + MOST_VERSIONS), memtable(1)
    shedder = Shedder(turns, clock)
    shedder.add([first])
    shedder.add([second])
    assert len(turns.callbacks) == 1, "one piece at a time"
    clock.advance_ms(2 * PAUSE_MS)
    turns.one()
    assert left(first) == 3 * VERSIONS + MOST_VERSIONS
    clock.advance_ms(1000 * PAUSE_MS)
    turns.one()
    assert left(first) == 3 * VERSIONS
    clock.advance_ms(3 * PAUSE_MS)
    turns.one()
    assert (left(first), left(second)) == (0, 1)
    turns.one()
    assert left(second) == 0
    assert not turns.callbacks


def test_a_piece_that_fails_does_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    turns, table = Turns(), memtable(VERSIONS + 1)
    Shedder(turns, ManualClock()).add([table])
    with monkeypatch.context() as patched, pytest.raises(MemoryError):
        patched.setattr(Memtable, "shed", _fail)
        turns.one()
    turns.one()
    assert left(table) == 1


def _fail(table: Memtable, at_most: int) -> bool:
    raise MemoryError


def test_others_have_the_loop_between_two_pieces() -> None:
    async def shed() -> tuple[float, int]:
        loop = asyncio.get_running_loop()
        table = memtable(10 * VERSIONS)
        Shedder(lambda callback: loop.call_soon_threadsafe(callback) and None, SystemClock()).add([table])
        begun, turns = loop.time(), 0
        while left(table):
            await asyncio.sleep(0)
            turns += 1
        return loop.time() - begun, turns

    seconds, turns = asyncio.run(shed())
    assert seconds >= 8 * PAUSE_S
    assert turns > 20, "the loop is free meanwhile"


def test_young_objects_are_looked_at_although_as_many_are_freed() -> None:
    turns = Turns()
    Shedder(turns, ManualClock()).add([memtable(VERSIONS * 2)])
    gc.collect()
    gc.disable()
    try:
        young: list[object] = []
        assert any(one is young for one in gc.get_objects(generation=0))
        turns.one()
        assert not any(one is young for one in gc.get_objects(generation=0))
    finally:
        gc.enable()
