"""docs/limits.md has the figures of the code, and all of them."""

from __future__ import annotations

import dataclasses
import re

import pytest

from kvserver.base import limits
from kvserver.base.errors import Code
from kvserver.base.options import PipelineOptions, TableOptions, WalOptions
from kvserver.storage.memtable import VERSION_OVERHEAD_BYTES
from unit.docs.documents import in_code, number, section

DOCUMENT = "docs/limits.md"
LIMITS = ("Of requests", "Of answers", "Of the log")
UNITS = {"KIB", "MIB"}


def _figure(text: str) -> int:
    """Return the first figure of a cell."""
    match = re.match(r"[\d,]+( [KMG]iB)?", text)
    assert match is not None, f"{text!r} does not begin with a figure"
    return number(match[0])


def test_the_limits_are_those_of_the_code() -> None:
    rows = [row for title in LIMITS for row in section(DOCUMENT, title).table()]
    documented = {in_code(row["name in code"])[0]: _figure(row["figure"]) for row in rows}
    in_force = {name: value for name, value in vars(limits).items() if name.isupper() and name not in UNITS}
    assert documented == in_force


def test_the_options_are_those_of_the_code() -> None:
    rows = section(DOCUMENT, "What can be set").table()
    documented = {in_code(row["option"])[0]: _figure(row["default"]) for row in rows}
    in_force: dict[str, int] = {}
    for options in (WalOptions, PipelineOptions, TableOptions):
        defaults = {field.name: field.default for field in dataclasses.fields(options)}
        in_force |= {name: value for name, value in defaults.items() if type(value) is int}
    assert documented == in_force


def test_the_overhead_of_a_version_is_that_of_the_code() -> None:
    (row,) = (row for row in section(DOCUMENT, "What can be set").table() if "memory_limit_bytes" in row["option"])
    assert f"and {VERSION_OVERHEAD_BYTES} bytes for each of them" in row["meaning"]


def test_the_codes_named_exist() -> None:
    cells = [row["answer above it"] for row in section(DOCUMENT, "Of requests").table()]
    named = {name for cell in cells for name in in_code(cell)} - {"RESOURCE_EXHAUSTED", "rejected"}
    assert named <= set(Code.__members__), named


@pytest.mark.parametrize(("text", "value"), [("8 KiB", 8192), ("16,384", 16384), ("64 MiB", 64 << 20), ("8 GiB", 8 << 30)])
def test_figures_are_read_as_people_read_them(text: str, value: int) -> None:
    assert number(text) == value
