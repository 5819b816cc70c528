"""A log of a hundred lines, right or wrong on purpose, against which the fault seams are themselves tested.

A seam that lets a wrong log pass would let a wrong server pass. The right log follows the rules of the real one: header under a
temporary name, synced, renamed, folder synced; each record written and synced before it is acknowledged; an end after a failed
sync; a cut at the first bad frame; what was read back written again and synced before it is shown.
"""

from __future__ import annotations

import enum
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from kvserver.base.fs import FileSystem, opened, read_file

ROOT = Path("/data")
LOG = ROOT / "toy.log"
TEMPORARY = ROOT / "toy.log.tmp"
MAGIC = b"toylog 1"

_FRAME = struct.Struct("<II")

Note = Callable[[str, bytes], None]
"""Told of each record that is attempted, acknowledged ("ack") or shown after an open."""


class Bug(enum.Enum):
    """The ways in which the log can be wrong."""

    ACK_BEFORE_SYNC = "acknowledges when the record is written, before it is synced"
    NO_DIRECTORY_SYNC = "does not sync the folder after the log got its name"
    RENAME_BEFORE_SYNC = "gives the log its name before its header is synced"
    RETRY_SYNC = "calls sync again after it failed, and believes the second answer"
    NO_CHECKSUM = "takes any bytes of the right length for a record"
    SHOW_BEFORE_DURABLE = "shows what it read back without making it durable"
    SYNC_WITHOUT_REWRITE = "syncs what it read back, but does not write it again"


class BadLog(Exception):
    """The log cannot be opened."""


class ToyLog:
    """An open log. Appending raises OSError, after which it refuses further work until it is opened again."""

    def __init__(self, fs: FileSystem, note: Note, bugs: frozenset[Bug] = frozenset()) -> None:
        self._fs = fs
        self._note = note
        self._bugs = bugs
        self._failed = False
        self._lock = fs.lock(ROOT / "LOCK")
        if not fs.exists(LOG):
            self._create()
        self._file = fs.open(LOG, writable=True)
        self.records, self._end = self._read()
        self._make_durable()
        for record in self.records:
            note("shown", record)

    def append(self, record: bytes) -> None:
        """Add a record; it is durable on return."""
        if self._failed:
            raise OSError("the log has failed")
        self._note("attempt", record)
        frame = _FRAME.pack(zlib.crc32(record), len(record)) + record
        try:
            self._file.pwrite(frame, self._end)
            if Bug.ACK_BEFORE_SYNC in self._bugs:
                self._note("ack", record)
            self._sync()
        except OSError:
            self._failed = True
            raise
        self._end += len(frame)
        self.records.append(record)
        if Bug.ACK_BEFORE_SYNC not in self._bugs:
            self._note("ack", record)

    def close(self) -> None:
        """Close the file and let go of the lock."""
        self._file.close()
        self._lock.release()

    def _sync(self) -> None:
        try:
            self._file.datasync()
        except OSError:
            if Bug.RETRY_SYNC not in self._bugs:
                raise
            self._file.datasync()

    def _create(self) -> None:
        if self._fs.exists(TEMPORARY):
            self._fs.remove(TEMPORARY)
        with opened(self._fs.create(TEMPORARY)) as file:
            file.pwrite(MAGIC, 0)
            if Bug.RENAME_BEFORE_SYNC not in self._bugs:
                file.sync()
        self._fs.rename(TEMPORARY, LOG)

    def _read(self) -> tuple[list[bytes], int]:
        """Return the records and where the last good one ends."""
        data = read_file(self._fs, LOG)
        if not data.startswith(MAGIC):
            raise BadLog(f"the header is {data[: len(MAGIC)]!r}")
        records: list[bytes] = []
        end = len(MAGIC)
        while end + _FRAME.size <= len(data):
            checksum, length = _FRAME.unpack_from(data, end)
            record = data[end + _FRAME.size : end + _FRAME.size + length]
            if length == 0 or len(record) < length:
                break
            if zlib.crc32(record) != checksum and Bug.NO_CHECKSUM not in self._bugs:
                break
            records.append(record)
            end += _FRAME.size + length
        return records, end

    def _make_durable(self) -> None:
        """Cut what is no record, and make the rest durable before anybody sees it."""
        if self._file.size() > self._end:
            self._file.truncate(self._end)
        if Bug.SHOW_BEFORE_DURABLE not in self._bugs:
            if Bug.SYNC_WITHOUT_REWRITE not in self._bugs:
                self._file.pwrite(self._file.pread(self._end, 0), 0)
            self._file.sync()
        if Bug.NO_DIRECTORY_SYNC not in self._bugs:
            self._fs.sync_dir(ROOT)
