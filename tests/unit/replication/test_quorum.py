"""The quorum: which acknowledgements count, and what they come to; whether it is given up, by the register's notes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.base.errors import Code, ReplicationError
from kvserver.base.policy import ASYNC, Policy, make_policy
from kvserver.base.register import PolicyNote
from kvserver.base.types import Epoch
from kvserver.replication.quorum import AckVerdict, DegradeState, Quorum

EPOCH = Epoch(7, 0xA)
BEGIN = 10
TWO = make_policy(2, ["kv-1", "kv-2", "kv-3"])
THREE = make_policy(3, ["kv-1", "kv-2", "kv-3"])


@pytest.fixture
def quorum() -> Quorum:
    return Quorum("kv-1", "id-1", EPOCH, BEGIN)


def ack(quorum: Quorum, name: str, durable: int, epoch: Epoch = EPOCH, node_id: str = "") -> AckVerdict:
    return quorum.acknowledge(name, node_id or f"id-of-{name}", epoch, durable)


# What counts


def test_nothing_is_replicated_before_the_quorum_has_the_epochs_header(quorum: Quorum) -> None:
    standing = quorum.standing(50, [TWO])
    assert standing.replicated == 0
    assert ack(quorum, "kv-2", BEGIN) is AckVerdict.COUNTED
    assert quorum.standing(50, [TWO]).replicated == BEGIN


@pytest.mark.parametrize("epoch", [Epoch(6, 0xA), Epoch(8, 0xA), Epoch(7, 0xB)])
def test_an_acknowledgement_of_another_epoch_counts_nothing(quorum: Quorum, epoch: Epoch) -> None:
    assert ack(quorum, "kv-2", 40, epoch) is AckVerdict.OTHER_EPOCH
    assert quorum.standing(50, [TWO]).replicated == 0


def test_an_end_before_the_epoch_began_counts_nothing(quorum: Quorum) -> None:
    assert ack(quorum, "kv-2", BEGIN - 1) is AckVerdict.OTHER_EPOCH
    assert quorum.standing(50, [TWO]).replicated == 0


def test_a_member_that_has_lost_the_epoch_counts_no_more(quorum: Quorum) -> None:
    ack(quorum, "kv-2", 40)
    assert ack(quorum, "kv-2", 40, Epoch(6, 0xA)) is AckVerdict.LOWERED
    assert quorum.standing(50, [TWO]).replicated == 0
    assert ack(quorum, "kv-2", 40, Epoch(6, 0xA)) is AckVerdict.OTHER_EPOCH
    assert ack(quorum, "kv-2", 30) is AckVerdict.COUNTED
    assert quorum.standing(50, [TWO]).replicated == 30


def test_who_is_no_member_counts_nothing(quorum: Quorum) -> None:
    ack(quorum, "kv-9", 50)
    assert quorum.standing(50, [TWO]).replicated == 0


def test_the_primary_counts_only_if_it_is_a_member() -> None:
    policy = make_policy(1, ["kv-2"])
    assert Quorum("kv-1", "id-1", EPOCH, BEGIN).standing(50, [policy]).replicated == 0
    assert Quorum("kv-2", "id-2", EPOCH, BEGIN).standing(50, [policy]).replicated == 50


def test_nobody_else_counts_as_the_primary(quorum: Quorum) -> None:
    assert ack(quorum, "kv-1", 50, node_id="id-9") is AckVerdict.CONTESTED
    assert ack(quorum, "kv-1", 50, node_id="id-1") is AckVerdict.COUNTED
    assert quorum.standing(20, [make_policy(1, ["kv-1"])]).replicated == 20
    assert quorum.standing(20, [TWO]).replicated == 0


def test_each_name_counts_once(quorum: Quorum) -> None:
    for number in range(3):
        ack(quorum, "kv-2", 40, node_id=f"id-{number}")
    assert quorum.standing(50, [THREE]).replicated == 0


def test_a_lower_acknowledgement_lowers(quorum: Quorum) -> None:
    ack(quorum, "kv-2", 40)
    assert ack(quorum, "kv-2", 30) is AckVerdict.LOWERED
    assert quorum.standing(50, [TWO]).replicated == 30
    assert ack(quorum, "kv-2", 30) is AckVerdict.COUNTED


def test_a_node_that_takes_anothers_place_counts_instead_of_it(quorum: Quorum) -> None:
    ack(quorum, "kv-2", 40, node_id="old")
    assert ack(quorum, "kv-2", 20, node_id="new") is AckVerdict.COUNTED
    assert quorum.standing(50, [TWO]).replicated == 20
    ack(quorum, "kv-2", 45, node_id="new")
    assert quorum.standing(50, [TWO]).replicated == 45


def test_a_name_that_two_nodes_go_by_counts_what_both_have(quorum: Quorum) -> None:
    ack(quorum, "kv-2", 40, node_id="old")
    ack(quorum, "kv-2", 20, node_id="new")
    assert ack(quorum, "kv-2", 41, node_id="old") is AckVerdict.CONTESTED
    assert quorum.standing(50, [TWO]).replicated == 20
    assert ack(quorum, "kv-2", 42, node_id="new") is AckVerdict.CONTESTED
    assert quorum.standing(50, [TWO]).replicated == 41
    quorum.forget("kv-2")
    assert quorum.standing(50, [TWO]).replicated == 0
    assert ack(quorum, "kv-2", 42, node_id="new") is AckVerdict.COUNTED


# What it comes to


def test_without_a_quorum_none_is_waited_for(quorum: Quorum) -> None:
    assert quorum.standing(50, [ASYNC]) == (None, None, ())
    assert str(quorum.standing(50, [ASYNC])) == ""


def test_while_it_is_given_up_none_is_waited_for(quorum: Quorum) -> None:
    assert quorum.standing(50, [TWO], degraded=True).replicated is None


def test_the_quorum_is_the_wth_of_its_members(quorum: Quorum) -> None:
    ack(quorum, "kv-2", 40)
    ack(quorum, "kv-3", 30)
    assert [quorum.standing(50, [make_policy(w, TWO.members)]).replicated for w in (1, 2, 3)] == [50, 40, 30]


def test_every_policy_in_force_must_hold(quorum: Quorum) -> None:
    ack(quorum, "kv-2", 40)
    ack(quorum, "kv-3", 30)
    ack(quorum, "kv-4", 20)
    other = make_policy(2, ["kv-3", "kv-4", "kv-5"])
    assert quorum.standing(50, [TWO, other]).replicated == 20
    assert quorum.standing(50, [other, TWO]).policy == other
    assert quorum.standing(50, [ASYNC, TWO]).replicated == 40


def test_who_is_missing_is_named(quorum: Quorum) -> None:
    assert str(quorum.standing(50, [TWO])) == "2 of 3 members needed; kv-2 and kv-3 do not acknowledge"
    ack(quorum, "kv-2", 40)
    ack(quorum, "kv-3", 50)
    assert str(quorum.standing(50, [TWO])) == "2 of 3 members needed; kv-2 does not acknowledge"
    assert str(Quorum("x", "id", EPOCH, 1).standing(5, [TWO])).endswith("needed; kv-1, kv-2 and kv-3 do not acknowledge")
    ack(quorum, "kv-2", 50)
    assert str(quorum.standing(50, [TWO])) == ""


names = st.sampled_from(["a", "b", "c", "d"])
rules = st.lists(names, min_size=1, max_size=4, unique=True).flatmap(
    lambda members: st.integers(1, len(members)).map(lambda quorum: make_policy(quorum, members))
)
acks = st.tuples(names, st.sampled_from([EPOCH, EPOCH, EPOCH, Epoch(7, 1), Epoch(8, 0xA)]), st.integers(0, 30))


@given(st.lists(acks, max_size=20), st.lists(st.one_of(rules, st.just(ASYNC)), min_size=1, max_size=3), st.integers(BEGIN, 30))
def test_replicated_is_what_w_members_have_by_their_newest_word(
    words: list[tuple[str, Epoch, int]], policies: list[Policy], durable: int
) -> None:
    quorum = Quorum("a", "id-of-a", EPOCH, BEGIN)
    have = {"a": durable}
    for name, epoch, revision in words:
        ack(quorum, name, revision, epoch)
        if name != "a":
            have[name] = revision if epoch == EPOCH and revision >= BEGIN else 0
    replicated = quorum.standing(durable, policies).replicated
    counted = [policy for policy in policies if policy.write_quorum]
    assert (replicated is None) is (not counted)
    for revision in range(1, 31) if replicated is not None else ():
        holds = all(sum(have.get(name, 0) >= revision for name in rule.members) >= rule.write_quorum for rule in counted)
        assert holds is (revision <= replicated)


# Given up


def note(number: int, degraded: bool, epoch: Epoch = EPOCH) -> PolicyNote:
    return PolicyNote(number, epoch, "kv-1", 1000, degraded, "why")


def test_the_newest_note_holds() -> None:
    assert not DegradeState().degraded
    assert DegradeState([note(1, True)]).degraded
    state = DegradeState([note(1, True), note(2, False)])
    assert (state.degraded, state.next_number) == (False, 3)


def test_a_note_holds_when_it_is_written_and_not_before() -> None:
    state = DegradeState()
    wanted = state.next_note(EPOCH, "kv-1", 5000, True, "the rack burns")
    assert wanted == PolicyNote(1, EPOCH, "kv-1", 5000, True, "the rack burns")
    assert not state.degraded
    state.written(wanted)
    assert (state.degraded, state.newest, state.next_number) == (True, wanted, 2)
    with pytest.raises(ValueError, match="note 1 does not follow note 1"):
        state.written(wanted)


def test_what_is_so_already_needs_no_note() -> None:
    assert DegradeState().next_note(EPOCH, "kv-1", 1, False, "") is None
    assert DegradeState([note(1, True)]).next_note(EPOCH, "kv-1", 1, True, "") is None


def test_a_missing_note_is_found() -> None:
    with pytest.raises(ReplicationError, match=r"note 2 .* is missing") as refused:
        DegradeState([note(1, True), note(3, False)])
    assert refused.value.code is Code.REGISTER_UNAVAILABLE
    assert refused.value.hint


def test_a_listing_that_lags_takes_nothing_back() -> None:
    state = DegradeState([note(1, True), note(2, False)])
    state.read([note(1, True)])
    assert not state.degraded
    state.read([note(1, True), note(2, False), note(3, True)])
    assert state.degraded


@pytest.mark.parametrize(
    ("written_under", "holds"), [(Epoch(6, 1), True), (EPOCH, True), (Epoch(7, 0xB), False), (Epoch(8, 0xA), False)]
)
def test_what_a_later_primacy_wrote_is_no_leave_for_an_earlier_one(written_under: Epoch, holds: bool) -> None:
    state = DegradeState([note(1, True, written_under)])
    assert state.degraded
    assert state.degraded_under(EPOCH) is holds
    assert not DegradeState([note(1, True, written_under), note(2, False, written_under)]).degraded_under(EPOCH)
    assert not DegradeState().degraded_under(EPOCH)


def test_who_was_deposed_decides_nothing() -> None:
    state = DegradeState([note(1, True, Epoch(8, 1))])
    with pytest.raises(ReplicationError, match="epoch 8") as refused:
        state.next_note(EPOCH, "kv-1", 1, False, "")
    assert refused.value.code is Code.FENCED
