"""A policy in a whole store: across flushes, restarts and copies; nothing is flushed or shown that its quorum does not have."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvserver.base.errors import OutcomeUnknown
from kvserver.base.paths import DataPaths
from kvserver.base.policy import ASYNC, Policy, make_policy
from kvserver.commit.pipeline import AnyTicket, CommitPipeline
from kvserver.commit.requests import Put, SetPolicy
from kvserver.engine.checkpoint import make_checkpoint, origin_of
from kvserver.replication.messages import Ack
from kvserver.replication.policy_guard import PolicyGuard
from kvserver.replication.quorum import Quorum
from support.logs import PATHS
from support.memfs import MemoryFileSystem
from support.stores import flush, open_store, settle, submit

TWO = make_policy(2, ["a", "b", "c"])
OTHER = make_policy(2, ["a", "d"])


class Primary:
    """A store and its guard; a restart is another one on the same disk."""

    def __init__(self, disk: MemoryFileSystem, seed: int = 0, paths: DataPaths = PATHS) -> None:
        self.database = open_store(disk, seed=seed, paths=paths)
        pipeline = self.database.pipeline
        assert isinstance(pipeline, CommitPipeline)
        epoch, began = self.database.history.epochs[-1]
        self.epoch = epoch
        self.guard = PolicyGuard(pipeline, Quorum("a", "id-a", epoch, began.revision))
        self.database.observe(self.guard.consider)

    def put(self, key: bytes = b"k") -> AnyTicket:
        ticket = submit(self.database, Put(1, key, b"v"))
        settle(self.database)
        return ticket

    def set_policy(self, policy: Policy) -> AnyTicket:
        ticket = submit(self.database, SetPolicy(policy))
        settle(self.database)
        return ticket

    def ack(self, name: str) -> None:
        """Acknowledge all that is durable."""
        durable = self.database.marks.durable
        self.guard.on_ack(name, f"id-{name}", Ack(self.epoch, durable, durable, durable, 0))
        settle(self.database)


@pytest.fixture
def disk() -> MemoryFileSystem:
    return MemoryFileSystem()


def under_policy(disk: MemoryFileSystem) -> Primary:
    """Return a store whose policy, set by commit 2, is visible."""
    primary = Primary(disk)
    ticket = primary.set_policy(TWO)
    assert not ticket.done
    primary.ack("b")
    assert ticket.done
    return primary


def test_a_write_waits_for_the_quorum_and_is_not_flushed_before(disk: MemoryFileSystem) -> None:
    primary = under_policy(disk)
    ticket = primary.put()
    flushing = primary.database.flush()
    settle(primary.database)
    assert (ticket.done, flushing.done, primary.database.marks.flushed) == (False, False, 1)
    primary.ack("c")
    assert (ticket.answer().revision, flushing.answer()) == (3, 3)
    primary.database.marks.check()


def test_after_a_restart_nothing_more_is_shown_until_the_quorum_has_the_new_epoch(disk: MemoryFileSystem) -> None:
    primary = under_policy(disk)
    flush(primary.database)
    primary.put()
    primary.ack("b")
    primary.put()
    disk.kill()
    again = Primary(disk, seed=1)
    database = again.database
    assert (database.marks.flushed, database.marks.visible, database.marks.durable) == (2, 2, 4)
    newest, past = database.reading_at(0, None), database.reading_at(2, None)
    assert (newest.done, past.answer()) == (False, 2)
    flushing = database.flush()
    settle(database)
    assert database.marks.flushed == 2
    again.guard.on_ack("b", "id-b", Ack(primary.epoch, 4, 4, 4, 0))
    assert database.marks.visible == 2, "an acknowledgement of the epoch before"
    again.ack("b")
    assert (newest.answer(), flushing.answer()) == (4, 4)


@pytest.mark.parametrize("flushed", [False, True])
def test_a_change_that_was_not_visible_needs_both_quorums_after_a_restart(disk: MemoryFileSystem, flushed: bool) -> None:
    primary = under_policy(disk)
    if flushed:
        flush(primary.database)
    changing = primary.set_policy(OTHER)
    primary.ack("d")
    assert not changing.done, "only the new quorum"
    disk.kill()
    again = Primary(disk, seed=1)
    assert [policy.revision for policy in again.database.policies()][-2:] == [2, 3]
    again.ack("d")
    assert again.database.marks.visible < 3
    again.ack("b")
    assert again.database.marks.visible == 3
    assert again.database.policies() == [OTHER._replace(revision=3)]
    written = again.put()
    again.ack("b")
    assert not written.done, "the old quorum is over"
    again.ack("d")
    assert written.done


def test_a_policy_survives_flush_and_restart(disk: MemoryFileSystem) -> None:
    primary = under_policy(disk)
    flush(primary.database)
    primary.database.close()
    again = Primary(disk, seed=1)
    assert again.database.policies() == [TWO._replace(revision=2)]
    assert not again.put().done


def test_a_copy_has_the_policy(disk: MemoryFileSystem) -> None:
    primary = under_policy(disk)
    primary.put()
    primary.ack("b")
    flush(primary.database)
    database = primary.database
    target = Path("/srv/copy")
    origin = origin_of(database._tables, database.identity, database.history, database.flusher.position, 1)
    make_checkpoint(database._env, database._tables, target, origin)
    copy = Primary(disk, seed=2, paths=DataPaths(target))
    assert copy.database.policies() == [TWO._replace(revision=2)]


def test_without_a_quorum_a_restart_shows_all(disk: MemoryFileSystem) -> None:
    primary = under_policy(disk)
    leaving = primary.set_policy(ASYNC)
    primary.ack("b")
    assert leaving.done
    flush(primary.database)
    primary.put()
    disk.kill()
    again = Primary(disk, seed=1)
    assert again.database.marks.visible == 4
    assert again.database.reading_at(0, None).answer() == 4


def test_a_store_that_is_closed_keeps_nobody_waiting(disk: MemoryFileSystem) -> None:
    primary = under_policy(disk)
    ticket = primary.put()
    primary.database.close()
    assert isinstance(error_of(ticket), OutcomeUnknown)


def error_of(ticket: AnyTicket) -> Exception | None:
    try:
        ticket.answer()
    except Exception as error:
        return error
    return None
