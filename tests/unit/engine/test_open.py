"""Opening a folder: what is refused and by what name, what a start leaves behind, and that a refusal changes nothing."""

from __future__ import annotations

import errno
import math
from typing import Any

import pytest

from kvserver.base.environment import Environment
from kvserver.base.errors import Code, Corruption, OpenRefused, OutcomeUnknown
from kvserver.base.events import EpochBegun, Event, LogRecovered, SegmentSealed, StoreCreated
from kvserver.base.fs import FileSystem, read_file
from kvserver.base.paths import parse_claim, parse_segment
from kvserver.base.record_file import decode_record, encode_record
from kvserver.base.register import NodeRecord
from kvserver.base.types import Epoch
from kvserver.commit.requests import Put
from kvserver.engine.database import Database
from kvserver.replication.local_register import LocalRegister
from support.fake_log import outcome
from support.faultfs import Fault, FaultFileSystem, FaultPlan
from support.logs import PATHS
from support.memdisk import LOST
from support.memfs import MemoryFileSystem
from support.stores import TIGHT, TWIN, content, do, open_store


def created(seed: int = 0) -> MemoryFileSystem:
    """Return a disk with a store that was closed cleanly and holds one key."""
    disk = MemoryFileSystem()
    database = open_store(disk, seed=seed)
    do(database, Put(1, b"key", b"value"))
    database.close()
    return disk


def refusal(disk: FileSystem) -> OpenRefused:
    with pytest.raises(OpenRefused) as refused:
        open_store(disk)
    assert refused.value.hint
    assert refused.value.code is Code.NOT_SERVING
    return refused.value


def change_identity(disk: MemoryFileSystem, **fields: Any) -> None:
    """Change fields of the identity so that its checksum is right."""
    record = decode_record(PATHS.identity, read_file(disk, PATHS.identity))
    disk.plant(PATHS.identity, encode_record({**record, **fields}))


# A new folder


def test_a_new_folder_becomes_a_store() -> None:
    disk = MemoryFileSystem()
    events: list[Event] = []
    database = open_store(disk, listener=events.append)
    assert (database.identity.node_name, database.identity.register) == ("tester", "local")
    assert (database.marks.visible, database.marks.assigned) == (1, 1)
    assert database.history.current.number == 1
    assert events == [
        StoreCreated(str(PATHS.root), database.identity.cluster_id.hex()),
        LogRecovered(0, 0, 1, 0, 0.0),
        EpochBegun(1, database.history.current.nonce, 1),
    ]
    assert set(disk.list_dir(PATHS.root)) == {"IDENTITY", "LOCK", "building", "epochs", "tables", "wal"}


def test_a_new_store_survives_a_power_loss_right_away() -> None:
    disk = MemoryFileSystem()
    before = open_store(disk)
    after = open_store(disk.power_loss(lambda _: LOST), seed=1)
    assert after.identity == before.identity
    assert after.history.current.number == 2


def test_two_stores_are_different_clusters_and_nodes() -> None:
    one, two = open_store(MemoryFileSystem(), seed=1).identity, open_store(MemoryFileSystem(), seed=2).identity
    assert one.cluster_id != two.cluster_id
    assert one.node_id != two.node_id


def test_the_node_keeps_the_name_it_was_created_with() -> None:
    disk = created()
    change_identity(disk, node_name="as it was")
    assert open_store(disk).identity.node_name == "as it was"


@pytest.mark.parametrize("name", ["lost+found", "IDENTITY.tmp", "LOCK"])
def test_what_belongs_into_a_new_folder_is_no_stranger(name: str) -> None:
    disk = MemoryFileSystem()
    disk.plant(PATHS.root / name, b"")
    open_store(disk)


# Folders that are refused


def test_a_foreign_folder_is_refused_and_left_alone() -> None:
    disk = MemoryFileSystem()
    disk.plant(PATHS.root / "thesis.tex", b"years of work")
    error = refusal(disk)
    assert "'thesis.tex'" in error.message
    assert "--data-dir" in error.hint
    assert set(disk.list_dir(PATHS.root)) == {"LOCK", "thesis.tex"}


def test_a_log_without_its_identity_is_refused() -> None:
    disk = created()
    disk.remove(PATHS.identity)
    error = refusal(disk)
    assert "holds a log but no IDENTITY" in error.message
    assert "from a copy" in error.hint
    assert not disk.exists(PATHS.identity), "it is never made anew beside a log"


def test_a_newer_folder_is_refused_by_name() -> None:
    disk = created()
    change_identity(disk, format_version=3)
    before = disk.contents()
    error = refusal(disk)
    assert "format version 3; this software reads versions up to 2" in error.message
    assert "newer" in error.hint
    assert disk.contents() == before


@pytest.mark.parametrize("version", [0, -1, "1", None, 1.5])
def test_a_version_that_never_was_is_refused(version: object) -> None:
    disk = created()
    change_identity(disk, format_version=version)
    assert "format version" in refusal(disk).message


def test_another_softwares_folder_is_refused() -> None:
    disk = created()
    change_identity(disk, store="kvshop")
    assert "another software" in refusal(disk).message


