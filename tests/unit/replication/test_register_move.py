"""The register of a single node on its way into a shared one: at every moment the folder opens with exactly one of both."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from kvserver.base import failpoints
from kvserver.base.environment import Environment
from kvserver.base.errors import Code, KvError, OpenRefused, ReplicationError
from kvserver.base.fs import FileSystem, read_file
from kvserver.base.identity_file import create_identity, parse_identity
from kvserver.base.paths import DataPaths
from kvserver.base.register import EpochRecord, NodeRecord, Register
from kvserver.base.types import NO_EPOCH, Epoch, Identity, Position
from kvserver.replication.local_register import LocalRegister
from kvserver.replication.open_register import move_register
from kvserver.replication.store_register import StoreRegister, found
from support.clocks import ManualClock
from support.crashes import all_states, record_crash_points
from support.fault_store import FaultStore, StoreFault, failing_store_calls
from support.faultfs import Fault, FaultFileSystem, FaultPlan, ProcessKilled
from support.memfs import MemoryFileSystem
from support.memory_store import MemoryStore

PATHS = DataPaths(Path("/data"))
CLUSTER = bytes(range(16))
EPOCHS = [Epoch(1, 11), Epoch(2, 22), Epoch(4, 44), Epoch(5, 55)]
MOVES = [name for name in failpoints.REPLICATION_NAMES if name.startswith("register.move.")]


def environment(fs: FileSystem, seed: int = 0) -> Environment:
    return Environment(fs, ManualClock(), random.Random(seed).randbytes)


def folder() -> MemoryFileSystem:
    """Return a disk with a node's folder of four epochs: one was restored, one has no branch, one never began."""
    disk = MemoryFileSystem()
    disk.make_dir(PATHS.root)
    node_id = create_identity(environment(disk), PATHS, "tester", "local", CLUSTER).node_id
    register = LocalRegister(disk, PATHS)
    for number, epoch in enumerate(EPOCHS):
        register.claim(epoch, NodeRecord("tester", node_id if number else "", ""), 1000 + number)
        if number != 1:
            register.record_branch(epoch, Position(NO_EPOCH if not number else EPOCHS[0], number + 1, bytes(16)))
        if number in (0, 3):
            register.record_begun(epoch)
    return disk


def identity(disk: FileSystem) -> Identity:
    return parse_identity(PATHS, read_file(disk, PATHS.identity))


def shared(store: MemoryStore, cluster_id: bytes = CLUSTER, seed: int = 5) -> StoreRegister:
    env = environment(MemoryFileSystem(), seed)
    return StoreRegister(store, found(store, env, cluster_id), env)


def names_left_out(register: Register) -> list[EpochRecord]:
    return [record._replace(node="") for record in register.records()]


def move(disk: FileSystem, target: StoreRegister, seed: int = 9) -> None:
    move_register(environment(disk, seed), PATHS, target)


def test_the_epochs_are_copied_and_the_identity_names_the_register() -> None:
    disk, store = folder(), MemoryStore()
    before, target = identity(disk), shared(store)
    local = LocalRegister(disk, PATHS).records()
    move(disk, target)
    assert names_left_out(target) == local
    assert [record.node for record in target.records()] == ["", "tester", "tester", "tester"]
    after = identity(disk)
    assert after.register == target.kind and after.register.startswith("store:")
    assert (after.node_id, after.cluster_id, after.created_ms) == (before.node_id, before.cluster_id, before.created_ms)
    state = dict(store.objects), disk.contents()
    move(disk, target)  # once more does nothing
    assert (dict(store.objects), disk.contents()) == state


def check(disk: MemoryFileSystem, target: StoreRegister, local: list[EpochRecord]) -> bool:
    """Check that the folder belongs to one register that has all of its epochs, that moving goes on; say whether it was over."""
    said = identity(disk).register
    assert said in ("local", target.kind)
    own: Register = LocalRegister(disk, PATHS) if said == "local" else target
    assert names_left_out(own) == local
    move(disk, target, 10)
    assert identity(disk).register == target.kind and names_left_out(target) == local
    return said != "local"


def test_no_crash_of_the_machine_leaves_a_folder_between_two_registers() -> None:
    disk = folder()
    local = LocalRegister(disk, PATHS).records()
    stores: list[MemoryStore] = [MemoryStore()]
    shared(stores[0])

    def program(fs: FileSystem) -> None:
        move(fs, shared(stores[0]))

    over = set()
    for point in record_crash_points(disk, program):
        for state in all_states(point.disk):
            # The store is another machine's: whatever the folder says, all that was copied is there. Less is the test below.
            over.add(check(state.disk, shared(stores[0].copy()), local))
    assert over == {False, True}


