"""The marks and their order."""

from __future__ import annotations

import pytest

from kvserver.commit.marks import Marks


def marks(assigned: int, applied: int, durable: int, visible: int) -> Marks:
    made = Marks(1)
    made.assigned, made.applied, made.durable, made.visible = assigned, applied, durable, visible
    return made


def test_all_marks_begin_where_the_log_ends() -> None:
    made = Marks(7)
    assert (made.assigned, made.applied, made.durable, made.visible) == (7, 7, 7, 7)
    made.check()


def test_what_is_visible_follows_what_is_durable_and_applied() -> None:
    made = marks(9, 9, 5, 5)
    made.move_durable(8)
    assert (made.durable, made.visible) == (8, 8)
    behind = marks(9, 6, 5, 5)
    behind.move_durable(8)
    assert (behind.durable, behind.visible) == (8, 6)
    behind.check()


@pytest.mark.parametrize(
    "wrong", [(5, 6, 5, 5), (5, 5, 6, 5), (6, 5, 6, 6), (6, 6, 5, 6)], ids=["applied", "durable", "unapplied", "not durable"]
)
def test_an_order_that_does_not_hold_is_found_and_told(wrong: tuple[int, int, int, int]) -> None:
    with pytest.raises(AssertionError, match="assigned="):
        marks(*wrong).check()


def test_nothing_is_in_tables_that_is_not_visible() -> None:
    made = Marks(7, flushed=7)
    made.check()
    made.flushed = 8
    with pytest.raises(AssertionError, match="flushed=8"):
        made.check()


def test_nothing_is_archived_that_is_not_visible() -> None:
    made = Marks(7)
    made.move_archived(5)
    made.move_archived(3)
    assert made.archived == 5
    made.check()
    with pytest.raises(ValueError, match="8 cannot be archived; the newest that is visible is 7"):
        made.move_archived(8)
    made.archived = 8
    with pytest.raises(AssertionError, match="archived=8"):
        made.check()
