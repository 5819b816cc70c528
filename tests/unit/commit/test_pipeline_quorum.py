"""Under a policy with a quorum: nothing is shown, told or flushed before the quorum has it, and all of it then, in order."""

from __future__ import annotations

import functools

import pytest

from kvserver.base.errors import Code, ConditionFailed
from kvserver.base.policy import make_policy
from kvserver.base.types import Position
from kvserver.commit.pipeline import AnyTicket
from kvserver.commit.requests import Committed, Found, PutRun
from support.fake_log import Desk, outcome

TWO = make_policy(2, ["a", "b", "c"])


@pytest.fixture
def desk() -> Desk:
    """A desk whose policy waits for a quorum that has all there is so far."""
    desk = Desk()
    desk.replicated(1)
    return desk


def seen(desk: Desk, key: bytes) -> bytes | None:
    version = desk.state.memtable.get(1, key, desk.marks.visible)
    return version.value if version else None


# What waits


def test_what_is_durable_is_not_shown_before_the_quorum_has_it(desk: Desk) -> None:
    ticket = desk.put(b"a")
    desk.durable()
    assert (desk.marks.durable, desk.marks.visible, ticket.done, seen(desk, b"a")) == (2, 1, False, None)
    desk.replicated(2)
    assert (desk.marks.visible, seen(desk, b"a")) == (2, b"value")
    assert outcome(ticket) == Committed(2, 2, 1, 0)


def test_what_the_quorum_has_is_not_shown_before_it_is_durable_here(desk: Desk) -> None:
    ticket = desk.put(b"a")
    desk.replicated(2)
    assert (desk.marks.visible, ticket.done) == (1, False)
    desk.durable()
    assert (desk.marks.visible, ticket.done) == (2, True)


def test_a_group_is_told_when_all_of_it_is_visible(desk: Desk) -> None:
    tickets = [desk.put(b"a"), desk.put(b"b"), desk.put(b"c")]
    desk.durable()
    desk.replicated(3)
    assert desk.marks.visible == 3
    assert not any(ticket.done for ticket in tickets)
    desk.replicated(4)
    assert [outcome(ticket).revision for ticket in tickets] == [2, 3, 4]


def test_answers_without_a_commit_wait_for_what_they_show(desk: Desk) -> None:
    desk.put(b"a")
    refused, read, absent = desk.put(b"a", if_revision=0), desk.read(b"a"), desk.delete(b"never")
    assert absent.done, "a key that never was shows nothing that is not visible"
    desk.durable()
    assert not (refused.done or read.done)
    later = desk.read(b"a")
    desk.durable()
    assert not later.done
    desk.replicated(2)
    assert isinstance(outcome(refused), ConditionFailed)
    assert [outcome(ticket).versions[0].value for ticket in (read, later)] == [b"value"] * 2


def test_a_read_of_what_is_visible_waits_for_nobody(desk: Desk) -> None:
    desk.put(b"a")
    desk.durable()
    desk.replicated(2)
    desk.put(b"b")
    desk.durable()
    read = desk.read(b"a")
    assert isinstance(outcome(read), Found)


def test_all_is_told_in_the_order_of_submission(desk: Desk) -> None:
    told: list[int] = []
    for number in range(30):
        ticket = desk.put(b"k%d" % (number % 3)) if number % 4 else desk.read(b"k1", b"k2", b"k0")
        ticket.on_done(functools.partial(told.append, number))
    told.clear()
    for count in (5, 1, 9, 4, 11):
        desk.durable(count)
    assert told == []
    for revision in (3, 4, 12, 15, 40):
        desk.replicated(revision)
    assert told == list(range(1, 30))


def test_what_a_callback_makes_visible_is_told_behind_the_rest(desk: Desk) -> None:
    """Whoever hears of an answer may be the one who knows what the quorum has."""
    told: list[int] = []
    first, second, third = desk.put(b"a"), desk.put(b"b"), desk.put(b"c")
    desk.durable(2)
    desk.durable()
    first.on_done(lambda: desk.replicated(4))
    for number, ticket in enumerate((first, second, third)):
        ticket.on_done(functools.partial(told.append, number)) if ticket is not first else None
    desk.replicated(3)
    assert told == [1, 2]


def test_a_memory_write_is_told_at_once_and_shown_with_the_quorum(desk: Desk) -> None:
    ticket = desk.put(b"a", memory=True)
    assert ticket.done
    desk.durable()
    assert (desk.marks.visible, seen(desk, b"a")) == (1, None)
    desk.replicated(2)
    assert seen(desk, b"a") == b"value"


def test_who_waits_for_a_revision_waits_for_the_quorum_or_for_the_disk_alone(desk: Desk) -> None:
    desk.put(b"a")
    visible, durable = desk.pipeline.when_visible(2), desk.pipeline.when_durable(2)
    assert not durable.done
    desk.durable()
    assert (durable.answer(), visible.done) == (2, False)
    assert desk.pipeline.when_durable(2).answer() == 2
    assert outcome(desk.pipeline.when_durable(3)).code is Code.FUTURE_REVISION
    desk.replicated(2)
    assert visible.answer() == 2


