"""Variables: each works, an unknown one is warned of, and none says what is written or destroyed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest

from kvctl.main import COMMANDS, cli
from kvctl.variables import NAMES
from support.fake_server import FakeServer


def options() -> dict[str, set[str]]:
    """Return for each variable the options that it stands for."""
    found: dict[str, set[str]] = {}
    context = click.Context(cli)
    commands: list[click.Command] = [cli]
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        commands += [command, *(command.commands.values() if isinstance(command, click.Group) else [])]
    for command in commands:
        for parameter in command.params:
            if parameter.envvar:
                assert isinstance(parameter.envvar, str)
                found.setdefault(parameter.envvar, set()).add(parameter.opts[-1])
    return found


def test_the_list_of_variables_is_complete() -> None:
    found = options()
    assert set(found) == NAMES
    for variable, names in found.items():
        flag = "--" + variable.removeprefix("KVCTL_").lower().replace("_", "-")
        assert names <= {flag, flag.removeprefix("--").replace("-", "_")}, "the variable has the option's name"


def test_nothing_dangerous_has_a_variable() -> None:
    dangerous = {"--yes", "--prefix", "--range", "--revision", "--durability", "--on-error", "--skip", "--if-absent", "--dry-run"}
    assert not dangerous & set().union(*options().values())


def test_each_variable_works(offline: Any, fake: FakeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KVCTL_ENDPOINT", fake.endpoint)
    monkeypatch.setenv("KVCTL_OUTPUT", "json")
    monkeypatch.setenv("KVCTL_TIMEOUT", "3s")
    monkeypatch.setenv("KVCTL_HEX", "1")
    assert offline("put", "6b", "76").json["key_hex"] == "6b"
    assert offline("put", "--no-hex", "k", "v").json["key"] == "k"
    monkeypatch.setenv("KVCTL_HEX", "0")
    assert offline("get", "k").json["value"] == "v"
    monkeypatch.setenv("KVCTL_FORMAT", "binary")
    assert offline("export", str(tmp_path / "out")).json["format"] == "binary"
    assert offline("export", str(tmp_path / "out"), "--format", "lines").json["format"] == "lines"
    monkeypatch.setenv("KVCTL_INTERVAL", "x")
    assert "KVCTL_INTERVAL" in offline("status").error["message"]
    monkeypatch.setenv("KVCTL_DATA_DIR", str(tmp_path))
    assert offline("doctor").json["data_dir"] == str(tmp_path)
    assert offline("wal", "list").error["code"] == "NOT_A_DATA_DIR"
    monkeypatch.setenv("KVCTL_NAMESPACE", "nowhere")
    assert offline("get", "k").error["code"] == "UNKNOWN_NAMESPACE"


def test_an_unknown_variable_is_warned_of_and_passed_over(kvctl: Any, fill: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fill({b"k": b"v"})
    monkeypatch.setenv("KVCTL_ENDPIONT", "db1:7400")
    monkeypatch.setenv("KVCTL_SERVICE_HOST", "10.0.0.1")
    told = kvctl("get", "k")
    assert (told.exit_code, told.out) == (0, b"v")
    assert told.err.splitlines() == [
        "warning: KVCTL_ENDPIONT is set, and kvctl has no such variable [UNKNOWN_VARIABLE]",
        "hint: did you mean KVCTL_ENDPOINT?",
        "warning: KVCTL_SERVICE_HOST is set, and kvctl has no such variable [UNKNOWN_VARIABLE]",
    ]
    told = kvctl("get", "absent", "-o", "json")
    first, second, error = (json.loads(line) for line in told.err.splitlines())
    assert (first["warning"], first["hint"]) == ("UNKNOWN_VARIABLE", "did you mean KVCTL_ENDPOINT?")
    assert (second["warning"], error["code"]) == ("UNKNOWN_VARIABLE", "KEY_NOT_FOUND")
    assert "KVCTL" not in kvctl("get", "--help").err


def test_a_bad_value_names_the_variable(offline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVCTL_TIMEOUT", "5")
    wrong = offline("status")
    assert wrong.exit_code == 2
    assert "KVCTL_TIMEOUT" in wrong.err
