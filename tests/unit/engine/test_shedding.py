"""Memtables that are let go: in pieces, with pauses, and never slower than others are filled."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

from kvserver.engine.shedding import PAUSE_S, VERSIONS, Shedder
from kvserver.storage.memtable import Memtable


def memtable(versions: int) -> Memtable:
    table = Memtable()
    keys = [b"%d" % number for number in range(versions)]
    table.put_run(1, keys, keys, 2)
    return table


def left(table: Memtable) -> int:
    found = table.find(1)
    return len(found.chains) if found is not None else 0


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
    shedder = Shedder(turns)
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


def test_the_more_memtables_are_left_the_larger_the_pieces() -> None:
    turns, first, second = Turns(), memtable(3 * VERSIONS), memtable(VERSIONS)
    shedder = Shedder(turns)
    shedder.add([first])
    shedder.add([second])
    assert len(turns.callbacks) == 1, "one at a time"
    turns.one()
    assert left(first) == VERSIONS
    turns.one()
    assert (left(first), left(second)) == (0, VERSIONS)
    turns.one()
    assert left(second) == 0
    assert not turns.callbacks


def test_others_have_the_loop_between_two_pieces() -> None:
    async def shed() -> tuple[float, int]:
        loop = asyncio.get_running_loop()
        table = memtable(10 * VERSIONS)
        Shedder(lambda callback: loop.call_soon_threadsafe(callback) and None).add([table])
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
    Shedder(turns).add([memtable(VERSIONS * 2)])
    young: list[object] = []
    assert any(one is young for one in gc.get_objects(generation=0))
    turns.one()
    assert not any(one is young for one in gc.get_objects(generation=0))
