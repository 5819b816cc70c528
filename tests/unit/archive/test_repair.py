"""Damaged segments put back from the archive: only what is the same segment, at once, with the damaged one kept aside."""

from __future__ import annotations

import contextlib
import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest

from kvserver.archive.errors import no_plan
from kvserver.archive.repair import RepairReport, repair_segments
from kvserver.base import failpoints
from kvserver.base.errors import Code, Corruption, InvalidRequest, KvError, OpenRefused, Refused, RevisionError
from kvserver.base.paths import SegmentName, is_damaged
from kvserver.commit.requests import Put
from kvserver.replication.local_register import LocalRegister
from support.archived_store import ArchivedStore, all_of
from support.crashes import record_crash_points, sampled_states
from support.fault_store import StoreFault, failing_store_calls
from support.faultfs import ProcessKilled
from support.logs import PATHS
from support.memfs import MemoryFileSystem
from support.memory_store import MemoryStore
from support.stores import open_store


def made() -> ArchivedStore:
    """Five segments of two epochs, all archived; the node was stopped, its last segment is its newest epoch's."""
    kept = ArchivedStore()
    for number in range(4):
        kept.group(Put(1, b"%d" % number, bytes(100)), Put(1, b"key", b"%d" % number))
        kept.seal()
        if number == 1:
            kept.restart()
    kept.restart()
    kept.archive()
    kept.database.close()
    return kept


@pytest.fixture
def kept() -> ArchivedStore:
    return made()


def segments(kept: ArchivedStore) -> list[Path]:
    return [PATHS.wal / name for name in kept.fs.list_dir(PATHS.wal) if name.endswith(".wal")]


def spoil(kept: ArchivedStore, path: Path, how: str) -> bytes:
    """Damage a segment and return what it was."""
    whole = kept.fs.contents()[path]
    middle = len(whole) - 150
    spoilt = {
        "flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "header flipped": whole[:60] + bytes([whole[60] ^ 1]) + whole[61:],
        "truncated": whole[:middle],
        "without its seal": whole[:-96],
        "empty": b"",
        "longer": whole + b"\0",
        "zeros": bytes(len(whole)),
    }[how]
    kept.fs.plant(path, spoilt)
    return whole


def repaired(kept: ArchivedStore, **options: Any) -> RepairReport:
    return repair_segments(kept.env, kept.store, PATHS.root, **{"register": LocalRegister, **options})


