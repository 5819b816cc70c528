"""JSON lines with ``key`` and ``value``: the form in which data is loaded and saved, plain or compressed with zstd.

A record is ``{"key": TEXT, "value": TEXT}``; what is not UTF-8 is ``key_b64`` or ``value_b64`` instead. Other fields are
ignored, so that the output of ``kvctl scan -o json`` can be loaded too. Blank lines are ignored.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import stat
import sys
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

from kvctl import output
from kvctl.failures import CtlError

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
MAX_LINE_BYTES = 16 * 1024 * 1024
READ_BYTES = 256 * 1024
COMPRESSED_READ_BYTES = 32 * 1024


def parse(line: bytes) -> tuple[bytes, bytes]:
    """Return the key and value of a line; raise ValueError that says what is wrong with it."""
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    return _bytes_of(record, "key"), _bytes_of(record, "value")


def encode(key: bytes, value: bytes) -> bytes:
    """Return a record as one line."""
    fields = {**output.bytes_field("key", key), **output.bytes_field("value", value)}
    return json.dumps(fields, ensure_ascii=False).encode() + b"\n"


def _bytes_of(record: dict[str, Any], name: str) -> bytes:
    encoded = f"{name}_b64"
    if (name in record) == (encoded in record):
        raise ValueError(f'it must have either "{name}" or "{encoded}"')
    text = record[name] if name in record else record[encoded]
    if not isinstance(text, str):
        raise ValueError(f'"{name if name in record else encoded}" must be a string')
    try:
        return text.encode() if name in record else base64.b64decode(text, validate=True)
    except UnicodeEncodeError as error:
        raise ValueError(f'"{name}" holds half a surrogate pair') from error
    except (binascii.Error, ValueError) as error:
        raise ValueError(f'"{encoded}" is not base64') from error


class InputFile:
    """A file of records, or standard input where the name is ``-``; zstd is recognized by its first bytes.

    It reads without a buffer of its own: from a pipe it passes on what has come, and a process that ends while a read
    waits has no lock to fight over.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.consumed = 0
        """Bytes read so far, before decompression."""
        self._file = FileIO(sys.stdin.fileno(), "rb", closefd=False) if name == "-" else FileIO(name, "rb")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def size(self) -> int | None:
        """The file's bytes; None where that is not known, as in a pipe."""

        found = os.fstat(self._file.fileno())
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def chunks(self) -> Iterator[bytes]:
        """Bring the content, decompressed; raise CtlError where compressed content is damaged or cut."""
        first = self._read(len(ZSTD_MAGIC))
        while 0 < len(first) < len(ZSTD_MAGIC) and (more := self._read(len(ZSTD_MAGIC) - len(first))):
            first += more
        if first == ZSTD_MAGIC:
            yield from self._decompressed(first)
            return
        if self.name.endswith(".zst") and first:
            raise CtlError("BAD_INPUT", f"{self.name} is not compressed with zstd")
        yield first
        while chunk := self._read(READ_BYTES):
            yield chunk

    def _read(self, size: int) -> bytes:
        chunk = self._file.read(size)
        self.consumed += len(chunk or b"")
        return chunk or b""

    def _decompressed(self, chunk: bytes) -> Iterator[bytes]:
        """Decompress one frame after another; the end of input inside a frame is an error, not an end."""
        import zstandard

        decompressor = zstandard.ZstdDecompressor()
        frame = decompressor.decompressobj()
        inside = False
        while chunk:
            try:
                yield frame.decompress(chunk)
            except zstandard.ZstdError as error:
                raise CtlError("BAD_INPUT", f"{self.name}: damaged zstd data: {error}") from error
            inside = not frame.eof
            if inside:
                chunk = self._read(COMPRESSED_READ_BYTES)
            else:
                chunk = frame.unused_data or self._read(COMPRESSED_READ_BYTES)
                frame = decompressor.decompressobj()
        if inside:
            raise CtlError("BAD_INPUT", f"{self.name} ends inside compressed data: it is not whole")


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
            raise CtlError("BAD_INPUT", f"line {number} is longer than {output.sized(MAX_LINE_BYTES)}")
    if rest:
        yield number, [rest]


class OutputFile:
    """A file of records that appears under its name only when it is whole; zstd where the name ends in ``.zst``.

    Use it as a context manager: leaving it without an error makes the file appear, durably; an error removes what was
    written. Where the name is ``-`` the records go to standard output.
    """

    def __init__(self, name: str) -> None:

        self._path = None if name == "-" else Path(name)
        self._temporary = None if self._path is None else self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        self.written = 0
        """Bytes of records so far, before compression."""
        self._sink: Any = sys.stdout.buffer
        self._file: Any = None

    def __enter__(self) -> OutputFile:
        if self._path is not None and self._temporary is not None:
            if self._path.is_dir():
                raise CtlError("FILE_ERROR", f"{self._path} is a folder")
            self._file = self._sink = self._temporary.open("wb")
            if self._path.suffix == ".zst":
                import zstandard

                compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
                self._sink = compressor.stream_writer(self._file, closefd=False)
        return self

    def write(self, record: bytes) -> None:
        """Append one line."""
        self._sink.write(record)
        self.written += len(record)

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:

        if self._path is None or self._temporary is None:
            return
        try:
            if kind is None:
                if self._sink is not self._file:
                    self._sink.close()
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                self._temporary.replace(self._path)
                _sync_folder(self._path.parent)
        finally:
            self._file.close()
            self._temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a name durable that was just given in a folder."""

    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
