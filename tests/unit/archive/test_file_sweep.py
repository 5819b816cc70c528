"""Removing files that no backup names, beside backups that are being made: whichever comes second makes way."""

from __future__ import annotations

import contextlib
import hashlib
import random

import pytest

from kvserver.archive.catalog import read_catalog
from kvserver.archive.file_sweep import SWEEP_MS, UPLOAD_MS, Sweep, announced_backup, sweep_files, unnamed_files
from kvserver.archive.records import RetentionRecord
from kvserver.archive.retention_record import change_retention, read_retention
from kvserver.archive.store import ReplaceConflict, Store, StoreUnavailable
from kvserver.base.environment import Environment
from kvserver.base.errors import Corruption, Refused
from support.archives import ArchiveScene
from support.clocks import ManualClock
from support.fault_store import FaultStore, StoreFault, ambiguous, failing_store_calls, quicker_writer
from support.faultfs import ProcessKilled
from support.log_scenes import flip
from support.memfs import MemoryFileSystem
from support.memory_store import MemoryStore


class Scene:
    """An archive with a backup of two files and two files that nobody names, and two processes that see one clock."""

    def __init__(self) -> None:
        self.archive = ArchiveScene()
        self.archive.begin()
        self.archive.segment(1)
        self.archive.backup(files={"a.sst": b"a", "b.sst": b"b"})
        self.store, self.names = self.archive.store, self.archive.names
        self.strays = [self.file(b"stray"), self.file(b"another")]
        self.clock = ManualClock()
        self.backing, self.sweeping = (
            Environment(MemoryFileSystem(), self.clock, random.Random(seed).randbytes) for seed in (1, 2)
        )

    def file(self, data: bytes) -> str:
        """Put a file and return its name."""
        name = self.names.file(hashlib.sha256(data).digest())
        self.archive.objects[name] = data
        return name

    def files(self) -> list[str]:
        """Return the names of all files."""
        return [info.name for info in self.store.list(self.names.files)]

    def sweep(self, store: Store | None = None) -> Sweep:
        """Remove what no backup names."""
        return sweep_files(self.sweeping, store if store is not None else self.store, self.names)

    def announce(self, store: Store | None = None) -> contextlib.AbstractContextManager[None]:
        """Begin a backup."""
        return announced_backup(self.backing, store if store is not None else self.store, self.names)


def test_what_no_backup_names_goes_and_nothing_else() -> None:
    scene = Scene()
    foreign = scene.names.files + "notes"
    scene.archive.objects[foreign] = b""
    unnamed = unnamed_files(scene.store, scene.names)
    assert [info.name for info in unnamed.files] == sorted(scene.strays)
    swept = scene.sweep()
    assert swept == unnamed and swept.length == len(b"stray") + len(b"another")
    assert len(scene.files()) == 3
    assert scene.sweep().files == ()
    record = read_retention(scene.store, scene.names)
    assert record is not None and record.sweep == ""


def test_nothing_goes_while_a_backup_is_being_made() -> None:
    scene = Scene()
    with scene.announce():
        assert scene.sweep() == Sweep((), "1 backup is being made")
        with scene.announce():
            assert scene.sweep().postponed == "2 backups are being made"
    assert len(scene.files()) == 4
    assert len(scene.sweep().files) == 2


def test_no_backup_begins_while_files_are_being_removed() -> None:
    scene = Scene()

    def begin() -> None:
        with pytest.raises(Refused, match="are being removed"), scene.announce():
            raise AssertionError("it began")

    store = FaultStore(scene.store, [StoreFault(error=None, calls={"delete"}, action=begin)])
    assert len(scene.sweep(store).files) == 2
    assert store.fired == 1
    with scene.announce():
        pass


def test_a_backup_that_begins_before_the_files_are_looked_at_is_seen() -> None:
    scene = Scene()
    backup = scene.announce()
    store = FaultStore(scene.store, [quicker_writer(lambda: backup.__enter__(), calls={"replace"})])
    assert scene.sweep(store).postponed == "1 backup is being made"
    backup.__exit__(None, None, None)
    assert len(scene.files()) == 4


@pytest.mark.parametrize("at", range(1, 40))
def test_a_backup_at_any_moment_keeps_what_it_relies_on(at: int) -> None:
    """The backup finds a file that nobody names and does not send it again; a sweep runs at the same time."""
    scene = Scene()
    relied_on = scene.strays[0]

    def back_up() -> None:
        try:
            with scene.announce():
                if relied_on not in scene.files():
                    scene.file(b"stray")
                scene.archive.backup(files={"s.sst": b"stray"})
        except Refused:
            return

    store = FaultStore(scene.store, [StoreFault(at=at, error=None, action=back_up)])
    scene.sweep(store)
    for backup in read_catalog(scene.store, scene.archive.cluster_id).backups:
        assert {scene.names.file(file.sha256) for file in backup.files} <= set(scene.files())
    assert store.fired or at > 8


@pytest.mark.parametrize("at", range(1, 40))
def test_a_sweep_at_any_moment_of_a_backup_leaves_what_it_relies_on(at: int) -> None:
    scene = Scene()
    store = FaultStore(scene.store, [StoreFault(at=at, error=None, action=lambda: scene.sweep())])
    with contextlib.suppress(Refused), scene.announce(store):
        names = [info.name for info in store.list(scene.names.files)]
        if scene.strays[0] not in names:
            store.create(scene.strays[0], [b"stray"])
        for _ in range(3):
            store.length(scene.strays[0])
        scene.archive.backup(files={"s.sst": b"stray"})
    for backup in read_catalog(scene.store, scene.archive.cluster_id).backups:
        assert {scene.names.file(file.sha256) for file in backup.files} <= set(scene.files())