HOW = ["flipped", "header flipped", "truncated", "without its seal", "empty", "longer", "zeros"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("which", range(5))
def test_a_damaged_segment_is_put_back_byte_for_byte(kept: ArchivedStore, which: int, how: str) -> None:
    path = segments(kept)[which]
    whole = spoil(kept, path, how)
    spoilt = kept.fs.contents()[path]
    before = kept.fs.contents()
    seen: list[tuple[str, int]] = []
    report = repaired(kept, progress=lambda name, length: seen.append((name, length)))
    (one,) = report.repaired
    assert report.unrepaired == []
    assert [name for name, _ in seen] == [path.name for path in segments(kept)]
    assert (one.segment, one.kept_as, one.length_bytes) == (path.name, f"{path.name}.1.damaged", len(whole))
    assert one.what
    assert kept.fs.contents() == {**before, path: whole, PATHS.wal / one.kept_as: spoilt}
    after = open_store(kept.fs, seed=99)
    assert all_of(after)["", b"key"].value == b"3"
    assert repaired_nothing(kept, after)


def repaired_nothing(kept: ArchivedStore, database: Any) -> bool:
    database.close()
    report = repaired(kept)
    return not report.repaired and not report.unrepaired


def test_a_sound_log_is_left_alone(kept: ArchivedStore) -> None:
    before = kept.fs.contents()
    report = repaired(kept)
    assert (report.repaired, report.unrepaired, report.segments) == ([], [], len(segments(kept)))
    assert kept.fs.contents() == before


def test_several_are_put_back_in_one_run(kept: ArchivedStore) -> None:
    wholes = {path: spoil(kept, path, how) for path, how in zip(segments(kept)[:6], HOW, strict=False)}
    assert len(repaired(kept).repaired) == len(wholes)
    assert {path: kept.fs.contents()[path] for path in wholes} == wholes


def test_the_error_of_a_start_names_the_command(kept: ArchivedStore) -> None:
    spoil(kept, segments(kept)[1], "flipped")
    with pytest.raises(Corruption) as refused:
        open_store(kept.fs, seed=99)
    assert f"kvctl wal verify {PATHS.root};" in refused.value.hint
    assert f"kvctl wal repair --data-dir {PATHS.root} --from archive" in refused.value.hint
    repaired(kept)
    open_store(kept.fs, seed=99)


def test_a_missing_segment_is_put_back_when_it_is_named(kept: ArchivedStore) -> None:
    path = segments(kept)[1]
    whole = kept.fs.contents()[path]
    kept.fs.remove(path)
    assert repaired(kept).repaired == [], "what is missing may be gone for good reasons"
    name = SegmentName(1, 4)
    (one,) = repaired(kept, segment=name).repaired
    assert (one.what, one.kept_as) == ("it is missing", "")
    assert kept.fs.contents()[path] == whole


def test_only_the_segment_that_is_named_is_touched(kept: ArchivedStore) -> None:
    first, second, *_ = segments(kept)
    spoil(kept, first, "flipped")
    spoil(kept, second, "flipped")
    before = kept.fs.contents()[first]
    (one,) = repaired(kept, segment=SegmentName(1, 4)).repaired
    assert one.segment == second.name
    assert kept.fs.contents()[first] == before


def test_a_segment_with_another_ones_content_is_put_back(kept: ArchivedStore) -> None:
    first, second, *_ = segments(kept)
    whole = kept.fs.contents()[first]
    kept.fs.plant(first, kept.fs.contents()[second])
    (one,) = repaired(kept).repaired
    assert "does not fit its name" in one.what
    assert kept.fs.contents()[first] == whole


def test_the_segment_of_another_cluster_is_put_back(kept: ArchivedStore) -> None:
    other = ArchivedStore(store=MemoryStore(), seed=9)
    other.group(Put(1, b"x", b""))
    other.database.close()
    first = segments(kept)[0]
    whole = kept.fs.contents()[first]
    kept.fs.plant(first, other.fs.contents()[segments(other)[0]])
    (one,) = repaired(kept).repaired
    assert "another cluster" in one.what
    assert kept.fs.contents()[first] == whole


def test_each_damaged_file_is_kept_under_a_name_of_its_own(kept: ArchivedStore) -> None:
    path = segments(kept)[0]
    for number, how in enumerate(HOW[:3], 1):
        spoil(kept, path, how)
        assert repaired(kept).repaired[0].kept_as == f"{path.name}.{number}.damaged"
    spoil(kept, path, HOW[1])
    assert repaired(kept).repaired[0].kept_as == f"{path.name}.2.damaged", "the same bytes are there"
    assert sum(map(is_damaged, kept.fs.list_dir(PATHS.wal))) == 3
    open_store(kept.fs, seed=99)


# What is not the same segment


def test_the_open_segment_is_left_to_the_next_start(kept: ArchivedStore) -> None:
    database = open_store(kept.fs, seed=99)
    kept.database = database
    kept.group(Put(1, b"open", b""))
    kept.fs.kill()
    last = segments(kept)[-1]
    before = kept.fs.contents()
    report = repaired(kept)
    assert (report.repaired, report.unrepaired) == ([], [])
    (one,) = repaired(kept, segment=SegmentName(database.history.current.number, 10)).unrepaired
    assert (one.segment, "open segment" in one.why) == (last.name, True)
    assert kept.fs.contents() == {**before, PATHS.lock: b""}
    assert all_of(open_store(kept.fs, seed=98))["", b"open"]


def test_the_archives_segment_of_another_history_is_not_taken(kept: ArchivedStore) -> None:
    """A copy of the folder was started elsewhere, and archived a segment of the same epoch number and revision."""
    copy = kept.fs.clone()
    database = open_store(kept.fs, seed=11)
    kept.database = database
    kept.group(Put(1, b"mine", b""))
    kept.seal()
    kept.group(Put(1, b"mine too", b""))
    database.close()
    twin = ArchivedStore(copy, kept.store, seed=30)
    twin.group(Put(1, b"theirs", b""))
    twin.archive()
    number = database.history.current.number
    path = PATHS.segment(SegmentName(number, 10))
    for how, register, alone in (
        ("flipped", None, True),  # its own header tells
        ("zeros", None, False),  # the segment behind it tells
        ("zeros", LocalRegister, True),  # the register tells
    ):
        whole = spoil(kept, path, how)
        behind = segments(kept)[-1]
        held = kept.fs.contents()[behind]
        if alone:
            kept.fs.remove(behind)
        report = repaired(kept, register=register, segment=SegmentName(number, 10))
        (one,) = report.unrepaired
        assert (report.repaired, one.segment) == ([], path.name)
        assert "another" in one.why, one
        kept.fs.plant(path, whole)
        kept.fs.plant(behind, held)


def test_a_trial_run_changes_nothing(kept: ArchivedStore) -> None:
    spoil(kept, segments(kept)[1], "flipped")
    before = kept.fs.contents()
    (one,) = repaired(kept, dry_run=True).repaired
    assert (one.segment, one.kept_as) == (segments(kept)[1].name, "")
    assert kept.fs.contents() == before


def test_what_the_archive_does_not_hold_is_reported(kept: ArchivedStore) -> None:
    database = open_store(kept.fs, seed=11)
    kept.database = database
    kept.group(Put(1, b"new", b""))
    kept.seal()
    database.close()
    path = segments(kept)[-2]
    spoil(kept, path, "flipped")
    spoil(kept, segments(kept)[0], "flipped")
    report = repaired(kept)
    assert [one.segment for one in report.repaired] == [segments(kept)[0].name]
    (one,) = report.unrepaired
    assert (one.segment, one.why) == (path.name, "the archive does not hold it")


def test_a_damaged_object_of_the_archive_is_no_repair(kept: ArchivedStore) -> None:
    store = kept.store
    assert isinstance(store, MemoryStore)
    path = segments(kept)[0]
    spoil(kept, path, "flipped")
    before = kept.fs.contents()
    for name, data in list(store.objects.items()):
        if "/log/00000001/0000000000000002-" in name:
            for spoilt in (data[:-1], data[:100] + bytes([data[100] ^ 1]) + data[101:], None):
                if spoilt is None:
                    del store.objects[name]
                else:
                    store.objects[name] = spoilt
                (one,) = repaired(kept).unrepaired
                assert "not whole either" in one.why
                after = {path: data for path, data in kept.fs.contents().items() if path != PATHS.prepared(0)}
                assert after == before


# Folders, disks, crashes


def test_a_folder_in_use_or_none_is_refused(kept: ArchivedStore) -> None:
    lock = kept.fs.another_process().lock(PATHS.lock)
    with pytest.raises(OpenRefused, match="in use"):
        repaired(kept)
    lock.release()
    kept.fs.remove(PATHS.identity)
    with pytest.raises(InvalidRequest, match="no data folder") as refused:
        repaired(kept)
    assert refused.value.code is Code.TARGET_UNUSABLE


def test_an_archive_of_another_store_is_refused(kept: ArchivedStore) -> None:
    spoil(kept, segments(kept)[0], "flipped")
    with pytest.raises(RevisionError) as refused:
        repair_segments(kept.env, MemoryStore(), PATHS.root)
    assert refused.value.code is no_plan("", "").code


def test_a_full_disk_is_named_and_the_log_stays_as_it_is(kept: ArchivedStore) -> None:
    spoil(kept, segments(kept)[0], "flipped")
    kept.fs.free_space_bytes = 1000
    before = kept.fs.contents()
    with pytest.raises(Refused) as refused:
        repaired(kept)
    assert refused.value.code is Code.DISK_FULL
    assert kept.fs.contents() == before


@pytest.mark.parametrize("name", ["repair.after_fetch", "repair.after_aside", "repair.after_rename"])
def test_killed_anywhere_the_same_command_goes_on(kept: ArchivedStore, name: str) -> None:
    path = segments(kept)[1]
    whole = spoil(kept, path, "flipped")
    process = kept.fs.another_process()

    def kill() -> None:
        process.kill(for_good=True)
        raise ProcessKilled

    failpoints.arm(name, kill)
    with contextlib.suppress(BaseException):
        repair_segments(dataclasses.replace(kept.env, fs=process), kept.store, PATHS.root)
    failpoints.disarm_all()
    repaired(kept)
    assert kept.fs.contents()[path] == whole
    assert [one for one in kept.fs.list_dir(PATHS.wal) if is_damaged(one)] == [f"{path.name}.1.damaged"]
    open_store(kept.fs, seed=99)


def test_however_the_power_fails_the_segment_is_the_old_one_or_whole(kept: ArchivedStore) -> None:
    path = segments(kept)[1]
    whole = spoil(kept, path, "flipped")
    spoilt = kept.fs.contents()[path]
    fs = kept.fs

    def run(recording: Any) -> None:
        repair_segments(dataclasses.replace(kept.env, fs=recording), kept.store, PATHS.root)

    rng = random.Random(1)
    found = set()
    for point in record_crash_points(fs.clone(), run):
        for state in sampled_states(point.disk, rng, 6):
            held = state.disk.contents()
            assert held[path] in (whole, spoilt)
            found.add(held[path])
            if held[path] == whole:
                aside = [data for name, data in held.items() if is_damaged(name.name)]
                assert aside == [spoilt], "what was damaged is never lost"
            kept.fs = state.disk
            repaired(kept)
            assert kept.fs.contents()[path] == whole
    assert len(found) == 2


def test_a_store_that_fails_at_any_call_leaves_the_log_as_it_was_or_repaired() -> None:
    kept = made()
    path = segments(kept)[1]
    whole = spoil(kept, path, "flipped")
    damaged_disk, inner = kept.fs, kept.store
    assert isinstance(inner, MemoryStore)
    failures = 0
    for store in failing_store_calls(inner.copy, StoreFault()):
        disk: MemoryFileSystem = damaged_disk.clone()
        kept.fs, kept.store = disk, store
        try:
            repaired(kept)
        except KvError:
            failures += 1
            assert disk.contents()[path] != whole
            store.heal()
            repaired(kept)
        assert disk.contents()[path] == whole
    assert failures > 5