def test_a_folder_of_another_kind_of_register_is_refused() -> None:
    disk = created()
    change_identity(disk, register="etcd")
    error = refusal(disk)
    assert "'etcd', not 'local'" in error.message


def test_a_damaged_identity_is_corruption() -> None:
    disk = created()
    data = read_file(disk, PATHS.identity)
    disk.plant(PATHS.identity, data.replace(b"kvserver", b"kvsurfer"))
    with pytest.raises(Corruption, match="checksum does not match") as refused:
        open_store(disk)
    assert refused.value.path == PATHS.identity


def test_a_folder_in_use_is_refused_and_not_disturbed() -> None:
    disk = MemoryFileSystem()
    database = open_store(disk)
    error = refusal(disk.another_process())
    assert "in use by another process" in error.message
    assert "--data-dir" in error.hint
    do(database, Put(1, b"key", b"value"))
    database.close()
    assert content(open_store(disk.another_process()))["", b"key"].value == b"value"


def test_a_file_in_place_of_the_folder_is_refused() -> None:
    disk = MemoryFileSystem()
    disk.plant(PATHS.root, b"")
    assert "cannot be used" in refusal(disk).message


def test_a_folder_that_cannot_be_written_is_refused_with_the_reason() -> None:
    disk = created()
    read_only = Fault(error=errno.EROFS, kinds={"create", "pwrite", "truncate", "link", "rename", "remove"}, forever=True)
    error = refusal(FaultFileSystem(disk, FaultPlan([read_only])))
    assert "Read-only file system" in error.message
    disk.another_process()
    open_store(disk)


def test_a_disk_without_room_for_a_segment_is_refused_and_the_lock_let_go() -> None:
    disk = created()
    fs = FaultFileSystem(disk, FaultPlan(space_bytes=1 << 20))
    assert "No space left on device" in refusal(fs).message
    fs.add_space(1 << 30)
    open_store(fs).close()


def test_a_sync_that_fails_while_opening_is_a_refusal() -> None:
    disk = created()
    for at in range(1, 8):
        fs = FaultFileSystem(disk.clone(), FaultPlan([Fault(kinds={"datasync", "sync", "sync_dir"}, at=at)]))
        assert "Input/output error" in refusal(fs).message


def test_a_damaged_log_is_refused_before_an_epoch_is_claimed() -> None:
    disk = created()
    (segment,) = [name for name in disk.list_dir(PATHS.wal) if parse_segment(name)]
    data = read_file(disk, PATHS.wal / segment)
    disk.plant(PATHS.wal / segment, data[:4200] + b"\xff" + data[4201:])
    before = disk.contents()
    for _ in range(2):
        with pytest.raises(Corruption):
            open_store(disk)
    assert disk.contents() == before


def test_an_epoch_with_another_nonce_than_the_register_has_is_corruption() -> None:
    disk = created()

    class Confused(LocalRegister):
        """A register that knows of a later epoch under another nonce than the log has."""

        def records(self) -> list[Any]:
            return [record._replace(epoch=Epoch(record.epoch.number, 99)) for record in super().records()]

    with pytest.raises(Corruption, match="another nonce in the log than in the register"):
        Database.open(
            PATHS.root,
            lambda env, paths: Confused(env.fs, paths),
            "local",
            lambda callback: callback(),
            TWIN,
            env=Environment(disk),
            threads=False,
        )


# Starts


def test_every_start_begins_a_new_epoch() -> None:
    disk = MemoryFileSystem()
    nonces = set()
    for number in range(1, 6):
        database = open_store(disk, seed=number)
        assert database.history.current.number == number
        nonces.add(database.history.current.nonce)
        do(database, Put(1, b"key", b"%d" % number))
        if number % 2:
            database.close()
        else:
            disk.kill()
    assert len(nonces) == 5
    claims = [name for name in disk.list_dir(PATHS.epochs) if parse_claim(name)]
    assert [parse_claim(name) for name in claims] == [1, 2, 3, 4, 5]


def test_an_epoch_begins_where_the_one_before_it_ended() -> None:
    disk = created()
    events: list[Event] = []
    database = open_store(disk, seed=1, listener=events.append)
    assert events == [LogRecovered(1, 1, 2, 4096 + 104 + 72 + 96, 0.0), EpochBegun(2, database.history.current.nonce, 2)]
    record = LocalRegister(disk, PATHS).records()[1]
    assert record.epoch == database.history.current
    assert record.branch is not None
    assert (record.branch.revision, record.branch.epoch.number) == (2, 1)
    assert record.node_id == database.identity.node_id


def test_a_claim_that_never_got_a_branch_is_stepped_over() -> None:
    disk = created()
    LocalRegister(disk, PATHS).claim(Epoch(2, 5), NodeRecord("node", "node", ""), 0)
    database = open_store(disk, seed=1)
    assert database.history.current.number == 3
    assert content(database)["", b"key"].mod_revision == 2


