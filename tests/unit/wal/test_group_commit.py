"""Group commit: which submissions make a group, what comes back, and what a failure does to everything after it."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kvserver.base.events import Event, LogPoisoned
from kvserver.base.fs import read_file
from kvserver.base.options import WalOptions
from kvserver.wal import format as fmt
from kvserver.wal.group_commit import SEAL, GroupCommitter, GroupDone, Submission
from kvserver.wal.reader import SegmentReader
from kvserver.wal.recovery import list_segments
from support.clocks import ManualClock
from support.faultfs import Fault, FaultFileSystem, FaultPlan
from support.logs import PATHS, SMALL, Group, SmallLog, payload_of, recover_log
from support.memfs import MemoryFileSystem

PATIENCE_S = 60.0


class Committer:
    """A committer without a thread, and the groups it brought back."""

    def __init__(self, options: WalOptions = SMALL, *faults: Fault) -> None:
        self.disk = MemoryFileSystem()
        self.fs = FaultFileSystem(self.disk, FaultPlan(faults))
        self.clock = ManualClock()
        self.events: list[Event] = []
        self.done: list[GroupDone[str]] = []
        self.log = SmallLog(self.fs, options, self.clock).begin()
        self.queue: GroupCommitter[str] = GroupCommitter(self.log.writer, options, self.done.append, self.events.append)

    def submit(self, *names: str, value_bytes: int = 10) -> None:
        """Submit one put for each name."""
        for name in names:
            self.queue.submit(Submission(payload_of(name, value=bytes(value_bytes)), 1, name, 0))

    def wait(self, name: str) -> None:
        """Submit an answer that only waits."""
        self.queue.submit(Submission(b"", 0, name, 0))

    def waiters(self) -> list[list[str | None]]:
        """Return who was in each group that came back."""
        return [[submission.waiter for submission in done.submissions] for done in self.done]

    def kinds(self) -> list[bytes]:
        """Return the kinds of the frames in the last segment."""
        path = PATHS.segment(list_segments(self.disk, PATHS)[-1])
        return [frame.header.kind for frame in SegmentReader(path, read_file(self.disk, path)).frames()]


@pytest.fixture
def committer() -> Committer:
    return Committer()


# What makes a group


def test_what_arrived_meanwhile_is_one_group(committer: Committer) -> None:
    committer.submit("a", "b", "c")
    assert committer.done == []
    assert committer.queue.run_once() is True
    committer.submit("d")
    committer.queue.run_once()
    assert committer.waiters() == [["a", "b", "c"], ["d"]]
    assert [done.position.revision for done in committer.done] == [4, 5]
    assert recover_log(committer.disk).groups == [Group(2, 3, payload_of("a", "b", "c", value=bytes(10))),
                                                  Group(5, 1, payload_of("d", value=bytes(10)))]  # fmt: skip
    assert committer.queue.groups == 2


def test_a_submission_of_several_commits_counts_them_all(committer: Committer) -> None:
    committer.queue.submit(Submission(payload_of("a", "b", "c"), 3, "run", 0))
    committer.submit("d")
    committer.queue.run_once()
    (done,) = committer.done
    assert (done.position, done.error, done.control) == (committer.log.writer.position, None, None)
    assert done.position.revision == 5


def test_a_group_that_is_full_leaves_the_next_submission_to_the_next_group(committer: Committer) -> None:
    size = len(payload_of("a", value=bytes(900)))
    assert 2 * size < SMALL.max_group_bytes < 3 * size
    committer.submit("a", "b", "c", "d", "e", value_bytes=900)
    committer.submit("f")
    for _ in range(3):
        committer.queue.run_once()
    assert committer.waiters() == [["a", "b"], ["c", "d"], ["e", "f"]]


def test_a_submission_larger_than_a_group_goes_alone(committer: Committer) -> None:
    committer.submit("a")
    committer.submit("large", value_bytes=SMALL.max_group_bytes + 1)
    committer.wait("joins it")
    committer.submit("b")
    for _ in range(3):
        committer.queue.run_once()
    assert committer.waiters() == [["a"], ["large", "joins it"], ["b"]]


def test_a_group_is_filled_to_the_last_byte(committer: Committer) -> None:
    head = len(payload_of("a", value=b""))
    committer.submit("a", "b", value_bytes=SMALL.max_group_bytes // 2 - head)
    committer.submit("c", value_bytes=0)
    committer.queue.run_once()
    assert committer.waiters() == [["a", "b"]]


def test_without_grouping_each_submission_is_a_group() -> None:
    committer = Committer(dataclasses.replace(SMALL, grouping=False))
    committer.submit("a", "b")
    committer.wait("c")
    while committer.queue.run_once():
        pass
    assert committer.waiters() == [["a"], ["b"], ["c"]]
    assert committer.kinds() == [fmt.GROUP, fmt.GROUP, fmt.MARK]


# Answers that only wait


def test_an_answer_that_waits_takes_its_place_in_the_group(committer: Committer) -> None:
    committer.submit("a")
    committer.wait("b")
    committer.submit("c")
    committer.queue.run_once()
    assert committer.waiters() == [["a", "b", "c"]]


def test_an_answer_that_waits_joins_a_group_that_is_full(committer: Committer) -> None:
    committer.submit("a", "b", value_bytes=900)
    committer.wait("w")
    committer.submit("c", value_bytes=900)
    committer.queue.run_once()
    assert committer.waiters() == [["a", "b", "w"]]


def test_only_answers_that_wait_write_nothing(committer: Committer) -> None:
    committer.submit("a")
    committer.queue.run_once()
    before = committer.disk.contents()
    committer.wait("b")
    committer.wait("c")
    committer.queue.run_once()
    assert committer.waiters()[1:] == [["b", "c"]]
    assert committer.done[1].position.revision == 2
    assert committer.disk.contents() == before


# Idleness


def test_idleness_behind_a_group_writes_one_mark(committer: Committer) -> None:
    assert committer.queue.run_once() is False
    assert committer.kinds() == []
    committer.submit("a")
    committer.queue.run_once()
    for _ in range(3):
        assert committer.queue.run_once() is False
    assert committer.kinds() == [fmt.GROUP, fmt.MARK]
    committer.wait("b")
    committer.queue.run_once()
    committer.queue.run_once()
    assert committer.kinds() == [fmt.GROUP, fmt.MARK]
    assert len(committer.done) == 2, "a mark is nobody's answer"


# Controls


def test_a_seal_comes_between_two_groups(committer: Committer) -> None:
    committer.submit("a")
    committer.queue.submit(SEAL)
    committer.submit("b")
    committer.clock.advance_ms(SMALL.seal_age_ms)
    while committer.log.space.step():
        pass
    for _ in range(3):
        assert committer.queue.run_once() is True
    assert [done.control for done in committer.done] == [None, SEAL, None]
    assert committer.waiters() == [["a"], [], ["b"]]
    assert committer.queue.groups == 2
    assert [info.end.revision for info in committer.log.writer.sealed] == [2]


def test_a_seal_whose_time_has_not_come_is_answered_and_does_nothing(committer: Committer) -> None:
    committer.submit("a")
    committer.queue.run_once()
    committer.queue.submit(SEAL)
    committer.queue.run_once()
    assert committer.done[1].control is SEAL
    assert committer.log.writer.sealed == []


def test_an_empty_segment_is_not_sealed_by_age(committer: Committer) -> None:
    while committer.log.space.step():
        pass
    committer.clock.advance_ms(10 * SMALL.seal_age_ms)
    committer.queue.submit(SEAL)
    committer.queue.run_once()
    assert committer.log.writer.sealed == []


def test_stopping_writes_what_was_handed_over_first(committer: Committer) -> None:
    committer.submit("a", "b")
    committer.queue.stop()
    committer.submit("late")
    while committer.queue.run_once():
        pass
    assert committer.waiters() == [["a", "b"]]


# Failure


def written(committer: Committer) -> tuple[dict[Path, bytes], int]:
    return committer.disk.contents(), committer.fs.counts["pwrite"]


@pytest.mark.parametrize("kind", ["pwrite", "datasync"])
def test_everything_after_a_failure_comes_back_with_it_and_nothing_is_written(kind: str) -> None:
    opening = SMALL.ahead_bytes // SMALL.fill_step_bytes + 1
    committer = Committer(SMALL, Fault(kinds={kind}, at=opening + 2))  # type: ignore[arg-type]
    committer.submit("a")
    committer.queue.run_once()
    committer.submit("b", "c")
    committer.queue.run_once()
    error = committer.queue.error
    assert isinstance(error, OSError)
    before = written(committer)
    committer.submit("d", "e", value_bytes=1500)
    committer.wait("f")
    committer.queue.submit(SEAL)
    committer.submit("g")
    while committer.queue.run_once():
        pass
    assert written(committer) == before, "something was written after the failure"
    assert committer.waiters() == [["a"], ["b", "c"], ["d"], ["e", "f"], [], ["g"]]
    assert [done.error for done in committer.done] == [None, *[error] * 5]
    assert [type(event) for event in committer.events] == [LogPoisoned]
    assert committer.done[-1].position.revision == 2


def test_a_failure_in_an_idle_moment_is_told_at_once() -> None:
    opening = SMALL.ahead_bytes // SMALL.fill_step_bytes + 1
    committer = Committer(SMALL, Fault(kinds={"datasync"}, at=opening + 2))
    committer.submit("a")
    committer.queue.run_once()
    committer.queue.run_once()
    assert [done.error is None for done in committer.done] == [True, False]
    assert committer.queue.error is committer.done[1].error
    assert committer.queue.run_once() is False
    assert len(committer.done) == 2


def test_any_other_error_is_a_failure_too(committer: Committer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the thread would be gone and everyone would wait for ever."""

    def out_of_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(committer.log.writer, "write_group", out_of_memory)
    committer.submit("a")
    committer.queue.run_once()
    assert committer.waiters() == [["a"]]
    assert all(isinstance(done.error, MemoryError) for done in committer.done)
    assert committer.events == [LogPoisoned("MemoryError()")]


