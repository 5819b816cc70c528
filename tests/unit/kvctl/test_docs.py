"""docs/kvctl.md says what kvctl does: every command, option, exit code, code and field stands in it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

import kvclient
from kvctl import failures
from kvctl.main import COMMANDS, cli
from kvctl.variables import NAMES
from kvserver.base.fs import OsFileSystem
from kvserver.base.paths import DataPaths
from support.fake_server import FakeServer
from support.stores import open_store
from unit.kvctl.archived import Archived, log_only

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "kvctl.md").read_text()


def section(name: str) -> str:
    """Return the part of the page below a heading, with the parts of lower level in it."""
    found = re.search(rf"^(##+) {name}$", PAGE, re.MULTILINE)
    assert found, f"the page has no section for {name}"
    rest = PAGE[found.end() :]
    end = re.search(rf"^#{{2,{len(found[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def commands_below(command: click.Command) -> Iterator[click.Command]:
    """Yield a command or, of a group, all commands in it."""
    if isinstance(command, click.Group):
        for part in command.commands.values():
            yield from commands_below(part)
    else:
        yield command


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_and_option_has_its_place(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    told = section(name)
    for part in commands_below(command):
        assert part.name in told or part.name == name, f"{name} {part.name}"
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


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_a_sentence_and_examples_in_its_help(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    for part in commands_below(command):
        assert part.help, part.name
        assert "Examples:" in part.help, f"{name} {part.name}"
        assert all(parameter.help for parameter in part.params if isinstance(parameter, click.Option)), f"{name} {part.name}"


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


def test_the_fields_shown_are_those_that_are_printed(kvctl: Any, fake: FakeServer, archived: Archived, tmp_path: Path) -> None:
    """Runs each example of JSON output and compares the names and kinds of its fields."""
    log_only(archived)
    fake.store.rows.clear()
    kvctl("import", str(ROOT / "examples" / "packages.jsonl"))
    kvctl("put", "greeting", "hello")
    kvctl("namespace", "create", "team/a")
    open_store(OsFileSystem(), paths=DataPaths(tmp_path / "alone")).close()
    examples = re.findall(r"^\$ kvctl (.* -o json)\n((?:\{.*\}\n)+)", PAGE, re.MULTILINE)
    assert len(examples) >= 15

    for line, shown in examples:
        placed = re.sub(r"(?<![\w-])/?backup(?=[./])", f"{tmp_path}/backup", line.replace("examples/", f"{ROOT}/examples/"))
        placed = placed.replace("file:///mnt/archive", archived.url).replace(
            "file:///mnt/register", f"file://{tmp_path}/register"
        )
        words = re.sub(r"/srv/(restored|alone)", rf"{tmp_path}/\1", placed).split()
        fake.cluster.primary = "n1"  # a promotion before this example may have made it another
        printed = kvctl(*words).json_lines
        expected = [json.loads(row) for row in shown.splitlines()]
        assert printed, line
        assert [{name: type(value) for name, value in row.items()} for row in printed] == [
            {name: type(value) for name, value in row.items()} for row in expected
        ], line
