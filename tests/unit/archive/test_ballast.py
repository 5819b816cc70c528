"""The ballast: made while there is plenty of space, given back without writing anything when there is hardly any."""

from __future__ import annotations

import errno
import random
from collections.abc import Collection

import pytest

from kvserver.archive.ballast import PIECE_BYTES, Ballast
from kvserver.base.archive_events import BallastGivenBack, BallastRestored
from kvserver.base.environment import Environment
from kvserver.base.events import Event
from kvserver.base.fs import FileSystem
from kvserver.base.limits import MIB
from kvserver.base.paths import TOP_LEVEL_NAMES
from support.clocks import ManualClock
from support.crashes import record_crash_points, states
from support.faultfs import Fault, FaultFileSystem, FaultPlan
from support.logs import PATHS
from support.memfs import MemoryFileSystem
from support.recordfs import CHANGING, Kind, RecordingFileSystem

SIZE = 3 * MIB
LOW = 2 * MIB
PLENTY = 9 * MIB
"""Free before a whole ballast is made, so that twice its size is left."""


class Disk:
    """A file system of which a test says how much is free on it beside the ballast."""

    def __init__(self, fs: MemoryFileSystem | None = None) -> None:
        self.memory = fs or MemoryFileSystem()
        self.memory.make_dir(PATHS.root)
        self.events: list[Event] = []
        self.free = 1 << 40
        self.ballast = self.open(self.memory)

    def open(self, fs: FileSystem) -> Ballast:
        """Return a ballast on this disk, as a start of the server makes it."""
        env = Environment(Measured(fs, self), ManualClock(), random.Random(1).randbytes)
        return Ballast(env, PATHS, self.events.append, SIZE, LOW)

    def length(self) -> int:
        """Return how large the file is."""
        return len(self.memory.contents().get(PATHS.ballast, b""))


class Measured:
    """A file system that says how much is free as the disk has it."""

    def __init__(self, fs: FileSystem, disk: Disk) -> None:
        self._fs = fs
        self._disk = disk

    def __getattr__(self, name: str) -> object:
        if name == "free_bytes":
            return lambda path: self._disk.free - self._disk.length()
        return getattr(self._fs, name)


def test_a_data_folder_may_hold_it() -> None:
    assert PATHS.ballast.name in TOP_LEVEL_NAMES


def test_it_is_made_while_there_is_plenty_and_left_alone_then() -> None:
    disk = Disk()
    for _ in range(3):
        disk.ballast.check()
    assert disk.length() == disk.ballast.held_bytes == SIZE
    assert disk.events == [BallastRestored(SIZE)]


def test_it_is_made_in_pieces() -> None:
    disk = Disk()
    large = Ballast(disk.ballast._env, PATHS, disk.events.append, PIECE_BYTES + 5, LOW)
    large.check()
    assert (disk.length(), disk.events) == (PIECE_BYTES, [])
    large.check()
    assert (disk.length(), disk.events) == (PIECE_BYTES + 5, [BallastRestored(PIECE_BYTES + 5)])


