"""The files of a base backup: which of a checkpoint's belong, how they get into the archive, and whether they are whole there.

A file is an object named by the SHA-256 of its bytes, so that of equal files there is one, whichever backups name it. It is read
twice: once for its name, once to be sent; a checksum proves that both times the same bytes were read.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from kvserver.archive.errors import damaged
from kvserver.archive.names import ArchiveNames
from kvserver.archive.ordered_pool import in_order
from kvserver.archive.records import BackupFile
from kvserver.archive.store import STREAM_BYTES, ObjectExists, ObjectMissing, Store
from kvserver.base.coding import crc32c
from kvserver.base.errors import Corruption
from kvserver.base.fs import File, FileSystem, opened

_NOT_OF_THE_TABLES = ("LOCK", "LOG")
"""What names of files begin with that RocksDB makes for itself wherever it opens a folder."""


class BackupProgress(NamedTuple):
    """How far a backup is."""

    files: int
    files_done: int
    total_bytes: int
    bytes_done: int
    """Of the files that are in the archive, and of those on their way."""
    sent_bytes: int
    """Of these, what the archive did not hold already."""


OnProgress = Callable[[BackupProgress], None]
"""Called on any thread, one call at a time. What it raises ends the backup."""


class _Found(NamedTuple):
    """A file of the checkpoint, before it is read."""

    path: Path
    length: int


def files_of(fs: FileSystem, tables: Path) -> list[Path]:
    """Return the files of a copy of tables that another store needs to open it, in the order of their names. Raises OSError."""
    names = (name for name in fs.list_dir(tables) if not name.startswith(_NOT_OF_THE_TABLES))
    paths = [tables / name for name in names]
    return [path for path in paths if (info := fs.info(path)) is not None and info.kind == "file"]


class Upload:
    """Sends the files of a copy of tables, several at a time."""

    def __init__(self, fs: FileSystem, store: Store, names: ArchiveNames, progress: OnProgress) -> None:
        self._fs = fs
        self._store = store
        self._names = names
        self._progress = progress
        self._mutex = threading.Lock()
        self._failure: BaseException | None = None
        self._so_far = BackupProgress(0, 0, 0, 0, 0)

    def send(self, paths: list[Path], workers: int) -> list[BackupFile]:
        """Return the files, all of them in the archive then. Raises Corruption, StoreError, OSError, what ``progress`` raises."""
        found = [_Found(path, _length(self._fs, path)) for path in paths]
        self._so_far = BackupProgress(len(found), 0, sum(one.length for one in found), 0, 0)
        self._progress(self._so_far)
        return list(in_order(self._send_or_stop, found, workers))

    def _send_or_stop(self, found: _Found) -> BackupFile:
        try:
            return self._send(found)
        except BaseException as error:
            self._failure = self._failure or error  # the others end at their next piece
            raise

    def _send(self, found: _Found) -> BackupFile:
        with opened(self._fs.open(found.path)) as file:
            sha256, crc = self._hash(file)
            name = self._names.file(sha256)
            there = _length_in(self._store, name)
            if there is None:
                try:
                    self._store.create(name, self._parts(found, file, crc))
                except ObjectExists:  # another backup was quicker
                    there = self._store.length(name)
        if there is not None and there != found.length:
            raise damaged(name, 0, f"it has {there} bytes; the file of this name has {found.length}")
        self._note(files_done=1, bytes_done=0 if there is None else found.length)
        return BackupFile(found.path.name, found.length, sha256)

    def _hash(self, file: File) -> tuple[bytes, int]:
        digest, crc = hashlib.sha256(), 0
        for piece in _pieces(file):
            self._stop_if_failed()
            digest.update(piece)
            crc = crc32c(crc, piece)
        return digest.digest(), crc

    def _parts(self, found: _Found, file: File, crc: int) -> Iterator[bytes]:
        """Yield the file's bytes; the last of them only once all were seen to be those that were hashed."""
        seen, held = 0, b""
        for piece in _pieces(file):
            self._stop_if_failed()
            seen = crc32c(seen, piece)
            if held:
                yield held
            held = piece
            self._note(bytes_done=len(piece), sent_bytes=len(piece))
        if seen != crc:
            raise Corruption(found.path, 0, "two reads of the file brought different bytes", "see to the disk: the kernel's log")
        yield held

    def _note(self, files_done: int = 0, bytes_done: int = 0, sent_bytes: int = 0) -> None:
        with self._mutex:
            so_far = self._so_far
            self._so_far = so_far._replace(
                files_done=so_far.files_done + files_done,
                bytes_done=so_far.bytes_done + bytes_done,
                sent_bytes=so_far.sent_bytes + sent_bytes,
            )
            self._progress(self._so_far)

    def _stop_if_failed(self) -> None:
        if self._failure is not None:
            raise self._failure


def check_file(store: Store, names: ArchiveNames, file: BackupFile, on_bytes: Callable[[int], None]) -> None:
    """Read every byte of a backup's file, and no more than it has; ``on_bytes(length)`` after each piece.

    Raises Corruption where it is not whole; StoreError.
    """
    for piece in checked_pieces(store, names, file):
        on_bytes(len(piece))


def checked_pieces(store: Store, names: ArchiveNames, file: BackupFile) -> Iterator[bytes]:
    """Yield the bytes of a backup's file. Raises Corruption, behind the last of them at the latest, where they are others."""
    name = names.file(file.sha256)
    digest, length = hashlib.sha256(), 0
    for piece in store.stream(name):
        digest.update(piece)
        length += len(piece)
        if length > file.length:
            break
        yield piece
    if length != file.length:
        more = "more than" if length > file.length else f"{length} of"
        raise damaged(name, min(length, file.length), f"it has {more} the {file.length} bytes of the backup's file {file.path}")
    if digest.digest() != file.sha256:
        raise damaged(name, 0, f"its bytes are not those of its name; it is the file {file.path} of a backup")


def _pieces(file: File) -> Iterator[bytes]:
    at = 0
    while piece := file.pread(STREAM_BYTES, at):
        yield piece
        at += len(piece)


def _length(fs: FileSystem, path: Path) -> int:
    info = fs.info(path)
    if info is None:
        raise FileNotFoundError(2, "No such file or directory", str(path))
    return info.length_bytes


def _length_in(store: Store, name: str) -> int | None:
    try:
        return store.length(name)
    except ObjectMissing:
        return None
