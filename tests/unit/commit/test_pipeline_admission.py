"""Admission: what waits in line, in order, what is refused, and that nothing of it was carried out (invariant I5)."""

from __future__ import annotations

import errno

import pytest

from kvserver.base.errors import Code, Refused
from kvserver.base.limits import MAX_LOG_FRAME_BYTES, MIB
from kvserver.base.options import PipelineOptions
from kvserver.base.policy import MAX_MEMBERS, make_policy
from kvserver.commit.log_port import CLAIM_OVERHEAD
from kvserver.commit.pipeline import AnyTicket
from kvserver.commit.refusals import flush_refusal
from kvserver.commit.requests import Batch, CreateNamespace, Delete, DeleteSpan, Put, PutRun, ReadRun, SetPolicy, size_bytes
from kvserver.storage.flush_job import FlushFailed
from kvserver.storage.memtable import VERSION_OVERHEAD_BYTES
from kvserver.storage.ranges import EVERYTHING
from kvserver.wal.group_commit import Submission
from support.fake_log import Desk, outcome

PUT_BYTES = size_bytes(Put(1, b"k0", b"value"))
ONE_PUT = PUT_BYTES + CLAIM_OVERHEAD
"""The room that a small put needs to be admitted."""


def refusal(ticket: object) -> Code:
    error = outcome(ticket)  # type: ignore[arg-type]
    assert isinstance(error, Refused)
    assert error.hint
    return error.code


# Standing in line


def test_what_does_not_fit_waits_and_is_carried_out_in_order() -> None:
    desk = Desk(room_bytes=ONE_PUT)
    tickets = [desk.put(b"k%d" % number) for number in range(4)]
    assert (desk.marks.assigned, desk.pipeline.waiting, desk.pipeline.unwritten) == (2, 3, 1)
    for revision in range(2, 6):
        desk.log.room_bytes += ONE_PUT
        desk.durable()
        assert tickets[revision - 2].done
    assert [outcome(ticket).revision for ticket in tickets] == [2, 3, 4, 5]


def test_nothing_passes_those_who_wait() -> None:
    desk = Desk(room_bytes=ONE_PUT)
    desk.put(b"k0")
    large = desk.put(b"large", bytes(10_000))
    small = desk.put(b"k1")
    read = desk.read(b"large")
    assert (desk.pipeline.waiting, read.done) == (3, False)
    desk.log.room_bytes += 3 * ONE_PUT
    desk.durable()
    assert desk.pipeline.waiting == 3, "the small one would fit, but it is not its turn"
    desk.log.room_bytes += 20_000
    desk.pipeline.admit_waiting()
    assert desk.pipeline.waiting == 0
    desk.durable()
    assert (outcome(large).revision, outcome(small).revision) == (3, 4)
    assert outcome(read).versions[0].value == bytes(10_000)


def test_bytes_under_way_are_bounded() -> None:
    value = bytes(MIB - 1000)
    desk = Desk(PipelineOptions(max_unwritten_bytes=MAX_LOG_FRAME_BYTES))
    tickets = [desk.put(b"k%d" % number, value) for number in range(12)]
    under_way = [item.claimed_bytes for item in desk.log.queue if isinstance(item, Submission)]
    assert sum(under_way) <= MAX_LOG_FRAME_BYTES
    assert (desk.pipeline.unwritten, desk.pipeline.waiting) == (5, 7)
    desk.durable(1)
    assert (desk.pipeline.unwritten, desk.pipeline.waiting) == (5, 6)
    desk.settle()
    assert [outcome(ticket).revision for ticket in tickets] == list(range(2, 14))


def test_one_request_larger_than_what_may_be_under_way_goes_when_nothing_is() -> None:
    desk = Desk(PipelineOptions(max_unwritten_bytes=MAX_LOG_FRAME_BYTES))
    run = PutRun(1, [b"k%d" % number for number in range(6)], [bytes(MIB)] * 6)
    first, large = desk.put(b"a"), desk.submit(run)
    assert desk.pipeline.waiting == 1
    desk.settle()
    assert outcome(first).revision == 2
    assert outcome(large).first_revision == 3


def test_claims_are_given_back() -> None:
    desk = Desk(room_bytes=40 * ONE_PUT)
    for number in range(10):
        desk.put(b"k%d" % number)
        desk.read(b"k0")
        desk.put(b"k0", if_revision=0)
    desk.settle()
    assert (desk.pipeline.unwritten, desk.pipeline._unwritten_bytes, desk.pipeline._line.size_bytes) == (0, 0, 0)


@pytest.mark.parametrize(
    "request_",
    [
        Put(1, b"key", b"value"),
        Put(1, b"another key", b"", 0),
        Put(1, b"k" * 8192, bytes(MIB)),
        Delete(1, b"key"),
        Batch([Put(1, b"a", b"1", 0), Put(2, b"b", b"", 0), Delete(1, b"key"), Put(1, b"c", b"")]),
        CreateNamespace("x" * 255),
        SetPolicy(make_policy(1, [f"{number:02}" + "x" * 61 for number in range(MAX_MEMBERS)])),
        PutRun(1, [b"a", b"", b"ccc"], [b"", b"22", b"3"]),
        DeleteSpan(1, EVERYTHING),
    ],
    ids=lambda request: type(request).__name__,
)
def test_a_request_claims_at_least_what_its_commits_take(request_: Put) -> None:
    desk = Desk()
    desk.put(b"key")
    desk.settle()
    desk.log.written.clear()
    desk.submit(request_)
    desk.settle()
    (data,) = desk.log.written
    assert len(data) <= size_bytes(request_)


