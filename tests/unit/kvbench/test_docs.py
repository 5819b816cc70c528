"""docs/kvbench.md says what kvbench does: every command, option, workload, field, warning and exit code stands in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from kvbench import distributions, workload
from kvbench import options as run_options
from kvbench.main import cli
from unit.kvbench.made import part, phase_result, tick

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "kvbench.md").read_text()


def _section(name: str) -> str:
    """Return the part of the page below a heading, with what is below it in turn."""
    found = re.search(rf"^## {name}$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"the page has no section {name}"
    return found[1]


@pytest.mark.parametrize("name", list(cli.commands))
def test_every_option_is_told(name: str) -> None:
    told = _section(name)
    for parameter in cli.commands[name].params:
        if isinstance(parameter, click.Option):
            names = [*parameter.opts[-1:], *parameter.secondary_opts] if name == "run" else parameter.opts
            found = [re.search(rf"{option}\b", told) for option in names]
            assert all(found) if name == "run" else any(found), (name, names)


def test_the_defaults_told_are_those_that_hold() -> None:
    rows = [line.replace("\\|", "/").split("|") for line in _section("run").splitlines() if line.startswith("| `-")]
    told = {re.findall(r"--[\w-]+", row[1])[0]: row[3].strip(" `").replace(",", "") for row in rows}
    checked = 0
    for parameter in cli.commands["run"].params:
        if (
            isinstance(parameter.default, int | float | str)
            and not isinstance(parameter.default, bool)
            and parameter.default != ""
        ):
            assert told[parameter.opts[-1]].split("`")[0] == str(parameter.default), parameter.name
            checked += 1
    assert checked >= 10


def test_every_workload_and_distribution_is_told() -> None:
    for name in (*run_options.WORKLOADS, *distributions.NAMES):
        assert f"`{name}`" in _section("run")


def test_the_limits_told_are_those_of_the_code() -> None:
    told = _section("run")
    assert f"{workload.MAX_SEQUENCE:,}" in told
    assert f"{workload._LEAST_SEQUENCE:,}" in told
    assert workload.FIRST_KEY.decode() in PAGE


def _fields(result: dict[str, Any]) -> Iterator[str]:
    yield from result
    for name in ("latency_ms", "client", "schedule", "machine", "versions", "disk", "timeline", "histogram"):
        yield from result[name]


def test_every_field_of_a_result_is_told(result: Callable[..., dict[str, Any]]) -> None:
    notes = phase_result(tick(1, {"X": 1}, scan=[1.0]), ended_s=2, lags=[part(1.0)])
    told = _section("The result as JSON")
    for field in _fields(result(notes, workload="scan", rate=1.0)):
        assert f"`{field}`" in told, field


def test_every_field_told_is_there(result: Callable[..., dict[str, Any]]) -> None:
    notes = phase_result(tick(1, scan=[1.0]), ended_s=2, lags=[part(1.0)])
    fields = set(_fields(result(notes, workload="scan", rate=1.0)))
    for names in re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", _section("The result as JSON"), re.MULTILINE):
        for name in re.findall(r"`(\w+)`", names):
            assert name in fields, name


def test_codes_of_kvbenchs_own() -> None:
    sources = [path.read_text() for path in (ROOT / "client" / "kvbench").rglob("*.py")]
    used = {code for source in sources for code in re.findall(r'(?:CtlError|Failed)\(\s*"([A-Z_]+)"', source)}
    assert len(used) >= 5
    for code in used:
        assert f"`{code}`" in _section("Exit codes"), code


def test_exit_codes() -> None:
    documented = {int(number) for number in re.findall(r"^\| (\d+) \|", _section("Exit codes"), re.MULTILINE)}
    told = re.search(r"Exit codes: (.*?)\n\n", (cli.help or "") + "\n\n", re.DOTALL)
    assert told
    assert documented == {int(number) for number in re.findall(r"\b(\d+) \w", told[1])}
