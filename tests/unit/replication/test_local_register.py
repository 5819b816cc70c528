"""The register of a single node: epochs are claimed once, and what does not check is corruption."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvserver.base.errors import Corruption
from kvserver.base.fs import FileSystem, read_file
from kvserver.base.record_file import decode_record, encode_record
from kvserver.base.register import EpochRecord, NodeRecord, Register
from kvserver.base.types import NO_EPOCH, Epoch, Position
from kvserver.replication.local_register import KIND, LocalRegister
from support.crashes import all_states, record_crash_points
from support.logs import PATHS
from support.memdisk import LOST
from support.memfs import MemoryFileSystem

ONE, TWO = Epoch(1, 0xFEDCBA9876543210), Epoch(2, 22)
NODE, NODE_A, NODE_B = (NodeRecord("n", node_id, "host:1") for node_id in ("node", "node-a", "node-b"))
BRANCH = Position(NO_EPOCH, 1, bytes(range(16)))


@pytest.fixture
def disk() -> MemoryFileSystem:
    disk = MemoryFileSystem()
    disk.make_dir(PATHS.root)
    return disk


@pytest.fixture
def register(disk: MemoryFileSystem) -> Register:
    return LocalRegister(disk, PATHS)


def test_its_kind_has_a_name() -> None:
    assert KIND == "local"


def test_a_new_register_is_empty_and_makes_nothing(disk: MemoryFileSystem, register: Register) -> None:
    assert register.records() == []
    assert not disk.exists(PATHS.epochs)


def test_a_claim_is_kept_with_who_made_it_and_when(disk: MemoryFileSystem, register: Register) -> None:
    register.claim(ONE, NODE_A, 1234)
    assert register.records() == [EpochRecord(ONE, "node-a", 1234, None)]
    register.record_branch(ONE, BRANCH)
    assert register.records() == [EpochRecord(ONE, "node-a", 1234, BRANCH)]
    assert LocalRegister(disk, PATHS).records() == register.records()


def test_claims_come_back_oldest_first(register: Register) -> None:
    for number in (3, 1, 300, 2):
        register.claim(Epoch(number, number), NODE, 0)
    assert [record.epoch.number for record in register.records()] == [1, 2, 3, 300]


def test_a_number_is_claimed_once(register: Register) -> None:
    register.claim(ONE, NODE_A, 1)
    for late in (ONE, Epoch(1, 7)):
        with pytest.raises(FileExistsError):
            register.claim(late, NODE_B, 2)
    assert register.records() == [EpochRecord(ONE, "node-a", 1, None)]
    register.claim(TWO, NODE_B, 3)


def test_a_branch_is_recorded_once(register: Register) -> None:
    register.claim(ONE, NODE, 1)
    register.record_branch(ONE, BRANCH)
    with pytest.raises(FileExistsError):
        register.record_branch(ONE, BRANCH._replace(revision=5))
    assert register.records()[0].branch == BRANCH


def test_a_begin_is_recorded_once(register: Register) -> None:
    register.claim(ONE, NODE, 1)
    assert not register.records()[0].begun
    register.record_begun(ONE)
    with pytest.raises(FileExistsError):
        register.record_begun(ONE)
    assert register.records()[0].begun


def test_every_record_is_durable_on_return(disk: MemoryFileSystem, register: Register) -> None:
    register.claim(ONE, NODE, 1)
    assert LocalRegister(disk.power_loss(lambda _: LOST), PATHS).records() == [EpochRecord(ONE, "node", 1, None)]
    register.record_branch(ONE, BRANCH)
    assert LocalRegister(disk.power_loss(lambda _: LOST), PATHS).records() == [EpochRecord(ONE, "node", 1, BRANCH)]
    register.record_begun(ONE)
    assert LocalRegister(disk.power_loss(lambda _: LOST), PATHS).records() == [EpochRecord(ONE, "node", 1, BRANCH, True)]


def test_no_crash_leaves_half_a_record(disk: MemoryFileSystem) -> None:
    def program(fs: FileSystem) -> None:
        register = LocalRegister(fs, PATHS)
        register.claim(ONE, NODE, 1)
        register.record_branch(ONE, BRANCH)
        register.record_begun(ONE)

    claimed = EpochRecord(ONE, "node", 1, None)
    allowed = [[], [claimed], [claimed._replace(branch=BRANCH)], [claimed._replace(branch=BRANCH, begun=True)]]
    seen = set()
    for point in record_crash_points(disk, program):
        for state in all_states(point.disk):
            after = LocalRegister(state.disk, PATHS)
            assert after.records() in allowed, str(state)
            seen.add(allowed.index(after.records()))
            after.claim(TWO, NODE, 2)
    assert seen == {0, 1, 2, 3}


def test_other_files_are_passed_over(disk: MemoryFileSystem, register: Register) -> None:
    register.claim(ONE, NODE, 1)
    for name in ("writing.tmp", "1.claim", "0000000g.claim", "00000007.claims", "notes"):
        disk.plant(PATHS.epochs / name, b"")
    assert [record.epoch for record in register.records()] == [ONE]


# Damage


RECORDS = [PATHS.claim(1), PATHS.branch(1), PATHS.begun(1)]


def refused(register: Register) -> Corruption:
    with pytest.raises(Corruption) as caught:
        register.records()
    return caught.value


@pytest.mark.parametrize("path", RECORDS, ids=["claim", "branch", "begun"])
def test_every_flipped_bit_of_a_record_is_found(disk: MemoryFileSystem, register: Register, path: Path) -> None:
    register.claim(ONE, NODE, 1)
    register.record_branch(ONE, BRANCH)
    register.record_begun(ONE)
    data = read_file(disk, path)
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        disk.plant(path, bytes(damaged))
        assert refused(register).path == path


@pytest.mark.parametrize("path", RECORDS, ids=["claim", "branch", "begun"])
def test_every_cut_of_a_record_is_found(disk: MemoryFileSystem, register: Register, path: Path) -> None:
    register.claim(ONE, NODE, 1)
    register.record_branch(ONE, BRANCH)
    register.record_begun(ONE)
    data = read_file(disk, path)
    for length in range(len(data) - 1):  # the newline at the end says nothing
        disk.plant(path, data[:length])
        assert refused(register).path == path


def test_a_record_of_another_claim_to_the_number_is_found(disk: MemoryFileSystem, register: Register) -> None:
    register.claim(ONE, NODE, 1)
    disk.plant(PATHS.begun(1), encode_record({"nonce": "0000000000000007"}))
    assert "another claim to the same number" in refused(register).message
    assert refused(register).path == PATHS.begun(1)
    branch = {"nonce": "0000000000000007", "parent_epoch": 0, "parent_nonce": "0", "revision": 1, "chain": ""}
    disk.plant(PATHS.branch(1), encode_record(branch))
    assert refused(register).path == PATHS.branch(1)


def test_records_are_readable_by_people(disk: MemoryFileSystem, register: Register) -> None:
    register.claim(ONE, NODE_A, 1234)
    data = read_file(disk, PATHS.claim(1))
    assert data == encode_record({"epoch": 1, "nonce": "fedcba9876543210", "node_id": "node-a", "claimed_ms": 1234})
    assert decode_record(PATHS.claim(1), data)["nonce"] == "fedcba9876543210"
    assert b'"node_id": "node-a"' in data
