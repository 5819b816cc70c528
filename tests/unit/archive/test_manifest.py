"""An epoch's manifest: what its writer refuses, who wins a number, and what its reader believes."""

from __future__ import annotations

import errno
import itertools
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from kvserver.archive.errors import ArchiveFenced
from kvserver.archive.folder_store import FolderStore
from kvserver.archive.manifest import ENTRIES_PER_RECORD, EpochManifest, read_epoch_manifest
from kvserver.archive.manifest_chain import epoch_start
from kvserver.archive.records import Closing, Gap, SegmentEntry
from kvserver.archive.store import StoreUnavailable
from kvserver.base.errors import Corruption
from kvserver.base.fs import FileSystem
from kvserver.base.types import Epoch, Position
from support.archives import ArchiveScene
from support.clocks import ManualClock
from support.crashes import states
from support.fault_store import FaultStore, ambiguous, failing_store_calls, quicker_writer, stale_listing
from support.faultfs import Fault, FaultFileSystem, FaultPlan, ProcessKilled
from support.memfs import MemoryFileSystem
from support.memory_store import MemoryStore


def begun(store: MemoryStore | FaultStore | FolderStore | None = None) -> ArchiveScene:
    scene = ArchiveScene(store if store is not None else MemoryStore())
    scene.begin()
    return scene


def reopened(scene: ArchiveScene, **changes: Any) -> EpochManifest:
    epoch, branch = scene.epochs[-1]
    values = {"epoch": epoch, "branch": branch, "node_name": "other", "clock": scene.clock, **changes}
    return EpochManifest.open(scene.store, scene.names, **values)


def records(scene: ArchiveScene) -> list[str]:
    return [info.name for info in scene.store.list(scene.names.manifests)]


def test_what_was_listed_is_there_again_after_a_restart() -> None:
    scene = begun()
    first = scene.segment(2)
    second, third = scene.put(1), scene.put()
    scene.record(second, third)
    again = reopened(scene)
    assert again.entries == scene.manifest.entries == [first, second, third]
    assert again.entries_end == again.end == scene.position
    assert [record.number for record in read_epoch_manifest(scene.store, scene.names, 1)] == [0, 1]
    again.append([scene.put(3)])
    assert len(read_epoch_manifest(scene.store, scene.names, 1)) == 3


def test_an_empty_manifest_ends_where_the_epoch_begins() -> None:
    scene = begun()
    assert scene.manifest.entries_end is None
    assert scene.manifest.end == epoch_start(scene.cluster_id, *scene.epochs[-1])


def test_what_is_listed_already_is_passed_over() -> None:
    scene = begun()
    first = scene.segment(2)
    second = scene.put(1)
    scene.manifest.append([first])
    assert len(records(scene)) == 1
    scene.manifest.append([first, second])
    assert scene.manifest.entries == [first, second]
    assert len(records(scene)) == 2


def test_only_the_newest_entries_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvserver.archive.manifest.ENTRIES_REMEMBERED", 10)
    scene = begun()
    template = scene.put()
    for number in range(100):
        entry = template._replace(segment_id=number + 1)
        scene.manifest.append([entry])
        scene.manifest.append([entry])
        assert scene.manifest.entries[-1] == entry
    assert 10 <= len(scene.manifest.entries) <= 20
    assert 10 <= len(reopened(scene).entries) <= 20
    assert len(records(scene)) == 100
    with pytest.raises(ValueError, match="id of another segment"):
        scene.manifest.append([template._replace(segment_id=1, stored_length=1)])


def test_many_entries_make_several_records() -> None:
    scene = begun()
    template = scene.put()
    entries = [template._replace(segment_id=number + 1) for number in range(ENTRIES_PER_RECORD + 1)]
    scene.manifest.append(entries)
    assert [len(record.entries) for record in read_epoch_manifest(scene.store, scene.names, 1)] == [ENTRIES_PER_RECORD, 1]


def chain_of(position: Position, first: int) -> Position:
    return position._replace(chain=bytes([first]) * 16)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda entry: entry._replace(start=chain_of(entry.start, 9), previous=chain_of(entry.start, 9)), "begins at"),
        (lambda entry: entry._replace(previous=chain_of(entry.previous, 9)), "neither its own begin"),
        (lambda entry: entry._replace(previous=entry.previous._replace(revision=1)), "neither its own begin"),
        (lambda entry: entry._replace(end=entry.end._replace(revision=entry.end.revision + 1)), "its name and its begin"),
        (lambda entry: entry._replace(id=entry.id._replace(first_revision=2)), "its name and its begin"),
        (lambda entry: entry._replace(end=entry.end._replace(epoch=Epoch(1, 5))), "its name and its begin"),
        (lambda entry: entry._replace(end=chain_of(entry.start, 7), id=entry.id._replace(last_revision=3)), "its name and"),
        (lambda entry: entry._replace(first_time_ms=entry.last_time_ms + 1), "ends before it begins in time"),
    ],
)
def test_an_entry_that_does_not_continue_is_refused_before_anything_is_written(
    change: Callable[[SegmentEntry], SegmentEntry], why: str
) -> None:
    scene = begun()
    scene.segment(2)
    entry = scene.put(1)
    with pytest.raises(ValueError, match=why):
        scene.manifest.append([change(entry)])
    assert len(records(scene)) == 1
    scene.manifest.append([entry])


