"""Which policies must hold: while a change is not visible the old and the new, and after a restart all that may have held."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.base.errors import InvalidRequest
from kvserver.base.policy import ASYNC, Policy, make_policy
from kvserver.base.types import SYSTEM_NAMESPACE
from kvserver.commit.evaluate import evaluate
from kvserver.commit.requests import SetPolicy
from kvserver.commit.state import State
from kvserver.storage.rows import data_key, encode_version
from kvserver.storage.view import View
from kvserver.wal.commit_record import PUT, Effect, encode_commit

ONE = make_policy(1, ["a"])
TWO = make_policy(2, ["a", "b", "c"])
THREE = make_policy(3, ["a", "b", "c"])


def set_at(state: State, policy: Policy, revision: int) -> None:
    state.apply(evaluate(SetPolicy(policy), state, revision - 1).effects, revision)


def in_tables(state: State, upto: int) -> State:
    """Return a state that is loaded from tables which hold everything up to a revision."""
    rows = []
    for key, chain in sorted(state.memtable.table(SYSTEM_NAMESPACE).chains.items()):
        link = chain
        while link is not None and link[0] > upto:
            link = link[4]
        if link is not None and link[1] is not None:
            rows.append((data_key(SYSTEM_NAMESPACE, key), encode_version(link[0], link[0], 1, link[1])))
    loaded = State(View(is_bottom=False, flushed_revision=upto))
    loaded.load(rows)
    return loaded


def rules(policies: list[Policy]) -> list[tuple[int, int]]:
    return [(policy.write_quorum, policy.revision) for policy in policies]


def test_until_one_is_set_the_primary_alone_decides() -> None:
    state = State()
    assert state.policies_at(1) == state.policies_at(99) == [ASYNC]
    assert not state.needs_quorum(1)


def test_a_change_needs_the_old_and_the_new_until_it_is_visible() -> None:
    state = State()
    set_at(state, TWO, 5)
    assert rules(state.policies_at(4)) == [(0, 0), (2, 5)]
    assert rules(state.policies_at(5)) == [(2, 5)]
    set_at(state, ASYNC, 9)
    assert rules(state.policies_at(8)) == [(2, 5), (0, 9)]
    assert state.needs_quorum(8)
    assert rules(state.policies_at(9)) == [(0, 9)]
    assert not state.needs_quorum(9)
    assert state.newest_policy == ASYNC._replace(revision=9)


def test_all_changes_that_are_not_visible_count() -> None:
    state = State()
    for revision, policy in ((3, ONE), (4, TWO), (5, THREE)):
        set_at(state, policy, revision)
    assert rules(state.policies_at(2)) == [(0, 0), (1, 3), (2, 4), (3, 5)]
    assert rules(state.policies_at(3)) == [(1, 3), (2, 4), (3, 5)]
    state.forget_policies(4)
    assert rules(state.policies_at(4)) == [(2, 4), (3, 5)]


def test_setting_what_holds_already_makes_no_commit() -> None:
    state = State()
    assert evaluate(SetPolicy(ASYNC), state, 4) == ([], 0, 0, 0, 0)
    set_at(state, TWO, 5)
    same = Policy(2, ("c", "b", "a"))
    assert evaluate(SetPolicy(same), state, 5) == ([], 5, 0, 0, 0), "the answer shows the commit that set it"


def test_a_policy_that_cannot_be_makes_no_commit() -> None:
    with pytest.raises(InvalidRequest):
        evaluate(SetPolicy(Policy(2, ("a",))), State(), 4)


@pytest.mark.parametrize("flushed", [1, 3, 4, 6, 7, 9])
def test_after_a_restart_all_that_may_have_held_must_hold(flushed: int) -> None:
    state = State()
    for revision, policy in ((3, ONE), (6, TWO), (8, THREE)):
        set_at(state, policy, revision)
    restarted = in_tables(state, flushed)
    for revision in range(flushed + 1, 10):
        sets = {3: ONE, 6: TWO, 8: THREE}.get(revision)
        effects = State.policy_effects(sets) if sets else [Effect(PUT, 1, b"k", b"v")]
        restarted.replay_group(revision, 1, encode_commit(effects))
    assert rules(restarted.policies_at(flushed)) == rules(state.policies_at(flushed))
    assert rules(restarted.policies_at(9)) == [(3, 8)]


@given(st.lists(st.sampled_from([None, ASYNC, ONE, TWO, THREE]), min_size=1, max_size=12), st.integers(0, 12), st.integers(0, 12))
def test_what_must_hold_is_the_same_with_and_without_a_restart(sets: list[Policy | None], flushed: int, shown: int) -> None:
    live, last = State(), 1 + len(sets)
    flushed = 1 + min(flushed, len(sets))
    visible = min(max(flushed, 1 + shown), last)
    for revision, policy in enumerate(sets, 2):
        if policy is not None:
            live.apply(State.policy_effects(policy), revision)
    restarted = in_tables(live, flushed)
    for revision, policy in enumerate(sets, 2):
        if revision > flushed and policy is not None:
            restarted.replay_group(revision, 1, encode_commit(State.policy_effects(policy)))
    assert restarted.policies_at(visible) == live.policies_at(visible)
    expected = [ASYNC, *(policy._replace(revision=at) for at, policy in enumerate(sets, 2) if policy is not None)]
    in_force = max((policy for policy in expected if policy.revision <= visible), key=lambda policy: policy.revision)
    assert live.policies_at(visible) == [in_force, *(policy for policy in expected if policy.revision > visible)]


@pytest.mark.parametrize("row", [b"", b"\x09\x00\x00", b"\x01\x02\x01\x01a"])
def test_a_row_that_is_no_policy_is_damage(row: bytes) -> None:
    commit = encode_commit([Effect(PUT, SYSTEM_NAMESPACE, b"policy", row)])
    with pytest.raises(ValueError, match="policy"):
        State().replay_group(2, 1, commit)
