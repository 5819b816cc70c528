"""What a promotion that fails or dies leaves, what becomes of one whose caller hangs up, and one that is only to be seen."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kvserver.base import failpoints
from kvserver.base.errors import Code, NotServing, ReplicationError
from kvserver.base.policy import ASYNC
from kvserver.base.types import Epoch
from unit.replication.promotion_cluster import Killed
from unit.replication.promotion_kit import epochs, last, promises, quorum, refused, refused_untouched

PLACES = [name for name in failpoints.REPLICATION_NAMES if name.startswith("promotion.")]


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.disarm_all()


@pytest.mark.parametrize("error", [NotServing(), OSError(28, "No space left on device"), ReplicationError(Code.FENCED, "no")])
async def test_a_take_over_that_fails_stands_down_and_can_be_tried_again(error: Exception) -> None:
    cluster = quorum()
    cluster["c"].fails = error
    refusal = await refused(cluster, "c", "cannot be opened as primary")
    assert cluster["c"].stood_down == 1 and "try again" in refusal.hint
    assert cluster.register.records()[-1].branch is None
    assert last(await cluster.promote("c")).epoch.number == 3


async def test_a_promise_that_cannot_be_kept_ends_it() -> None:
    cluster = quorum()

    def fail() -> None:
        raise OSError(28, "No space left on device")

    failpoints.arm("vow.after_write", fail)
    await refused(cluster, "c", "its own promise cannot be kept")
    assert promises(cluster) == {"a": 0, "b": 0, "c": 0} and cluster["c"].stood_down == 1


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("next_one", ["b", "c"])
async def test_wherever_a_candidate_dies_another_one_or_itself_goes_on(place: str, next_one: str) -> None:
    cluster = quorum()
    cluster["a"].kill()

    def kill() -> None:
        failpoints.disarm_all()
        raise Killed

    failpoints.arm(place, kill)
    with pytest.raises(Killed):
        await cluster.promote("c")
    assert cluster["c"].stood_down == 0 or cluster["c"].alive is False
    cluster["c"].restart()
    step = last(await cluster.promote(next_one))
    assert cluster[next_one].values[:3] == [1, 2, 3] and step.lost_from == 0
    assert step.epoch.number == epochs(cluster)[-1] == (2 if place == "promotion.after_look" else 3)


async def test_a_caller_that_has_heard_the_outcome_and_hangs_up_ends_nothing() -> None:
    cluster = quorum()
    steps = cluster.promotion("b")
    async for step in steps:
        if step.done:
            break
    await steps.aclose()  # type: ignore[attr-defined]
    assert cluster["b"].role == "primary" and cluster["b"].stood_down == 0


async def test_a_caller_that_hangs_up_before_the_outcome_has_it_stand_down() -> None:
    cluster = quorum()
    steps = cluster.promotion("b")
    async for step in steps:
        if step.step == "promises":
            break
    await steps.aclose()  # type: ignore[attr-defined]
    assert cluster["b"].role == "follower" and cluster["b"].stood_down == 1


# Only to see


async def test_a_dry_run_changes_nothing_and_says_what_would_happen() -> None:
    cluster = quorum(ASYNC)
    cluster["a"].kill()
    cluster["c"].heard_revision = 4
    before = dict(cluster.store.inner.objects)  # type: ignore[attr-defined]
    (step,) = await cluster.promote("c", dry_run=True)
    assert (step.done, step.epoch, step.revision) == (True, Epoch(2, 0), 3)
    assert (step.lost_from, step.lost_upto) == (4, 4)
    assert "would catch up with b" in step.message and "nothing was changed" in step.message
    assert cluster.store.inner.objects == before and promises(cluster) == {"a": 0, "b": 0, "c": 0}  # type: ignore[attr-defined]
    assert cluster["c"].stood_down == 0


async def test_a_dry_run_is_refused_as_the_promotion_would_be() -> None:
    cluster = quorum()
    cluster.isolate("c")
    await refused_untouched(cluster, "c", "only c did", dry_run=True)
