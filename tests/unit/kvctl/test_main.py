"""The command line itself: settings, errors, exit codes, help, and starting quickly."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from typing import Any

import click
import pytest

from kvctl.main import COMMANDS, cli
from kvctl.settings import parse_duration_s
from kvproto.v1 import errors_pb2
from support.fake_server import FakeServer

PYTHON = [sys.executable, "-m", "kvctl"]
OFTEN = 20
"""More often than a client sends again what was refused."""


def test_settings_before_behind_and_from_the_environment(
    offline: Any, fake: FakeServer, monkeypatch: pytest.MonkeyPatch, absent_endpoint: str
) -> None:
    for arguments in (("-E", fake.endpoint, "status", "-o", "json"), ("-o", "json", "status", "-E", fake.endpoint)):
        assert offline(*arguments).json["role"] == "primary"
    monkeypatch.setenv("KVCTL_ENDPOINT", fake.endpoint)
    monkeypatch.setenv("KVCTL_OUTPUT", "json")
    monkeypatch.setenv("KVCTL_TIMEOUT", "3s")
    monkeypatch.setenv("KVCTL_NAMESPACE", "nowhere")
    assert offline("status").json["role"] == "primary"
    assert offline("get", "k").error["code"] == "UNKNOWN_NAMESPACE"
    assert offline("get", "k", "-n", "").error["code"] == "KEY_NOT_FOUND"
    assert offline("-E", absent_endpoint, "status").error["code"] == "UNAVAILABLE"
    assert offline("-E", absent_endpoint, "status", "-E", fake.endpoint).exit_code == 0


def test_no_server_ends_with_3(offline: Any, absent_endpoint: str) -> None:
    for command in (("get", "k"), ("put", "k", "v"), ("status",), ("scan",)):
        missing = offline("-E", absent_endpoint, *command)
        assert missing.exit_code == 3
        assert missing.err.startswith(f"error: cannot connect to {absent_endpoint}: ")
        assert "[UNAVAILABLE]\nhint: is a server running there?" in missing.err
        assert missing.err.count("\n") == 2, "nothing else, no trace"


def test_no_answer_in_time_ends_with_3(kvctl: Any, fake: FakeServer) -> None:
    release = fake.hold("Get")
    fake._held["Put"] = release
    late = kvctl("--timeout", "150ms", "get", "k", "-o", "json")
    assert (late.exit_code, late.error["code"]) == (3, "DEADLINE")
    open_ = kvctl("put", "k", "v", "--timeout", "150ms")
    assert open_.exit_code == 3
    assert open_.err.startswith("error: the write may or may not have been kept: ")
    release.set()


@pytest.mark.parametrize("code", [name for name in errors_pb2.ErrorCode.keys() if errors_pb2.ErrorCode.Value(name)])  # noqa: SIM118
def test_every_code_has_its_exit_code(kvctl: Any, fake: FakeServer, code: str) -> None:
    for _ in range(OFTEN):
        fake.refuse_next("Put", code, "the message", "the hint", mod_revision="5")
    refused = kvctl("put", "k", "v", "-o", "json")
    assert refused.exit_code == {"CONDITION_FAILED": 7, "DEADLINE": 3}.get(code, 4)
    assert (refused.error["code"], refused.error["message"], refused.error["hint"]) == (code, "the message", "the hint")


def test_messages_are_one_line_without_control_characters(kvctl: Any, fake: FakeServer) -> None:
    fake.refuse_next("Get", "INTERNAL", "bad \x1b[2J\nkey", "do\tthis")
    told = kvctl("get", "k")
    assert told.err == "error: bad \\x1b[2J\\x0akey [INTERNAL]\nhint: do\\x09this\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("put", "k"),
        ("get", "k", "--revision", "0"),
        ("get", "k", "--revision", "x"),
        ("put", "k", "v", "--if-revision", "-1"),
        ("put", "k", "v", "--if-absent", "--if-revision", "1"),
        ("put", "k", "v", "--durability", "local"),
        ("status", "-o", "yaml"),
        ("--timeout", "5", "status"),
        ("-E", "nowhere", "status"),
        ("--unknown", "status"),
    ],
)
def test_wrong_usage_ends_with_2(offline: Any, arguments: tuple[str, ...]) -> None:
    wrong = offline(*arguments)
    assert wrong.exit_code == 2
    error, hint = wrong.err.splitlines()
    assert error.startswith("error: ")
    assert error.endswith("[USAGE]")
    assert hint.startswith("hint: see: kvctl")
    assert hint.endswith("--help")


def test_wrong_usage_as_json(offline: Any) -> None:
    told = offline("-o", "json", "get").error
    assert told == {
        "code": "USAGE",
        "message": "Missing argument 'KEY'.",
        "hint": "see: kvctl get --help",
        "exit_code": 2,
    }


def test_no_command_shows_the_help(offline: Any) -> None:
    shown = offline()
    assert "Commands:" in shown.out.decode() + shown.err


@pytest.mark.parametrize(
    ("text", "seconds"), [("5s", 5), ("500ms", 0.5), ("1m30s", 90), ("1h", 3600), ("0.5s", 0.5), ("1s500ms", 1.5)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "s", "5 s", "-5s", "0s", "5sx", "x5s", "1e3s", "٥s"])
def test_bad_durations(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration_s(text)


def _commands() -> list[tuple[str, click.Command]]:
    found: list[tuple[str, click.Command]] = []
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        waiting = [(name, command)]
        while waiting:
            name, command = waiting.pop(0)
            found.append((name, command))
            if isinstance(command, click.Group):
                waiting += [(f"{name} {sub}", command.commands[sub]) for sub in command.commands]
    return found


def test_every_help_has_examples_and_short_lines(offline: Any) -> None:
    for name, command in _commands():
        shown = offline(*name.split(), "-h")
        assert shown.exit_code == 0
        told = shown.out.decode()
        assert re.search(rf"  Examples:\n(    .*\n)*    .*kvctl {name.split()[0]}\b", told), name
        assert "..." not in told.partition("Commands:")[2], "a summary is cut"
        if not isinstance(command, click.Group) and name != "completion":
            assert "-o, --output" in told
        assert max(map(len, shown.out.decode().splitlines())) <= 100


def test_the_summary_of_every_command_stands_in_the_groups_help(offline: Any) -> None:
    shown = offline("--help").out.decode()
    for name, place in COMMANDS.items():
        assert f"  {name} " in shown
        assert place.summary in shown


def test_version(offline: Any) -> None:
    shown = offline("--version")
    assert shown.exit_code == 0
    assert shown.out.startswith(b"kvctl ")


def test_a_reader_that_goes_away_is_no_trouble(fake: FakeServer, fill: Any) -> None:
    fill({b"k%05d" % number: b"v" * 1000 for number in range(300)})
    fake.chunk_keys = 100
    command = [*PYTHON, "-E", fake.endpoint, "scan", "-o", "raw"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(20) == 1


def test_control_c_ends_with_130(fake: FakeServer) -> None:
    release = fake.hold("Get")
    command = [*PYTHON, "-E", fake.endpoint, "--timeout", "30s", "-o", "json", "get", "k"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert fake.entered["Get"].wait(20)
        os.kill(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=20)
    release.set()
    assert process.returncode == 130
    assert json.loads(err.splitlines()[-1])["code"] == "INTERRUPTED"


def test_grpc_writes_nothing_among_the_errors_unless_it_is_asked_to(fake: FakeServer) -> None:
    grumbling = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"} | {"GRPC_TRACE": "no-such-tracer"}

    def said(**more: str) -> bytes:
        command = [*PYTHON, "-E", fake.endpoint, "scan"]
        return subprocess.run(command, capture_output=True, check=True, env=grumbling | more).stderr

    assert said() == b""
    assert b"no-such-tracer" in said(GRPC_VERBOSITY="error")


def in_a_shell(fake: FakeServer, line: str, redirection: str) -> subprocess.CompletedProcess[str]:
    """Run kvctl with some of its standard files closed or full."""
    command = f"{sys.executable} -m kvctl -E {fake.endpoint} {line} {redirection}"
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("line", ["status", "scan", "export", "get k", "export - --format binary"])
def test_output_that_nobody_can_take_is_an_error_that_says_so(fake: FakeServer, fill: Any, line: str) -> None:
    fill({b"k": b"v"})
    closed = in_a_shell(fake, line, ">&-")
    assert (closed.returncode, closed.stderr) == (1, "error: standard output is closed [FILE_ERROR]\n")
    full = in_a_shell(fake, line, "> /dev/full")
    assert (full.returncode, full.stderr) == (1, "error: standard output: No space left on device [FILE_ERROR]\n")


@pytest.mark.parametrize("redirection", ["2>&-", "2> /dev/full"])
def test_an_error_that_nobody_reads_keeps_its_exit_code(fake: FakeServer, redirection: str) -> None:
    assert in_a_shell(fake, "get absent", redirection).returncode == 6
    assert in_a_shell(fake, "get", redirection).returncode == 2


def test_a_write_whose_output_cannot_be_taken_was_made(fake: FakeServer) -> None:
    assert in_a_shell(fake, "put k v", "> /dev/full").returncode == 1
    assert ("", b"k") in fake.store.rows
