"""What waits for the policy's quorum is bounded: then requests wait in line, and are refused by name where that is full."""

from __future__ import annotations

from kvserver.base.errors import Code, KvError, NotServing, OutcomeUnknown, Refused
from kvserver.base.options import PipelineOptions
from kvserver.commit.requests import ReadRun
from support.fake_log import Desk, outcome


def test_while_too_many_answers_are_kept_requests_wait_in_line_and_go_on_in_order() -> None:
    desk = Desk(PipelineOptions(max_unreplicated=3))
    desk.replicated(1)
    kept = [desk.put(b"k%d" % number) for number in range(3)]
    desk.durable()
    waits, reads = desk.put(b"k3"), desk.read(b"k0")
    assert (desk.pipeline.waiting, desk.marks.assigned) == (2, 4)
    assert not desk.pipeline.read_now(ReadRun(1, [b"k0"]), lambda found: found).done
    desk.replicated(4)
    assert [outcome(ticket).revision for ticket in kept] == [2, 3, 4]
    desk.settle()
    desk.replicated(5)
    assert (outcome(waits).revision, outcome(reads).versions[0].mod_revision) == (5, 2)
    assert desk.pipeline.waiting == 0


def test_bytes_kept_are_bounded_also_of_writes_that_nobody_waits_for() -> None:
    desk = Desk(PipelineOptions(max_unreplicated_bytes=10_000))
    desk.replicated(1)
    desk.put(b"a", bytes(6_000), memory=True)
    desk.durable()
    first = desk.put(b"b", bytes(6_000))
    desk.durable()
    waits = desk.put(b"c")
    assert desk.pipeline.waiting == 1
    desk.replicated(2)
    assert desk.pipeline.waiting == 0
    desk.settle()
    desk.replicated(4)
    assert [outcome(ticket).revision for ticket in (first, waits)] == [3, 4]


def test_what_reads_found_counts() -> None:
    desk = Desk(PipelineOptions(max_unreplicated_bytes=20_000))
    desk.replicated(1)
    desk.put(b"a", bytes(8_000))
    reads = [desk.read(b"a"), desk.read(b"a")]
    desk.durable()
    assert not desk.put(b"b").done
    assert desk.pipeline.waiting == 1
    desk.replicated(2)
    assert all(read.done for read in reads)
    assert desk.pipeline.waiting == 0


def test_a_full_line_is_refused_by_the_policys_name_and_says_who_is_missing() -> None:
    desk = Desk(PipelineOptions(max_unreplicated=1, max_waiting=1))
    desk.pipeline.why_unmet = lambda: "2 of 3 members needed; kv-2 does not acknowledge"
    desk.replicated(1)
    desk.put(b"a")
    desk.durable()
    waits = desk.put(b"b")
    for refused in (desk.put(b"c"), desk.read(b"a"), desk.pipeline.when_visible(2)):
        error = outcome(refused)
        assert isinstance(error, Refused)
        assert error.code is Code.POLICY_UNMET
        assert "kv-2 does not acknowledge" in error.message
        assert "kvctl cluster" in error.hint
    assert not waits.done
    assert waits.give_up()
    assert outcome(waits).code is Code.NOT_WRITTEN
    desk.replicated(2)
    assert desk.marks.assigned == 2


def test_without_a_quorum_nothing_is_kept_whatever_the_bounds() -> None:
    desk = Desk(PipelineOptions(max_unreplicated=1, max_unreplicated_bytes=1))
    tickets = [desk.put(b"k%d" % number) for number in range(5)]
    desk.durable()
    assert all(ticket.done for ticket in tickets)
    assert desk.pipeline.waiting == 0


def test_what_was_kept_is_given_back() -> None:
    desk = Desk()
    desk.replicated(1)
    for number in range(20):
        desk.put(b"k%d" % number, memory=number % 3 == 0)
        desk.read(b"k%d" % number)
        desk.durable(number % 2 + 1)
    desk.settle()
    assert desk.pipeline._showing.answers > 0
    desk.replicated(21)
    assert (desk.pipeline._showing.answers, desk.pipeline._showing.size_bytes) == (0, 0)


def test_errors_are_told_to_each_caller_as_its_own() -> None:
    desk = Desk(PipelineOptions(max_unreplicated=1, max_waiting=1))
    desk.replicated(1)
    desk.put(b"a")
    desk.durable()
    desk.put(b"b")
    first, second = outcome(desk.put(b"c")), outcome(desk.put(b"c"))
    assert isinstance(first, KvError)
    assert first is not second


# A node that stops


def test_a_node_that_stops_keeps_nobody_waiting_for_the_quorum() -> None:
    desk = Desk(PipelineOptions(max_unreplicated=2))
    desk.replicated(1)
    kept, read = desk.put(b"a"), desk.read(b"a")
    waits = desk.pipeline.when_visible(2)
    desk.durable()
    in_line = desk.put(b"b")
    desk.pipeline.close()
    assert isinstance(outcome(kept), OutcomeUnknown)
    assert all(isinstance(outcome(ticket), NotServing) for ticket in (read, waits, in_line))


def test_what_comes_back_while_a_node_stops_is_told_as_it_is() -> None:
    desk = Desk()
    shown = desk.put(b"a")
    desk.pipeline.close()
    desk.durable()
    assert outcome(shown).revision == 2
    desk.replicated(2)
    hidden = desk.put(b"b")
    desk.durable()
    assert isinstance(outcome(hidden), OutcomeUnknown)
    desk.pipeline.close()
    assert (desk.marks.durable, desk.marks.visible) == (3, 2)
