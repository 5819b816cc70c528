"""kvctl restore: plans, refusals and their exit codes, and a restore of a small log with real tables."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvctl.times import shown_moment
from unit.kvctl.archived import Archived, log_only, two_epochs


@pytest.fixture
def log(archived: Archived) -> Archived:
    """A log of revisions 2 to 9, without a backup."""
    log_only(archived)
    return archived


def files_below(folder: Path) -> dict[str, str]:
    """Return every file below a folder with its hash."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def is_finished(target: Path) -> bool:
    """Say whether a folder is a whole copy of a store."""
    names = {path.name for path in target.iterdir()}
    return {"ORIGIN", "tables"} <= names and not names & {"RESTORE", "restore"}


def test_a_plan_is_shown_and_nothing_is_done(offline: Any, archived: Archived, tmp_path: Path) -> None:
    two_epochs(archived)
    before = files_below(archived.folder)
    target = tmp_path / "target"
    there = ("--archive", archived.url, "--target-dir", str(target), "--dry-run")
    told = offline("restore", *there, "--to-revision", "5", "-o", "json").json
    assert (told["dry_run"], told["revision"], told["base"]["revision"]) == (True, 5, 4)
    assert (told["segments"], told["archive"], told["oldest_possible_revision"]) == (1, archived.url, 2)
    shown = offline("restore", *there, "--to-revision", "5").out.decode().splitlines()
    pairs = {line[:13].strip(): line[13:] for line in shown[:-1]}
    assert pairs["asked for"] == "revision 5"
    assert pairs["reaches"] == f"revision 5, as of {shown_moment(archived.scene.time_of[5])}"
    assert pairs["begins with"].startswith(f"backup {told['base']['id']}, revision 4 (2 files, ")
    assert pairs["then"].startswith("1 segment of the log (")
    assert pairs["room"].startswith("up to ")
    assert pairs["possible"] == f"revisions 2 to 9, up to {shown_moment(archived.scene.now_ms - 1)}"
    assert shown[-1] == "nothing was restored"
    assert offline("restore", *there, "--latest", "-o", "raw").out == b"9\n"
    assert not target.exists()
    assert files_below(archived.folder) == before


def test_a_plan_needs_no_folder(offline: Any, log: Archived) -> None:
    assert offline("restore", "--archive", log.url, "--latest", "--dry-run", "-o", "raw").out == b"9\n"
    missing = offline("restore", "--archive", log.url, "--latest", "-o", "json")
    assert (missing.exit_code, missing.error["code"]) == (2, "USAGE")


