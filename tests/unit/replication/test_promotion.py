"""A promotion step by step: what it refuses and why, and what two candidates do to each other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from kvserver.base import failpoints
from kvserver.base.errors import Corruption, ReplicationError
from kvserver.base.policy import ASYNC, Policy
from kvserver.base.register import NodeRecord, PolicyNote
from kvserver.base.types import Epoch, LogEnd
from support.fault_store import StoreFault
from unit.replication.promotion_cluster import Cluster, Entry
from unit.replication.promotion_kit import TWO_OF_THREE, epochs, last, promises, quorum, refused, refused_untouched


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.disarm_all()


# The whole of it


async def test_a_promotion_takes_its_steps_in_order_and_says_so() -> None:
    cluster = quorum()
    cluster["a"].kill()
    steps = await cluster.promote("c")
    assert [step.step for step in steps] == ["look", "claim", "promises", "catch-up", "branch", "serve"]
    end = last(steps)
    assert (end.epoch.number, end.revision, end.lost_from, end.lost_upto) == (2, 3, 0, 0)
    record = cluster.register.records()[-1]
    assert (record.epoch, record.node, record.begun) == (end.epoch, "c", True)
    assert record.branch is not None and record.branch.revision == 3
    assert cluster["c"].values == [1, 2, 3] and promises(cluster) == {"a": 0, "b": 2, "c": 2}
    assert "a: a cannot be reached" in steps[0].message and "nothing that was acknowledged is lost" in end.message


async def test_what_is_primary_already_is_said() -> None:
    cluster = quorum()
    step = last(await cluster.promote("a"))
    assert step.done and "primary already" in step.message and (step.epoch.number, step.revision) == (1, 4)
    assert epochs(cluster) == [1]


async def test_a_switch_while_the_primary_lives_loses_nothing_and_fences_it() -> None:
    for policy in (TWO_OF_THREE, ASYNC):
        cluster = quorum(policy)
        step = last(await cluster.promote("b"))
        assert (step.revision, step.lost_from) == (4, 0)
        assert cluster["a"].is_fenced and not cluster.replicate(cluster["a"], [])


async def test_a_fenced_primary_is_promoted_again() -> None:
    cluster = quorum()
    cluster["a"].vow.promise(Epoch(2, 5))  # a candidate asked, and died
    step = last(await cluster.promote("a"))
    assert (step.epoch.number, step.revision) == (3, 4) and not cluster["a"].is_fenced


async def test_a_primary_whose_followers_obey_a_claim_that_came_to_nothing_is_promoted_again() -> None:
    cluster = quorum()
    cluster.register.claim(Epoch(2, 5), NodeRecord("b", "id-b", "b"), 0)
    cluster["b"].vow.promise(Epoch(2, 5))  # and b died before it asked anybody
    step = last(await cluster.promote("a"))
    assert (step.epoch.number, step.revision, step.lost_from) == (3, 4, 0)
    assert promises(cluster) == {"a": 3, "b": 3, "c": 3}


async def test_every_connection_is_let_go_of() -> None:
    cluster = quorum()
    cluster["a"].kill()
    await cluster.promote("c")
    assert cluster.closed == 2 + 2 + 1  # looks, promises, and the dead one once more behind the catch-up


# Refused at once


@pytest.mark.parametrize("state", ["EMPTY", "RESTORING", "FAILED"])
async def test_a_node_without_whole_data_is_refused_whatever_is_accepted(state: str) -> None:
    cluster = quorum()
    cluster["b"].state = state
    await refused_untouched(cluster, "b", "no whole copy|has failed", accept_loss=True)


async def test_a_node_that_changes_its_part_is_refused() -> None:
    cluster = quorum()
    cluster["b"].role = "none"
    await refused_untouched(cluster, "b", "changing its part")


async def test_a_node_that_lost_what_it_acknowledged_is_refused() -> None:
    cluster = quorum()
    cluster["b"].lose(1)
    cluster["a"].kill()
    await refused_untouched(cluster, "b", "up to revision 3")
    assert last(await cluster.promote("b", accept_loss=True)).lost_from == 3


async def test_without_the_register_nobody_is_promoted() -> None:
    cluster = quorum()
    cluster.store.add(StoreFault(forever=True))
    error = await refused(cluster, "b", "cannot be used", accept_loss=True)
    cluster.store.heal()
    assert epochs(cluster) == [1] and promises(cluster) == {"a": 0, "b": 0, "c": 0} and "reachable" in error.hint


async def test_a_register_that_does_not_check_is_corruption() -> None:
    cluster = quorum()
    cluster.store.inner.objects["epochs/00000001.branch"] = b"{}"  # type: ignore[attr-defined]
    cluster.register._whole.clear()
    with pytest.raises(Corruption):
        await cluster.promote("b")


# Quorums


async def test_without_a_quorum_it_is_refused_before_anything_is_changed() -> None:
    cluster = quorum()
    cluster.isolate("c")
    error = await refused_untouched(cluster, "c", "2 of a, b, c must promise, and only c did")
    assert "a: a cannot be reached; b: b cannot be reached" in error.message and "--accept-loss" in error.hint


async def test_a_loss_that_is_accepted_is_named_as_a_range() -> None:
    cluster = quorum()
    cluster["b"].heard_revision = cluster["c"].heard_revision = 4
    cluster.isolate("c")
    step = last(await cluster.promote("c", accept_loss=True))
    assert (step.revision, step.lost_from, step.lost_upto) == (2, 3, 4)
    assert "revisions 3 to 4 may be lost" in step.message and "17 ms ago" in step.message


async def test_a_quorum_that_is_lost_behind_the_claim_is_refused_and_tells_how_to_go_on() -> None:
    cluster = quorum()
    cluster["a"].kill()
    failpoints.arm("promotion.after_claim", lambda: cluster.isolate("b"))
    error = await refused(cluster, "c", "only c did")
    assert "epoch 2, which stays claimed" in error.message and "kvctl -E c:7400 promote" in error.hint
    assert cluster["c"].stood_down == 1 and promises(cluster)["c"] == 2
    cluster.cuts.clear()
    failpoints.disarm_all()
    assert last(await cluster.promote("c")).epoch.number == 3


async def test_who_lost_something_counts_for_no_quorum() -> None:
    cluster = quorum()
    cluster["b"].lose(1)
    cluster["a"].kill()
    error = await refused(cluster, "c", "only c did")  # a description does not say it: only the promise does
    assert "b: it lacks something that it had acknowledged" in error.message


async def test_a_node_made_anew_under_its_old_name_counts_for_no_quorum() -> None:
    cluster = quorum()
    cluster["a"].kill()
    cluster["b"].record = cluster["b"].record._replace(node_id="another")
    error = await refused_untouched(cluster, "c", "only c did")
    assert "b: it was made anew" in error.message


async def test_who_stands_outside_the_policy_counts_for_no_quorum_but_helps() -> None:
    cluster = quorum(Policy(2, ("a", "b")), "abc")
    cluster["a"].kill()
    step = last(await cluster.promote("c"))  # b alone is the quorum of promises: 2 - 2 + 1
    assert step.revision == 3 and step.lost_from == 0
    cluster = quorum(Policy(2, ("a", "b")), "abc")
    cluster["a"].kill()
    cluster["b"].kill()
    await refused_untouched(cluster, "c", "none of them did")


async def test_a_member_that_never_joined_is_named() -> None:
    cluster = quorum(Policy(2, ("a", "b", "ghost")))
    cluster["a"].kill()
    error = await refused_untouched(cluster, "b", "only b did")
    assert "ghost: it never joined" in error.message


async def test_a_stranger_at_an_address_does_not_count() -> None:
    cluster = quorum()
    cluster["a"].kill()
    cluster.register.join(NodeRecord("b", "id-b", "c:7400"))  # the address of the candidate itself
    error = await refused_untouched(cluster, "c", "only c did")
    assert "answers this node itself" in error.message


async def test_a_policy_learned_on_the_way_is_held_to() -> None:
    """c does not know yet that d and e are members now; what it learns from b asks for more promises than it had needed."""
    cluster = Cluster("abcde", TWO_OF_THREE)
    nodes = cluster.nodes
    new = Policy(3, ("a", "b", "c", "d", "e"))
    cluster.write(nodes["a"], [nodes["b"], nodes["d"]], new)
    cluster.write(nodes["a"], [nodes["b"], nodes["d"]])
    for name in "ade":
        nodes[name].kill()
    error = await refused(cluster, "c", "3 of a, b, c, d, e must promise")
    assert cluster["c"].revision == 3 and "claimed" in error.message
    nodes["d"].restart()
    assert last(await cluster.promote("c")).revision == 3


async def test_a_quorum_that_was_given_up_is_no_proof() -> None:
    cluster = quorum()
    cluster.register.add_note(PolicyNote(1, Epoch(1, 1), "a", 5, True, "b burns"))
    cluster["a"].kill()
    error = await refused_untouched(cluster, "c", "gave the quorum up")
    assert "b burns" in error.message
    cluster.register.add_note(PolicyNote(2, Epoch(1, 1), "a", 6, False, ""))
    assert last(await cluster.promote("c")).lost_from == 0


@pytest.mark.parametrize("step", ["look", "claim", "promises", "catch-up"])
async def test_a_quorum_that_is_given_up_meanwhile_is_no_proof_either(step: str) -> None:
    """What the former primary notes before it can see the claim is in force; the notes are read again behind it."""
    cluster = quorum()
    cluster["a"].kill()
    with pytest.raises(ReplicationError, match="gave the quorum up"):
        async for done in cluster.promotion("c"):
            if done.step == step:
                cluster.register.add_note(PolicyNote(1, Epoch(1, 1), "a", 5, True, "b burns"))
    assert not cluster["c"].takeovers and cluster.register.records()[-1].branch is None


# Asynchronous


async def test_under_an_asynchronous_policy_what_may_be_lost_is_said() -> None:
    cluster = quorum(ASYNC)
    cluster["a"].kill()
    cluster["c"].heard_revision = 4
    step = last(await cluster.promote("c"))
    assert (step.revision, step.lost_from, step.lost_upto) == (3, 4, 4)
    assert "a, primary of epoch 1, was not heard" in step.message


async def test_where_nobody_heard_of_more_the_range_is_open() -> None:
    cluster = quorum(ASYNC)
    cluster["a"].kill()
    step = last(await cluster.promote("b"))
    assert (step.revision, step.lost_from, step.lost_upto) == (3, 4, 3)
    assert "may be lost, nobody has heard of any" in step.message


async def test_the_promise_of_the_former_primary_means_that_nothing_is_lost() -> None:
    cluster = quorum(ASYNC)
    cluster["a"].kill()
    cluster["a"].restart()
    cluster.isolate("b")
    step = last(await cluster.promote("c"))
    assert (step.revision, step.lost_from) == (4, 0) and cluster["c"].values == cluster["a"].values


# Catching up


async def test_a_log_that_cannot_be_fetched_is_refused_or_its_loss_accepted() -> None:
    for accepted in (False, True):
        cluster = quorum()
        cluster["a"].kill()
        failpoints.arm("promotion.after_promises", cluster["b"].kill)
        if not accepted:
            error = await refused(cluster, "c", "revision 3 of b cannot be fetched")
            assert "promote b" in error.hint and cluster["c"].stood_down == 1
        else:
            step = last(await cluster.promote("c", accept_loss=True))
            assert (step.revision, step.lost_from, step.lost_upto) == (2, 3, 3)


async def test_a_log_that_came_only_in_part_is_not_caught_up_with() -> None:
    cluster = quorum()
    cluster["a"].kill()
    c, asked = cluster["c"], list[str]()

    async def breaks(address: str, end: LogEnd) -> None:
        assert not asked, "it was taken for the whole, and found to be short only with the next look"
        asked.append(address)
        c.adopt(cluster["b"].log[: len(c.log)])

    c.catch_up = breaks  # type: ignore[method-assign]
    await refused(cluster, "c", "b: its log came only up to revision 2")
    assert c.takeovers == [] and c.stood_down == 1


async def test_a_history_that_parted_is_not_caught_up_with_and_not_taken_over() -> None:
    cluster = quorum(ASYNC)
    cluster["a"].kill()
    cluster["a"].restart()  # revision 4, and nobody else has it
    cluster.isolate("a")
    await cluster.promote("b")
    cluster.write(cluster["b"], [])
    cluster.cuts.clear()
    await refused(cluster, "a", "cannot be fetched .b: the histories have parted")
    cluster["b"].kill()
    error = await refused(cluster, "a", "epoch 2 began behind revision 3, and its log went on to 4 in epoch 1")
    assert "--accept-loss" in error.hint
    error = await refused(cluster, "c", "epoch 2 began behind revision 3, and its log ends at 2")


# Epochs


async def test_a_node_that_obeys_a_higher_epoch_is_named() -> None:
    cluster = quorum()
    failpoints.arm("promotion.after_own_promise", lambda: cluster["b"].vow.promise(Epoch(7, 7)) and None)
    await refused(cluster, "c", "b has promised to obey epoch 7")


async def test_a_candidate_that_obeys_a_higher_epoch_itself_asks_nobody() -> None:
    cluster = quorum()
    failpoints.arm("promotion.after_claim", lambda: cluster["c"].vow.promise(Epoch(7, 7)) and None)
    await refused(cluster, "c", "it has promised to obey epoch 7 itself")
    assert promises(cluster) == {"a": 0, "b": 0, "c": 7}


async def test_the_claim_is_above_everything_that_was_promised() -> None:
    cluster = quorum()
    cluster["b"].vow.promise(Epoch(7, 7))
    assert last(await cluster.promote("c")).epoch.number == 8


async def test_an_equal_number_with_another_nonce_halts() -> None:
    cluster = quorum()
    failpoints.arm("promotion.after_own_promise", lambda: cluster["b"].vow.promise(Epoch(2, 7)) and None)
    await refused(cluster, "c", "b has promised to obey another epoch 2")
    cluster = quorum()
    b = cluster["b"]
    b.log[1:] = [Entry(Epoch(1, 7), entry.value) for entry in b.log[1:]]
    await refused_untouched(cluster, "c", "the log of b ends in an epoch 1 with another nonce")


async def test_a_log_in_an_epoch_that_nobody_claimed_halts() -> None:
    cluster = quorum()
    cluster["b"].log.append(Entry(Epoch(5, 5), 0))
    await refused_untouched(cluster, "c", "ends in epoch 5, of which the register knows nothing")


async def test_of_two_that_claim_one_number_one_is_refused_by_the_name_of_the_other() -> None:
    cluster = quorum()
    stranger = cluster["b"].record
    failpoints.arm("promotion.after_look", lambda: cluster.register.claim(Epoch(2, 9), stranger, 0))
    error = await refused(cluster, "c", "b has claimed epoch 2")
    assert "cluster status" in error.hint and promises(cluster) == {"a": 0, "b": 0, "c": 0}


@pytest.mark.parametrize("place", ["promotion.after_claim", "promotion.after_promises", "promotion.after_catch_up"])
async def test_a_later_claim_overtakes_until_the_branch(place: str) -> None:
    cluster = quorum()
    failpoints.arm(place, lambda: cluster.register.claim(Epoch(3, 9), cluster["b"].record, 0))
    await refused(cluster, "c", "b has claimed epoch 3")
    assert cluster["c"].takeovers == []


async def test_a_later_promise_overtakes_until_the_branch() -> None:
    cluster = quorum()
    failpoints.arm("promotion.after_catch_up", lambda: cluster["c"].vow.promise(Epoch(3, 9)) and None)
    await refused(cluster, "c", "promised to obey epoch 3 meanwhile")


async def test_two_candidates_at_once_end_with_one_line_of_history() -> None:
    for waits in range(40):
        cluster = quorum()
        cluster["a"].kill()

        async def turn() -> None:
            await asyncio.sleep(0)

        cluster.between = turn

        async def promote(name: str, delay: int, cluster: Cluster = cluster) -> str:
            for _ in range(delay):
                await asyncio.sleep(0)
            try:
                await cluster.promote(name)
            except ReplicationError:
                return "refused"
            return name

        await asyncio.gather(promote("b", 0), promote("c", waits))
        numbers = [epoch.number for node in cluster.nodes.values() for epoch in node.takeovers]
        assert len(numbers) == len(set(numbers)) and numbers
        newest = max(cluster.nodes.values(), key=lambda node: node.epoch)
        assert newest.values[:3] == [1, 2, 3]
        for number in numbers:
            record = cluster.register.records()[number - 1]
            assert record.branch is not None and any(entry.epoch == record.epoch for entry in newest.log)
