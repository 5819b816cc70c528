"""A primary under a policy with a quorum, as the database has it: what is shown, flushed and told waits, after a restart too."""

from __future__ import annotations

from kvserver.base.policy import make_policy
from kvserver.base.types import Role
from kvserver.commit.requests import Put, SetPolicy
from support.stores import do, settle, submit
from unit.engine.followed import Node, SharedRegister

TWO = make_policy(2, ["a", "b"])


def under_policy() -> Node:
    """Return a primary whose policy is in force, with one key that the quorum has."""
    node = Node("a", SharedRegister())
    node.open(Role.PRIMARY)
    do(node.db, Put(1, b"a", b"1"))
    ticket = submit(node.db, SetPolicy(TWO))
    settle(node.db)
    assert not ticket.done
    node.db.pipeline.set_replicated(3)
    assert ticket.done
    return node


def test_what_the_quorum_lets_be_seen_is_told_to_observers_and_flushed() -> None:
    database = under_policy().db
    seen: list[int] = []
    database.observe(lambda: seen.append(database.marks.visible))
    submit(database, Put(1, b"b", b"2"))
    flushing = database.flush()
    settle(database)
    assert (database.marks.durable, database.marks.visible, flushing.done) == (4, 3, False)
    database.pipeline.set_replicated(4)
    assert seen[-1] == 4
    settle(database)
    assert flushing.answer() == 4
    assert [policy.write_quorum for policy in database.policies()] == [2]


def test_after_a_restart_the_newest_is_read_when_the_quorum_has_what_was_recovered() -> None:
    node = under_policy()
    settle(node.db)
    node.db.flush()
    settle(node.db)
    submit(node.db, Put(1, b"b", b"2"))
    settle(node.db)
    node.disk.kill()
    database = node.open(Role.PRIMARY)
    assert (database.marks.durable, database.marks.visible) == (4, 3)
    reading, past = database.reading_at(0, None), database.reading_at(2, None)
    assert not reading.done, "revision 4 may have been shown before"
    assert past.answer() == 2
    database.pipeline.set_replicated(4)
    settle(database)
    assert reading.answer() == 4
