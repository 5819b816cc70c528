"""The checks of a data folder: a sound one is all ok, nothing is changed, nothing ends the examination."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from kvserver.base.environment import Environment
from kvserver.engine.examination import examine as examination
from kvserver.engine.examination.disk import PROBE_NAME
from kvserver.engine.examination.examine import CHECKS, Check, examine
from kvserver.engine.examination.findings import Finding, Level, note, ok, worst
from kvserver.engine.examination.subject import Subject
from kvserver.storage import rows
from kvserver.storage.origin import Origin, write_origin
from kvserver.storage.rows import Statistics
from support.logs import CLUSTER_ID, CREATION, EPOCH, PATHS
from unit.engine.examined import LIMITS, Scene, worse_than_ok


def test_a_sound_folder_is_all_ok() -> None:
    scene = Scene()
    before = scene.fs.contents()
    findings = scene.examine()
    assert worse_than_ok(findings) == []
    assert {finding.check for finding in findings} == {check.name for check in CHECKS}
    assert scene.fs.contents() == before
    assert scene.readers and all(reader.closed for reader in scene.readers)


def test_a_sound_folder_tells_what_it_holds() -> None:
    found = {finding.check: finding.found for finding in Scene(deep=False).examine()}
    assert "revisions 2 to 13 in 3 segments" in found["log"]
    assert "everything up to revision 9, epoch 1" in found["tables"]
    assert found["marks"] == "the tables end at revision 9, the log goes on there to 13"
    assert "kept: 1 segment (" in found["holds"] and "because revisions 10 to 13 are in no table" in found["holds"]
    assert "after the next start the server removes 2 segments" in found["holds"]
    assert found["window"] == "from revision 1 on, about 0.0 hours back"
    assert "the default one: 8 keys, 24 B" in found["namespaces"]
    assert found["lock"] == "not in use"


def test_a_store_without_tables_is_all_ok() -> None:
    scene = Scene()
    scene.remove_below(PATHS.tables)
    findings = scene.examine()
    assert worse_than_ok(findings) == []
    assert "the tables end at revision 1, the log goes on there to 13" in {finding.found for finding in findings}


def test_a_log_whose_oldest_segments_were_released_is_all_ok() -> None:
    scene = Scene()
    scene.remove(scene.segments()[0])
    findings = scene.examine()
    assert worse_than_ok(findings) == []
    assert any("revisions 6 to 13" in finding.found for finding in findings if finding.check == "log")


def test_a_long_log_behind_the_tables_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene()
    subject = scene.subject()
    tables = dataclasses.replace(subject.options.tables, memtable_bytes=1024)
    subject.options = dataclasses.replace(subject.options, tables=tables)
    scene.fs.plant(scene.segments()[-1], scene.fs.contents()[scene.segments()[-1]] + bytes(16_384))
    (holds,) = [finding for finding in examine(subject) if finding.check == "holds"]
    assert holds.level is Level.NOTE
    assert "give the next start time" in holds.advice


def test_a_segment_that_the_tables_cover_may_be_missing() -> None:
    """A power loss may undo one removal and not the one before it; a start takes no notice."""
    scene = Scene()
    scene.remove(scene.segments()[1])
    assert worse_than_ok(scene.examine()) == []


def test_an_empty_folder() -> None:
    scene = Scene()
    scene.remove_below(PATHS.root)
    findings = scene.examine()
    assert worst(findings) is Level.NOTE or "the first start" in str(findings)
    assert not [finding for finding in findings if finding.level is Level.PROBLEM]


def test_a_foreign_folder_is_not_searched() -> None:
    scene = Scene()
    scene.remove_below(PATHS.root)
    scene.fs.plant(PATHS.root / "thesis.tex", b"")
    (finding,) = scene.examine()
    assert finding.level is Level.PROBLEM
    assert "thesis.tex" in finding.found
    assert "a server does not start here" in finding.advice


def as_checkpoint(scene: Scene) -> None:
    for folder in (PATHS.wal, PATHS.epochs):
        scene.remove_below(folder)
    scene.remove(PATHS.identity, PATHS.lock)
    origin = Origin(CLUSTER_ID, "db1", scene.positions[3], [(EPOCH, CREATION)], scene.clock.now_ms())
    write_origin(Environment(scene.fs, scene.clock), PATHS, origin)


def test_a_checkpoint_that_was_not_opened_yet() -> None:
    scene = Scene()
    as_checkpoint(scene)
    findings = scene.examine()
    assert worse_than_ok(findings) == []
    assert {"a checkpoint that was not opened yet", "never used by a server"} <= {finding.found for finding in findings}
    assert any("at revision 9 of cluster 0102" in finding.found for finding in findings if finding.check == "origin")


def test_a_checkpoint_with_tables_of_another_moment() -> None:
    scene = Scene()
    as_checkpoint(scene)
    scene.flush_mark(scene.positions[2])
    assert [(one.check, one.level) for one in worse_than_ok(scene.examine())] == [("tables", Level.PROBLEM)]
    del scene.rows[rows.FLUSHED_KEY]
    (finding,) = worse_than_ok(scene.examine())
    assert finding.found == "they do not say how far they are"


def test_without_deep_rows_are_not_read() -> None:
    scene = Scene(deep=False)
    scene.rows[rows.data_key(1, b"a0")] = b"x"
    assert worse_than_ok(scene.examine()) == []


def test_the_probe_leaves_nothing_and_is_made_on_request_only() -> None:
    scene = Scene(probe_disk=True)
    scene.slow_disk(2)
    before = scene.fs.contents()
    (finding,) = [one for one in scene.examine() if one.check == "sync"]
    assert finding.level is Level.OK
    assert "median 2.00 ms, 99th percentile 2.00 ms" in finding.found
    assert scene.fs.contents() == before
    assert PROBE_NAME not in scene.fs.list_dir(PATHS.root)
    quiet = Scene()
    quiet.fs.create = None  # type: ignore[method-assign, assignment]
    assert worse_than_ok(quiet.examine()) == []


def test_a_check_that_raises_becomes_a_finding_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(subject: Subject) -> list[Finding]:
        raise ZeroDivisionError("by accident")

    monkeypatch.setattr(examination, "CHECKS", tuple(Check(check.name, broken) for check in CHECKS))
    findings = Scene().examine()
    assert [(finding.check, finding.level) for finding in findings] == [("folder", Level.PROBLEM)]
    monkeypatch.setattr(examination, "CHECKS", (CHECKS[0], *(Check(check.name, broken) for check in CHECKS[1:])))
    findings = Scene().examine()
    assert len(findings) == len(CHECKS)
    assert all("ZeroDivisionError: by accident" in finding.found and finding.advice for finding in findings[1:])


def test_beside_a_running_server() -> None:
    scene = Scene()
    server = scene.fs.another_process()
    server.lock(PATHS.lock)
    scene.kernel("/proc/locks", "1: FLOCK  ADVISORY  WRITE 4242 fe:00:77 0 EOF\n2: POSIX  ADVISORY  WRITE 1 fe:00:77 0 EOF\n")
    scene.kernel("/proc/4242/limits", LIMITS.replace("65536", "512  "))
    scene.tear_end()  # half of a write under way
    scene.fs.plant(PATHS.prepared(3), b"")
    findings = scene.examine()
    assert [finding.check for finding in worse_than_ok(findings)] == ["descriptors"]
    found = {finding.check: finding for finding in findings}
    assert "in use by process 4242" in found["lock"].found and "kvctl status" in found["lock"].found
    assert found["descriptors"].looked_at == "open files of process 4242"
    assert "not looked for" in found["leftovers"].found


def test_beside_a_running_server_a_problem_must_stay() -> None:
    """A flush and a release of segments may fall between two looks."""
    scene = Scene()
    scene.fs.another_process().lock(PATHS.lock)
    sound = dict(scene.rows)
    scene.take_other_history()
    looks = 0

    def reader(path: Path) -> object:
        nonlocal looks
        looks += 1
        if looks > 1:
            scene.rows.update(sound)
        return Scene.open_tables(scene, path)

    scene.open_tables = reader  # type: ignore[method-assign, assignment]
    assert worse_than_ok(scene.examine()) == []
    assert looks > 1


def test_a_server_that_starts_meanwhile_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene()

    def start(subject: Subject) -> list[Finding]:
        scene.fs.another_process().lock(PATHS.lock)
        return [ok("start", "", "")]

    monkeypatch.setattr(examination, "CHECKS", (*CHECKS, Check("start", start)))
    (finding,) = worse_than_ok(scene.examine())
    assert finding.found == "a server was started meanwhile"
    assert "again" in finding.advice


def test_the_lock_is_let_go_at_once() -> None:
    scene = Scene()
    scene.examine()
    scene.fs.another_process().lock(PATHS.lock).release()


def test_progress_is_told_for_what_takes_long() -> None:
    scene = Scene()
    told: list[tuple[str, int, int, int]] = []
    subject = scene.subject()
    subject.progress = lambda *figures: told.append(figures)
    examine(subject)
    total = sum(len(scene.fs.contents()[path]) for path in scene.segments())
    assert [one for one in told if one[0] == "log"][-1] == ("log", 12, total, total)
    assert ("tables", len(scene.rows)) == [one for one in told if one[0] == "tables"][-1][:2]


def test_statistics_of_a_dropped_namespace_are_no_offence() -> None:
    """They are zero as soon as it is dropped; its rows go later."""
    scene = Scene()
    scene.rows[rows.statistics_key(2)] = rows.encode_statistics(Statistics(0, 0, 0))
    scene.rows[rows.data_key(2, b"k")] = rows.encode_version(3, 3, 1, b"")
    assert worse_than_ok(scene.examine()) == []


def test_a_finding_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="nothing about what to do"):
        note("x", "y", "z", "")
    assert worst([]) is Level.OK
