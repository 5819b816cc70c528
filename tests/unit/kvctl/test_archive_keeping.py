"""kvctl archive retain, point and dictionary, kvctl backup verify and delete: what stays, what goes, what is asked before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from unit.kvctl.archived import Archived, log_only, two_epochs

RETAIN = ("archive", "retain", "--keep-backups", "1")


@pytest.fixture
def full(archived: Archived) -> Archived:
    """Two epochs, two backups and a named point: revisions 2 to 9, backups at 4 and 9, the point at 4."""
    two_epochs(archived)
    return archived


def names_in(archived: Archived) -> list[str]:
    return [info.name for info in archived.store.list("")]


def backups_of(archived: Archived) -> list[str]:
    prefix = archived.scene.names.backups
    return [info.name.removeprefix(prefix).removesuffix(".json") for info in archived.store.list(prefix)]


def test_points_are_set_listed_and_deleted(offline: Any, full: Archived) -> None:
    there = ("--archive", full.url)
    made = offline("archive", "point", "set", "release-7", "--revision", "5", "--note", "schema 7", *there, "-o", "json").json
    assert (made["name"], made["revision"], made["note"]) == ("release-7", 5, "schema 7")
    assert made["time_ms"] == full.scene.time_of[5]
    assert offline("archive", "point", "set", "now", *there, "-o", "raw").out == b"9\n"
    listed = offline("archive", "point", "list", *there, "-o", "json").json_lines
    assert [(one["name"], one["revision"]) for one in listed] == [("before-upgrade", 4), ("release-7", 5), ("now", 9)]
    assert offline("archive", "point", "delete", "now", *there).out.startswith(b"now was revision 9, as of ")
    table = offline("archive", "point", "list", *there).out.decode()
    assert "release-7" in table
    assert "now" not in table.split()
    raw = offline("archive", "point", "list", *there, "-o", "raw").out.decode().splitlines()
    assert [line.split("\t")[:2] for line in raw] == [["before-upgrade", "4"], ["release-7", "5"]]


def test_a_point_may_be_a_moment(offline: Any, full: Archived) -> None:
    from kvctl.times import shown_moment

    moment = shown_moment(full.scene.time_of[6] + 1)
    there = ("--archive", full.url, "-o", "raw")
    assert offline("archive", "point", "set", "then", "--time", moment, *there).out == b"6\n"


@pytest.mark.parametrize(
    ("arguments", "exit_code", "code"),
    [
        (("set", "Upper"), 1, "INVALID_FIELD"),
        (("set", "../x"), 1, "INVALID_FIELD"),
        (("set", "before-upgrade", "--revision", "5"), 1, "INVALID_FIELD"),
        (("set", "p", "--revision", "99"), 6, "NO_RESTORE_PLAN"),
        (("set", "p", "--revision", "5", "--time", "5m"), 2, "USAGE"),
        (("set", "p", "--time", "noon"), 2, "USAGE"),
        (("set",), 2, "USAGE"),
        (("delete", "nobody"), 6, "NO_SUCH_POINT"),
        (("delete", "../../CLUSTER"), 6, "NO_SUCH_POINT"),
    ],
)
def test_points_that_cannot_be(offline: Any, full: Archived, arguments: tuple[str, ...], exit_code: int, code: str) -> None:
    before = names_in(full)
    refused = offline("archive", "point", *arguments, "--archive", full.url, "-o", "json")
    assert (refused.exit_code, refused.error["code"], refused.out) == (exit_code, code, b"")
    assert names_in(full) == before


def test_retention_says_what_it_would_do(offline: Any, full: Archived) -> None:
    before = names_in(full)
    told = offline(*RETAIN, "--archive", full.url, "--dry-run", "-o", "json").json
    assert told["dry_run"] is True
    assert {one["revision"] for one in told["kept"]} >= {4, 9}
    assert told["backups"] == [], "the older one is what the point needs"
    assert told["segments"] > 0
    shown = offline(*RETAIN, "--archive", full.url, "--dry-run").out.decode()
    assert "kept: point before-upgrade, revision 4" in shown
    assert shown.splitlines()[-1].endswith("; nothing was removed")
    assert names_in(full) == before


def test_retention_asks_before(offline: Any, full: Archived, on_a_terminal: Callable[[str], None]) -> None:
    before = names_in(full)
    refused = offline(*RETAIN, "--archive", full.url, "-o", "json")
    assert (refused.exit_code, refused.error["code"]) == (1, "NOT_CONFIRMED")
    on_a_terminal("n\n")
    declined = offline(*RETAIN, "--archive", full.url)
    assert declined.exit_code == 1
    assert "nothing before revision 10 is promised any more. Go on?" in declined.err
    assert names_in(full) == before


def test_retention_removes_what_nothing_needs(offline: Any, full: Archived) -> None:
    offline("archive", "point", "delete", "before-upgrade", "--archive", full.url)
    older, newer = backups_of(full)
    done = offline(*RETAIN, "--archive", full.url, "--yes", "-o", "json")
    assert (done.exit_code, done.err) == (0, "")
    assert (done.json["backups"], done.json["files"]) == ([older], 1)
    assert backups_of(full) == [newer]
    assert offline("archive", "verify", "--archive", full.url).exit_code == 0
    gone = offline("restore", "--archive", full.url, "--to-revision", "4", "--dry-run", "-o", "json")
    assert (gone.exit_code, gone.error["code"]) == (6, "NO_RESTORE_PLAN")
    assert offline("archive", "list", "--archive", full.url, "-o", "json").json["given_up_before_revision"] == 10
    again = offline(*RETAIN, "--archive", full.url)
    assert (again.exit_code, again.out.decode().splitlines()[-1]) == (0, "nothing was given up"), "and nothing was asked"


def test_raw_retention_names_each_object(offline: Any, full: Archived) -> None:
    offline("archive", "point", "delete", "before-upgrade", "--archive", full.url)
    raw = offline(*RETAIN, "--archive", full.url, "--dry-run", "-o", "raw").out.decode().splitlines()
    assert {line.split("\t")[0] for line in raw} == {"backup", "file", "segment"}


def test_retention_without_a_bound_is_wrong_usage(offline: Any, full: Archived) -> None:
    for arguments in ((), ("--keep-backups", "0"), ("--keep-days", "0"), ("--keep-days", "-1")):
        wrong = offline("archive", "retain", *arguments, "--archive", full.url, "-o", "json")
        assert (wrong.exit_code, wrong.error["code"]) == (2, "USAGE"), arguments


def test_nothing_goes_where_the_backups_are_too_few(offline: Any, full: Archived) -> None:
    told = offline("archive", "retain", "--keep-backups", "5", "--archive", full.url)
    assert told.exit_code == 0
    assert "no more, because there are 2 backups, and 5 are to be kept" in told.out.decode()


def test_retention_refuses_where_records_are_missing(offline: Any, full: Archived) -> None:
    full.store.delete(full.scene.names.segment(full.scene.entries[-1].id))
    refused = offline("archive", "retain", "--keep-backups", "2", "--archive", full.url, "--yes", "-o", "json")
    assert (refused.exit_code, refused.error["code"]) == (6, "NO_RESTORE_PLAN")
    assert len(backups_of(full)) == 2


def test_a_backup_is_verified(offline: Any, full: Archived) -> None:
    there = ("--archive", full.url)
    sound = offline("backup", "verify", "latest", *there, "-o", "json")
    assert (sound.exit_code, sound.json["whole"], sound.json["files"]) == (0, True, 2)
    assert b"every byte checks" in offline("backup", "verify", "latest", *there).out
    (name,) = (info.name for info in full.store.list(full.scene.names.files) if b"revision=9" in full.store.read(info.name))
    full.flip(name, 3)
    found = offline("backup", "verify", "latest", *there, "-o", "json")
    assert (found.exit_code, found.json["whole"], len(found.json["problems"])) == (5, False, 1)
    assert offline("backup", "verify", "latest", *there).out.splitlines()[-1].endswith(b"DAMAGED")
    assert offline("backup", "verify", backups_of(full)[0], *there).exit_code == 0, "the other one is sound"
    assert offline("backup", "verify", "ff", *there).exit_code == 6


def test_a_backup_is_deleted_when_it_is_meant(offline: Any, full: Archived, on_a_terminal: Callable[[str], None]) -> None:
    older, newer = backups_of(full)
    there = ("--archive", full.url)
    would = offline("backup", "delete", newer, *there, "--dry-run", "-o", "json").json
    assert (would["dry_run"], would["id"], would["files"]) == (True, newer, 1)
    assert offline("backup", "delete", newer, *there).exit_code == 1
    on_a_terminal("n\n")
    declined = offline("backup", "delete", newer, *there)
    assert declined.exit_code == 1
    assert f"Delete the backup {newer} (1 file, " in declined.err
    assert backups_of(full) == [older, newer]
    assert offline("backup", "delete", newer, *there, "--yes", "-o", "raw").out.decode() == newer + "\n"
    assert backups_of(full) == [older]
    assert offline("backup", "verify", "latest", *there).exit_code == 0, "a file that both had is still there"


def test_the_only_way_back_is_not_deleted(offline: Any, archived: Archived) -> None:
    """Of a log that does not go back to the store's creation the oldest backup is where every restore begins."""
    scene = archived.scene
    scene.begin()
    scene.segment(2, 1)
    scene.backup()
    archived.store.delete(scene.names.segment(scene.entries[0].id))
    archived.store.delete(scene.names.manifest(1, 0))
    (only,) = backups_of(archived)
    refused = offline("backup", "delete", only, "--archive", archived.url, "--yes", "-o", "json")
    assert (refused.exit_code, refused.error["code"]) == (6, "NO_RESTORE_PLAN")
    assert backups_of(archived) == [only]
    forced = offline("backup", "delete", only, "--archive", archived.url, "--yes", "--force", "-o", "json")
    assert (forced.exit_code, backups_of(archived)) == (0, [])


def test_a_dictionary_needs_something_to_learn_from(offline: Any, archived: Archived) -> None:
    log_only(archived)
    refused = offline("archive", "dictionary", "train", "--archive", archived.url, "-o", "json")
    assert (refused.exit_code, refused.error["code"]) == (1, "NO_DICTIONARY")


def test_a_dictionary_is_kept_where_it_is_worth_it(offline: Any, archived: Archived) -> None:
    scene = archived.scene
    scene.begin()
    for number in range(120):
        scene.segment(*[1] * 40, keys=[f'{{"package": "lib{number}-{index}", "section": "libs"}}' for index in range(1)])
    there = ("archive", "dictionary", "train", "--archive", archived.url)
    tried = offline(*there, "--dry-run", "-o", "json").json
    assert (tried["dry_run"], tried["kept"]) == (True, False)
    assert not list(archived.store.list(scene.names.dictionaries))
    told = offline(*there, "-o", "json").json
    assert told["kept"] is told["worth_it"]
    assert told["kept"] is (told["ratio_with"] >= told["ratio_without"] * 1.05)
    assert len(list(archived.store.list(scene.names.dictionaries))) == int(told["kept"])
    assert offline("archive", "verify", "--archive", archived.url).exit_code == 0
