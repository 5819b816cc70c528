"""The only door to disk.

``FileSystem`` and ``File`` say what the floors may ask of a file system; ``OsFileSystem`` asks the operating system.
Tests hand in others: one that records, one that crashes (drops what was not synced), one that fails the n-th call.

What is assumed of the real thing stands in ``docs/durability.md``. In short: after ``datasync`` returned, the bytes written
before it are there after a power loss; after ``sync_dir`` returned, so are the names; before that, any subset may be.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, cast


class File(Protocol):
    """One open file. All calls block; all raise OSError as the operating system does."""

    def pwrite(self, data: bytes, offset: int) -> None:
        """Write all of the data at the offset, or raise; after an error any part may have been written."""

    def pread(self, length: int, offset: int) -> bytes:
        """Read up to so many bytes; fewer only at the end of the file."""

    def size(self) -> int:
        """Return the length in bytes."""

    def truncate(self, length: int) -> None:
        """Cut or extend the file to the length."""

    def datasync(self) -> None:
        """Make the data, and the length where it is needed to read them, survive a power loss (fdatasync)."""

    def sync(self) -> None:
        """Make data and metadata survive a power loss (fsync)."""

    def close(self) -> None:
        """Close the file; says nothing about durability."""


class Lock(Protocol):
    """An exclusive lock on a data folder, held until released or until the process ends."""

    def release(self) -> None:
        """Let go of it."""


class NameInfo(NamedTuple):
    """What a name in a folder stands for."""

    kind: Literal["file", "folder", "other"]
    """``other``: a symbolic link, which is not followed, a socket, a device."""
    length_bytes: int
    """Of a file; of anything else it says nothing."""


class FileSystem(Protocol):
    """What may be asked of a file system. Paths are absolute; errors are OSError."""

    def create(self, path: Path) -> File:
        """Create a file for reading and writing; FileExistsError where the name is taken."""

    def open(self, path: Path, writable: bool = False) -> File:
        """Open an existing file; FileNotFoundError where there is none."""

    def rename(self, old: Path, new: Path) -> None:
        """Give a file another name, replacing what had it, atomically."""

    def link(self, existing: Path, new: Path) -> None:
        """Give a file a second name; FileExistsError where it is taken. The create-once primitive."""

    def remove(self, path: Path) -> None:
        """Remove a name."""

    def remove_dir(self, path: Path) -> None:
        """Remove an empty folder; OSError (ENOTEMPTY) where something is in it. Durable after ``sync_dir`` of the one above."""

    def exists(self, path: Path) -> bool:
        """Say whether the name exists."""

    def info(self, path: Path) -> NameInfo | None:
        """Return what a name stands for, a symbolic link not followed; None where there is none."""

    def list_dir(self, path: Path) -> list[str]:
        """Return the names in a folder, sorted."""

    def make_dir(self, path: Path) -> None:
        """Create a folder and those above it, where they do not exist, and make their names durable."""

    def sync_dir(self, path: Path) -> None:
        """Make the names in a folder survive a power loss."""

    def lock(self, path: Path) -> Lock:
        """Lock the file exclusively, creating it; BlockingIOError where another holds it."""

    def free_bytes(self, path: Path) -> int:
        """Return how many bytes can still be written below the folder."""


_CLOSED = 2**31 - 1
"""A descriptor that is never open, so that using a closed file is answered with EBADF like any other error."""


_FOLDERS_KEPT = 64


class OsFile:
    """A file of the operating system."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def pwrite(self, data: bytes, offset: int) -> None:
        """Write all of the data at the offset."""
        written = os.pwrite(self._fd, data, offset)
        if written == len(data):
            return
        view = memoryview(data)
        while written < len(data):
            step = os.pwrite(self._fd, view[written:], offset + written)
            if step == 0:
                raise OSError(errno.EIO, "the file system wrote nothing")
            written += step

    def pread(self, length: int, offset: int) -> bytes:
        """Read up to so many bytes."""
        data = os.pread(self._fd, length, offset)
        if len(data) == length or not data:
            return data
        parts = [data]
        got = len(data)
        while got < length:
            data = os.pread(self._fd, length - got, offset + got)
            if not data:
                break
            parts.append(data)
            got += len(data)
        return b"".join(parts)

    def size(self) -> int:
        """Return the length in bytes."""
        return os.fstat(self._fd).st_size

    def truncate(self, length: int) -> None:
        """Cut or extend the file."""
        os.ftruncate(self._fd, length)

    def datasync(self) -> None:
        """Call fdatasync."""
        os.fdatasync(self._fd)

    def sync(self) -> None:
        """Call fsync."""
        os.fsync(self._fd)

    def close(self) -> None:
        """Close the descriptor."""
        if self._fd != _CLOSED:
            fd, self._fd = self._fd, _CLOSED
            os.close(fd)


class OsLock:
    """An advisory lock (flock), which the kernel releases when the process ends, however it ends."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def release(self) -> None:
        """Let go of the lock."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


def _close_all(folders: dict[Path, int]) -> None:
    while folders:
        os.close(folders.popitem()[1])


