"""JSON lines with ``key`` and ``value``: the readable form in which data is loaded and saved.

A record is ``{"key": TEXT, "value": TEXT}``; what is not UTF-8 is ``key_b64`` or ``value_b64`` instead, or digits in
``key_hex`` or ``value_hex``. Other fields are ignored, so that the output of ``kvctl scan -o json`` can be loaded too. Blank
lines are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from kvctl import output
from kvctl.batches import Batch, Fault
from kvctl.bytes_form import BytesForm, bytes_of
from kvctl.failures import CtlError

if TYPE_CHECKING:
    from kvclient import Entry

MAX_LINE_BYTES = 16 * 1024 * 1024


def parse(line: bytes) -> tuple[bytes, bytes]:
    """Return the key and value of a line; raise ValueError that says what is wrong with it."""
    record = parse_object(line)
    return bytes_of(record, "key"), bytes_of(record, "value")


def parse_object(line: bytes) -> dict[str, Any]:
    """Return the JSON object that a line holds; raise ValueError that says what is wrong with it."""
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    except ValueError as error:  # an integer of more digits than Python converts
        raise ValueError(f"not JSON that can be read: {error}") from error
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    return record


def split_lines(chunks: Iterator[bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """Cut chunks into whole lines: brings the number of the first one, from 1, and the lines that a chunk completed."""
    number = 1
    rest = b""
    for chunk in chunks:
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        if lines:
            yield number, lines
            number += len(lines)
        if len(rest) > MAX_LINE_BYTES:
            raise CtlError("BAD_INPUT", f"line {number} is longer than {output.sized(MAX_LINE_BYTES)}", line=number)
    if rest:
        yield number, [rest]


def read_lines(chunks: Iterator[bytes], skip: int) -> Iterator[Batch]:
    """Make a batch of the lines that each chunk completed; the first ``skip`` lines are left out unread."""
    for first, lines in split_lines(chunks):
        batch = Batch([], [], [], [], first + len(lines) - 1)
        for number, line in enumerate(lines, first):
            if number <= skip or not line.strip():
                continue
            try:
                key, value = parse(line)
            except ValueError as error:
                batch.faults.append(Fault(number, 1, "BAD_INPUT", str(error)))
            else:
                batch.add(number, key, value)
        yield batch


class LineWriter:
    """Writes entries as lines."""

    def __init__(self, write: Callable[[bytes], None], form: BytesForm, *, with_revisions: bool) -> None:
        self._write = write
        self._form = form
        self._with_revisions = with_revisions

    def add(self, entry: Entry) -> None:
        """Write one entry."""
        if self._with_revisions:
            fields = output.entry_fields(entry, self._form)
        else:
            fields = {**self._form.fields("key", entry.key), **self._form.fields("value", entry.value)}
        self._write(json.dumps(fields, ensure_ascii=False).encode() + b"\n")

    def finish(self) -> None:
        """Do nothing: lines have no end of their own."""
