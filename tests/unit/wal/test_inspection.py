"""Looking at a log offline: says what recovery would say, case by case, and changes nothing."""

from __future__ import annotations

import pytest

from kvserver.base.errors import Corruption
from kvserver.base.fs import read_file
from kvserver.base.types import Position
from kvserver.wal.inspection import STATES, SegmentReport, inspect_log, read_segment
from kvserver.wal.recovery import Case
from support.faultfs import Fault, FaultFileSystem, FaultPlan
from support.histories import at, four_segments, starts_without_writes
from support.log_scenes import INSIDE, REFUSED, SCENES, Scene, sealed_last, torn_last
from support.logs import CLUSTER_ID, CREATION, EPOCH, PATHS, SmallLog, payload_of, recover_log
from support.memfs import MemoryFileSystem


def inspect(scene: Scene) -> list[SegmentReport]:
    """Return the reports; nothing on the disk may have changed by it."""
    before = scene.fs.contents()
    reports = list(inspect_log(scene.fs, PATHS))
    assert scene.fs.contents() == before
    return reports


@pytest.mark.parametrize("case", Case)
def test_each_case_is_called_what_it_is(case: Case) -> None:
    scene = SCENES[case]()
    reports = inspect(scene)
    report = reports[0] if case in INSIDE else reports[-1]
    assert report.state == STATES.get(case, "damaged")
    assert bool(report.problem) == (report.state in ("torn", "damaged"))
    for path, offset in scene.at.items():
        assert report.file == path.name
        assert f"{path.name}: " in report.problem
        assert f"at offset {offset}" in report.problem


@pytest.mark.parametrize("case", Case)
def test_a_log_is_damaged_where_and_only_where_recovery_refuses_it(case: Case) -> None:
    scene = SCENES[case]()
    damaged = any(report.state == "damaged" for report in inspect(scene))
    try:
        recover_log(scene.fs)
    except Corruption:
        assert damaged
        assert case in REFUSED
    else:
        assert not damaged


def test_a_sound_log_is_described() -> None:
    scene = sealed_last()
    first, last = inspect(scene)
    assert [(report.state, report.groups, report.commits) for report in (first, last)] == [("sealed", 3, 6)] * 2
    assert [report.length_bytes for report in (first, last)] == [len(read_file(scene.fs, scene.first)), scene.end(scene.last)]
    assert last.end == scene.log.writer.position
    assert first.header is not None
    assert last.header is not None
    assert last.header.previous_segment_id == first.header.segment_id


def test_a_torn_tail_names_its_revisions() -> None:
    last = inspect(torn_last())[-1]
    assert "revisions 12 to 13, never acknowledged" in last.problem
    assert last.commits == 4


def test_history_is_not_followed_across_damage() -> None:
    assert len(inspect(SCENES[Case.DAMAGED_INSIDE]())) == 1


def test_a_missing_segment_is_found() -> None:
    history = four_segments()
    fs = history.without(history.segments()[1].path)
    first, behind = reports(fs, None)
    assert (first.state, behind.state) == ("sealed", "damaged")
    assert "a segment is missing" in behind.problem


def reports(fs: MemoryFileSystem, base: Position | None) -> list[SegmentReport]:
    """Return the reports, with the position that the tables hold; nothing on the disk may have changed by it."""
    before = fs.contents()
    found = list(inspect_log(fs, PATHS, base))
    assert fs.contents() == before
    return found


def test_a_trimmed_log_is_sound_and_its_begin_is_noted() -> None:
    history = four_segments()
    fs = history.without(*(segment.path for segment in history.segments()[:2]))
    for base in (None, at(history, 7), at(history, 9), at(history, 13)):
        found = reports(fs, base)
        assert [(report.state, report.problem) for report in found] == [("sealed", ""), ("open", "")]
        assert [report.note for report in found] == ["the log begins at revision 8", ""]
    assert [report.note for report in reports(history.fs, None)] == [""] * 4


def test_a_log_without_its_first_starts_is_noted_to_begin_where_it_does() -> None:
    history = starts_without_writes()
    fs = history.without(history.segments()[0].path)
    assert [report.note for report in reports(fs, None)] == ["the log begins at revision 5", "", ""]
    for epoch in (1, 2, 3, 4):
        assert [report.problem for report in reports(fs, at(history, 4, epoch))] == [""] * 3


