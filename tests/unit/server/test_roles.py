"""The part that a node begins with: what the register says, and nothing that was remembered."""

from __future__ import annotations

import pytest

from kvserver.base.register import EpochRecord
from kvserver.base.types import NO_EPOCH, Epoch, Position, Role
from kvserver.server.roles import decide


def epoch(number: int) -> Epoch:
    return Epoch(number, 100 + number)


def claimed(number: int, node: str) -> EpochRecord:
    return EpochRecord(epoch(number), f"id of {node}", 0, None, False, node)


def branched(number: int, node: str) -> EpochRecord:
    return claimed(number, node)._replace(branch=Position(NO_EPOCH, 1, b""))


def led(number: int, node: str) -> EpochRecord:
    return branched(number, node)._replace(begun=True)


def begins(*records: EpochRecord, promised: Epoch = NO_EPOCH, told: bool = False) -> Role:
    found = decide(records, "id of a", promised, told)
    assert found.why
    return found.role


def test_who_makes_the_cluster() -> None:
    assert begins() is Role.PRIMARY
    assert begins(told=True) is Role.FOLLOWER
    assert decide([led(1, "b")], "", NO_EPOCH, False).role is Role.FOLLOWER


@pytest.mark.parametrize("told", [False, True])
def test_the_last_to_lead_leads_again_unless_it_promised_to_obey_another(told: bool) -> None:
    assert begins(led(1, "b"), led(2, "a"), told=told) is Role.PRIMARY
    assert begins(led(1, "b"), led(2, "a"), promised=epoch(2), told=told) is Role.PRIMARY
    assert begins(led(1, "b"), led(2, "a"), promised=epoch(3), told=told) is Role.FOLLOWER
    assert begins(led(1, "a"), led(2, "b"), told=told) is Role.FOLLOWER
    assert begins(led(1, "a"), claimed(2, "b"), told=told) is Role.FOLLOWER


def test_a_start_that_died_behind_its_claim_is_gone_on_with() -> None:
    assert begins(claimed(1, "a")) is Role.PRIMARY
    assert begins(led(1, "a"), claimed(2, "a"), claimed(3, "a")) is Role.PRIMARY
    assert begins(led(1, "b"), branched(2, "a")) is Role.PRIMARY, "the branch comes behind the promises and the catch-up"
    assert begins(led(1, "b"), branched(2, "a"), claimed(3, "a")) is Role.PRIMARY


def test_a_promotion_that_died_behind_its_claim_makes_nobody_primary() -> None:
    """It has neither the promises of the others nor what they have that this node has not."""
    assert begins(led(1, "b"), claimed(2, "a")) is Role.FOLLOWER
    assert begins(led(1, "b"), claimed(2, "a"), promised=epoch(2)) is Role.FOLLOWER
    assert begins(led(1, "b"), claimed(2, "a"), claimed(3, "a"), promised=epoch(2)) is Role.FOLLOWER
    assert begins(led(1, "a"), claimed(2, "b"), claimed(3, "a")) is Role.FOLLOWER, "epoch 2 may begin in this moment"
    why = decide([led(1, "b"), claimed(2, "a")], "id of a", NO_EPOCH, False).why
    assert why == "b has claimed epoch 1, and this node's own promotion behind that, to epoch 2, came to nothing"
