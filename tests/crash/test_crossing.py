"""What arrives while a sync is under way belongs to the next group, answers and all."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from kvserver.base import failpoints
from kvserver.commit.pipeline import AnyTicket
from kvserver.commit.requests import Put
from support.campaign import open_store
from support.memfs import MemoryFileSystem


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
    assert db.get(1, b"late", db.marks.visible) is None
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