class OsFileSystem:
    """The operating system's file system.

    The first folders that were synced stay open, so that syncing one again needs no descriptor: a full descriptor table must
    not fail a rotation of the log half-way. One that was replaced meanwhile (an archive on a disk that was mounted again) is
    opened anew. An archive may have any number of folders, so of the later ones none stays open.
    """

    def __init__(self) -> None:
        self._folders: dict[Path, int] = {}
        weakref.finalize(self, _close_all, self._folders)  # whoever drops it need not know that it holds descriptors

    def create(self, path: Path) -> File:
        """Create a file."""
        return OsFile(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))

    def open(self, path: Path, writable: bool = False) -> File:
        """Open an existing file."""
        return OsFile(os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC))

    def rename(self, old: Path, new: Path) -> None:
        """Rename atomically."""
        os.rename(old, new)  # noqa: PTH104 - the one place where the operating system is asked

    def link(self, existing: Path, new: Path) -> None:
        """Make a hard link."""
        os.link(existing, new)

    def remove(self, path: Path) -> None:
        """Remove a name."""
        path.unlink()

    def remove_dir(self, path: Path) -> None:
        """Remove an empty folder."""
        path.rmdir()
        fd = self._folders.pop(path, None)
        if fd is not None:
            os.close(fd)

    def exists(self, path: Path) -> bool:
        """Say whether the name exists."""
        return path.exists()

    def info(self, path: Path) -> NameInfo | None:
        """Call lstat."""
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISREG(found.st_mode):
            return NameInfo("file", found.st_size)
        return NameInfo("folder" if stat.S_ISDIR(found.st_mode) else "other", 0)

    def list_dir(self, path: Path) -> list[str]:
        """Return the names in a folder, sorted."""
        return sorted(os.listdir(path))  # noqa: PTH208

    def make_dir(self, path: Path) -> None:
        """Create a folder and those above it."""
        made = not path.is_dir()
        if made:
            self.make_dir(path.parent)
            path.mkdir(mode=0o700, exist_ok=True)  # another thread or process may make it at the same time
        try:  # also of a folder that was there: whoever made it may have died before its name was durable
            self.sync_dir(path.parent)
        except PermissionError:  # a parent that may not be read, of a folder that an administrator made
            if made:
                raise

    def sync_dir(self, path: Path) -> None:
        """Call fsync on the folder."""
        fd = self._folders.get(path)
        if fd is not None and not os.path.samestat(os.fstat(fd), os.stat(path)):  # noqa: PTH116
            if self._folders.pop(path, None) == fd:
                os.close(fd)
            fd = None
        if fd is not None:
            os.fsync(fd)
            return
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            is_kept = len(self._folders) < _FOLDERS_KEPT and self._folders.setdefault(path, fd) == fd
            if not is_kept:  # there are many, or another thread was quicker
                os.close(fd)

    def close(self) -> None:
        """Close the folders kept open."""
        _close_all(self._folders)

    def lock(self, path: Path) -> Lock:
        """Lock the file exclusively."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(fd)
            raise
        return OsLock(fd)

    def free_bytes(self, path: Path) -> int:
        """Return the bytes that an unprivileged writer can still use."""
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def write_soon(self, path: Path, offset: int, length: int) -> None:
        """Have the kernel begin to write so many bytes of a file to the disk; proves nothing.

        Does not wait for the writing, though it may for room in the disk's queue. Raises OSError. Nothing happens where the
        system has no sync_file_range.
        """
        if _sync_file_range is None:
            return
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _sync_file_range(fd, offset, length, _SYNC_FILE_RANGE_WRITE):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), str(path))
        finally:
            os.close(fd)


def _find_sync_file_range() -> Callable[[int, int, int, int], int] | None:
    with contextlib.suppress(OSError, AttributeError):  # another system, or another C library
        call = ctypes.CDLL(None, use_errno=True).sync_file_range
        call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
        return cast("Callable[[int, int, int, int], int]", call)
    return None


_SYNC_FILE_RANGE_WRITE = 2
_sync_file_range = _find_sync_file_range()


@contextlib.contextmanager
def opened(file: File) -> Iterator[File]:
    """Close a file at the end of a ``with`` block."""
    try:
        yield file
    finally:
        file.close()


def read_file(fs: FileSystem, path: Path) -> bytes:
    """Return the whole content of a (small) file."""
    with opened(fs.open(path)) as file:
        return file.pread(file.size(), 0)


def write_new_file(fs: FileSystem, path: Path, data: bytes) -> None:
    """Create a file with this content and sync it; its name is durable only after ``sync_dir``."""
    with opened(fs.create(path)) as file:
        file.pwrite(data, 0)
        file.sync()


def create_once(fs: FileSystem, path: Path, temporary: Path, data: bytes) -> None:
    """Give the path this content unless it exists (FileExistsError); durable on return, never seen half-written."""
    if fs.exists(temporary):
        fs.remove(temporary)
    write_new_file(fs, temporary, data)
    try:
        fs.link(temporary, path)
    finally:
        fs.remove(temporary)
    fs.sync_dir(path.parent)


def remove_tree(fs: FileSystem, path: Path) -> None:
    """Remove a folder with all below it; a link is removed and not followed. No harm where there is none. Raises OSError.

    Durable after ``sync_dir`` of the folder above it.
    """
    found = fs.info(path)
    if found is None:
        return
    if found.kind != "folder":
        fs.remove(path)
        return
    for name in fs.list_dir(path):
        remove_tree(fs, path / name)
    fs.remove_dir(path)
