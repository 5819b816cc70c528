"""Every relative link of every document leads to a file, and to a heading where it names one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from unit.docs.documents import ROOT

_LINK = re.compile(r"\]\(([^()\s]+)\)")
_SKIPPED = {"data", "build", "dist", "node_modules"}


def _documents() -> list[Path]:
    found = []
    for path in ROOT.rglob("*.md"):
        folders = path.relative_to(ROOT).parts[:-1]
        if not any(folder.startswith(".") or folder in _SKIPPED for folder in folders):
            found.append(path)
    return sorted(found)


def _prose(text: str) -> Iterator[str]:
    """Yield the lines outside fenced blocks."""
    fenced = False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield line


def _anchors(text: str) -> set[str]:
    """Return the anchors of the headings, as forges make them."""
    anchors = set()
    for line in _prose(text):
        if match := re.match(r"#+ (.+)", line):
            kept = (c for c in match[1].lower() if c in " -_" or unicodedata.category(c)[0] in "LN")
            anchors.add("".join(kept).replace(" ", "-"))
    return anchors


def broken_links(path: Path) -> list[str]:
    """Return the relative links of a document that lead nowhere."""
    broken = []
    text = path.read_text()
    for line in _prose(text):
        for target in _LINK.findall(line):
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = target.partition("#")
            to = path.parent / name if name else path
            if not to.exists() or (anchor and anchor not in _anchors(to.read_text())):
                broken.append(target)
    return broken


@pytest.mark.parametrize("path", _documents(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_relative_links_lead_somewhere(path: Path) -> None:
    assert not broken_links(path), f"{path.relative_to(ROOT)} links to nothing: {broken_links(path)}"


def test_broken_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(
        "# A b, `c_d`\n[x](b.md) [y](a.md#a-b-c_d) [z](#no) [w](https://x.org/q)\n```\n[v](u.md)\n```\n"
    )
    assert broken_links(tmp_path / "a.md") == ["b.md", "#no"]


def test_documents_are_found() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in _documents()}
    assert {"README.md", "docs/README.md", "docs/adr/README.md"} <= names
