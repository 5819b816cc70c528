"""Looking at a log offline: says what recovery would say, case by case, and changes nothing."""

from __future__ import annotations

import pytest

from kvserver.base.errors import Corruption
from kvserver.base.fs import read_file
from kvserver.wal.inspection import STATES, SegmentReport, inspect_log, read_segment
from kvserver.wal.recovery import Case
from support.faultfs import Fault, FaultFileSystem, FaultPlan
from support.log_scenes import INSIDE, REFUSED, SCENES, Scene, sealed_last, torn_last
from support.logs import PATHS, SmallLog, payload_of, recover_log
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
    scene = Scene()
    scene.fs.remove(scene.first)
    (report,) = inspect(scene)
    assert report.state == "damaged"
    assert "a segment is missing" in report.problem


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
