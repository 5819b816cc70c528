"""Printers: JSON for programs, tables for people, raw bytes for pipes. They know values, not commands.

Text meant for people never carries a control byte: a key could otherwise speak to the terminal.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, BinaryIO

from kvctl.bytes_form import BytesForm
from kvctl.failures import STANDARD_OUTPUT, CtlError, name_file

if TYPE_CHECKING:
    from kvclient import Entry

_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u2028\u2029]")
_WIDTH_SAMPLE_ROWS = 200
_GAP = "  "


def standard_output() -> BinaryIO:
    """Return standard output, for bytes; raise CtlError where whoever started kvctl has closed it."""
    if sys.stdout is None:
        raise CtlError("FILE_ERROR", f"{STANDARD_OUTPUT} is closed")
    return sys.stdout.buffer


def on_terminal() -> bool:
    """Return whether standard output is a terminal, with somebody before it."""
    return sys.stdout is not None and sys.stdout.isatty()


def write_bytes(data: bytes) -> None:
    """Write bytes to standard output as they are. Raises OSError that names it."""
    try:
        standard_output().write(data)
    except OSError as error:
        raise name_file(error, STANDARD_OUTPUT) from None


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


def entry_fields(entry: Entry, form: BytesForm, *, keys_only: bool = False) -> dict[str, Any]:
    """Return an entry as JSON fields."""
    value = {} if keys_only else form.fields("value", entry.value)
    return {
        **form.fields("key", entry.key),
        **value,
        "create_revision": entry.create_revision,
        "mod_revision": entry.mod_revision,
        "version": entry.version,
    }


def write_entries(entries: Iterable[Entry], kind: str, form: BytesForm, *, keys_only: bool) -> None:
    """Write entries as they come: ``json`` a line each, ``raw`` key, tab and value, else a table."""
    if kind == "json":
        for entry in entries:
            write_json(entry_fields(entry, form, keys_only=keys_only))
    elif kind == "raw":
        for entry in entries:
            write_bytes(form.raw(entry.key) + (b"" if keys_only else b"\t" + form.raw(entry.value)) + b"\n")
    else:
        head = ("KEY", "REVISION", "VERSION", "VALUE")[: 3 if keys_only else 4]
        write_table(head, (_row(entry, form, keys_only) for entry in entries))


def _row(entry: Entry, form: BytesForm, keys_only: bool) -> tuple[str, ...]:
    row = (form.shown(entry.key), str(entry.mod_revision), str(entry.version))
    return row if keys_only else (*row, form.shown(entry.value))


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
    widths = [max(len(row[column]) for row in [head, *sample]) for column in range(len(head))]
    for row in _cut(chain([head], sample, source), widths, _room()):
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        write_line(_GAP.join([*cells, row[-1]]).rstrip())


def _room() -> int | None:
    """Return the columns of the terminal that standard output is; None where it is none."""
    if not on_terminal():
        return None
    import shutil

    return shutil.get_terminal_size().columns


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
