"""What arrives while a sync is under way belongs to the next group, answers and all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from kvserver.base import failpoints
from kvserver.base.errors import NotServing, OutcomeUnknown
from kvserver.commit.pipeline import AnyTicket
from kvserver.commit.requests import Put
from kvserver.engine.database import Database
from support.campaign import SMALL, open_store
from support.memfs import MemoryFileSystem
from support.stores import open_store as open_store_of_stores


@pytest.fixture(autouse=True)
def _disarm() -> Iterator[None]:
    yield
    failpoints.disarm_all()


def once(action: Callable[[], None]) -> Callable[[], None]:
    """Return a failpoint's action that acts at its first passage only."""
    left = [action]
    return lambda: left.pop()() if left else None


@pytest.mark.parametrize("place", ["wal.before_write", "wal.after_write", "wal.after_sync", "wal.before_answer"])
def test_a_write_during_a_sync_is_not_answered_by_it(place: str) -> None:
    db = open_store(MemoryFileSystem())
    late: list[AnyTicket] = []
    failpoints.arm(place, once(lambda: late.append(db.submit(Put(1, b"late", b"v"), lambda done: done))))
    early = db.submit(Put(1, b"early", b"v"), lambda done: done)
    db.run_log_once()
    assert early.done
    assert late and not late[0].done, "answered by a sync that did not write it"
    assert db.marks.visible == early.answer().revision
    assert db.read(1, [b"late"], db.marks.visible).answer() == [None]
    db.run_log_once()
    assert late[0].answer().revision == db.marks.visible


@pytest.mark.parametrize("place", ["wal.before_write", "wal.after_write", "wal.after_sync"])
def test_a_refusal_during_a_sync_waits_for_what_it_shows(place: str) -> None:
    db = open_store(MemoryFileSystem())
    late: list[AnyTicket] = []
    failpoints.arm(place, once(lambda: late.append(db.submit(Put(1, b"key", b"other", if_revision=0), lambda done: done))))
    db.submit(Put(1, b"key", b"v"), lambda done: done)
    assert not late
    db.run_log_once()
    db.run_log_once()
    assert late[0].done


def test_a_refusal_waits_until_what_it_shows_is_durable() -> None:
    db = open_store(MemoryFileSystem())
    db.submit(Put(1, b"key", b"v"), lambda done: done)
    refused = db.submit(Put(1, b"key", b"other", if_revision=0), lambda done: done)
    assert not refused.done, "it tells of a write that a crash could still take back"
    db.run_log_once()
    assert refused.done


async def test_an_error_between_two_steps_of_the_log_thread_answers_everybody() -> None:
    """A thread that ended there without a word would leave its waiters, and all later ones, waiting for ever."""

    def out_of_memory() -> None:
        raise MemoryError

    loop = asyncio.get_running_loop()
    db = open_threaded(MemoryFileSystem(), loop.call_soon_threadsafe)
    failpoints.arm("wal.before_answer", out_of_memory)
    with pytest.raises(OutcomeUnknown):
        await asyncio.wait_for(_answer(db.submit(Put(1, b"key", b"v"), lambda done: done)), 10)
    with pytest.raises(NotServing):
        await asyncio.wait_for(_answer(db.submit(Put(1, b"key", b"v"), lambda done: done)), 10)
    assert isinstance(db.failure, MemoryError)
    failpoints.disarm_all()
    await loop.run_in_executor(None, db.close)


async def _answer(ticket: AnyTicket) -> object:
    return await ticket


def open_threaded(fs: MemoryFileSystem, post: Callable[[Callable[[], None]], object]) -> Database:
    """Open a store whose log has its thread."""
    return open_store_of_stores(fs, SMALL, post=lambda callback: (post(callback), None)[1], threads=True)
