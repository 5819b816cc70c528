"""Checkpoints: a copy as of one moment that opens as a store of its own; half of one is refused by name."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest

from kvserver.base import failpoints
from kvserver.base.errors import Code, Corruption, KvError, OpenRefused
from kvserver.base.events import CheckpointMade, Event
from kvserver.base.fs import read_file
from kvserver.base.paths import DataPaths
from kvserver.commit.requests import CompactHistory, CreateNamespace, Delete, DropNamespace, Put, PutRun
from kvserver.engine.checkpoint import CheckpointDone
from kvserver.engine.database import Database
from support.crashes import sampled_states
from support.fake_log import outcome
from support.faultfs import Fault, FaultFileSystem, FaultPlan, ProcessKilled
from support.logs import PATHS
from support.memdisk import LOST
from support.memfs import MemoryFileSystem
from support.stores import content, do, flush, histories, open_store, peek, run_settling, submit

TARGET = Path("/copies/monday")
COPY = DataPaths(TARGET)


@pytest.fixture(autouse=True)
def _disarm() -> object:
    yield
    failpoints.disarm_all()


@pytest.fixture
def disk() -> MemoryFileSystem:
    return MemoryFileSystem()


@pytest.fixture
def database(disk: MemoryFileSystem) -> Database:
    db = open_store(disk)
    team = do(db, CreateNamespace("team")).namespace_id
    do(db, PutRun(1, [b"a", b"b", b"a"], [b"1", b"2", b"3"]))
    flush(db)
    do(db, Put(team, b"a", b"theirs"))
    do(db, Delete(1, b"b"))
    return db


def checkpoint(db: Database, target: Path = TARGET) -> CheckpointDone:
    done = run_settling(db, db.checkpoint(target))
    assert isinstance(done, CheckpointDone)
    return done


def refusal(db: Database, target: Path) -> KvError:
    with pytest.raises(KvError) as refused:
        checkpoint(db, target)
    assert refused.value.hint
    return refused.value


def open_copy(disk: MemoryFileSystem, seed: int = 77) -> Database:
    return open_store(disk, seed=seed, paths=COPY)


def test_a_copy_holds_what_was_visible_with_all_its_past(disk: MemoryFileSystem, database: Database) -> None:
    events: list[Event] = []
    database._listener = events.append
    before = histories(database)
    done = checkpoint(database)
    assert done.position.revision == database.marks.visible == database.marks.flushed == 7
    assert done.table_files == 2
    assert done.table_bytes > 0
    assert events[-1] == CheckpointMade(str(TARGET), 7, done.table_files, done.table_bytes)
    do(database, Put(1, b"a", b"later"))
    copy = open_copy(disk)
    assert histories(copy) == before
    assert content(database)["", b"a"].value == b"later"


def test_a_copy_is_a_store_of_its_own(disk: MemoryFileSystem, database: Database) -> None:
    checkpoint(database)
    copy = open_copy(disk)
    assert copy.identity.cluster_id != database.identity.cluster_id
    assert copy.identity.node_id != database.identity.node_id
    assert copy.history.current.number == database.history.current.number + 1
    assert copy.history.current.nonce != database.history.current.nonce
    do(copy, Put(1, b"a", b"fork"))
    do(database, Put(1, b"a", b"parent"))
    assert flush(copy) == flush(database) == 8
    assert (content(copy)["", b"a"].value, content(database)["", b"a"].value) == (b"fork", b"parent")
    copy.close()
    again = open_copy(disk, seed=78)
    assert again.identity == copy.identity
    assert again.history.current.number == copy.history.current.number + 1
    assert content(again)["", b"a"].version == 3


def test_sessions_of_the_parent_are_part_of_a_copys_history_up_to_the_branch(disk: MemoryFileSystem, database: Database) -> None:
    database.close()
    database = open_store(disk, seed=5)
    do(database, Put(1, b"c", b"second epoch"))
    checkpoint(database)
    copy = open_copy(disk)
    for epoch, revision in ((1, 7), (1, 2), (2, 8), (2, 7)):
        assert copy.reading_at(0, (epoch, revision)).answer() == 8
    do(database, Put(1, b"c", b"after the copy was made"))
    do(copy, Put(1, b"c", b"fork"))
    assert copy.reading_at(0, (3, 9)).answer() == 9
    for epoch, revision in ((1, 8), (2, 9), (4, 9)):
        error = outcome(copy.reading_at(0, (epoch, revision)))
        assert error.code is Code.HISTORY_LOST
    assert "epoch 3 follows it from revision 8 on" in outcome(copy.reading_at(0, (2, 9))).message
    copy.close()
    assert open_copy(disk, seed=78).reading_at(0, (1, 7)).answer() == 9, "the record of where it comes from stays"


def test_catalogue_and_window_come_along(disk: MemoryFileSystem, database: Database) -> None:
    do(database, CreateNamespace("gone"))
    do(database, DropNamespace("gone"))
    do(database, CompactHistory(4))
    checkpoint(database)
    copy = open_copy(disk)
    assert copy.namespaces() == database.namespaces()
    assert copy.oldest_readable == 4
    assert outcome(copy.reading_at(3, None)).code is Code.COMPACTED
    assert do(copy, CreateNamespace("gone")).namespace_id == database.state.next_namespace_id


def test_an_empty_store_can_be_copied(disk: MemoryFileSystem) -> None:
    database = open_store(disk)
    assert checkpoint(database).position.revision == 1
    copy = open_copy(disk)
    assert content(copy) == {}
    assert do(copy, Put(1, b"a", b"1")).revision == 2


def test_what_is_not_visible_when_it_is_made_comes_along_only_if_it_was_flushed(
    disk: MemoryFileSystem, database: Database
) -> None:
    late = []
    failpoints.arm("engine.checkpoint.after_tables", lambda: late.append(submit(database, Put(1, b"late", b""))))
    assert checkpoint(database).position.revision == 7
    assert late[0].done
    assert ("", b"late") not in content(open_copy(disk))


# What is refused


def test_targets_that_cannot_be_used_are_refused(disk: MemoryFileSystem, database: Database) -> None:
    disk.plant(Path("/copies/full/something"), b"")
    disk.plant(Path("/copies/file"), b"")
    for target, why in (
        (Path("relative"), "not an absolute path"),
        (PATHS.root, "within the data folder"),
        (PATHS.root / "copy", "within the data folder"),
        (Path("/copies/full"), "in use"),
        (Path("/copies/file"), "a file"),
    ):
        error = refusal(database, target)
        assert (error.code, why in error.message) == (Code.TARGET_UNUSABLE, True), error.message
    checkpoint(database)
    assert refusal(database, TARGET).code is Code.TARGET_UNUSABLE, "it is never written over"
    assert content(open_copy(disk)) == content(database)


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, Code.DISK_FULL), (errno.EROFS, Code.TARGET_UNUSABLE)])
def test_a_disk_that_refuses_is_named_and_half_a_copy_is_none(number: int, code: Code) -> None:
    disk = MemoryFileSystem()
    fault = Fault(error=number, kinds={"create", "pwrite"}, where=lambda path: path.is_relative_to(TARGET))
    database = open_store(FaultFileSystem(disk, FaultPlan([fault])))
    do(database, Put(1, b"a", b"1"))
    assert refusal(database, TARGET).code is code
    with pytest.raises(OpenRefused, match="a checkpoint that was not finished"):
        open_copy(disk)
    assert peek(database, 1, b"a", 2) is not None
    checkpoint(database, Path("/copies/tuesday"))


# What a crash leaves


def kill() -> None:
    raise ProcessKilled


def killed_at(name: str, disk: MemoryFileSystem, database: Database) -> None:
    failpoints.arm(name, kill)
    with pytest.raises(ProcessKilled):
        checkpoint(database)
    failpoints.disarm_all()


def test_half_a_copy_is_refused_by_name_and_says_what_to_do(disk: MemoryFileSystem, database: Database) -> None:
    killed_at("engine.checkpoint.after_tables", disk, database)
    for state in sampled_states(disk, random.Random(1), 20):
        with pytest.raises(OpenRefused, match="a checkpoint that was not finished") as refused:
            open_copy(state.disk)
        assert "make the checkpoint again" in refused.value.hint
    disk.kill()
    after = open_store(disk, seed=9)
    assert len(content(after)) == 2
    assert refusal(after, TARGET).code is Code.TARGET_UNUSABLE
    checkpoint(after, Path("/copies/again"))


def test_a_copy_is_whole_however_the_power_fails_behind_it(disk: MemoryFileSystem, database: Database) -> None:
    before = content(database)
    killed_at("engine.checkpoint.after_origin", disk, database)
    for state in sampled_states(disk, random.Random(1), 20):
        assert content(open_copy(state.disk)) == before


def test_a_copy_whose_record_is_lost_or_damaged_is_refused(disk: MemoryFileSystem, database: Database) -> None:
    checkpoint(database)
    data = read_file(disk, COPY.origin)
    lost = disk.power_loss(lambda _: LOST)
    lost.remove(COPY.origin)
    with pytest.raises(OpenRefused, match="neither IDENTITY nor ORIGIN"):
        open_copy(lost)
    disk.plant(COPY.origin, data.replace(b'"revision"', b'"revisiom"'))
    with pytest.raises(Corruption) as refused:
        open_copy(disk)
    assert refused.value.path == COPY.origin


def test_tables_of_another_moment_are_no_copy(disk: MemoryFileSystem, database: Database) -> None:
    checkpoint(database)
    do(database, Put(1, b"a", b"later"))
    checkpoint(database, Path("/copies/tuesday"))
    disk.plant(COPY.origin, read_file(disk, DataPaths(Path("/copies/tuesday")).origin))
    with pytest.raises(Corruption, match="another moment"):
        open_copy(disk)


def test_a_copy_of_a_copy_that_was_not_written_to_is_one_of_the_first_store(disk: MemoryFileSystem, database: Database) -> None:
    """Its tables still name that store: a record that named the copy would make it look like somebody else's."""
    first, second = DataPaths(Path("/first")), DataPaths(Path("/second"))
    run_settling(database, database.checkpoint(first.root))
    copy = open_store(disk, paths=first)
    run_settling(copy, copy.checkpoint(second.root))
    copy.close()
    again = open_store(disk, paths=second)
    assert content(again) == content(database)
    again.close()
