"""A disk that fills up: whatever was given a revision finds its place, the rest is refused cleanly, and it goes on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from kvserver.base.errors import Code, Refused
from kvserver.base.events import Event, SpaceAvailable, SpaceUnavailable
from kvserver.commit.pipeline import AnyTicket
from kvserver.commit.requests import Put, PutRun, ReadRun
from kvserver.engine.database import Database
from support.fake_log import outcome
from support.faultfs import FaultFileSystem, FaultPlan
from support.logs import SMALL
from support.memdisk import LOST
from support.memfs import MemoryFileSystem
from support.stores import content, open_store, settle, submit

Disk = FaultFileSystem[MemoryFileSystem]


def fill(database: Database, rng: random.Random) -> tuple[list[AnyTicket], int]:
    """Write until writes are refused; return the tickets of those that were not, and how many were refused."""
    kept: list[AnyTicket] = []
    refused = 0
    fixed = rng.choice((0, rng.randrange(300)))
    while refused < 5:
        assert database.failure is None
        ticket = submit(database, Put(1, b"k%d" % len(kept), bytes(fixed or rng.randrange(900))))
        if rng.random() < 0.6:
            database.run_log_once()
        if rng.random() < 0.3:
            settle(database)
        if ticket.done and isinstance(outcome(ticket), Refused):
            assert outcome(ticket).code is Code.DISK_FULL
            assert "free space" in outcome(ticket).hint
            refused += 1
        else:
            kept.append(ticket)
    return kept, refused


def assert_alternating(events: list[Event], last: type[Event]) -> None:
    """Room is lost, and gained (a sealed segment gives back its rest), and lost: told once each time."""
    told = [type(event) for event in events if isinstance(event, SpaceUnavailable | SpaceAvailable)]
    assert told == [SpaceUnavailable, SpaceAvailable] * (len(told) // 2) + [SpaceUnavailable] * (len(told) % 2)
    assert told[-1] is last


@pytest.mark.parametrize("seed", range(60))
def test_what_has_a_revision_has_its_place(seed: int) -> None:
    rng = random.Random(seed)
    memory = MemoryFileSystem()
    disk: Disk = FaultFileSystem(memory, FaultPlan(space_bytes=rng.randrange(40_000, 200_000)))
    events: list[Event] = []
    database = open_store(disk, SMALL, listener=events.append)
    kept, _ = fill(database, rng)
    settle(database)
    assert database.failure is None
    late = [ticket for ticket in kept if isinstance(outcome(ticket), Refused)]
    assert all(outcome(ticket).code is Code.DISK_FULL for ticket in late), "they stood in line"
    revisions = [outcome(ticket).revision for ticket in kept if ticket not in late]
    assert revisions == list(range(2, len(revisions) + 2))
    assert database.log_figures().space_error
    assert_alternating(events, last=SpaceUnavailable)
    assert outcome(submit(database, ReadRun(1, [b"k0"]))).versions[0].mod_revision == 2
    after = open_store(memory.power_loss(lambda _: LOST), SMALL, seed=1)
    assert content(after) == content(database)
    assert len(content(after)) == len(revisions)
    disk.add_space(1 << 20)
    settle(database)
    again = submit(database, PutRun(1, [b"new"] * 3, [b""] * 3))
    for _ in range(100):
        database.run_log_once()
    assert outcome(again).first_revision == len(revisions) + 2
    assert database.log_figures().space_error == ""
    assert_alternating(events, last=SpaceAvailable)
    database.close()


def test_a_store_on_a_full_disk_can_be_closed_and_opened_when_there_is_room_again() -> None:
    memory = MemoryFileSystem()
    disk: Disk = FaultFileSystem(memory, FaultPlan(space_bytes=60_000))
    database = open_store(disk, SMALL)
    fill(database, random.Random(3))
    settle(database)
    before = content(database)
    database.close()
    disk.add_space(1 << 20)
    assert content(open_store(disk, SMALL, seed=1)) == before


async def test_with_threads_it_refuses_and_goes_on_by_itself() -> None:
    memory = MemoryFileSystem()
    disk: Disk = FaultFileSystem(memory, FaultPlan(space_bytes=150_000))
    loop = asyncio.get_running_loop()

    def post(callback: Callable[[], None]) -> None:
        loop.call_soon_threadsafe(callback)

    database = open_store(disk, SMALL, post=post, threads=True)
    told = {"kept": 0, "refused": 0}

    async def writer(name: int) -> None:
        for number in range(80):
            try:
                await submit(database, Put(1, b"%d-%d" % (name, number), bytes(300)))
                told["kept"] += 1
            except Refused as error:
                assert error.code is Code.DISK_FULL
                told["refused"] += 1
                disk.add_space(30_000)
                await asyncio.sleep(0.005)

    async with asyncio.timeout(60):
        await asyncio.gather(*(writer(name) for name in range(15)))
    assert database.failure is None
    assert told["kept"] + told["refused"] == 15 * 80
    assert told["refused"] > 0
    assert told["kept"] == len(content(database)) > 600
    await loop.run_in_executor(None, database.close)
    assert len(content(open_store(memory.power_loss(lambda _: LOST), SMALL, seed=1))) == told["kept"]
