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


def test_what_a_former_primary_archived_counts_once_it_is_shown() -> None:
    made = Marks(7, waits=True)
    made.move_archived(5)
    assert (made.visible, made.archived) == (1, 1)
    made.check()
    made.move_replicated(4)
    assert (made.visible, made.archived) == (4, 4)
    made.move_replicated(7)
    assert (made.visible, made.archived) == (7, 5)
    made.check()
    with pytest.raises(ValueError, match="8 cannot be archived"):
        made.move_archived(8)


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


# What the quorum has


def test_what_is_visible_waits_for_the_quorum_where_one_is_waited_for() -> None:
    made = marks(9, 9, 5, 5)
    made.move_replicated(6)
    made.move_durable(8)
    assert (made.durable, made.visible) == (8, 6)
    made.move_replicated(9)
    assert made.visible == 8
    made.move_replicated(None)
    made.move_durable(9)
    assert made.visible == 9
    made.check()


def test_what_the_quorum_has_may_fall_and_what_is_visible_never_does() -> None:
    made = marks(9, 9, 8, 8)
    made.move_replicated(3)
    assert (made.replicated, made.visible) == (3, 8)
    made.move_durable(9)
    assert made.visible == 8
    made.check()


def test_a_quorum_cannot_have_what_was_not_given_out() -> None:
    made = marks(9, 9, 8, 8)
    made.move_replicated(100)
    assert made.replicated == 9
    made.assigned = made.applied = made.durable = 20
    made.move_durable(20)
    assert made.visible == 9
    made.replicated = 21
    with pytest.raises(AssertionError, match="replicated=21"):
        made.check()


def test_visible_past_the_quorum_is_found() -> None:
    made = marks(9, 9, 8, 5)
    made.move_replicated(5)
    made.visible = 6
    with pytest.raises(AssertionError, match="visible=6"):
        made.check()


def test_at_an_open_that_waits_only_what_is_in_tables_was_surely_shown() -> None:
    made = Marks(9, flushed=4, waits=True)
    assert (made.assigned, made.applied, made.durable, made.visible, made.flushed, made.opened) == (9, 9, 9, 4, 4, 9)
    made.move_durable(9)
    assert made.visible == 4
    made.check()
    made.move_replicated(9)
    assert made.visible == 9