def test_a_failure_while_sealing_is_a_failure() -> None:
    committer = Committer(SMALL, Fault(kinds={"sync"}))
    committer.submit("a")
    committer.queue.run_once()
    committer.clock.advance_ms(SMALL.seal_age_ms)
    while committer.log.space.step():
        pass
    committer.queue.submit(SEAL)
    committer.submit("b")
    committer.queue.run_once()
    committer.queue.run_once()
    errors = [done.error for done in committer.done]
    assert errors[0] is None
    assert errors[1:] == [committer.queue.error] * 2
    assert committer.waiters() == [["a"], [], ["b"]]


# On a thread of its own


class Running:
    """A committer on its thread over an undisturbed disk, and how many answers each waiter got."""

    def __init__(self, options: WalOptions = SMALL) -> None:
        self.disk = MemoryFileSystem()
        self.log = SmallLog(self.disk, options).begin()
        self.answered: list[int] = []
        self.sizes: list[int] = []
        self.ends: list[int] = []
        self.enough = threading.Event()
        self.wanted = 0
        self.queue: GroupCommitter[int] = GroupCommitter(self.log.writer, options, self._deliver)
        self.log.space.start()
        self.queue.start()

    def _deliver(self, done: GroupDone[int]) -> None:
        assert done.error is None
        self.answered.extend(item.waiter for item in done.submissions if item.waiter is not None)
        self.sizes.append(len(done.submissions))
        self.ends.append(done.position.revision)
        if len(self.answered) >= self.wanted:
            self.enough.set()

    def close(self) -> None:
        self.queue.stop()
        self.log.space.close()