def test_who_waits_for_a_revision_waits_for_no_more_than_that(desk: Desk) -> None:
    for key in (b"a", b"b", b"c"):
        desk.put(key)
    second, first, last = (desk.pipeline.when_visible(revision) for revision in (3, 2, 4))
    desk.durable()
    desk.replicated(2)
    assert (first.done, second.done) == (True, False)
    desk.replicated(3)
    assert (second.done, last.done) == (True, False)
    desk.replicated(None)
    assert last.done


def test_who_waits_for_a_revision_is_told_also_when_the_quorum_is_given_up_meanwhile(desk: Desk) -> None:
    desk.put(b"a")
    waits = desk.pipeline.when_visible(2)
    desk.replicated(None)
    assert not waits.done
    desk.durable()
    assert waits.done


def test_who_waits_for_the_disk_is_told_without_a_quorum_too() -> None:
    desk = Desk()
    written = desk.put(b"a")
    ticket = desk.pipeline.when_durable(2)
    desk.durable()
    assert (ticket.answer(), outcome(written).revision) == (2, 2)


def test_a_callback_that_raises_keeps_no_other_answer_back(desk: Desk) -> None:
    first, second = desk.put(b"a"), desk.put(b"b")
    desk.durable(1)
    desk.durable()

    def fail() -> None:
        raise RuntimeError("a fault of the caller's")

    first.on_done(fail)
    with pytest.raises(RuntimeError):
        desk.replicated(3)
    assert second.done
    third = desk.put(b"c")
    desk.durable()
    desk.replicated(4)
    assert third.done


def test_a_run_that_is_cut_by_the_quorum_is_shown_as_far_as_that_goes(desk: Desk) -> None:
    ticket: AnyTicket = desk.submit(PutRun(1, [b"a", b"b", b"c"], [b"1", b"2", b"3"]))
    desk.durable()
    desk.replicated(3)
    assert [seen(desk, key) for key in (b"a", b"b", b"c")] == [b"1", b"2", None]
    assert not ticket.done


# The quorum comes and goes


def test_when_no_quorum_is_waited_for_any_more_all_that_is_durable_is_told(desk: Desk) -> None:
    first = desk.put(b"a")
    desk.durable()
    second = desk.put(b"b")
    desk.replicated(None)
    assert (first.done, second.done, desk.marks.visible) == (True, False, 2)
    desk.durable()
    assert second.done


def test_what_is_visible_stays_so_when_the_quorum_has_less(desk: Desk) -> None:
    for key in (b"a", b"b"):
        desk.put(key)
    desk.durable()
    desk.replicated(3)
    desk.replicated(2)
    ticket = desk.put(b"c")
    desk.durable()
    desk.replicated(3)
    assert (desk.marks.visible, ticket.done) == (3, False)
    assert desk.pipeline.when_visible(3).done
    desk.replicated(4)
    assert ticket.done


def test_a_quorum_that_is_waited_for_from_now_on_takes_nothing_back() -> None:
    desk = Desk()
    desk.put(b"a")
    desk.durable()
    desk.replicated(0)
    assert desk.marks.visible == 2
    ticket = desk.put(b"b")
    desk.durable()
    assert not ticket.done
    desk.replicated(3)
    assert ticket.done


def test_whoever_watches_is_told_that_more_is_visible(desk: Desk) -> None:
    calls: list[int] = []
    desk.pipeline.on_visible = lambda: calls.append(desk.marks.visible)
    desk.put(b"a")
    desk.durable()
    desk.replicated(1)
    desk.replicated(2)
    desk.replicated(2)
    assert calls == [2]


# Cuts, seals, the archive


def test_a_cut_is_told_when_all_before_it_is_visible(desk: Desk) -> None:
    cuts: list[Position] = []
    desk.pipeline.on_cut = cuts.append
    desk.put(b"a")
    desk.pipeline.request_cut()
    later = desk.put(b"b")
    desk.settle()
    assert cuts == []
    desk.replicated(2)
    assert [position.revision for position in cuts] == [2]
    assert not later.done
    desk.pipeline.request_cut()
    desk.settle()
    desk.replicated(3)
    assert [position.revision for position in cuts] == [2, 3]
    desk.pipeline.request_cut()
    desk.settle()
    assert [position.revision for position in cuts] == [2, 3, 3], "nothing to wait for"


def test_a_seal_waits_for_no_quorum(desk: Desk) -> None:
    desk.put(b"a")
    assert desk.pipeline.request_seal()
    desk.settle()
    behind = desk.put(b"b")
    desk.durable()
    assert (desk.marks.durable, behind.done) == (3, False)


def test_the_archive_takes_nothing_that_is_not_visible(desk: Desk) -> None:
    desk.put(b"a")
    desk.durable()
    with pytest.raises(ValueError, match="2 cannot be archived"):
        desk.marks.move_archived(2)
    desk.replicated(2)
    desk.marks.move_archived(2)
