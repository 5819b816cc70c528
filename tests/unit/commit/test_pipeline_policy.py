"""The commit of a policy, and what is shown of a log that was written under one when it is opened again."""

from __future__ import annotations

import pytest

from kvserver.base.policy import ASYNC, make_policy
from kvserver.commit.marks import Marks
from kvserver.commit.requests import Committed, SetPolicy
from kvserver.commit.state import State
from kvserver.wal.commit_record import PUT, Effect, encode_commit
from support.fake_log import Desk, outcome

TWO = make_policy(2, ["a", "b", "c"])


@pytest.fixture
def desk() -> Desk:
    """A desk whose policy waits for a quorum that has all there is so far."""
    desk = Desk()
    desk.replicated(1)
    return desk


# The policy's own commit


def test_a_policy_is_never_shown_by_the_old_rule_alone() -> None:
    """Nobody else has had a turn between its evaluation and the end of its sync."""
    desk = Desk()
    before = desk.put(b"a")
    ticket = desk.submit(SetPolicy(TWO))
    desk.durable()
    assert (desk.marks.visible, before.done, ticket.done) == (1, False, False)
    desk.replicated(3)
    assert (desk.marks.visible, outcome(ticket)) == (3, Committed(3, 3, 0, 0))
    assert desk.state.policies_at(3) == [TWO._replace(revision=3)]


def test_giving_the_quorum_up_for_good_needs_the_quorum(desk: Desk) -> None:
    ticket = desk.submit(SetPolicy(TWO))
    desk.durable()
    desk.replicated(2)
    leaving = desk.submit(SetPolicy(ASYNC))
    desk.durable()
    assert not leaving.done
    assert desk.state.needs_quorum(desk.marks.visible)
    desk.replicated(3)
    assert (outcome(ticket).revision, outcome(leaving).revision) == (2, 3)
    assert not desk.state.needs_quorum(desk.marks.visible)


def test_a_policy_that_asks_for_no_quorum_holds_nothing_back() -> None:
    desk = Desk()
    ticket = desk.submit(SetPolicy(ASYNC))
    assert outcome(ticket) == Committed(0, 0, 0, 0)
    assert desk.marks.replicated is None


# After a restart


def reopened(policies: list[int], last: int, flushed: int) -> Desk:
    """Return a desk opened on a log that ends at a revision, with a policy of two members set by some of its commits."""
    state = State()
    for revision in range(2, last + 1):
        effects = State.policy_effects(TWO) if revision in policies else [Effect(PUT, 1, b"k", b"%d" % revision)]
        state.replay_group(revision, 1, encode_commit(effects))
    return Desk(state=state, marks=Marks(last, flushed, waits=state.needs_quorum(flushed)))


def test_what_was_recovered_is_shown_when_the_quorum_has_it() -> None:
    desk = reopened([2], last=6, flushed=3)
    assert (desk.marks.visible, desk.marks.opened) == (3, 6)
    newest = desk.pipeline.when_visible(desk.marks.opened)
    read, written = desk.read(b"k"), desk.put(b"k", if_revision=6)
    desk.durable()
    assert not (newest.done or read.done or written.done)
    desk.replicated(6)
    assert (newest.answer(), desk.marks.visible) == (6, 6)
    desk.replicated(7)
    assert outcome(read).versions[0].value == b"6"
    assert outcome(written).revision == 7


def test_without_a_policy_what_was_recovered_is_shown_at_once() -> None:
    desk = reopened([], last=6, flushed=3)
    assert desk.marks.visible == 6
    assert desk.pipeline.when_visible(desk.marks.opened).done


def test_a_policy_at_the_very_end_of_the_log_counts() -> None:
    assert reopened([6], last=6, flushed=5).marks.visible == 5
    assert reopened([6], last=6, flushed=6).marks.visible == 6
    assert reopened([6], last=6, flushed=6).marks.replicated == 0
