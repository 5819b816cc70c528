"""What every ``Register`` does alike: that of a single node, and the one in a store: a folder, S3, memory, one with faults."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvserver.archive.folder_store import FolderStore
from kvserver.archive.open_store import open_store
from kvserver.archive.store import Store
from kvserver.base.environment import Environment
from kvserver.base.errors import Code, ReplicationError
from kvserver.base.fs import OsFileSystem
from kvserver.base.paths import DataPaths
from kvserver.base.register import EpochRecord, NodeRecord, PolicyNote, Register
from kvserver.base.types import NO_EPOCH, Epoch, Position
from kvserver.replication.local_register import LocalRegister
from kvserver.replication.store_register import StoreRegister, found
from support.fault_store import FaultStore
from support.memfs import MemoryFileSystem
from support.memory_store import MemoryStore
from support.s3_server import S3Server, s3_server

BUCKET = "registers"
ONE, TWO = Epoch(1, 0xFEDCBA9876543210), Epoch(2, 22)
NODE, OTHER = NodeRecord("n1", "id-1", "host:1"), NodeRecord("n2", "id-2", "host:2")
BRANCH = Position(NO_EPOCH, 1, bytes(range(16)))
_numbers = itertools.count()

Again = Callable[[], Register]
"""Opens the same register a second time, as another process would."""


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        server.make_bucket(BUCKET)
        yield server


def _in_store(store: Store) -> Again:
    env = Environment()
    founded = found(store, env)
    return lambda: StoreRegister(store, founded, env)


SHARED = ["folder", "folder in memory", "s3", "memory", "fault"]


@pytest.fixture(params=["local", "local on a disk", *SHARED])
def again(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Again:
    if request.param == "local":
        disk, paths = MemoryFileSystem(), DataPaths(Path("/data"))
        disk.make_dir(paths.root)
        return lambda: LocalRegister(disk, paths)
    if request.param == "local on a disk":
        return lambda: LocalRegister(OsFileSystem(), DataPaths(tmp_path))
    if request.param == "folder":
        return _in_store(open_store(f"file://{tmp_path}/register"))
    if request.param == "folder in memory":
        return _in_store(FolderStore(MemoryFileSystem(), Path("/srv/register")))
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3")
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        return _in_store(open_store(f"s3://{BUCKET}/{next(_numbers)}"))
    return _in_store(MemoryStore() if request.param == "memory" else FaultStore(MemoryStore()))


@pytest.fixture
def register(again: Again) -> Register:
    return again()


@pytest.fixture
def is_shared(register: Register) -> bool:
    return register.id != "local"


def claimed(epoch: Epoch, node: NodeRecord, now_ms: int, is_shared: bool) -> EpochRecord:
    return EpochRecord(epoch, node.node_id, now_ms, None, False, node.name if is_shared else "")


def test_a_new_register_is_empty(register: Register) -> None:
    assert (register.records(), register.nodes(), register.notes()) == ([], [], [])


def test_it_says_which_one_it_is(register: Register, again: Again, is_shared: bool) -> None:
    assert register.id == again().id
    assert (len(register.id) == 32, bool(register.url)) == (is_shared, is_shared)


def test_a_claim_is_kept_with_who_made_it_and_when(register: Register, again: Again, is_shared: bool) -> None:
    register.claim(ONE, NODE, 1234)
    record = claimed(ONE, NODE, 1234, is_shared)
    assert register.records() == again().records() == [record]
    register.record_branch(ONE, BRANCH)
    assert register.records() == again().records() == [record._replace(branch=BRANCH)]
    register.record_begun(ONE)
    assert register.records() == again().records() == [record._replace(branch=BRANCH, begun=True)]


def test_a_claim_may_be_for_nobody(register: Register) -> None:
    register.claim(ONE, NodeRecord("", "", ""), 0)
    assert register.records() == [EpochRecord(ONE, "", 0, None)]


def test_claims_come_back_oldest_first(register: Register) -> None:
    for number in (3, 1, 300, 2):
        register.claim(Epoch(number, number), NODE, 0)
    assert [record.epoch.number for record in register.records()] == [1, 2, 3, 300]


@pytest.mark.parametrize("late", [ONE, Epoch(1, 7)], ids=["the same", "another nonce"])
@pytest.mark.parametrize("who", [NODE, OTHER], ids=["the same node", "another node"])
def test_a_number_is_claimed_once(register: Register, again: Again, late: Epoch, who: NodeRecord, is_shared: bool) -> None:
    register.claim(ONE, NODE, 1)
    for taken in (register, again()):
        with pytest.raises(FileExistsError):
            taken.claim(late, who, 1)
    assert register.records() == [claimed(ONE, NODE, 1, is_shared)]
    register.claim(TWO, OTHER, 3)


def test_a_branch_and_a_begin_are_recorded_once(register: Register, again: Again) -> None:
    register.claim(ONE, NODE, 1)
    register.record_branch(ONE, BRANCH)
    for position in (BRANCH, BRANCH._replace(revision=5)):
        with pytest.raises(FileExistsError):
            again().record_branch(ONE, position)
    register.record_begun(ONE)
    with pytest.raises(FileExistsError):
        again().record_begun(ONE)
    (record,) = again().records()
    assert (record.branch, record.begun) == (BRANCH, True)


def test_nobody_records_anything_under_the_claim_of_another(register: Register, is_shared: bool) -> None:
    register.claim(ONE, NODE, 1)
    stranger = Epoch(1, 7)
    for record in (lambda: register.record_branch(stranger, BRANCH), lambda: register.record_begun(stranger)):
        with pytest.raises(ReplicationError, match="epoch 1 belongs to") as caught:
            record()
        assert caught.value.code is Code.FENCED
    assert register.records() == [claimed(ONE, NODE, 1, is_shared)]


def test_of_several_that_claim_one_number_one_wins(again: Again) -> None:
    for number in (1, 2, 3):
        outcomes: list[object] = [None] * 4
        barrier = threading.Barrier(4)

        def claim(
            who: int, number: int = number, outcomes: list[object] = outcomes, barrier: threading.Barrier = barrier
        ) -> None:
            register = again()
            barrier.wait()
            try:
                register.claim(Epoch(number, 100 + who), NodeRecord(f"n{who}", f"id-{who}", ""), who)
                outcomes[who] = "won"
            except (FileExistsError, ReplicationError) as error:
                outcomes[who] = error

        # Within one data folder the lock keeps others out, so that of a local register only one is open.
        threads = [threading.Thread(target=claim, args=(who,)) for who in range(4)]
        if again().id == "local":
            barrier = threading.Barrier(1)
            for who in range(4):
                claim(who, number, outcomes, barrier)
        else:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert outcomes.count("won") == 1
        assert again().records()[-1].epoch == Epoch(number, 100 + outcomes.index("won"))


def test_nodes_join_and_move(register: Register, again: Again, is_shared: bool) -> None:
    for node in (OTHER, NODE, NODE):
        register.join(node)
    assert again().nodes() == ([NODE, OTHER] if is_shared else [])
    moved = NODE._replace(address="elsewhere:7", node_id="anew")
    again().join(moved)
    assert register.nodes() == ([moved, OTHER] if is_shared else [])


def test_notes_are_kept_in_order_and_once(register: Register, again: Again, is_shared: bool) -> None:
    notes = [
        PolicyNote(1, ONE, "n1", 12, True, "the cellar is under water"),
        PolicyNote(2, ONE, "n1", 13, False, ""),
        PolicyNote(10, TWO, "n2", 14, True, "wieder"),
    ]
    if not is_shared:
        with pytest.raises(ReplicationError, match="no quorum") as refused:
            register.add_note(notes[0])
        assert refused.value.hint
        return
    for note in reversed(notes):
        register.add_note(note)
    assert register.notes() == again().notes() == notes
    for note in notes[:2]:
        with pytest.raises(FileExistsError):
            again().add_note(note._replace(number=1))
    assert register.notes() == notes
