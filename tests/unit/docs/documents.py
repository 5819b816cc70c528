"""The documents as the tests see them: sections, tables and code blocks of Markdown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[3]

_CODE = re.compile(r"`([^`]+)`")


class Section(NamedTuple):
    """What stands between a heading and the next one of the same or a higher level."""

    title: str
    lines: list[str]

    def tables(self) -> list[list[dict[str, str]]]:
        """Return the tables in the section, each row as a dict from column name to cell."""
        found: list[list[dict[str, str]]] = []
        names: list[str] = []
        for line in self.lines:
            if not line.startswith("|"):
                names = []
                continue
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            if not names:
                names = cells
                found.append([])
            elif not set("".join(cells)) <= set("-: "):
                assert len(cells) == len(names), f"{self.title}: a row has {len(cells)} cells, not {len(names)}: {line}"
                found[-1].append(dict(zip(names, cells, strict=True)))
        return found

    def table(self) -> list[dict[str, str]]:
        """Return the rows of the section's only table."""
        (rows,) = self.tables()
        return rows

    def code_block(self) -> list[str]:
        """Return the lines of the section's only fenced block."""
        fences = [number for number, line in enumerate(self.lines) if line.startswith("```")]
        begin, end = fences
        return self.lines[begin + 1 : end]


def section(document: str, title: str) -> Section:
    """Return a section of a document by its heading."""
    lines = (ROOT / document).read_text().splitlines()
    begin = level = None
    fenced = False
    for number, line in enumerate(lines):
        if line.startswith("```"):
            fenced = not fenced
        heading = None if fenced else re.match(r"(#+) (.+)", line)
        if heading is None:
            continue
        if begin is not None and level is not None and len(heading[1]) <= level:
            return Section(title, lines[begin:number])
        if begin is None and heading[2] == title:
            begin, level = number + 1, len(heading[1])
    assert begin is not None, f"{document} has no section {title!r}"
    return Section(title, lines[begin:])


def in_code(text: str) -> list[str]:
    """Return what a text sets in backticks."""
    return _CODE.findall(text)


def number(text: str) -> int:
    """Return a figure as documents write it: ``4,096``, ``8 KiB``, ``1 MiB``, ``8 GiB``."""
    digits, _, unit = text.replace(",", "").partition(" ")
    return int(digits) * {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}[unit]
