"""Loading records into a server: frames of puts, and the account of which lines or records were acknowledged.

The account is what makes a load that broke off worth something: it says up to where everything is kept, so that the next
run can go on there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import FileIO
from typing import TYPE_CHECKING, NamedTuple

from kvctl.batches import Batch, Fault
from kvctl.bytes_form import TEXT
from kvctl.reading import RecordSource

if TYPE_CHECKING:
    from kvclient import KvClientError
    from kvclient.bulk import FrameAnswer, PutFailure, PutFrame

MAX_FRAME_PUTS = 4_096
MAX_FRAME_BYTES = 1024 * 1024
NAMED_FAULTS = 20
"""So many of the records that were left out are named; the others are counted."""


class Lines(NamedTuple):
    """Which lines (or records) a frame stands for."""

    of_puts: list[int]
    """The number of each put's line."""
    last: int
    """The last line that is done when the frame is; blank lines and those left out count."""


class LoadFailure(NamedTuple):
    """The first line that a server refused."""

    line: int
    error: KvClientError


class LeftOut:
    """What was left out because it cannot be loaded, and the load was to go on."""

    def __init__(self) -> None:
        self.records = 0
        self.named: list[Fault] = []
        """The first ones."""

    def add(self, fault: Fault) -> None:
        """Note one more."""
        self.records += fault.records
        if len(self.named) < NAMED_FAULTS:
            self.named.append(fault)


def frames(source: RecordSource, skip: int, left_out: LeftOut | None) -> Iterator[PutFrame[Lines]]:
    """Make frames of the records behind the first ``skip``: one for what a read brought, more where that is much.

    What cannot be loaded is noted in ``left_out`` or, where that is None, raises CtlError with its number, after a frame
    with what stands before it.
    """
    for batch in source.batches(skip):
        if not batch.faults:
            yield from _cut(batch)
        elif left_out is None:
            first = min(batch.faults, key=lambda fault: fault.number)
            yield from _cut(batch.before(first.number))
            raise first.as_error(source.unit)
        else:
            for fault in batch.faults:
                left_out.add(fault)
            yield from _cut(batch)


def _cut(batch: Batch) -> Iterator[PutFrame[Lines]]:
    """Cut a batch into frames that are not too large."""
    from kvclient.bulk import PutFrame

    begin = size = 0
    end = len(batch.numbers)
    for place in range(end):
        more = len(batch.keys[place]) + len(batch.values[place])
        if place - begin >= MAX_FRAME_PUTS or (place > begin and size + more > MAX_FRAME_BYTES):
            tag = Lines(batch.numbers[begin:place], batch.numbers[place] - 1)
            yield PutFrame(batch.keys[begin:place], batch.values[begin:place], tag)
            begin, size = place, 0
        size += more
    if begin < end:
        yield PutFrame(batch.keys[begin:], batch.values[begin:], Lines(batch.numbers[begin:], batch.last))


class Account:
    """Which records were acknowledged."""

    def __init__(self, skip: int, left_out: LeftOut | None = None) -> None:
        self.records = 0
        """Records acknowledged."""
        self.bytes = 0
        """Bytes of their keys and values."""
        self.through_line = skip
        """Every record up to this line was acknowledged, or left out."""
        self.first_revision = 0
        self.last_revision = 0
        self.failure: LoadFailure | None = None
        """The first line that was refused and ends the load."""
        self.left_out = left_out
        """Where a record is noted that will always be refused; None where one ends the load."""
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
            failed = self._failure_of(following)
            if failed is None:
                self.through_line = following.frame.tag.last
            else:
                line = following.frame.tag.of_puts[failed.index]
                self.failure = LoadFailure(line, failed.error)
                self.through_line = line - 1

    def _failure_of(self, answer: FrameAnswer[Lines]) -> PutFailure | None:
        """Return the first failure of a frame that ends the load; note those that do not."""
        from kvclient import InvalidRequestError

        for failure in answer.failures:
            if self.left_out is None or answer.rejected or not isinstance(failure.error, InvalidRequestError):
                return failure
            line = answer.frame.tag.of_puts[failure.index]
            self.left_out.add(Fault(line, 1, failure.error.code, failure.error.message))
        return None

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
    return json.dumps({**TEXT.fields("key", key), "revision": revision}, ensure_ascii=False).encode() + b"\n"


def _write_all(file: FileIO, data: bytes) -> None:
    """Write everything at once, without a buffer that a killed process would take along."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) or 0 :]
