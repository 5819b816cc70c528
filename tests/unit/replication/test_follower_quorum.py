"""Followers under a policy, and behind a change of primary that left the same commits and other marks on each side."""

from __future__ import annotations

from typing import Any

import pytest

from kvserver.base.errors import NotServing
from kvserver.base.policy import make_policy
from kvserver.base.replication_events import LogRewound, SuffixLost
from kvserver.base.types import Role
from kvserver.commit.requests import SetPolicy
from kvserver.commit.ticket import Ticket
from kvserver.replication.messages import Chunk, Envelope
from kvserver.replication.policy_guard import PolicyGuard
from kvserver.replication.quorum import Quorum
from kvserver.replication.receiving import hello_of
from kvserver.wal import format as fmt
from support.follow_scene import FollowScene, SceneNode
from support.follow_waits import log_end, same, shows, steps, streaming
from support.stores import settle


def guarded(node: SceneNode, *members: str) -> Ticket[Any]:
    """Have all of these members be needed for each commit from now on; return the ticket of the policy."""
    assert node.db is not None and node.shipping is not None
    epoch, began = node.db.history.epochs[-1]
    guard = PolicyGuard(node.db.pipeline, Quorum(node.name, node.db.identity.node_id, epoch, began.revision))  # type: ignore[arg-type]
    node.shipping.on_ack = lambda name, node_id, ack: guard.on_ack(name, node_id, ack) and None
    node.shipping.on_begins_anew = guard.forget
    node.db.observe(guard.consider)
    ticket = node.db.submit(SetPolicy(make_policy(len(members), members)), lambda done: done)
    settle(node.db)
    return ticket


@pytest.mark.parametrize("flushed", [False, True])
async def test_a_copy_does_not_wait_for_the_quorum_that_waits_for_it(flushed: bool) -> None:
    """What the primary has that is not shown yet cannot be written into tables, and may never be shown without this very node."""
    async with FollowScene() as scene:
        a = scene.primary("a")
        b = scene.member("b", "a", has_store=False)
        a.put("x")
        if flushed:
            a.seal()
            a.flush()
        ticket = guarded(a, "a", "b")
        assert not ticket.done
        b.follower.start()
        await scene.until(streaming(b))
        assert ("EMPTY", "RESTORING") in steps(b)
        await scene.until(lambda: ticket.done)
        await same(scene, a, b)


async def test_an_empty_follower_says_that_it_has_nothing_to_ship() -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        b = scene.member("b", "a")
        assert a.db is not None
        hello = hello_of(a.db, a.identity(), a.promised, ("none",), only_log=True)
        call = await a.peers(b.address).follow(hello)
        with pytest.raises(NotServing, match="no log yet"):
            await anext(aiter(call))


def without_marks(envelope: Envelope) -> Envelope:
    """Return what is shipped, without a mark and what follows it."""
    body = envelope.body
    if not isinstance(body, Chunk) or not body.offset:
        return envelope
    at = 0
    while (frame := fmt.parse_frame_header(body.data, at)) is not None and frame.kind != fmt.MARK:
        at += frame.frame_length
    return envelope._replace(body=body._replace(data=body.data[:at]) if at else None)


@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize("stopped", ["killed", "cleanly"])
async def test_marks_and_a_seal_that_the_new_primary_never_had_go_by_one_rewind(stopped: str, flushed: bool) -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        b = scene.member("b", "a")
        a.spoil = without_marks
        b.follower.start()
        await scene.until(streaming(b))
        await scene.until(shows(b, a.put("x")))
        await b.follower.stop()
        assert a.db is not None
        settle(a.db)
        assert log_end(a).position == log_end(b).position and log_end(a).offset > log_end(b).offset
        if flushed:
            a.flush()
        if stopped == "killed":
            a.db._log.close = a.db._log.abandon  # type: ignore[method-assign]
        a.close()
        b.promote()
        b.put("z")
        a.spoil = lambda envelope: envelope
        a.named = b.address
        a.open(Role.FOLLOWER)
        a.make_follower().start()
        await scene.until(streaming(a))
        await same(scene, b, a)
        assert [event.lost_revisions for event in a.of(LogRewound)] == [0] and not a.of(SuffixLost)
        assert steps(a)[:3] == [("CONNECTING", "DIVERGED"), ("DIVERGED", "CONNECTING"), ("CONNECTING", "CATCHUP_STREAM")]
