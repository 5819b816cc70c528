"""A promise is durable before it is given, never taken back, and a member that lost something says so until it has it again."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from kvserver.base import failpoints
from kvserver.base.environment import Environment
from kvserver.base.errors import Corruption
from kvserver.base.fs import FileSystem, read_file
from kvserver.base.paths import DataPaths
from kvserver.base.record_file import decode_record, encode_record
from kvserver.base.types import NO_EPOCH, Epoch
from kvserver.replication.vow import Vow
from support.clocks import ManualClock
from support.crashes import all_states, record_crash_points
from support.faultfs import Fault, FaultFileSystem, FaultPlan
from support.memdisk import LOST
from support.memfs import MemoryFileSystem

PATHS = DataPaths(Path("/data"))
THREE, FOUR = Epoch(3, 33), Epoch(4, 44)


@pytest.fixture
def disk() -> MemoryFileSystem:
    disk = MemoryFileSystem()
    disk.make_dir(PATHS.root)
    return disk


def opened(fs: FileSystem) -> Vow:
    return Vow.open(Environment(fs, ManualClock(), random.Random(0).randbytes), PATHS)


def after_power_loss(disk: MemoryFileSystem) -> Vow:
    return opened(disk.power_loss(lambda _: LOST))


def test_a_new_folder_has_promised_nothing_and_lacks_nothing(disk: MemoryFileSystem) -> None:
    vow = opened(disk)
    assert (vow.promised, vow.needs_revision, vow.is_complete) == (NO_EPOCH, 0, True)
    assert not disk.exists(PATHS.promise)


def test_a_promise_is_durable_when_it_is_given(disk: MemoryFileSystem) -> None:
    vow = opened(disk)
    for epoch in (THREE, FOUR):
        assert vow.promise(epoch)
        assert vow.promised == after_power_loss(disk).promised == opened(disk).promised == epoch


def test_a_lower_epoch_is_refused(disk: MemoryFileSystem) -> None:
    vow = opened(disk)
    vow.promise(FOUR)
    for lower in (THREE, Epoch(3, 1 << 63), NO_EPOCH, Epoch(1, 1)):
        assert not vow.allows(lower)
        assert not vow.promise(lower)
    assert vow.promised == opened(disk).promised == FOUR


def test_an_equal_number_with_another_nonce_is_refused_and_with_the_same_is_given_again(disk: MemoryFileSystem) -> None:
    vow = opened(disk)
    vow.promise(FOUR)
    for other in (Epoch(4, 43), Epoch(4, 45), Epoch(4, 0)):
        assert not vow.promise(other)
    assert vow.promise(FOUR) and vow.allows(FOUR)
    assert opened(disk).promised == FOUR


def test_what_was_lost_counts_until_the_log_reaches_it_again(disk: MemoryFileSystem) -> None:
    vow = opened(disk)
    vow.promise(THREE)
    vow.note_lost(50)
    vow.note_lost(40)
    assert after_power_loss(disk).needs_revision == vow.needs_revision == 50
    assert not vow.complete(49) and not after_power_loss(disk).is_complete
    assert vow.promise(FOUR) and vow.needs_revision == 50  # a promise changes nothing of that
    assert vow.complete(50) and vow.is_complete and vow.complete(0)
    after = after_power_loss(disk)
    assert (after.promised, after.needs_revision) == (FOUR, 0)


def test_no_crash_breaks_a_promise_that_was_given(disk: MemoryFileSystem) -> None:
    steps = [(THREE, 0), (THREE, 9), (FOUR, 9), (FOUR, 0)]

    def program(fs: FileSystem) -> None:
        vow = opened(fs)
        vow.promise(THREE)
        vow.note_lost(9)
        vow.promise(FOUR)
        vow.complete(9)

    seen = []
    for point in record_crash_points(disk, program):
        for state in all_states(point.disk):
            vow = opened(state.disk)
            seen.append((vow.promised, vow.needs_revision))
            assert seen[-1] in [(NO_EPOCH, 0), *steps], str(state)
            assert vow.promise(Epoch(9, 9)) and opened(state.disk).promised == Epoch(9, 9)
    assert set(seen) == {(NO_EPOCH, 0), *steps}


def test_with_every_call_that_fails_the_promise_is_given_or_not_and_the_next_one_can_be(disk: MemoryFileSystem) -> None:
    for at in range(1, 30):
        disk = MemoryFileSystem()
        disk.make_dir(PATHS.root)
        opened(disk).promise(THREE)
        failing = FaultFileSystem(disk, FaultPlan([Fault(at=at)]))
        try:
            vow = opened(failing)
            given = vow.promise(FOUR)
        except OSError:
            assert after_power_loss(disk).promised in (THREE, FOUR)
        else:
            assert given and after_power_loss(disk).promised == FOUR
        again = opened(disk)
        assert again.promise(FOUR) and after_power_loss(disk).promised == FOUR
        if not failing.fired:
            return
    raise AssertionError("a call still failed")


def test_a_promise_whose_sync_failed_is_not_believed_before_it_is_durable(disk: MemoryFileSystem) -> None:
    vow = opened(FaultFileSystem(disk, FaultPlan([Fault(at=2, kinds={"sync_dir"})])))  # the first one is that of the open
    with pytest.raises(OSError):
        vow.promise(THREE)
    assert vow.promised == NO_EPOCH
    assert vow.promise(THREE) and after_power_loss(disk).promised == THREE


@pytest.mark.parametrize("name", ["vow.after_write", "vow.after_rename"])
def test_at_each_failpoint_a_kill_leaves_the_old_promise_or_the_new_one(disk: MemoryFileSystem, name: str) -> None:
    class Killed(BaseException):
        pass

    def kill() -> None:
        raise Killed

    opened(disk).promise(THREE)
    failpoints.arm(name, kill)
    try:
        with pytest.raises(Killed):
            opened(disk).promise(FOUR)
    finally:
        failpoints.disarm_all()
    assert after_power_loss(disk).promised == THREE
    found = opened(disk)
    assert found.promised == (FOUR if name == "vow.after_rename" else THREE)
    assert after_power_loss(disk).promised == found.promised  # what was read back is durable


def test_of_two_primacies_of_one_number_that_ask_at_once_one_is_promised(disk: MemoryFileSystem) -> None:
    vow = opened(disk)
    given: list[Epoch] = []
    barrier = threading.Barrier(4)

    def ask(nonce: int) -> None:
        barrier.wait()
        if vow.promise(Epoch(7, nonce)):
            given.append(Epoch(7, nonce))

    threads = [threading.Thread(target=ask, args=(nonce,)) for nonce in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert given == [vow.promised] == [opened(disk).promised]


# Damage


def refused(disk: MemoryFileSystem) -> Corruption:
    with pytest.raises(Corruption) as caught:
        opened(disk)
    assert caught.value.path == PATHS.promise and "kvctl reinit" in caught.value.hint
    return caught.value


def test_every_flipped_byte_and_every_cut_is_corruption_with_a_remedy(disk: MemoryFileSystem) -> None:
    opened(disk).promise(FOUR)
    data = read_file(disk, PATHS.promise)
    for place in range(len(data)):
        disk.plant(PATHS.promise, data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
        refused(disk)
        if place < len(data) - 1:
            disk.plant(PATHS.promise, data[:place])
            refused(disk)


@pytest.mark.parametrize("field", ["store", "epoch", "nonce", "needs_revision"])
@pytest.mark.parametrize("value", [None, -1, 1 << 64, "7", [], True])
def test_every_field_is_checked(disk: MemoryFileSystem, field: str, value: object) -> None:
    opened(disk).promise(FOUR)
    fields = decode_record(PATHS.promise, read_file(disk, PATHS.promise))
    disk.plant(PATHS.promise, encode_record({**fields, field: value}))
    refused(disk)
    disk.plant(PATHS.promise, encode_record({**fields, "more": 1}))
    refused(disk)