def test_a_time_is_the_last_commit_at_or_before_it(offline: Any, log: Archived) -> None:
    time_of = log.scene.time_of
    there = ("restore", "--archive", log.url, "--dry-run", "-o", "raw")
    for moment_ms, revision in ((time_of[4], 4), (time_of[5] - 1, 4), (time_of[5], 5), (time_of[9], 9)):
        moment = shown_moment(moment_ms)
        assert offline(*there, "--to-time", moment).out.decode() == f"{revision}\n"
        assert offline(*there, "--to-time", moment.replace("T", " ").removesuffix("Z")).out.decode() == f"{revision}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--latest", "--to-revision", "5"),
        ("--to-time", "5m", "--to-revision", "5"),
        ("--to-time", "2026-03-01T12:00:00"),
        ("--to-time", "noon"),
        ("--to-revision", "0"),
        ("--latest", "--workers", "0"),
        ("--latest", "--name", "n1"),
    ],
)
def test_wrong_usage_touches_nothing(offline: Any, log: Archived, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    target = tmp_path / "target"
    wrong = offline("restore", "--archive", log.url, "--target-dir", str(target), *arguments, "-o", "json")
    assert (wrong.exit_code, wrong.error["code"], wrong.out) == (2, "USAGE", b"")
    assert not target.exists()


def test_an_archive_must_be_named(offline: Any, tmp_path: Path) -> None:
    wrong = offline("restore", "--latest", "--target-dir", str(tmp_path / "target"))
    assert wrong.exit_code == 2
    assert "--archive" in wrong.err


def test_a_restore_says_how_to_serve_what_came_of_it(offline: Any, log: Archived, tmp_path: Path) -> None:
    target = tmp_path / "my target"
    done = offline("restore", "--archive", log.url, "--to-revision", "6", "--target-dir", str(target), "-o", "json")
    assert (done.exit_code, done.err) == (0, "")
    assert (done.json["revision"], done.json["epoch"], done.json["target_dir"]) == (6, 1, str(target))
    assert done.json["chain"] == log.scene.frame_ends[6].chain.hex()
    assert done.json["serve"] == f"kvserver serve --data-dir '{target}'"
    assert is_finished(target)
    another = offline("restore", "--archive", log.url, "--to-revision", "6", "--target-dir", str(tmp_path / "b"), "-o", "raw")
    assert another.out == b"6\n"
    hashes = offline("check", "hash", "--data-dir", str(target), "--data-dir", str(tmp_path / "b"), "-o", "json")
    assert hashes.exit_code == 0
    first, second = hashes.json_lines
    assert (first["revision"], first["sha256"]) == (6, second["sha256"])
    shown = offline("restore", "--archive", log.url, "--latest", "--target-dir", str(tmp_path / "c"))
    assert shown.out.decode().splitlines()[-1] == f"serve it with  kvserver serve --data-dir {tmp_path}/c"
    differ = offline("check", "hash", "--data-dir", str(target), "--data-dir", str(tmp_path / "c"), "-o", "json")
    assert (differ.exit_code, differ.error["code"]) == (1, "NOT_COMPARABLE")


def test_every_refusal_has_an_exit_code_of_its_own(offline: Any, log: Archived, tmp_path: Path) -> None:
    target = tmp_path / "target"
    there = ("restore", "--target-dir", str(target), "-o", "json")
    cases: list[tuple[tuple[str, ...], int, str]] = [
        (("--archive", log.url, "--to-revision", "10"), 6, "NO_RESTORE_PLAN"),
        (("--archive", log.url, "--to-time", "1971-01-01T00:00:00Z"), 6, "NO_RESTORE_PLAN"),
        (("--archive", log.url, "--to-time", "1s"), 6, "NO_RESTORE_PLAN"),
        (("--archive", log.url, "--latest", "--cluster", "ff"), 6, "NO_RESTORE_PLAN"),
        (("--archive", "nonsense", "--latest"), 4, "ARCHIVE_UNAVAILABLE"),
    ]
    for arguments, exit_code, code in cases:
        refused = offline(*there, *arguments)
        assert (refused.exit_code, refused.error["code"], refused.out) == (exit_code, code, b""), arguments
        assert refused.error["hint"], arguments
        assert not target.exists(), arguments
    target.mkdir()
    (target / "something").write_text("of somebody else")
    full = offline(*there, "--archive", log.url, "--latest")
    assert (full.exit_code, full.error["code"]) == (1, "TARGET_UNUSABLE")
    assert (target / "something").read_text() == "of somebody else"
    log.flip(log.scene.names.segment(log.scene.entries[1].id), 200)
    damaged = offline("restore", "--target-dir", str(tmp_path / "other"), "-o", "json", "--archive", log.url, "--latest")
    assert (damaged.exit_code, damaged.error["code"]) == (5, "CORRUPTION")


def test_what_was_interrupted_is_gone_on_with(
    offline: Any, log: Archived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C between two segments; serve would refuse the folder, another target is refused, the command told goes on."""
    import shlex

    from kvserver.base import failpoints

    target = tmp_path / "target"
    hits = iter(range(10))

    def interrupt() -> None:
        if next(hits) == 1:
            raise KeyboardInterrupt

    failpoints.arm("restore.after_segment", interrupt)
    try:
        stopped = offline("restore", "--archive", log.url, "--to-revision", "9", "--target-dir", str(target), "-o", "json")
    finally:
        failpoints.disarm_all()
    assert (stopped.exit_code, stopped.error["code"]) == (130, "INTERRUPTED")
    assert (target / "RESTORE").exists()
    unfinished = offline("check", "hash", "--data-dir", str(target), "-o", "json")
    assert (unfinished.exit_code, unfinished.error["code"]) == (1, "TARGET_UNUSABLE")
    another = offline("restore", "--archive", log.url, "--to-revision", "6", "--target-dir", str(target), "-o", "json")
    assert (another.exit_code, another.error["code"]) == (1, "TARGET_UNUSABLE")
    words = shlex.split(stopped.error["hint"].removeprefix("go on with: "))
    assert words[0] == "kvctl"
    log.scene.segment(2)
    planned = offline("restore", "--archive", log.url, "--to-revision", "9", "--target-dir", str(target), "--dry-run")
    goes_on = "goes on      with what was begun in the folder before"
    assert goes_on in planned.out.decode().splitlines()
    taking = ("--target-dir", str(target), "--take-over", "--dry-run")
    assert goes_on not in offline("restore", "--archive", log.url, "--to-revision", "9", *taking).out.decode().splitlines()
    assert offline(*words[1:]).exit_code == 0
    assert is_finished(target)


def test_a_damaged_backup_can_be_left_out(offline: Any, archived: Archived, tmp_path: Path) -> None:
    """The error names how; what was begun with the backup goes on with it, so another folder is asked for."""
    two_epochs(archived)
    first, second = (one["id"] for one in offline("backup", "list", "--archive", archived.url, "-o", "json").json_lines)
    listed = offline("backup", "info", "latest", "--archive", archived.url, "-o", "json").json["file_list"]
    (only,) = (file for file in listed if file["file"].endswith(".sst"))
    archived.flip(archived.scene.names.file(bytes.fromhex(only["sha256"])), 0)
    there = ("restore", "--archive", archived.url, "--latest", "-o", "json")
    damaged = offline(*there, "--target-dir", str(tmp_path / "a"))
    assert (damaged.exit_code, damaged.error["code"]) == (5, "CORRUPTION")
    assert f"--without-backup {second} " in damaged.error["hint"]
    again = offline(*there, "--target-dir", str(tmp_path / "a"), "--without-backup", second)
    assert (again.exit_code, again.error["code"]) == (1, "TARGET_UNUSABLE")
    assert second in again.error["message"]
    planned = offline(*there, "--dry-run", "--without-backup", "latest").json
    assert (planned["revision"], planned["base"]["id"]) == (9, first)
    left_out = ("--without-backup", first, "--without-backup", second)
    done = offline(*there, "--target-dir", str(tmp_path / "b"), *left_out)
    assert done.exit_code == 0, done.err
    assert (done.exit_code, done.json["revision"], done.json["base"]) == (0, 9, None)
    unknown = offline(*there, "--dry-run", "--without-backup", "zz")
    assert (unknown.exit_code, unknown.error["code"]) == (6, "NO_SUCH_BACKUP")


def test_a_disk_that_seems_too_small_is_refused_unless_it_is_meant(
    offline: Any, log: Archived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kvserver.base.fs import OsFileSystem

    monkeypatch.setattr(OsFileSystem, "free_bytes", lambda self, path: 1 << 20)
    there = ("restore", "--archive", log.url, "--latest", "--target-dir", str(tmp_path / "target"), "-o", "json")
    refused = offline(*there)
    assert (refused.exit_code, refused.error["code"]) == (1, "DISK_FULL")
    assert "--no-space-check" in refused.error["hint"]
    assert offline(*there, "--no-space-check").exit_code == 0


def test_taking_over_must_be_meant(offline: Any, log: Archived, tmp_path: Path, on_a_terminal: Callable[[str], None]) -> None:
    target = tmp_path / "target"
    there = ("restore", "--archive", log.url, "--latest", "--target-dir", str(target), "--take-over")
    refused = offline(*there, "-o", "json")
    assert (refused.exit_code, refused.error["code"]) == (1, "NOT_CONFIRMED")
    on_a_terminal("n\n")
    declined = offline(*there)
    assert declined.exit_code == 1
    assert "This becomes the cluster 000102030405060708090a0b0c0d0e0f itself, as of revision 9." in declined.err
    assert not target.exists()
    taken = offline(*there, "--yes", "--name", "second", "-o", "json")
    assert taken.exit_code == 0, taken.err
    assert taken.json["serve"] == f"kvserver serve --data-dir {target} --archive {log.url}"
    assert (target / "IDENTITY").exists()
    assert b'"second"' in (target / "IDENTITY").read_bytes()
    listed = offline("archive", "list", "--archive", log.url, "-o", "json").json
    assert listed["epochs"][-1]["closed_by"] == 2, "the old node is fenced off"
