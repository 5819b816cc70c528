"""docs/kvctl.md says what kvctl does: every command, option, exit code, code and field stands in it."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import click
import pytest

import kvclient
from kvctl import failures
from kvctl.main import COMMANDS, cli
from kvctl.variables import NAMES
from support.fake_server import FakeServer

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "kvctl.md").read_text()


def section(name: str) -> str:
    """Return the part of the page below a command's heading."""
    found = re.search(rf"^##+ {name}$(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"the page has no section for {name}"
    return found[1]


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_and_option_has_its_place(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    told = section(name)
    parts = command.commands.values() if isinstance(command, click.Group) else [command]
    for part in parts:
        for parameter in part.params:
            if isinstance(parameter, click.Option) and not parameter.name.startswith("global_"):  # type: ignore[union-attr]
                assert parameter.opts[-1] in told, (name, parameter.opts)


def test_every_setting_and_its_variable_is_told() -> None:
    told = section("Settings")
    for parameter in cli.params:
        if isinstance(parameter, click.Option) and parameter.envvar:
            assert f"`{parameter.envvar}`" in told
            assert all(f"`{name}`" in told or f"`{name} " in told for name in (*parameter.opts, *parameter.secondary_opts))
    assert {name for name in NAMES if f"`{name}`" in told} == NAMES


def test_exit_codes() -> None:
    documented = {int(number) for number in re.findall(r"^\| (\d+) \|", section("Output and errors"), re.MULTILINE)}
    assert documented == {value for name, value in vars(failures).items() if name.startswith("EXIT_")}


def test_codes_of_kvctls_own() -> None:
    sources = [path.read_text() for path in (ROOT / "client" / "kvctl").rglob("*.py")]
    used = {code for source in sources for code in re.findall(r'CtlError\(\s*"([A-Z_]+)"', source)}
    assert used
    for code in used:
        assert f"`{code}`" in section("Output and errors"), code


def test_fields_of_the_status() -> None:
    for field in dataclasses.fields(kvclient.Status):
        assert f"`{field.name}`" in section("status"), field.name


def test_the_fields_shown_are_those_that_are_printed(kvctl: Any, fake: FakeServer, tmp_path: Path) -> None:
    """Runs each example of JSON output and compares the names and kinds of its fields."""
    fake.store.rows.clear()
    kvctl("import", str(ROOT / "examples" / "packages.jsonl"))
    kvctl("put", "greeting", "hello")
    kvctl("namespace", "create", "team/a")
    examples = re.findall(r"^\$ kvctl (.* -o json)\n((?:\{.*\}\n)+)", PAGE, re.MULTILINE)
    assert len(examples) >= 15

    for line, shown in examples:
        words = line.replace("examples/", f"{ROOT}/examples/").replace("backup", f"{tmp_path}/backup").split()
        printed = kvctl(*words).json_lines
        expected = [json.loads(row) for row in shown.splitlines()]
        assert printed, line
        assert [{name: type(value) for name, value in row.items()} for row in printed] == [
            {name: type(value) for name, value in row.items()} for row in expected
        ], line
