"""Opening a folder that is being restored, or that holds what was only scratch."""

from __future__ import annotations

import pytest

from kvserver.base.environment import Environment
from kvserver.base.errors import Corruption, OpenRefused
from kvserver.base.record_file import encode_record
from kvserver.commit.requests import Put
from kvserver.storage.restore_record import RestoreRecord, create_restore_record, remove_restore_record
from support.clocks import ManualClock
from support.logs import PATHS
from support.memfs import MemoryFileSystem
from support.stores import content, do, open_store


def created() -> MemoryFileSystem:
    """Return a disk with a store that was closed cleanly and holds one key."""
    disk = MemoryFileSystem()
    database = open_store(disk)
    do(database, Put(1, b"key", b"value"))
    database.close()
    return disk


@pytest.mark.parametrize("take_over", [False, True])
def test_a_folder_whose_restore_did_not_end_is_refused_with_the_command_that_goes_on(take_over: bool) -> None:
    disk = created()  # a store in all else: what counts is the record
    record = RestoreRecord("s3://bucket/kv", bytes(range(16)), 77, take_over, "/data folder", True, 5, {})
    create_restore_record(Environment(disk, ManualClock()), PATHS, record)
    before = disk.contents()
    with pytest.raises(OpenRefused) as refused:
        open_store(disk)
    error = refused.value
    assert "restore to revision 77 from s3://bucket/kv did not end" in error.message
    command = "kvctl restore --archive s3://bucket/kv --cluster 000102030405060708090a0b0c0d0e0f --to-revision 77"
    assert f"{command} --target-dir '/data folder'{' --take-over' if take_over else ''}" in error.hint
    assert disk.contents() == before
    remove_restore_record(Environment(disk, ManualClock()), PATHS)
    assert content(open_store(disk))["", b"key"].value == b"value"


def test_a_damaged_record_of_a_restore_is_corruption() -> None:
    disk = created()
    for data in (b"{}", encode_record({"store": "kvserver restore"}), encode_record({"store": "x"})):
        disk.plant(PATHS.restore, data)
        with pytest.raises(Corruption) as refused:
            open_store(disk)
        assert (refused.value.path, "restore again" in refused.value.hint) == (PATHS.restore, True)


def test_scratch_is_emptied_at_a_start() -> None:
    disk = created()
    disk.plant(PATHS.scratch / "1" / "tables" / "000001.sst", b"x")
    disk.plant(PATHS.scratch / "2" / "ORIGIN", b"x")
    open_store(disk)
    assert not disk.exists(PATHS.scratch)