def test_reads_claim_nothing() -> None:
    assert size_bytes(ReadRun(1, [b"a" * 8192] * 100)) == 0
    desk = Desk(room_bytes=0)
    assert outcome(desk.read(b"a")).versions == [None]


def test_room_gained_at_the_last_moment_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The space keeper tells of new room when somebody waits; who is just about to stand in line does not yet."""
    desk = Desk(room_bytes=0)

    def gain_room() -> None:
        desk.log.room_bytes = 10 * ONE_PUT

    monkeypatch.setattr(desk.log, "space_error", gain_room)
    ticket = desk.put(b"a")
    assert desk.pipeline.waiting == 0, "nobody would ever look again"
    desk.settle()
    assert outcome(ticket).revision == 2


# Giving up


def test_who_gives_up_in_line_was_not_written() -> None:
    desk = Desk(room_bytes=ONE_PUT)
    desk.put(b"k0")
    given_up, kept = desk.put(b"k1"), desk.put(b"k2")
    assert given_up.waiting
    assert given_up.give_up() is True
    assert refusal(given_up) is Code.NOT_WRITTEN
    desk.log.room_bytes += 10 * ONE_PUT
    desk.settle()
    assert outcome(kept).revision == 3
    assert desk.state.memtable.newest(1, b"k1") is None
    assert len(desk.log.written) == 2
    assert desk.pipeline._line.size_bytes == 0


def test_who_gives_up_after_it_was_carried_out_gets_its_answer() -> None:
    desk = Desk()
    ticket = desk.put(b"a")
    assert ticket.give_up() is False
    desk.durable()
    assert outcome(ticket).revision == 2


# Refusals before anything was done


def test_a_line_that_is_full_refuses() -> None:
    desk = Desk(PipelineOptions(max_waiting=2), room_bytes=0)
    waiting = [desk.put(b"a"), desk.read(b"a")]
    refused = [desk.put(b"b"), desk.read(b"b")]
    assert [refusal(ticket) for ticket in refused] == [Code.OVERLOADED] * 2
    assert not any(ticket.done for ticket in waiting)
    assert desk.pipeline.refused == 2
    assert desk.marks.assigned == 1


def test_a_line_of_many_bytes_refuses() -> None:
    desk = Desk(PipelineOptions(max_waiting_bytes=2 * MIB), room_bytes=0)
    first, second = desk.put(b"a", bytes(MIB)), desk.put(b"b", bytes(MIB))
    assert not first.done
    assert refusal(second) is Code.OVERLOADED
    small = desk.put(b"c")
    assert not small.done
    desk.log.room_bytes = 10 * MIB
    desk.pipeline.admit_waiting()
    desk.settle()
    assert [outcome(ticket).revision for ticket in (first, small)] == [2, 3]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, Code.DISK_FULL),
        (errno.EDQUOT, Code.DISK_FULL),
        (errno.EROFS, Code.DISK_UNAVAILABLE),
        (errno.EMFILE, Code.DISK_UNAVAILABLE),
    ],
)
def test_without_room_and_hope_of_it_writes_are_refused_and_reads_go_on(number: int, code: Code) -> None:
    desk = Desk(room_bytes=2 * ONE_PUT)
    desk.log.error = OSError(number, "no")
    kept = [desk.put(b"k0"), desk.put(b"k1")]
    refused = desk.put(b"k2")
    assert refusal(refused) is code
    assert desk.marks.assigned == 3
    desk.settle()
    assert [outcome(ticket).revision for ticket in kept] == [2, 3]
    assert outcome(desk.read(b"k1")).versions[0].mod_revision == 3
    desk.log.error = None
    desk.log.room_bytes += 10 * ONE_PUT
    again = desk.put(b"k2")
    desk.settle()
    assert outcome(again).revision == 4


def test_those_who_wait_are_refused_when_hope_ends() -> None:
    desk = Desk(room_bytes=ONE_PUT)
    desk.put(b"k0")
    waits, small, read = desk.put(b"large", bytes(1000)), desk.put(b"k1"), desk.read(b"k0")
    desk.durable()
    desk.log.room_bytes = ONE_PUT
    desk.pipeline.admit_waiting()
    assert desk.pipeline.waiting == 3
    desk.log.error = OSError(errno.ENOSPC, "full")
    desk.pipeline.admit_waiting()
    assert refusal(waits) is Code.DISK_FULL
    desk.settle()
    assert outcome(small).revision == 3, "what still fits is carried out"
    assert outcome(read).versions[0].mod_revision == 2
    assert desk.pipeline.refused == 1


def test_a_write_that_waits_for_room_that_comes_is_not_refused() -> None:
    desk = Desk(room_bytes=ONE_PUT)
    desk.put(b"k0")
    desk.log.error = OSError(errno.ENOSPC, "full")
    desk.durable()
    desk.log.room_bytes = ONE_PUT
    waits = desk.put(b"k1")
    assert not waits.done
    desk.durable()
    assert outcome(waits).revision == 3


def full_desk() -> tuple[Desk, list[AnyTicket]]:
    """Return a desk whose memory holds three puts, and six puts that were submitted there; the log is idle."""
    desk = Desk(PipelineOptions(memory_limit_bytes=3 * (VERSION_OVERHEAD_BYTES + len(b"k0value"))))
    tickets = [desk.put(b"k%d" % number) for number in range(6)]
    desk.settle()
    return desk, tickets


def flushed(desk: Desk) -> None:
    """Pretend that all that memory holds went into a table."""
    desk.state.view.freeze(desk.marks.assigned)
    desk.state.view.flushed()
    desk.pipeline.admit_waiting()


def test_memory_that_is_full_makes_writes_wait_in_line_until_it_is_flushed() -> None:
    desk, tickets = full_desk()
    assert [ticket.done for ticket in tickets] == [True] * 3 + [False] * 3
    assert (desk.marks.assigned, desk.pipeline.waiting, desk.pipeline.refused) == (4, 3, 0)
    read = desk.read(b"k5")
    assert not read.done, "it stands behind the writes of its stream"
    flushed(desk)
    desk.settle()
    assert outcome(read).versions[0].mod_revision == 7
    assert [outcome(ticket).revision for ticket in tickets] == list(range(2, 8))
    assert (desk.pipeline.waiting, desk.pipeline.refused) == (0, 0)


def test_what_is_frozen_and_not_flushed_counts_as_memory() -> None:
    desk, _ = full_desk()
    desk.state.view.freeze(desk.marks.assigned)
    desk.pipeline.admit_waiting()
    assert desk.pipeline.waiting == 3
    assert not desk.put(b"late").done


def test_reads_pass_a_full_memory_where_no_write_waits() -> None:
    desk = Desk(PipelineOptions(memory_limit_bytes=1))
    desk.put(b"k0")
    desk.settle()
    assert outcome(desk.read(b"k0")).versions[0].value == b"value"


@pytest.mark.parametrize(
    ("why", "code"),
    [
        (OSError(errno.ENOSPC, "full"), Code.DISK_FULL),
        (OSError(errno.EIO, "broken"), Code.TABLES_FAILED),
        (FlushFailed("the helper died"), Code.TABLES_FAILED),
    ],
)
def test_while_full_memory_cannot_be_flushed_writes_are_refused_and_then_go_on(why: Exception, code: Code) -> None:
    desk, tickets = full_desk()
    desk.log.flush_failure = flush_refusal(why)
    desk.pipeline.admit_waiting()
    assert [refusal(ticket) for ticket in tickets[3:]] == [code] * 3, "those who stood in line are told"
    assert refusal(desk.put(b"k9")) is code
    assert (desk.marks.assigned, desk.pipeline.waiting, desk.pipeline.refused) == (4, 0, 4)
    assert outcome(desk.read(b"k0")).versions[0].value == b"value"
    desk.log.flush_failure = None
    waits = desk.put(b"k9")
    assert not waits.done
    flushed(desk)
    desk.settle()
    assert outcome(waits).revision == 5


def test_a_flush_that_fails_refuses_nobody_while_memory_has_room() -> None:
    desk = Desk(PipelineOptions(memory_limit_bytes=MIB))
    desk.log.flush_failure = flush_refusal(OSError(errno.ENOSPC, "full"))
    ticket = desk.put(b"a")
    desk.settle()
    assert outcome(ticket).revision == 2


def test_a_memory_limit_of_zero_is_none() -> None:
    desk = Desk(PipelineOptions(memory_limit_bytes=0))
    ticket = desk.put(b"a", bytes(MIB))
    desk.settle()
    assert outcome(ticket).revision == 2


# Without overlap


def test_without_overlap_nothing_is_evaluated_while_a_group_is_under_way() -> None:
    desk = Desk(PipelineOptions(overlap=False))
    first, second, read = desk.put(b"a", b"1"), desk.put(b"a", b"2"), desk.read(b"a")
    assert (desk.marks.assigned, desk.pipeline.waiting) == (2, 2)
    newest = desk.state.memtable.newest(1, b"a")
    assert newest is not None
    assert newest[1] == b"1"
    desk.durable()
    assert first.done
    assert not second.done
    desk.settle()
    assert (outcome(second).revision, outcome(read).versions[0].value) == (3, b"2")


def test_without_overlap_reads_wait_too() -> None:
    desk = Desk(PipelineOptions(overlap=False))
    desk.put(b"a")
    read = desk.read(b"never")
    assert not read.done
    desk.durable()
    assert outcome(read).versions == [None]


def test_a_seal_does_not_wait_for_whoever_stands_in_line() -> None:
    desk = Desk(room_bytes=0)
    desk.put(b"a")
    desk.pipeline.request_seal()
    assert len(desk.log.queue) == 1, "under a load that never pauses it would never come"
