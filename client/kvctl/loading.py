"""Loading records into a server: frames of puts from lines, and the account of which lines were acknowledged.

The account is what makes a load that broke off worth something: it says up to which line everything is kept, so that the
next run can go on there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import FileIO
from typing import TYPE_CHECKING, NamedTuple

from kvctl import output, records
from kvctl.failures import CtlError

if TYPE_CHECKING:
    from kvclient import KvClientError
    from kvclient.bulk import FrameAnswer, PutFrame

MAX_FRAME_PUTS = 4_096
MAX_FRAME_BYTES = 1024 * 1024


class Lines(NamedTuple):
    """Which lines a frame stands for."""

    of_puts: list[int]
    """The number of each put's line."""
    last: int
    """The last line that is done when the frame is; blank lines count."""


class LoadFailure(NamedTuple):
    """The first line that a server refused."""

    line: int
    error: KvClientError


def frames(source: records.InputFile, skip: int) -> Iterator[PutFrame[Lines]]:
    """Make frames of the lines behind the first ``skip``: one for what a read brought, more where that is much.

    A bad line raises CtlError with its number, after a frame with the lines before it.
    """
    from kvclient.bulk import PutFrame

    for first, lines in records.split_lines(source.chunks()):
        keys: list[bytes] = []
        values: list[bytes] = []
        of_puts: list[int] = []
        size = 0
        for number, line in enumerate(lines, first):
            if number <= skip or not line.strip():
                continue
            try:
                key, value = records.parse(line)
            except ValueError as error:
                if keys:
                    yield PutFrame(keys, values, Lines(of_puts, number - 1))
                raise CtlError("BAD_INPUT", f"line {number}: {error}", line=number) from error
            if keys and (len(keys) >= MAX_FRAME_PUTS or size + len(key) + len(value) > MAX_FRAME_BYTES):
                yield PutFrame(keys, values, Lines(of_puts, number - 1))
                keys, values, of_puts, size = [], [], [], 0
            keys.append(key)
            values.append(value)
            of_puts.append(number)
            size += len(key) + len(value)
        if keys:
            yield PutFrame(keys, values, Lines(of_puts, first + len(lines) - 1))


class Account:
    """Which records were acknowledged."""

    def __init__(self, skip: int) -> None:
        self.records = 0
        """Records acknowledged."""
        self.bytes = 0
        """Bytes of their keys and values."""
        self.through_line = skip
        """Every record up to this line was acknowledged, or left out by ``skip``."""
        self.first_revision = 0
        self.last_revision = 0
        self.failure: LoadFailure | None = None
        """The first line that was refused."""
        self.acked_log: FileIO | None = None
        """Where each acknowledged key is noted, if anywhere."""
        self._next_frame = 1
        self._waiting: dict[int, FrameAnswer[Lines]] = {}

    def take(self, answer: FrameAnswer[Lines]) -> None:
        """Take in an answer; answers may come in another order than the frames were sent in."""
        self._count(answer)
        self._waiting[answer.number] = answer
        while (following := self._waiting.pop(self._next_frame, None)) is not None:
            self._next_frame += 1
            if self.failure is not None:
                continue  # a gap is before these lines
            if following.failures:
                failed = following.failures[0]
                line = following.frame.tag.of_puts[failed.index]
                self.failure = LoadFailure(line, failed.error)
                self.through_line = line - 1
            else:
                self.through_line = following.frame.tag.last

    def _count(self, answer: FrameAnswer[Lines]) -> None:
        """Count the puts that succeeded and note them in the log of acknowledged keys."""
        if answer.rejected:
            return
        failed = {failure.index for failure in answer.failures}
        frame = answer.frame
        revision = answer.first_revision
        noted: list[bytes] = []
        for index, key in enumerate(frame.keys):
            if index in failed:
                continue
            if self.acked_log is not None:
                noted.append(_acked_line(key, revision))
            self.records += 1
            self.bytes += len(key) + len(frame.values[index])
            revision += 1
        if revision > answer.first_revision:
            self.first_revision = min(self.first_revision or answer.first_revision, answer.first_revision)
            self.last_revision = max(self.last_revision, revision - 1)
        if self.acked_log is not None and noted:
            _write_all(self.acked_log, b"".join(noted))


def _acked_line(key: bytes, revision: int) -> bytes:
    return json.dumps({**output.bytes_field("key", key), "revision": revision}, ensure_ascii=False).encode() + b"\n"


def _write_all(file: FileIO, data: bytes) -> None:
    """Write everything at once, without a buffer that a killed process would take along."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) or 0 :]
