"""The fault seams expose every wrong log, and find nothing wrong with the right one."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Sequence

import pytest

from support.crashes import CrashPoint, all_states, count_states, record_crash_points, sampled_states
from support.faultfs import Fault, FaultFileSystem, FaultPlan, ProcessKilled, failing_calls
from support.memfs import MemoryFileSystem
from support.recordfs import CHANGING, RecordingFileSystem
from support.toylog import LOG, ROOT, BadLog, Bug, ToyLog

Recording = RecordingFileSystem[MemoryFileSystem]
Scenario = Callable[[Recording, frozenset[Bug]], None]

RIGHT: frozenset[Bug] = frozenset()
RECORDS = [b"first", b"second " * 100, b"3"]


def fresh_disk() -> MemoryFileSystem:
    disk = MemoryFileSystem()
    disk.make_dir(ROOT)
    return disk


def appends(fs: Recording, bugs: frozenset[Bug]) -> None:
    log = ToyLog(fs, fs.mark, bugs)
    for record in RECORDS:
        log.append(record)
    log.close()


def killed_before_a_sync(fs: Recording, bugs: frozenset[Bug]) -> None:
    """Write, die before the sync, start again on the same page cache, go on."""
    log = ToyLog(fs, fs.mark, bugs)
    log.append(RECORDS[0])
    log.close()
    dying = FaultFileSystem(fs, FaultPlan([Fault(kinds={"datasync"}, kills=True)]))
    with pytest.raises(ProcessKilled):
        ToyLog(dying, fs.mark, bugs).append(RECORDS[1])
    fs.inner.kill()
    log = ToyLog(fs, fs.mark, bugs)
    assert log.records == RECORDS[:2]
    log.append(RECORDS[2])


def failed_sync(fs: Recording, bugs: frozenset[Bug]) -> None:
    """Let a sync fail; whoever notices ends, starts again and goes on."""
    log = ToyLog(fs, fs.mark, bugs)
    log.append(RECORDS[0])
    fs.inner.fail_next_sync(path=LOG)
    try:
        log.append(RECORDS[1])
    except OSError:
        fs.inner.kill()
        log = ToyLog(fs, fs.mark, bugs)
    log.append(RECORDS[2])


SCENARIOS: Sequence[Scenario] = (appends, killed_before_a_sync, failed_sync)


def violation(disk: MemoryFileSystem, point: CrashPoint, bugs: frozenset[Bug]) -> str | None:
    """Open the log on what is left; return what is wrong with it."""
    try:
        found = ToyLog(disk, lambda *_: None, bugs).records
    except BadLog as error:
        return str(error)
    attempted = point.marks("attempt")
    promised = max((1 + attempted.index(record) for record in point.marks("ack") + point.marks("shown")), default=0)
    if found != attempted[: len(found)]:
        return f"holds what was never appended: {found}"
    if len(found) < promised:
        return f"lost {attempted[len(found) : promised]}"
    return None


def campaign(scenario: Scenario, bugs: frozenset[Bug], ordered_names: bool = True) -> tuple[int, list[str]]:
    """Return how many states were looked at, and the violations."""
    disk = fresh_disk()
    looked_at = 0
    wrong: list[str] = []
    for point in record_crash_points(disk, lambda fs: scenario(fs, bugs)):
        for state in all_states(point.disk, ordered_names=ordered_names):
            looked_at += 1
            problem = violation(state.disk, point, bugs)
            if problem:
                wrong.append(f"after {point.entries[-1:]}: {problem}\n  {state}")
    return looked_at, wrong


@pytest.mark.parametrize("ordered_names", [True, False])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_right_log_is_right_in_every_state(scenario: Scenario, ordered_names: bool) -> None:
    looked_at, wrong = campaign(scenario, RIGHT, ordered_names)
    assert wrong == []
    assert looked_at > 100


EXPOSED_BY: dict[Bug, Scenario] = {
    Bug.ACK_BEFORE_SYNC: appends,
    Bug.NO_DIRECTORY_SYNC: appends,
    Bug.RENAME_BEFORE_SYNC: appends,
    Bug.NO_CHECKSUM: appends,
    Bug.SHOW_BEFORE_DURABLE: killed_before_a_sync,
    Bug.RETRY_SYNC: failed_sync,
    Bug.SYNC_WITHOUT_REWRITE: failed_sync,
}


@pytest.mark.parametrize("bug", Bug)
def test_every_wrong_log_is_exposed(bug: Bug) -> None:
    _, wrong = campaign(EXPOSED_BY[bug], frozenset({bug}))
    assert wrong


@pytest.mark.parametrize("bug", Bug)
def test_samples_expose_every_wrong_log_too(bug: Bug) -> None:
    bugs = frozenset({bug})
    rng = random.Random(1)
    points = record_crash_points(fresh_disk(), lambda fs: EXPOSED_BY[bug](fs, bugs))
    assert any(violation(state.disk, point, bugs) for point in points for state in sampled_states(point.disk, rng, count=0))


def test_a_log_that_appends_after_a_failed_sync_shows_the_failure_to_the_caller() -> None:
    fs = RecordingFileSystem(fresh_disk())
    log = ToyLog(fs, fs.mark)
    fs.inner.fail_next_sync(path=LOG)
    with pytest.raises(OSError, match="Input/output"):
        log.append(b"a")
    with pytest.raises(OSError, match="has failed"):
        log.append(b"b")


def kept_what_was_promised(disk: MemoryFileSystem, recording: Recording) -> int:
    """Check the page cache and every state after a power loss; return how many states that were."""
    point = CrashPoint(disk, recording.entries)
    assert violation(disk.clone(), point, RIGHT) is None
    count = count_states(disk)
    for state in all_states(disk):
        assert violation(state.disk, point, RIGHT) is None, state
    return count


@pytest.mark.parametrize("written_bytes", [0, 3, 10])
def test_the_right_log_survives_a_kill_at_every_call(written_bytes: int) -> None:
    runs = states = 0
    for fs in failing_calls(lambda: RecordingFileSystem(fresh_disk()), Fault(kills=True, written_bytes=written_bytes)):
        runs += 1
        try:
            log = ToyLog(fs, fs.inner.mark)
            for record in RECORDS:
                log.append(record)
        except ProcessKilled:
            assert fs.fired == 1
        disk = fs.inner.inner
        disk.kill()
        states += kept_what_was_promised(disk, fs.inner)
    assert runs > 15
    assert states > runs


@pytest.mark.parametrize("forever", [False, True])
@pytest.mark.parametrize("performed", [False, True])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EROFS, errno.EMFILE])
def test_the_right_log_survives_a_failure_of_every_call(error: int, performed: bool, forever: bool) -> None:
    fault = Fault(error=error, kinds=CHANGING, forever=forever, performed=performed, written_bytes=5)
    runs = 0
    for fs in failing_calls(lambda: RecordingFileSystem(fresh_disk()), fault):
        runs += 1
        try:
            log = ToyLog(fs, fs.inner.mark)
            for record in RECORDS:
                log.append(record)
        except OSError as caught:
            assert caught.errno == error
        disk = fs.inner.inner
        disk.kill()
        kept_what_was_promised(disk, fs.inner)
    assert runs > 10
