"""The epoch history: which (epoch, revision) a node has seen, and the branch at which another one left it."""

from __future__ import annotations

import pytest

from kvserver.base.errors import Code, RevisionError
from kvserver.base.types import NO_EPOCH, Epoch, Position
from kvserver.engine.epochs import EpochHistory

ONE, TWO, FIVE = Epoch(1, 11), Epoch(2, 22), Epoch(5, 55)
HISTORY = EpochHistory(
    [
        (ONE, Position(NO_EPOCH, 1, bytes(16))),
        (TWO, Position(ONE, 10, bytes(16))),
        (FIVE, Position(TWO, 10, bytes(16))),
    ]
)


def test_the_newest_epoch_is_the_current_one() -> None:
    assert HISTORY.current == FIVE


@pytest.mark.parametrize(("epoch", "revision"), [(1, 1), (1, 10), (2, 10), (2, 3), (5, 10), (5, 11), (5, 10**9)])
def test_what_is_part_of_history_passes(epoch: int, revision: int) -> None:
    HISTORY.require(epoch, revision)


@pytest.mark.parametrize(
    ("epoch", "revision", "where"),
    [
        (1, 11, "epoch 2 follows it from revision 10 on"),
        (2, 11, "epoch 5 follows it from revision 10 on"),
        (3, 5, "newest epoch is 5"),
        (6, 5, "newest epoch is 5"),
        (0, 1, "newest epoch is 5"),
    ],
)
def test_what_is_not_is_refused_with_the_branch(epoch: int, revision: int, where: str) -> None:
    with pytest.raises(RevisionError) as refused:
        HISTORY.require(epoch, revision)
    assert refused.value.code is Code.HISTORY_LOST
    assert f"epoch {epoch}, revision {revision} is not part of" in refused.value.message
    assert where in refused.value.message
    assert refused.value.hint


def test_it_grows_when_an_epoch_is_begun_behind_it() -> None:
    history = EpochHistory([])
    assert history.current == NO_EPOCH
    assert not history.knows(0)
    history.extend(ONE, Position(NO_EPOCH, 1, bytes(16)))
    history.extend(FIVE, Position(ONE, 10, bytes(16)))
    history.extend(FIVE, Position(ONE, 10, bytes(16)))
    assert [epoch for epoch, _ in history.epochs] == [ONE, FIVE]
    assert [history.knows(number) for number in (0, 1, 3, 5, 6)] == [False, True, True, True, False]
    for wrong in (TWO, Epoch(5, 56)):
        with pytest.raises(ValueError, match="was before it"):
            history.extend(wrong, Position(ONE, 10, bytes(16)))


def test_it_learns_what_leads_up_to_it_and_nothing_else() -> None:
    history = EpochHistory([(FIVE, Position(TWO, 10, bytes(16)))])
    strange = (Epoch(3, 33), Position(ONE, 7, bytes(16)))
    history.learn([*HISTORY.epochs, strange])
    assert history.epochs == HISTORY.epochs
    history.learn(HISTORY.epochs)
    assert history.epochs == HISTORY.epochs
    other = EpochHistory([(FIVE, Position(Epoch(2, 23), 10, bytes(16)))])
    other.learn(HISTORY.epochs)
    assert [epoch for epoch, _ in other.epochs] == [FIVE]
    empty = EpochHistory([])
    empty.learn(HISTORY.epochs)
    assert empty.epochs == []
