"""When the log thread lets a group wait for company: behind a crowd of small submissions, and never otherwise."""

from __future__ import annotations

import pytest

from kvserver.base.options import WalOptions
from kvserver.wal.group_commit import CROWD, GroupCommitter, GroupDone, Submission
from support.campaign import SMALL
from support.clocks import ManualClock
from support.logs import SmallLog, payload_of
from support.memfs import MemoryFileSystem


class Desk:
    """A committer whose clock stands still unless it waits itself."""

    def __init__(self, options: WalOptions = SMALL) -> None:
        self.clock = ManualClock(auto_advance=True)
        log = SmallLog(MemoryFileSystem(), options, self.clock).begin()
        self.done: list[GroupDone[str]] = []
        self.queue: GroupCommitter[str] = GroupCommitter(log.writer, options, self.done.append, clock=self.clock)

    def waited_ms(self, submissions: int, value_bytes: int = 10) -> float:
        """Write one group, then return how long the next one is kept waiting."""
        for number in range(submissions):
            self.queue.submit(Submission(payload_of(f"k{number}", value=bytes(value_bytes)), 1, "waiter", 0))
        self.queue.run_once()
        begin = self.clock.monotonic()
        self.queue._await_crowd()
        return (self.clock.monotonic() - begin) * 1000


@pytest.mark.parametrize(("submissions", "expected_ms"), [(1, 0), (CROWD - 1, 0), (CROWD, 2.4), (15, 3), (30, 4)])
def test_the_wait_grows_with_the_crowd_up_to_the_window(submissions: int, expected_ms: float) -> None:
    assert Desk().waited_ms(submissions) == pytest.approx(expected_ms, abs=0.01)


def test_large_submissions_are_no_crowd() -> None:
    big = WalOptions()
    assert Desk(big).waited_ms(CROWD, value_bytes=5000) == 0
    assert Desk(big).waited_ms(CROWD, value_bytes=50) > 0


@pytest.mark.parametrize(("pace_ms", "submissions", "expected_ms"), [(25, 1, 25), (25, 30, 25), (3, 30, 4), (0, 1, 0)])
def test_a_pace_that_was_asked_for_holds_for_every_group(pace_ms: int, submissions: int, expected_ms: float) -> None:
    desk = Desk()
    desk.queue.pace_ms = pace_ms
    assert desk.waited_ms(submissions) == pytest.approx(expected_ms, abs=0.01)


def test_answers_without_commits_are_not_paced() -> None:
    desk = Desk()
    desk.queue.pace_ms = 100
    desk.queue.submit(Submission(b"", 0, "reader", 0))
    desk.queue.run_once()
    begin = desk.clock.monotonic()
    desk.queue._await_crowd()
    assert desk.clock.monotonic() == begin


def test_a_window_of_0_is_none() -> None:
    options = WalOptions(
        segment_bytes=SMALL.segment_bytes,
        max_group_bytes=SMALL.max_group_bytes,
        max_frame_bytes=SMALL.max_frame_bytes,
        ahead_bytes=SMALL.ahead_bytes,
        fill_step_bytes=SMALL.fill_step_bytes,
        group_window_ms=0,
    )
    assert Desk(options).waited_ms(30) == 0