def test_a_segment_left_out_out_of_order_or_of_another_epoch_is_refused() -> None:
    scene = begun()
    first, second, third = scene.put(2), scene.put(1), scene.put(1)
    for wrong in ([second], [first, third], [second, first], [first, first]):
        with pytest.raises(ValueError, match="begins at"):
            scene.manifest.append(wrong)
    with pytest.raises(ValueError, match="id of another segment"):
        scene.manifest.append([first, second._replace(segment_id=first.segment_id)])
    old = scene.manifest
    scene.begin()
    with pytest.raises(ValueError, match="of epoch 2 is not listed by the manifest of epoch 1"):
        old.append([scene.put(1)])
    assert len(records(scene)) == 1  # the closing of the first


def test_a_gap_is_listed_openly_or_not_at_all() -> None:
    scene = begun()
    scene.segment(2)
    end = scene.position
    missing = scene.put(2, 1)
    behind = scene.put(1)
    with pytest.raises(ValueError, match="begins at"):
        scene.manifest.append([behind])
    gap = Gap(end, missing.start.revision + 1, missing.end.revision)
    for wrong in (
        gap._replace(last_revision=gap.last_revision - 1),
        gap._replace(first_revision=gap.first_revision - 1),
        gap._replace(after=chain_of(end, 1)),
    ):
        with pytest.raises(ValueError, match="gap"):
            scene.manifest.append([behind], wrong)
    scene.manifest.append([], gap)
    with pytest.raises(ValueError, match="a gap ends at"):
        scene.manifest.append([scene.put(1)])
    scene.manifest.append([behind], gap)  # an attempt that is made again
    assert scene.manifest.gaps == reopened(scene).gaps == [gap]
    assert scene.manifest.end == behind.end


def test_an_archive_that_begins_later_than_its_epoch_says_so() -> None:
    scene = begun()
    missing, first = scene.put(3), scene.put(2)
    with pytest.raises(ValueError, match="begins at"):
        scene.manifest.append([first])
    start = scene.manifest.end
    assert start is not None
    scene.manifest.append([first], Gap(start, 2, missing.end.revision))
    assert reopened(scene).entries == [first]


def test_a_number_that_belongs_to_another_nonce_fences() -> None:
    scene = begun()
    scene.segment(2)
    with pytest.raises(ArchiveFenced, match="epoch 1 is that of tester"):
        reopened(scene, epoch=Epoch(1, 5))
    with pytest.raises(Corruption, match="epoch 1 begins at"):
        reopened(scene, branch=chain_of(scene.epochs[-1][1], 5))


def test_of_two_writers_the_second_is_fenced() -> None:
    scene = begun()
    first, second = scene.put(2), scene.put(1)
    other = reopened(scene)
    other.append([first])
    with pytest.raises(ArchiveFenced, match="another node has written record 0"):
        scene.manifest.append([first, second])
    with pytest.raises(ArchiveFenced):
        scene.manifest.append([first, second])
    assert scene.manifest.entries == []
    assert len(records(scene)) == 1


def test_an_answer_that_was_lost_is_settled_by_reading_back() -> None:
    store = FaultStore(MemoryStore())
    scene = begun(store)
    entry = scene.put(2)
    store.add(ambiguous(took_effect=True))
    scene.manifest.append([entry])
    assert store.fired == 1
    assert [record.entries for record in read_epoch_manifest(store, scene.names, 1)] == [[entry]]
    scene.segment(1)


def test_what_was_offered_once_is_offered_again() -> None:
    """A request that seemed lost may still take effect: other bytes under its number would fence their own writer."""
    store = FaultStore(MemoryStore())
    scene = begun(store)
    first, second = scene.put(2), scene.put(1)
    store.add(ambiguous(took_effect=False))
    with pytest.raises(StoreUnavailable):
        scene.manifest.append([first])
    scene.clock.advance_ms(1000)
    scene.manifest.append([first, second])
    found = read_epoch_manifest(store, scene.names, 1)
    assert [record.entries for record in found] == [[first], [second]]
    assert found[1].written_ms == found[0].written_ms + 1000


def in_folder(fs: FileSystem, seed: int) -> FolderStore:
    return FolderStore(fs, Path("/srv/archive"), random.Random(seed).randbytes)


@pytest.mark.parametrize("kills", [True, False])
def test_what_a_writer_takes_for_listed_is_listed_after_a_power_loss(kills: bool) -> None:
    """The record before may be there and not durable: its writer died, or its folder could not be synced."""
    for at in itertools.count(1):
        disk = MemoryFileSystem()
        scene = begun(in_folder(disk, 1))
        scene.segment(2)
        entry = scene.put(1)
        fault = Fault(at=at, error=None if kills else errno.EIO, kills=kills)
        fs = FaultFileSystem(disk, FaultPlan([fault]))
        try:
            scene.store = in_folder(fs, 2)
            manifest = reopened(scene)
            manifest.append([entry])
        except (ProcessKilled, StoreUnavailable):
            disk.kill()
            scene.store = in_folder(disk, 3)
            manifest = reopened(scene)
        for state in states(disk, random.Random(at), limit=60):
            scene.store = in_folder(state.disk, 4)
            assert reopened(scene).entries[: len(manifest.entries)] == manifest.entries
        if not fs.fired:
            return