def test_it_takes_real_space() -> None:
    """Zeros are kept for nothing by file systems that compress."""
    disk = Disk()
    disk.ballast.check()
    content = disk.memory.contents()[PATHS.ballast]
    assert all(content.count(byte) < len(content) // 100 for byte in (b"\0", b"\xff"))


def test_without_plenty_of_space_it_is_not_made() -> None:
    disk = Disk()
    disk.free = PLENTY - 1
    disk.ballast.check()
    assert (disk.length(), disk.ballast.given_back) == (0, False)
    disk.free = PLENTY
    disk.ballast.check()
    assert disk.length() == SIZE


def test_a_small_disk_that_never_had_one_is_not_said_to_have_given_it_back() -> None:
    disk = Disk()
    disk.free = 0
    disk.ballast.check()
    assert not disk.ballast.given_back


def test_it_is_given_back_when_the_disk_is_nearly_full_and_made_again_later() -> None:
    disk = Disk()
    disk.ballast.check()
    disk.free = SIZE + LOW
    disk.ballast.check()
    assert disk.length() == SIZE
    disk.free -= 1
    disk.ballast.check()
    assert (disk.length(), disk.ballast.held_bytes, disk.ballast.given_back) == (0, 0, True)
    disk.free = PLENTY - 1
    disk.ballast.check()
    assert (disk.length(), disk.ballast.given_back) == (0, True)
    disk.free = PLENTY
    disk.ballast.check()
    assert (disk.length(), disk.ballast.given_back) == (SIZE, False)
    assert disk.events == [BallastRestored(SIZE), BallastGivenBack(SIZE, LOW - 1), BallastRestored(SIZE)]


def test_nothing_is_written_in_order_to_give_it_back() -> None:
    disk = Disk()
    disk.ballast.check()
    disk.free = 0
    recording = RecordingFileSystem(disk.memory)
    disk.open(recording).check()
    assert [entry.kind for entry in recording.entries if getattr(entry, "kind", None) in CHANGING] == ["remove"]
    assert disk.length() == 0


def test_none_is_kept_where_none_is_wanted() -> None:
    disk = Disk()
    disk.ballast.check()
    none = Ballast(disk.ballast._env, PATHS, disk.events.append, 0, LOW)
    none.check()
    assert (disk.length(), none.given_back) == (0, False)


def test_a_start_finds_it_and_says_nothing() -> None:
    disk = Disk()
    disk.ballast.check()
    again = disk.open(disk.memory)
    again.check()
    assert (again.held_bytes, len(disk.events)) == (SIZE, 1)


@pytest.mark.parametrize("kinds", [{"create"}, {"pwrite"}, {"datasync"}])
def test_a_disk_that_fills_up_while_it_is_made_is_left_as_it_was(kinds: Collection[Kind]) -> None:
    disk = Disk()
    fs = FaultFileSystem(disk.memory, FaultPlan([Fault(at=1, error=errno.ENOSPC, kinds=kinds, written_bytes=100)]))
    ballast = disk.open(fs)
    ballast.check()
    assert (fs.fired, disk.length(), ballast.held_bytes, disk.events) == (1, 0, 0, [])
    ballast.check()
    assert disk.length() == SIZE


@pytest.mark.parametrize("error", [errno.EIO, errno.EROFS, errno.EACCES])
def test_a_disk_that_refuses_is_asked_again(error: int) -> None:
    disk = Disk()
    disk.ballast.check()
    disk.free = 0
    fs = FaultFileSystem(disk.memory, FaultPlan([Fault(at=1, error=error, kinds={"remove"})]))
    ballast = disk.open(fs)
    ballast.check()
    assert (disk.length(), ballast.given_back) == (SIZE, False)
    ballast.check()
    assert (disk.length(), ballast.given_back) == (0, True)


def test_a_crash_at_any_moment_leaves_what_the_next_start_completes_or_gives_back() -> None:
    disk = Disk()
    seen = 0
    for point in record_crash_points(disk.memory, lambda fs: disk.open(fs).check()):
        for state in states(point.disk, random.Random(1), 40):
            for free, expected in ((1 << 40, SIZE), (0, 0)):
                after = Disk(state.disk.clone())
                after.free = free
                after.ballast.check()
                assert after.length() == expected, str(state)
                seen += 1
    assert seen > 10


def test_a_crash_after_it_was_removed_may_bring_it_back_and_that_does_no_harm() -> None:
    disk = Disk()
    disk.ballast.check()
    disk.memory.sync_dir(PATHS.root)
    disk.free = 0

    def give_back(fs: RecordingFileSystem[MemoryFileSystem]) -> None:
        disk.open(fs).check()

    for point in record_crash_points(disk.memory, give_back):
        for state in states(point.disk, random.Random(1), 10):
            after = Disk(state.disk.clone())
            after.ballast.check()
            assert after.length() == SIZE