def test_what_a_crash_leaves_behind_counts_for_a_while() -> None:
    scene = Scene()
    backup = scene.announce()
    backup.__enter__()  # and never heard of again
    scene.clock.advance_ms(UPLOAD_MS - 1)
    assert scene.sweep().postponed
    scene.clock.advance_ms(1)
    assert len(scene.sweep().files) == 2
    assert list(scene.store.list(scene.names.uploads)) == []

    scene = Scene()
    store = FaultStore(scene.store, [StoreFault(error=None, kills=True, calls={"delete"})])
    with contextlib.suppress(ProcessKilled):
        scene.sweep(store)
    scene.clock.advance_ms(SWEEP_MS - 1)
    with pytest.raises(Refused), scene.announce():
        pass
    assert scene.sweep().postponed == "files are being removed by another process"
    scene.clock.advance_ms(1)
    with scene.announce():
        assert scene.sweep().postponed == "1 backup is being made"
    assert len(scene.sweep().files) == 2


def test_a_sweep_that_was_replaced_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvserver.archive.file_sweep._BATCH", 1)
    scene = Scene()

    def take_over() -> None:
        scene.clock.advance_ms(SWEEP_MS)
        with scene.announce():
            pass

    store = FaultStore(scene.store, [StoreFault(at=2, error=None, calls={"held"}, action=take_over)])
    assert scene.sweep(store) == Sweep((), "files are being removed by another process")
    assert len(scene.files()) == 4


def test_a_record_that_cannot_be_read_keeps_all_files() -> None:
    scene = Scene()
    name = next(name for name in scene.archive.objects if name.startswith(scene.names.backups))
    scene.archive.objects[name] = flip(scene.archive.objects[name], 100)
    assert "may name any file" in scene.sweep().postponed
    assert len(scene.files()) == 4


def test_a_store_that_fails_at_any_call_removes_nothing_that_is_named() -> None:
    scene = Scene()
    whole = dict(scene.archive.objects)

    def fresh() -> MemoryStore:
        scene.archive.objects.clear()
        scene.archive.objects.update(whole)
        assert isinstance(scene.store, MemoryStore)
        return scene.store

    for fault in (ambiguous(took_effect=True), ambiguous(took_effect=False)):
        for store in failing_store_calls(fresh, fault):
            with contextlib.suppress(StoreUnavailable):
                scene.sweep(store)
            scene.clock.advance_ms(SWEEP_MS)
            scene.sweep()
            assert len(scene.files()) == 2


# The record


def changes(record: RetentionRecord) -> RetentionRecord:
    return record._replace(first_revision=record.first_revision + 5)


def test_the_record_is_replaced_only_as_it_was_read() -> None:
    scene = Scene()
    assert read_retention(scene.store, scene.names) is None
    assert change_retention(scene.store, scene.names, changes).first_revision == 5
    store = FaultStore(
        scene.store, [quicker_writer(lambda: change_retention(scene.store, scene.names, changes), calls={"replace"})]
    )
    assert change_retention(store, scene.names, changes).first_revision == 15
    assert change_retention(store, scene.names, lambda record: record).first_revision == 15


def test_others_that_are_always_quicker_are_not_fought_for_ever() -> None:
    scene = Scene()
    fault = quicker_writer(lambda: change_retention(scene.store, scene.names, changes), calls={"replace"})
    store = FaultStore(scene.store, [StoreFault(**{**vars(fault), "forever": True})])
    with pytest.raises(ReplaceConflict):
        change_retention(store, scene.names, changes)


def test_what_was_given_up_is_never_promised_again() -> None:
    scene = Scene()
    change_retention(scene.store, scene.names, changes)
    with pytest.raises(ValueError, match="cannot be promised again"):
        change_retention(scene.store, scene.names, lambda record: record._replace(first_revision=4))


def test_a_record_of_another_cluster_is_damage() -> None:
    scene = Scene()
    other = RetentionRecord(bytes(16), 3, 3)
    change_retention(scene.store, scene.names, lambda record: other)
    with pytest.raises(Corruption, match="it is of another cluster"):
        read_retention(scene.store, scene.names)


@pytest.mark.parametrize("at", [1, 2, 3, "behind a file"])
def test_a_sweep_that_was_held_up_removes_nothing_that_a_backup_relies_on_by_now(at: int | str) -> None:
    """However few files there are: it looks again before the first of them, and whenever a call has taken long."""
    scene = Scene()
    relied_on: list[str] = []

    def held_up(*args: object) -> None:
        scene.clock.advance_ms(SWEEP_MS)
        with scene.announce():
            relied_on.extend(scene.files())

    faults = [StoreFault(at=at, error=None, calls={"list"}, action=held_up)] if isinstance(at, int) else []
    swept = sweep_files(
        scene.sweeping, FaultStore(scene.store, faults), scene.names, held_up if not faults else lambda info: None
    )
    assert relied_on and set(relied_on) <= set(scene.files())
    assert len(swept.files) == (0 if faults else 1)
