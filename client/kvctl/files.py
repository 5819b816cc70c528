"""Files that are loaded and saved, plain or compressed with zstd, and standard input and output in their place."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

from kvctl import output
from kvctl.failures import STANDARD_OUTPUT, CtlError, name_file

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
GZIP_MAGIC = b"\x1f\x8b"
READ_BYTES = 256 * 1024
COMPRESSED_READ_BYTES = 32 * 1024


class InputFile:
    """A file to read, or standard input where the name is ``-``; zstd is recognized by its first bytes.

    It reads without a buffer of its own: from a pipe it passes on what has come, and a process that ends while a read
    waits has no lock to fight over.
    """

    def __init__(self, name: str) -> None:
        self.name = "standard input" if name == "-" else name
        self.consumed = 0
        """Bytes read so far, before decompression."""
        self._file = FileIO(_standard_input(), "rb", closefd=False) if name == "-" else FileIO(name, "rb")

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
        self._check_unpacked(first)
        yield first
        while chunk := self._read(READ_BYTES):
            yield chunk

    def _check_unpacked(self, first: bytes) -> None:
        """Raise CtlError where the first bytes, or the name, say that the content is compressed after all."""
        if first.startswith(GZIP_MAGIC):
            hint = "unpack it on the way: zcat FILE | kvctl import -"
            raise CtlError("BAD_INPUT", f"{self.name} is compressed with gzip; kvctl reads zstd", hint)
        if not self.name.endswith(".zst"):
            return
        if ZSTD_MAGIC.startswith(first):  # also one without a byte
            raise self._cut(len(first))
        raise CtlError("BAD_INPUT", f"{self.name} is not compressed with zstd, whatever its name says")

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
                near = max(self.consumed - len(chunk), 0)
                message = f"{self.name}: damaged zstd data behind byte {near}: {error}"
                raise CtlError("BAD_INPUT", message, offset=near) from error
            inside = not frame.eof
            if inside:
                chunk = self._read(COMPRESSED_READ_BYTES)
            else:
                chunk = frame.unused_data or self._read(COMPRESSED_READ_BYTES)
                frame = decompressor.decompressobj()
        if inside:
            raise self._cut(self.consumed)

    def _cut(self, length: int) -> CtlError:
        message = f"{self.name} ends inside compressed data, behind byte {length}: it is not whole"
        return CtlError("BAD_INPUT", message, "it was cut short when it was written or copied; get it again", offset=length)


def read_value(name: str, most_bytes: int) -> bytes:
    """Return what a file, or standard input (``-``), holds; of more than ``most_bytes`` only one byte more than those."""
    with FileIO(_standard_input() if name == "-" else name, "rb", closefd=name != "-") as file:
        parts: list[bytes] = []
        room = most_bytes + 1
        while room and (part := file.read(min(room, READ_BYTES))):
            parts.append(part)
            room -= len(part)
    return b"".join(parts)


def _standard_input() -> int:
    """Return the descriptor of standard input."""
    if sys.stdin is None:
        raise CtlError("FILE_ERROR", "standard input is closed")
    return sys.stdin.fileno()


class OutputFile:
    """A file that appears under its name only when it is whole; zstd where the name ends in ``.zst``.

    Use it as a context manager: leaving it without an error makes the file appear, durably; an error removes what was
    written. Where the name is ``-`` the content goes to standard output; a device or a pipe is written to as it is.
    """

    def __init__(self, name: str) -> None:
        self._name = STANDARD_OUTPUT if name == "-" else name
        self._path = None if name == "-" else Path(os.path.realpath(name))
        self._packed = name.endswith(".zst")
        self._temporary: Path | None = None
        self.written = 0
        """Bytes so far, before compression."""
        self._sink: Any = None
        self._file: Any = None

    def __enter__(self) -> OutputFile:
        if self._path is None:
            self._sink = output.standard_output()
            return self
        if self._path.is_dir():
            raise CtlError("FILE_ERROR", f"{self._path} is a folder")
        if not self._path.exists() or self._path.is_file():  # what is a device must never be replaced by a file
            self._temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        self._file = self._sink = (self._temporary or self._path).open("wb")
        if self._packed:
            import zstandard

            compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
            self._sink = compressor.stream_writer(self._file, closefd=False)
        return self

    def write(self, data: bytes) -> None:
        """Append bytes. Raises OSError that names the file."""
        try:
            self._sink.write(data)
        except OSError as error:
            raise name_file(error, self._name) from None
        self.written += len(data)

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if self._path is None:
            return
        try:
            if kind is None:
                self._complete(self._path)
        except OSError as caught:
            raise name_file(caught, self._name) from None
        finally:
            with contextlib.suppress(OSError):  # what it still held could not be written, and that is known
                self._file.close()
            if self._temporary is not None:
                self._temporary.unlink(missing_ok=True)

    def _complete(self, path: Path) -> None:
        """End what was written, and let the file appear."""
        if self._sink is not self._file:
            self._sink.close()
        self._file.flush()
        if self._temporary is not None:
            os.fsync(self._file.fileno())
            self._file.close()
            self._temporary.replace(path)
            _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a name durable that was just given in a folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
