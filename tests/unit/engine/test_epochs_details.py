"""A lost position is told with the place where the histories part, for programs too."""

from __future__ import annotations

import pytest

from kvserver.base.errors import Code, RevisionError
from kvserver.base.types import NO_EPOCH, Epoch, Position
from kvserver.engine.epochs import EpochHistory

HISTORY = EpochHistory([(Epoch(1, 7), Position(NO_EPOCH, 1, b"")), (Epoch(2, 8), Position(Epoch(1, 7), 40, b""))])


def test_a_position_behind_the_branch_names_the_branch() -> None:
    HISTORY.require(1, 40)
    with pytest.raises(RevisionError) as lost:
        HISTORY.require(1, 41)
    assert lost.value.code is Code.HISTORY_LOST
    assert lost.value.details == {"next_epoch": "2", "branch_revision": "40"}


def test_an_unknown_epoch_has_no_branch_to_name() -> None:
    with pytest.raises(RevisionError) as lost:
        HISTORY.require(3, 1)
    assert lost.value.details == {}
