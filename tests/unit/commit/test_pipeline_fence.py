"""A deposed primary (invariant I7): nothing is evaluated, shown or acknowledged any more, and everybody is told what is true."""

from __future__ import annotations

import functools

import pytest

from kvserver.base.errors import Code, NotPrimary, NotServing, OutcomeUnknown
from kvserver.base.types import Position
from kvserver.commit.refusals import repeated
from kvserver.commit.requests import Committed, CompactHistory, Found
from support.fake_log import Desk, outcome

DEPOSED = NotPrimary("10.0.0.2:7400")


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    desk.put(b"old")
    desk.durable()
    return desk


def is_deposed(error: object) -> bool:
    return isinstance(error, NotPrimary) and error.details == {"primary": "10.0.0.2:7400"} and error is not DEPOSED


def test_everybody_is_told_what_is_true(desk: Desk) -> None:
    desk.replicated(2)
    kept, kept_read = desk.put(b"a"), desk.read(b"a")
    desk.durable()
    under_way, waits_only = desk.put(b"b"), desk.pipeline.when_visible(4)
    on_disk = desk.pipeline.when_durable(4)
    desk.pipeline.request_seal()
    in_line = [desk.put(b"c"), desk.read(b"a")]
    gave_up = desk.put(b"d")
    gave_up.give_up()
    desk.pipeline.fence(DEPOSED)
    assert isinstance(outcome(kept), OutcomeUnknown)
    assert all(is_deposed(outcome(ticket)) for ticket in (kept_read, on_disk, *in_line))
    assert outcome(gave_up).code is Code.NOT_WRITTEN
    assert not under_way.done, "its bytes are on their way"
    desk.settle()
    assert isinstance(outcome(under_way), OutcomeUnknown)
    assert is_deposed(outcome(waits_only))
    assert desk.failures == [], "the process goes on"


def test_nothing_is_carried_out_after_it(desk: Desk) -> None:
    desk.pipeline.fence(DEPOSED)
    before = (desk.marks.assigned, desk.pipeline.commits, list(desk.log.queue))
    tickets = [desk.put(b"c"), desk.put(b"c", memory=True), desk.delete(b"old"), desk.read(b"old"), desk.put(b"x", if_revision=9)]
    tickets.append(desk.submit(CompactHistory(2)))
    tickets.append(desk.pipeline.read_now(tickets[3].request, lambda found: found))
    assert all(is_deposed(outcome(ticket)) for ticket in tickets)
    assert desk.pipeline.request_seal() is False
    desk.pipeline.admit_waiting()
    assert (desk.marks.assigned, desk.pipeline.commits, list(desk.log.queue)) == before
    assert desk.state.memtable.newest(1, b"c") is None


@pytest.mark.parametrize("waited_for", [True, False])
def test_what_comes_back_is_durable_and_not_shown_whatever_the_quorum_has(desk: Desk, waited_for: bool) -> None:
    if waited_for:
        desk.replicated(2)
    ticket = desk.put(b"a")
    desk.pipeline.fence(DEPOSED)
    desk.durable()
    desk.replicated(3)
    desk.replicated(None)
    assert (desk.marks.durable, desk.marks.visible) == (3, 2)
    assert isinstance(outcome(ticket), OutcomeUnknown)


def test_reads_at_what_is_visible_go_on(desk: Desk) -> None:
    desk.put(b"new")
    desk.pipeline.fence(DEPOSED)
    assert desk.pipeline.when_visible(2).answer() == 2
    assert is_deposed(outcome(desk.pipeline.when_visible(3)))
    (version,) = desk.reader.read(1, [b"old"], 2).answer()
    assert version is not None
    assert version.value == b"value"


def test_what_was_told_stays_told(desk: Desk) -> None:
    memory, read = desk.put(b"a", memory=True), desk.read(b"old")
    desk.pipeline.fence(DEPOSED)
    desk.durable()
    assert outcome(memory) == Committed(3, 3, 1, 0)
    assert isinstance(outcome(read), Found)


def test_twice_does_no_harm_and_the_last_word_counts(desk: Desk) -> None:
    ticket = desk.put(b"a")
    desk.pipeline.fence(NotPrimary())
    desk.pipeline.fence(DEPOSED)
    desk.durable()
    desk.pipeline.fence(DEPOSED)
    assert isinstance(outcome(ticket), OutcomeUnknown)
    assert is_deposed(outcome(desk.put(b"b")))


def test_a_seal_under_way_ends_and_no_other_begins(desk: Desk) -> None:
    desk.pipeline.request_seal()
    desk.pipeline.fence(DEPOSED)
    desk.settle()
    assert not desk.pipeline.request_seal(now=True)


def test_a_cut_is_told_only_where_all_before_it_is_visible(desk: Desk) -> None:
    cuts: list[Position] = []
    desk.pipeline.on_cut = cuts.append
    desk.pipeline.request_cut()
    desk.pipeline.fence(DEPOSED)
    desk.settle()
    assert [position.revision for position in cuts] == [2]
    other = Desk()
    other.pipeline.on_cut = cuts.append
    other.put(b"a")
    other.pipeline.request_cut()
    other.pipeline.fence(DEPOSED)
    other.settle()
    assert len(cuts) == 1


def test_a_failed_log_is_worse(desk: Desk) -> None:
    ticket = desk.put(b"a")
    desk.pipeline.fence(DEPOSED)
    error = desk.fail()
    assert isinstance(outcome(ticket), OutcomeUnknown)
    assert (desk.pipeline.failure, desk.failures) == (error, [error])
    desk.pipeline.fence(DEPOSED)
    assert outcome(desk.put(b"b")).code is Code.LOG_FAILED


def test_what_is_kept_for_the_quorum_is_unknown_when_the_log_fails(desk: Desk) -> None:
    desk.replicated(2)
    kept, read = desk.put(b"a"), desk.read(b"a")
    desk.durable()
    under_way = desk.put(b"b")
    desk.fail()
    desk.replicated(3)
    assert isinstance(outcome(kept), OutcomeUnknown)
    assert isinstance(outcome(under_way), OutcomeUnknown)
    assert outcome(read).code is Code.LOG_FAILED
    assert desk.marks.visible == 2


def test_a_callback_that_asks_again_is_refused(desk: Desk) -> None:
    later = []
    desk.replicated(2)
    desk.put(b"a").on_done(lambda: later.append(desk.put(b"b")))
    desk.durable()
    desk.pipeline.fence(DEPOSED)
    assert [is_deposed(outcome(ticket)) for ticket in later] == [True]


def test_a_callback_that_fences_ends_the_telling(desk: Desk) -> None:
    desk.replicated(2)
    first, second = desk.put(b"a"), desk.put(b"b")
    desk.durable(1)
    desk.durable()
    first.on_done(functools.partial(desk.pipeline.fence, DEPOSED))
    desk.replicated(4)
    assert outcome(first) == Committed(3, 3, 1, 0)
    assert isinstance(outcome(second), OutcomeUnknown), "it was not told yet, and nobody is told success any more"


@pytest.mark.parametrize("error", [NotPrimary("h:1"), NotPrimary(), NotServing("stopping"), OutcomeUnknown()])
def test_an_error_for_one_caller_is_the_same_and_its_own(error: NotPrimary) -> None:
    own = repeated(error)
    assert type(own) is type(error)
    assert (vars(own), str(own)) == (vars(error), str(error))
    own.details["more"] = "of this caller"
    assert "more" not in error.details