def test_fifty_thousand_submissions_are_answered_once_each_in_order_and_are_in_the_file() -> None:
    count = 50_000
    running = Running(WalOptions(segment_bytes=12 << 20, seal_age_ms=0))
    running.wanted = count
    keys = [b"%08d" % number for number in range(count)]
    payloads = [payload_of(key.decode(), value=b"") for key in keys]
    for number, payload in enumerate(payloads):
        waits_only = number % 10 == 9
        running.queue.submit(Submission(b"" if waits_only else payload, int(not waits_only), number, 0))
    assert running.enough.wait(PATIENCE_S)
    running.close()
    assert running.answered == list(range(count))
    assert running.ends == sorted(running.ends)
    assert sum(running.sizes) == count
    running.disk.kill()
    found = recover_log(running.disk)
    written = b"".join(group.payload for group in found.groups)
    assert written == b"".join(payload for number, payload in enumerate(payloads) if number % 10 != 9)
    assert found.log.position.revision == 1 + count * 9 // 10 == running.ends[-1]


def wait_until(holds: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(int(PATIENCE_S * 1000)):
        if holds():
            return
        pause.wait(0.001)
    raise AssertionError("it did not come about")


def test_the_thread_writes_the_idle_mark_and_wakes_for_new_work() -> None:
    running = Running()
    for round_number in range(3):
        running.queue.submit(Submission(payload_of("a"), 1, round_number, 0))
        wait_until(lambda: running.log.writer.segment.ends_with_mark and running.queue.groups == round_number + 1)  # noqa: B023
    running.close()
    assert running.answered == [0, 1, 2]
    path = running.log.writer.segment.path
    kinds = [frame.header.kind for frame in SegmentReader(path, read_file(running.disk, path)).frames()]
    assert kinds == [fmt.GROUP, fmt.MARK] * 3
