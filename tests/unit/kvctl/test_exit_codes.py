"""Every exit code of docs/kvctl.md, by a command line that ends with it; 130 is shown where a process is interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kvctl import failures
from support.fake_server import FakeServer

SHOWN_ELSEWHERE = {failures.EXIT_INTERRUPTED}
"""test_main interrupts a process."""

CASES: list[tuple[int, tuple[str, ...]]] = [
    (failures.EXIT_OK, ("put", "k", "v")),
    (failures.EXIT_OK, ("get", "there")),
    (failures.EXIT_OK, ("del", "absent")),
    (failures.EXIT_OK, ("--help",)),
    (failures.EXIT_ERROR, ("import", "{folder}/absent")),
    (failures.EXIT_ERROR, ("import", "{folder}/bad")),
    (failures.EXIT_ERROR, ("import", "{folder}/bad", "--dry-run")),
    (failures.EXIT_ERROR, ("import", "{folder}/bad", "--on-error", "skip")),
    (failures.EXIT_ERROR, ("write", "{folder}/bad")),
    (failures.EXIT_ERROR, ("namespace", "drop", "team")),
    (failures.EXIT_USAGE, ("put", "k")),
    (failures.EXIT_USAGE, ("nonsense",)),
    (failures.EXIT_UNREACHABLE, ("-E", "{nobody}", "get", "k")),
    (failures.EXIT_UNREACHABLE, ("-E", "{nobody}", "import", "{folder}/good")),
    (failures.EXIT_UNREACHABLE, ("-E", "{endpoint},{nobody}", "status")),
    (failures.EXIT_REFUSED, ("-n", "absent", "get", "k")),
    (failures.EXIT_REFUSED, ("put", "{large}", "v")),
    (failures.EXIT_REFUSED, ("compact", "99", "--dry-run")),
    (failures.EXIT_UNHEALTHY, ("doctor", "--data-dir", "{folder}/absent")),
    (failures.EXIT_NOT_FOUND, ("get", "absent")),
    (failures.EXIT_NOT_FOUND, ("get", "absent", "--prefix")),
    (failures.EXIT_NOT_FOUND, ("history", "absent")),
    (failures.EXIT_ERROR, ("check", "hash", "--data-dir", "{folder}")),
    (failures.EXIT_USAGE, ("restore", "--archive", "file://{folder}/archive", "--target-dir", "{folder}/target")),
    (failures.EXIT_REFUSED, ("restore", "--archive", "nonsense", "--latest", "--target-dir", "{folder}/target")),
    (failures.EXIT_NOT_FOUND, ("restore", "--archive", "file://{folder}/archive", "--latest", "--target-dir", "{folder}/target")),
    (failures.EXIT_NOT_FOUND, ("backup", "info", "latest", "--archive", "file://{folder}/archive")),
    (failures.EXIT_CONDITION, ("put", "there", "v", "--if-absent")),
    (failures.EXIT_CONDITION, ("del", "there", "--if-revision", "99")),
    (failures.EXIT_CONDITION, ("del", "there", "--if-revision", "99", "--dry-run")),
    (failures.EXIT_CONDITION, ("write", "{folder}/condition")),
]


@pytest.mark.parametrize(("exit_code", "arguments"), CASES)
def test_exit_code(
    kvctl: Any, fake: FakeServer, fill: Any, absent_endpoint: str, tmp_path: Path, exit_code: int, arguments: tuple[str, ...]
) -> None:
    fill({b"there": b"v"})
    kvctl("namespace", "create", "team")
    (tmp_path / "good").write_text('{"key": "a", "value": "1"}\n')
    (tmp_path / "bad").write_text('{"key": "a", "value": "1"}\nnonsense\n')
    (tmp_path / "condition").write_text('{"op": "put", "key": "there", "value": "1", "if_absent": true}\n')
    words = {"folder": str(tmp_path), "nobody": absent_endpoint, "endpoint": fake.endpoint, "large": "k" * 9000}
    told = kvctl(*(argument.format(**words) for argument in arguments))
    assert told.exit_code == exit_code, told.err
    assert bool(told.err) is (exit_code not in (failures.EXIT_OK, failures.EXIT_UNHEALTHY)) or "status" in arguments
    assert "Traceback" not in told.err


def test_every_exit_code_is_shown() -> None:
    every = {value for name, value in vars(failures).items() if name.startswith("EXIT_")}
    assert {code for code, _ in CASES} == every - SHOWN_ELSEWHERE


@pytest.mark.parametrize(
    "arguments",
    [
        ("put", "k", "v", "--value-file", "f"),
        ("put", "k"),
        ("put", "", "v"),
        ("put", "--hex", "6", "00"),
        ("put", "--hex", "6b", "0x"),
        ("get", ""),
        ("get", "k", "--limit", "3"),
        ("get", "--hex", "zz", "--prefix"),
        ("del", ""),
        ("del", "--range", "b", "a"),
        ("del", "--hex", "--prefix", "x"),
        ("del", "--prefix", "p", "--if-revision", "1", "--dry-run"),
        ("scan", "--start", "b", "--end", "a"),
        ("scan", "--hex", "x"),
        ("history", ""),
        ("history", "--hex", "x"),
        ("namespace", "drop", ""),
        ("namespace", "crate", "x"),
        ("compact", "3", "--keep", "2", "--dry-run"),
        ("import", "f", "--on-error", "ask"),
        ("import", "f", "--dry-run", "--acked-log", "g"),
        ("import", "f", "--skip", "-1"),
        ("export", "f", "--format", "xml"),
        ("export", "--hex", "--prefix", "x"),
        ("write",),
        ("status", "--interval", "0s"),
        ("status", "-w", "--interval", "2"),
        ("completion", "csh"),
        ("archive", "status", "--cluster", "00"),
        ("archive", "retain", "--yes"),
        ("archive", "retain", "--keep-backups", "0"),
        ("archive", "point", "set"),
        ("archive", "verify", "--workers", "0"),
        ("archive", "dictionary", "train", "--size-kib", "0"),
        ("backup", "info"),
        ("restore", "--archive", "file:///srv/archive"),
        ("restore", "--archive", "file:///srv/archive", "--latest"),
        ("restore", "--archive", "file:///srv/archive", "--to-time", "soon", "--dry-run"),
        ("restore", "--latest", "--dry-run"),
        ("drill", "--scratch-dir", "/nowhere/at/all"),
        ("check", "hash", "--data-dir", "/nowhere/at/all"),
        ("wal", "repair", "--data-dir", "."),
        ("wal", "repair", "--data-dir", ".", "--from", "memory", "--archive", "file:///srv/archive"),
        ("scn",),
    ],
)
def test_wrong_usage_sends_nothing(kvctl: Any, fake: FakeServer, arguments: tuple[str, ...]) -> None:
    wrong = kvctl(*arguments, "-o", "json")
    assert (wrong.exit_code, wrong.out, fake.requests) == (2, b"", [])
    assert wrong.error["code"] == "USAGE"
    assert wrong.error["message"]
    assert wrong.error["hint"].startswith("see: kvctl")


@pytest.mark.parametrize(("word", "meant"), [("scn", "scan"), ("exprot", "export"), ("stauts", "status")])
def test_a_slip_of_the_pen_is_answered_with_what_was_meant(offline: Any, word: str, meant: str) -> None:
    assert f"No such command '{word}'. Did you mean '{meant}'?" in offline(word).err