def test_the_first_segment_of_a_store_follows_its_creation() -> None:
    fs = MemoryFileSystem()
    log = SmallLog(fs)
    log.writer.begin_epoch(CLUSTER_ID, EPOCH, CREATION._replace(chain=bytes(16)), [], 0)
    (report,) = reports(fs, None)
    assert (report.state, "from another history" in report.problem) == ("damaged", True)


@pytest.mark.parametrize(
    ("gone", "revision", "problem"),
    [
        ((0, 1, 2), 9, "the log begins at revision 11, but the tables end at 9: segments are missing"),
        ((3,), 12, "the log ends at revision 10, but the tables end at 12"),
        ((), 8, "inside revisions 8 to 9"),
        ((1,), 4, "a segment is missing"),
    ],
)
def test_with_the_tables_position_what_recovery_refuses_is_damage(gone: tuple[int, ...], revision: int, problem: str) -> None:
    history = four_segments()
    base = history.end._replace(revision=revision) if revision == 8 else at(history, revision)
    last = reports(history.without(*(history.segments()[index].path for index in gone)), base)[-1]
    assert (last.state, problem in last.problem) == ("damaged", True)


def test_tables_of_another_history_are_damage() -> None:
    history = four_segments()
    found = reports(history.fs, at(history, 9)._replace(chain=bytes(16)))
    assert [report.state for report in found] == ["sealed", "sealed", "damaged"]
    assert "the log and the tables are of different histories" in found[-1].problem


@pytest.mark.parametrize("removed", [1, 2])
def test_segments_that_a_server_removes_meanwhile_are_left_out(removed: int) -> None:
    history = four_segments()
    paths = [segment.path for segment in history.segments()]

    def remove() -> None:
        for path in paths[: removed + 1]:
            history.fs.remove(path)

    second_is_read = Fault(error=None, kinds={"open"}, where=lambda opened: opened == paths[removed], action=remove)
    found = list(inspect_log(FaultFileSystem(history.fs, FaultPlan([second_is_read])), PATHS))
    read_before, behind = found[:removed], found[removed:]
    assert [report.file for report in found] == [path.name for path in paths if path != paths[removed]]
    assert [report.state for report in read_before] == ["sealed"] * removed
    assert [report.state for report in behind] == ["sealed"] * (2 - removed) + ["open"]
    assert behind[0].note == "the segments before it are gone"


def test_a_gap_that_the_tables_cover_is_noted() -> None:
    history = four_segments()
    found = reports(history.without(history.segments()[1].path), at(history, 9))
    assert [(report.state, report.problem) for report in found] == [("sealed", ""), ("sealed", ""), ("open", "")]
    assert [report.note for report in found] == ["", "the segments before it are gone", ""]


def test_a_file_without_a_header_is_reported_by_name() -> None:
    scene = Scene()
    scene.fs.plant(scene.first, b"")
    (report,) = inspect(scene)
    assert (report.file, report.state, report.header) == (scene.first.name, "damaged", None)
    assert "cut off after 0 of 4096" in report.problem
    with pytest.raises(Corruption):
        read_segment(scene.fs, PATHS, report.name)


def test_commits_that_do_not_parse_are_damage() -> None:
    fs = MemoryFileSystem()
    log = SmallLog(fs).begin()
    log.writer.write_group(2, payload_of("a"))
    (report,) = inspect_log(fs, PATHS)
    assert report.state == "damaged"
    assert "at offset 4096" in report.problem


def test_an_empty_folder_has_no_segments() -> None:
    fs = MemoryFileSystem()
    fs.make_dir(PATHS.wal)
    assert list(inspect_log(fs, PATHS)) == []


@pytest.mark.parametrize("case", [Case.TORN_LAST, Case.UNSEALED_INSIDE])
def test_what_a_server_has_finished_a_moment_later_is_not_called_wrong(case: Case) -> None:
    """A frame was half written, a segment not sealed yet, when it was read; a second look finds it whole."""
    scene, finished = SCENES[case](), Scene()
    ((path, _),) = scene.at.items()

    def finish() -> None:
        scene.fs.plant(path, read_file(finished.fs, path))

    second_look = Fault(at=2, error=None, kinds={"open"}, where=lambda opened: opened == path, action=finish)
    reports = list(inspect_log(FaultFileSystem(scene.fs, FaultPlan([second_look])), PATHS))
    assert [report.state for report in reports] == ["sealed", "open"]
    assert [report.problem for report in reports] == ["", ""]