def test_an_epoch_that_lost_its_claim_is_corruption() -> None:
    """Else the register's word on what was durable would be lost without anybody noticing."""
    disk = created()
    for path in (PATHS.claim(1), PATHS.branch(1), PATHS.begun(1)):
        disk.remove(path)
    with pytest.raises(Corruption, match="its claim is lost") as refused:
        open_store(disk, seed=1)
    assert "epochs/" in refused.value.hint


@pytest.mark.parametrize(
    ("kept", "why"), [(0, "revision 2 was durable; segments are missing"), (1, "ends before epoch 2, whose first segment was")]
)
def test_segments_that_the_register_knows_of_and_that_are_missing_are_corruption(kept: int, why: str) -> None:
    disk = created()
    open_store(disk, seed=1).close()
    for name in disk.list_dir(PATHS.wal)[kept:]:
        disk.remove(PATHS.wal / name)
    with pytest.raises(Corruption, match=why):
        open_store(disk, seed=2)


def test_what_is_missing_below_the_newest_branch_is_corruption() -> None:
    disk = created()
    open_store(disk, seed=1).close()
    for path in [*(PATHS.wal / name for name in disk.list_dir(PATHS.wal)), PATHS.begun(1), PATHS.begun(2)]:
        disk.remove(path)
    with pytest.raises(Corruption, match="revision 2 was durable; segments are missing"):
        open_store(disk, seed=2)


def test_a_start_that_ended_before_it_was_recorded_as_begun_is_stepped_over() -> None:
    disk = created()
    open_store(disk, seed=1)
    disk.kill()
    disk.remove(PATHS.begun(2))
    assert open_store(disk, seed=2).history.current.number == 3
    assert [record.begun for record in LocalRegister(disk, PATHS).records()] == [True, False, True]


def test_leftovers_of_a_start_that_failed_are_removed() -> None:
    disk = created()
    for path in (PATHS.prepared(0), PATHS.prepared(9), PATHS.identity_temporary, PATHS.epoch_temporary()):
        disk.plant(path, b"half")
    open_store(disk, seed=1).close()
    names = disk.list_dir(PATHS.wal)
    assert [name for name in names if parse_segment(name) is None] == []
    assert not disk.exists(PATHS.epoch_temporary())


# Ends


def log_write(at: int) -> Fault:
    """Return a fault at the so-manieth write into a new store's first segment: group, mark and seal."""
    opening = math.ceil(TIGHT.ahead_bytes / TIGHT.fill_step_bytes) + 1
    return Fault(kinds={"pwrite"}, where=lambda path: path == PATHS.prepared(0), at=opening + at)


def test_a_clean_end_seals_the_segment_and_lets_go() -> None:
    disk = MemoryFileSystem()
    events: list[Event] = []
    database = open_store(disk, listener=events.append)
    do(database, Put(1, b"key", b"value"))
    database.close()
    sealed = [event for event in events if isinstance(event, SegmentSealed)]
    assert [(event.last_revision, event.length_bytes) for event in sealed] == [(2, 4096 + 104 + 72 + 96)]
    assert disk.list_dir(PATHS.wal) == [sealed[0].segment]
    assert content(open_store(disk.power_loss(lambda _: LOST), seed=1)) == content(database)
    open_store(disk.another_process())


def test_a_clean_end_writes_what_was_handed_over() -> None:
    disk = MemoryFileSystem()
    database = open_store(disk)
    tickets = [database.submit(Put(1, b"%d" % number, b""), lambda outcome: outcome) for number in range(5)]
    database.close()
    assert all(ticket.done for ticket in tickets)
    assert len(content(open_store(disk.power_loss(lambda _: LOST)))) == 5


def test_an_end_after_a_failure_writes_nothing_more() -> None:
    disk = MemoryFileSystem()
    fs = FaultFileSystem(disk, FaultPlan([log_write(1)]))
    database = open_store(fs)
    ticket = database.submit(Put(1, b"key", b"value"), lambda outcome: outcome)
    before = fs.counts["pwrite"]
    database.close()
    assert isinstance(outcome(ticket), OutcomeUnknown)
    assert fs.counts["pwrite"] == before + 1
    open_store(disk.another_process())


def test_a_seal_that_fails_is_the_callers_error_and_the_lock_is_let_go() -> None:
    disk = MemoryFileSystem()
    database = open_store(FaultFileSystem(disk, FaultPlan([log_write(3)])))
    do(database, Put(1, b"key", b"value"))
    with pytest.raises(OSError, match="Input/output error"):
        database.close()
    assert content(open_store(disk.another_process()))["", b"key"].mod_revision == 2


def test_a_failed_sync_of_the_space_keeper_is_not_followed_by_a_seal() -> None:
    disk = MemoryFileSystem()
    database = open_store(disk)
    do(database, Put(1, b"key", b"value"))
    disk.fail_next_sync()
    while database._space.step():
        pass
    assert database._space.failure is not None
    before = disk.contents()
    database.close()
    after = disk.contents()
    assert {path: data for path, data in after.items() if parse_segment(path.name)} == {
        path: data for path, data in before.items() if parse_segment(path.name)
    }
    assert database.failure is not None
    open_store(disk.another_process())
