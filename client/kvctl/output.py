"""Printers: JSON for programs, tables for people, raw bytes for pipes. They know values, not commands.

Text meant for people never carries a control byte: a key could otherwise speak to the terminal.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvclient import Entry

_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u2028\u2029]")
_WIDTH_SAMPLE_ROWS = 200
_GAP = "  "


def write_bytes(data: bytes) -> None:
    """Write bytes to standard output as they are."""
    sys.stdout.buffer.write(data)


def write_line(text: str) -> None:
    """Write a line of text to standard output, as UTF-8 whatever the locale says."""
    write_bytes(text.encode() + b"\n")


def write_json(document: Mapping[str, Any]) -> None:
    """Write one JSON object on a line of its own."""
    write_line(json_line(document))


def json_line(document: Mapping[str, Any]) -> str:
    """Return an object as one line of JSON: readable text, but no control character that a terminal could obey."""
    text = json.dumps(document, ensure_ascii=False)
    return _UNSAFE_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def bytes_field(name: str, data: bytes) -> dict[str, str]:
    """Return bytes as a JSON field: ``name`` with text where they are UTF-8, else ``name_b64`` with base64."""
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_b64": base64.b64encode(data).decode()}


def entry_fields(entry: Entry, *, keys_only: bool = False) -> dict[str, Any]:
    """Return an entry as JSON fields."""
    value = {} if keys_only else bytes_field("value", entry.value)
    return {
        **bytes_field("key", entry.key),
        **value,
        "create_revision": entry.create_revision,
        "mod_revision": entry.mod_revision,
        "version": entry.version,
    }


def printable(data: bytes) -> str:
    """Return bytes as text for a table: what is not printable UTF-8 becomes ``\\xNN``, a backslash is doubled."""
    text = data.decode(errors="surrogateescape")
    return "".join(_printable_mark(mark) for mark in text)


def _printable_mark(mark: str) -> str:
    if mark == "\\":
        return "\\\\"
    if mark.isprintable():
        return mark
    return "".join(f"\\x{byte:02x}" for byte in mark.encode(errors="surrogateescape"))


def write_pairs(pairs: Iterable[tuple[str, str]], *, raw: bool = False) -> None:
    """Write names and values, one pair a line: aligned, or raw with a tab between them."""
    rows = list(pairs)
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        write_line(f"{name}\t{value}" if raw else f"{name:<{width}}{_GAP}{value}")


def write_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write rows below their heads as they come; widths are those of the first rows, the last column is left as it is.

    On a terminal, cells are cut so that a row is a line; elsewhere nothing is cut.
    """
    source = iter(rows)
    sample = list(islice(source, _WIDTH_SAMPLE_ROWS))
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    widths = [max(len(row[column]) for row in [head, *sample]) for column in range(len(head))]
    for row in _cut(chain([head], sample, source), widths, room):
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        write_line(_GAP.join([*cells, row[-1]]).rstrip())


def _cut(rows: Iterable[Sequence[str]], widths: list[int], room: int | None) -> Iterator[Sequence[str]]:
    """Cut cells to a terminal's room: the first column to half of it, the last one to what is left."""
    if room is None:
        yield from rows
        return
    widths[0] = min(widths[0], max(room // 2, 8))
    left = max(room - sum(widths[:-1]) - len(_GAP) * (len(widths) - 1), 8)
    limits = [widths[0], *widths[1:-1], left]
    for row in rows:
        yield [cell if len(cell) <= limit else cell[: limit - 1] + "…" for cell, limit in zip(row, limits, strict=True)]


def sized(count: int) -> str:
    """Return a number of bytes for people, in powers of 1024."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 key``, ``2,000 keys``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
