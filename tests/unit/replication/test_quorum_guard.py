"""The guard between quorum and pipeline: every cause that moves what is replicated reaches the pipeline."""

from __future__ import annotations

from kvserver.base.errors import Code
from kvserver.base.options import PipelineOptions
from kvserver.base.policy import ASYNC, make_policy
from kvserver.base.types import Epoch
from kvserver.commit.requests import SetPolicy
from kvserver.replication.messages import Ack
from kvserver.replication.policy_guard import PolicyGuard
from kvserver.replication.quorum import AckVerdict, Quorum
from support.fake_log import Desk, outcome

EPOCH = Epoch(3, 33)
TWO = make_policy(2, ["a", "b", "c"])


def guarded(options: PipelineOptions | None = None) -> tuple[Desk, PolicyGuard]:
    """Return a desk whose policy is two of three."""
    desk = Desk(options)
    guard = PolicyGuard(desk.pipeline, Quorum("a", "id-a", EPOCH, 1))
    desk.submit(SetPolicy(TWO))
    desk.durable()
    guard.consider()
    return desk, guard


def ack(guard: PolicyGuard, name: str, durable: int) -> AckVerdict:
    return guard.on_ack(name, f"id-{name}", Ack(EPOCH, durable, durable, durable, 0))


def test_without_a_policy_the_pipeline_is_left_alone() -> None:
    desk = Desk()
    PolicyGuard(desk.pipeline, Quorum("a", "id-a", EPOCH, 1))
    ticket = desk.put(b"k")
    desk.durable()
    assert ticket.done
    assert desk.marks.replicated is None


def test_a_policy_holds_from_its_own_commit_on() -> None:
    desk, guard = guarded()
    ticket = desk.put(b"k")
    desk.durable()
    guard.consider()
    assert (desk.marks.visible, ticket.done) == (1, False)
    assert ack(guard, "b", 2) is AckVerdict.COUNTED
    assert (desk.marks.visible, ticket.done) == (2, False)
    assert ack(guard, "c", 3) is AckVerdict.COUNTED
    assert ticket.done


def test_when_the_policy_that_names_no_quorum_is_visible_none_is_waited_for() -> None:
    desk, guard = guarded()
    ack(guard, "b", 2)
    desk.submit(SetPolicy(ASYNC))
    behind = desk.put(b"k")
    desk.durable()
    guard.consider()
    assert desk.marks.visible == 2
    ack(guard, "b", 3)
    assert desk.marks.replicated is None, "the old policy is over in the same turn"
    assert (desk.marks.visible, behind.done) == (4, True)


def test_giving_up_and_returning() -> None:
    desk, guard = guarded()
    first = desk.put(b"k")
    desk.durable()
    guard.consider()
    guard.set_degraded(True)
    assert (first.done, desk.marks.replicated, guard.degraded) == (True, None, True)
    assert not guard.is_caught_up
    assert guard.standing().replicated is None
    assert guard.standing_by_policy().missing == ("b", "c")
    ack(guard, "c", 3)
    assert guard.is_caught_up
    guard.set_degraded(False)
    second = desk.put(b"l")
    desk.durable()
    guard.consider()
    assert not second.done
    ack(guard, "c", 4)
    assert second.done


def test_what_is_refused_names_who_is_missing() -> None:
    desk, guard = guarded(PipelineOptions(max_unreplicated=1, max_waiting=1))
    ack(guard, "b", 1)
    desk.put(b"k")
    error = outcome(desk.put(b"l"))
    assert error.code is Code.POLICY_UNMET
    assert "2 of 3 members needed; b and c do not acknowledge" in error.message


def test_a_name_that_is_forgotten_counts_no_more() -> None:
    desk, guard = guarded()
    ack(guard, "b", 2)
    guard.forget("b")
    assert (desk.marks.replicated, desk.marks.visible) == (0, 2)