class LateStore(MemoryStore):
    """Objects whose create seems lost take effect when the test lets them."""

    def __init__(self) -> None:
        super().__init__()
        self.is_cut = False
        self.late: list[tuple[str, bytes]] = []

    def create(self, name: str, parts: Iterable[bytes]) -> int:
        if not self.is_cut:
            return super().create(name, parts)
        self.late.append((name, b"".join(parts)))
        raise StoreUnavailable(self.url, "the line was cut")


def test_what_took_effect_late_is_found_to_be_ours() -> None:
    store = LateStore()
    scene = begun(store)
    first, second = scene.put(2), scene.put(1)
    store.is_cut = True
    with pytest.raises(StoreUnavailable):
        scene.manifest.append([first])
    store.is_cut = False
    store.objects.update(store.late)
    scene.clock.advance_ms(1)
    scene.manifest.append([first, second])
    assert [record.entries for record in read_epoch_manifest(store, scene.names, 1)] == [[first], [second]]


def test_a_store_that_fails_at_any_call_leaves_a_chained_manifest() -> None:
    for store in failing_store_calls(MemoryStore, ambiguous(took_effect=True, calls={"create", "read", "list"})):
        scene = ArchiveScene(store.inner)
        scene.begin()
        entries = [scene.put(1), scene.put(2)]
        scene.store = store
        manifest = None
        for count in (1, 2, 2):
            try:
                manifest = manifest or reopened(scene)
                manifest.append(entries[:count])
            except StoreUnavailable:
                continue
        found = read_epoch_manifest(store.inner, scene.names, 1)
        assert [entry for record in found for entry in record.entries] == entries


def test_a_closed_manifest_takes_no_more() -> None:
    scene = begun()
    scene.segment(2)
    by = Epoch(2, 77)
    scene.manifest.close(by, scene.position)
    scene.manifest.close(by, scene.position)
    assert scene.manifest.closing == reopened(scene).closing == Closing(by, scene.position)
    with pytest.raises(ArchiveFenced, match="epoch 2 has closed the manifest of epoch 1"):
        scene.manifest.append([scene.put(1)])
    scene.manifest.append(scene.entries)  # nothing new
    assert len(records(scene)) == 2


def test_a_newer_epoch_leaves_the_closing_of_an_older_one_and_not_the_other_way_round() -> None:
    scene = begun()
    scene.manifest.close(Epoch(3, 7), scene.position)
    again = reopened(scene)
    again.close(Epoch(4, 7), scene.position)
    assert again.closing == Closing(Epoch(3, 7), scene.position)
    for late in (Epoch(2, 7), Epoch(3, 8)):
        with pytest.raises(ArchiveFenced, match="epoch 3 has closed"):
            reopened(scene).close(late, scene.position)
    with pytest.raises(ArchiveFenced, match="epoch 3 has closed"):
        reopened(scene).close(Epoch(3, 7), chain_of(scene.position, 1))


def test_the_closing_is_put_behind_what_a_late_writer_lists_and_fences_it() -> None:
    store = FaultStore(MemoryStore())
    scene = begun(store)
    scene.segment(2)
    closer = reopened(scene)
    entries = [scene.put(1), scene.put(1)]
    store.add(quicker_writer(lambda: scene.manifest.append(entries[:1]), calls={"create"}))
    closer.close(Epoch(2, 7), scene.position)
    assert closer.entries == [*scene.entries, entries[0]]
    with pytest.raises(ArchiveFenced):
        scene.manifest.append(entries)
    assert [bool(record.closing) for record in read_epoch_manifest(store, scene.names, 1)] == [False, False, True]


def test_a_lost_answer_to_a_closing_is_settled() -> None:
    for effect in (True, False):
        store = FaultStore(MemoryStore())
        scene = begun(store)
        scene.segment(1)
        store.add(ambiguous(took_effect=effect))
        try:
            scene.manifest.close(Epoch(2, 7), scene.position)
        except StoreUnavailable:
            assert not effect
            scene.manifest.close(Epoch(2, 7), scene.position)
        assert len(read_epoch_manifest(store, scene.names, 1)) == 2


def test_a_listing_that_lags_behind_hides_no_record() -> None:
    store = FaultStore(MemoryStore())
    scene = begun(store)
    for _ in range(3):
        scene.segment(1)
    store.add(stale_listing(2, forever=True))
    assert reopened(scene).entries == scene.entries


def test_the_clock_is_the_callers() -> None:
    scene = begun()
    clock = ManualClock()
    clock.advance_ms(5)
    reopened(scene, clock=clock).append([scene.put(1)])
    assert read_epoch_manifest(scene.store, scene.names, 1)[0].written_ms == clock.now_ms()