def test_no_crash_of_the_tool_leaves_a_folder_between_two_registers() -> None:
    local = LocalRegister(folder(), PATHS).records()
    empty = MemoryStore()
    shared(empty)
    for performed in (False, True):
        for store in failing_store_calls(empty.copy, StoreFault(kills=True, performed=performed)):
            disk = folder()
            try:
                move(disk, StoreRegister(store, shared(empty.copy()).founded, environment(disk, 3)))
            except ProcessKilled:
                disk.kill()
                after = disk.another_process()
                assert identity(after).register == "local"
                assert not check(after, shared(store.inner), local)  # type: ignore[arg-type]


def test_with_every_call_to_the_disk_that_fails_it_is_moved_or_not() -> None:
    local = LocalRegister(folder(), PATHS).records()
    for at in range(1, 200):
        disk, store = folder(), MemoryStore()
        failing = FaultFileSystem(disk, FaultPlan([Fault(at=at)]))
        try:
            move(failing, shared(store))
        except (OSError, KvError):
            assert failing.fired
        check(disk, shared(store), local)
        if not failing.fired:
            return
    raise AssertionError("a call still failed")


@pytest.mark.parametrize("name", MOVES)
def test_at_each_failpoint_a_kill_leaves_the_one_or_the_other(name: str) -> None:
    disk, store = folder(), MemoryStore()
    local = LocalRegister(disk, PATHS).records()

    def kill() -> None:
        raise ProcessKilled

    failpoints.arm(name, kill)
    try:
        with pytest.raises(ProcessKilled):
            move(disk, shared(store))
    finally:
        failpoints.disarm_all()
    assert check(disk, shared(store), local) == (name == "register.move.after_identity")


def test_a_node_that_went_on_alone_between_two_attempts_is_moved_with_all_that_it_began() -> None:
    disk, store = folder(), MemoryStore()
    failing = FaultStore(store)
    shared(store)
    failing.add(StoreFault(at=5, calls={"create"}, kills=True))
    with pytest.raises(ProcessKilled):
        move(disk, StoreRegister(failing, shared(store).founded, environment(disk, 3)))
    assert len(shared(store).records()) == 2
    LocalRegister(disk, PATHS).claim(Epoch(6, 66), NodeRecord("tester", identity(disk).node_id, ""), 0)
    move(disk, shared(store))
    assert names_left_out(shared(store)) == LocalRegister(disk, PATHS).records()


# Refused


def refused(disk: FileSystem, target: StoreRegister, match: str) -> None:
    objects = dict(target._store.objects)  # type: ignore[attr-defined]
    before = identity(disk) if disk.exists(PATHS.identity) else None
    with pytest.raises(OpenRefused, match=match) as caught:
        move(disk, target)
    assert caught.value.hint
    assert before is None or identity(disk) == before
    assert target._store.objects == objects  # type: ignore[attr-defined]


def test_a_folder_in_use_is_refused() -> None:
    disk = folder()
    lock = disk.another_process().lock(PATHS.lock)
    refused(disk, shared(MemoryStore()), "in use")
    lock.release()
    move(disk, shared(MemoryStore()))


def test_a_folder_without_a_store_is_refused_and_nothing_is_made_in_it() -> None:
    disk = MemoryFileSystem()
    refused(disk, shared(MemoryStore()), "holds no store")
    assert disk.contents() == {}


def test_a_register_of_another_cluster_is_refused() -> None:
    refused(folder(), shared(MemoryStore(), bytes(16)), "belongs to cluster")


def test_a_node_of_one_shared_register_is_not_moved_to_another() -> None:
    disk = folder()
    move(disk, shared(MemoryStore()))
    refused(disk, shared(MemoryStore(), seed=6), "only one in its own folder")


@pytest.mark.parametrize(
    "foreign",
    [Epoch(1, 12), Epoch(3, 33), Epoch(6, 66)],
    ids=["another nonce", "a number passed over", "a later one"],
)
def test_a_register_that_holds_what_the_node_does_not_know_is_refused(foreign: Epoch) -> None:
    store = MemoryStore()
    shared(store).claim(foreign, NodeRecord("other", "id", ""), 1)
    refused(folder(), shared(store), f"holds an epoch {foreign.number} that")


def test_a_register_in_which_an_epoch_went_on_elsewhere_is_refused() -> None:
    disk, store = folder(), MemoryStore()
    target, local = shared(store), LocalRegister(disk, PATHS).records()[0]
    target.claim(local.epoch, NodeRecord("", local.node_id, ""), local.claimed_ms)
    target.record_branch(local.epoch, Position(NO_EPOCH, 77, bytes(16)))
    refused(disk, target, "holds an epoch 1 that")


def test_a_register_that_is_away_is_said_and_nothing_is_changed() -> None:
    disk, store = folder(), MemoryStore()
    target = shared(store)
    away = FaultStore(store, [StoreFault(forever=True)])
    with pytest.raises(ReplicationError) as caught:
        move(disk, StoreRegister(away, target.founded, environment(disk)))
    assert caught.value.code is Code.REGISTER_UNAVAILABLE and identity(disk).register == "local"
