"""A store of objects in a folder: the default; on a local disk, or on one that the network brings.

An object is a file of its name below the folder. It is written under another name first and linked to its own when its bytes
are durable, so it is there whole or not at all, and of two writers one wins. Beside the objects lies ``.writing``, which no
object can be called: files on their way, each locked by its writer, and the locks of those that are replaced. What a crashed
writer left there is locked by nobody, and removed by the next one that writes.

Names reach the disk only in the one strict form of ``kvserver.archive.names``. A symbolic link below the folder is followed by
nothing here: what leads through one is refused. A folder that was written to and is gone is not made a second time: its disk
was unmounted, and what is written in its place would be hidden as soon as it is back.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from kvserver.archive.errors import damaged
from kvserver.archive.names import checked_name, checked_prefix, is_object_name
from kvserver.archive.store import (
    MAX_HELD_BYTES,
    STREAM_BYTES,
    Held,
    ObjectExists,
    ObjectInfo,
    ObjectMissing,
    ReplaceConflict,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from kvserver.base.fs import File, FileSystem, opened

_WRITING = ".writing"
_PERMISSIONS = "see that whoever runs this owns the folder and may write to it"
_HINTS = {
    errno.ENOSPC: "make room on its disk: end what else writes there, or give up old backups with: kvctl archive retain",
    errno.EDQUOT: "make room within the quota, or raise it",
    errno.EACCES: _PERMISSIONS,
    errno.EPERM: f"{_PERMISSIONS}, and that its file system has hard links",
    errno.EROFS: "mount its file system for writing",
    errno.ENOTDIR: "name a folder; remove what lies in its place",
    errno.EEXIST: "remove the file that lies where a folder belongs",
    errno.EISDIR: "remove the folder that lies where an object belongs",
    errno.ELOOP: "remove the symbolic links below it",
    errno.ENAMETOOLONG: "choose a folder with a shorter path",
    errno.EFBIG: "choose a file system that takes larger files",
    errno.ENOLCK: "choose a file system that has locks (flock)",
    errno.ENOSYS: "choose a file system that has locks and hard links",
    errno.EOPNOTSUPP: "choose a file system that has locks and hard links",
    errno.EXDEV: "let the whole folder lie on one file system",
}
"""What does not pass by itself, and what somebody can do about it; any other error may pass."""
_READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


class FolderStore:
    """Objects in a folder, which is made by the first write. Safe for several threads and processes."""

    def __init__(self, fs: FileSystem, root: Path, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self.url = f"file://{root}"
        self._fs = fs
        self._root = root
        self._writing = root / _WRITING
        self._random_bytes = random_bytes
        self._replacing = threading.Lock()
        self._sweeping = threading.Lock()
        self._is_swept = False
        self._made: set[Path] = set()

    def create(self, name: str, parts: Iterable[bytes]) -> int:
        """Create an object; see ``Store``."""
        with self._asked():
            path = self._path(name)
            self._make_folder(path.parent)
            if self._fs.info(path) is not None:
                raise self._exists(name, path)
        length = 0
        with self._temporary() as (temporary, file):
            for part in parts:
                with self._asked():
                    file.pwrite(part, length)
                length += len(part)
            with self._asked():
                file.sync()
                try:
                    self._fs.link(temporary, path)
                except FileExistsError:
                    raise self._exists(name, path) from None
                self._fs.sync_dir(path.parent)
        return length

    def read(self, name: str, offset: int = 0, length: int | None = None, limit: int | None = None) -> bytes:
        """Return bytes of an object; see ``Store``."""
        with self._asked(), opened(self._open(name)) as file:
            there = max(0, file.size() - offset)
            wanted = there if length is None else min(length, there)
            if limit is not None and wanted > limit:
                raise ValueError(f"{name} would bring {wanted} bytes; {limit} are allowed")
            return file.pread(wanted, offset)

    def stream(self, name: str, offset: int = 0) -> Iterator[bytes]:
        """Yield the bytes of an object; see ``Store``."""
        with self._asked():
            file = self._open(name)
        with self._closing(file):
            while True:
                with self._asked():
                    piece = file.pread(STREAM_BYTES, offset)
                if not piece:
                    return
                yield piece
                offset += len(piece)

    def length(self, name: str) -> int:
        """Return the bytes of an object; see ``Store``."""
        with self._asked():
            length = self._length(self._path(name))
        if length is None:
            raise ObjectMissing(name, self.url)
        return length

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield objects in the order of their names; see ``Store``."""
        parts = checked_prefix(prefix).split("/")[:-1]
        with self._asked():
            folder = self._below(parts)
        yield from self._walk(folder, prefix)

    def folders(self, prefix: str) -> Sequence[str]:
        """Return the folders below a prefix; see ``Store``."""
        parts = checked_prefix(prefix).split("/")[:-1]
        with self._asked():
            folder = self._below(parts)
            named = [name for name in self._names_in(folder) if is_object_name(name)]
            infos = [(f"{name}/", self._fs.info(folder / name)) for name in named]
        return sorted(name for name, info in infos if info is not None and info.kind == "folder")

    def delete(self, name: str) -> None:
        """Delete an object; see ``Store``. Folders stay: one that is removed could be missed by a writer."""
        with self._asked():
            path = self._path(name)
            if self._length(path) is not None:
                with contextlib.suppress(FileNotFoundError):
                    self._fs.remove(path)
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                self._fs.sync_dir(path.parent)

    def held(self, name: str) -> Held | None:
        """Return a replaceable object's content; see ``Store``. Raises Corruption for one that is too large."""
        try:
            data = self.read(name, limit=MAX_HELD_BYTES)
            self._make_durable(name)
        except ObjectMissing:
            return None
        except ValueError as error:
            checked_name(name)
            raise damaged(name, 0, str(error)) from None
        return Held(data, _token(data))

    def replace(self, name: str, data: bytes, token: str | None) -> str:
        """Give an object this content; see ``Store``.

        A writer in another process that replaces it at the same moment counts as one that was quicker.
        """
        with self._replacing, self._locked(name), self._temporary() as (temporary, file):
            held = self.held(name)
            if (held.token if held else None) != token:
                raise ReplaceConflict(name)
            with self._asked():
                path = self._path(name)
                self._make_folder(path.parent)
                if held is None and (found := self._fs.info(path)) is not None and found.kind == "folder":
                    raise self._error(IsADirectoryError(errno.EISDIR, "", str(path)))
                file.pwrite(data, 0)
                file.sync()
                self._fs.rename(temporary, path)
                self._fs.sync_dir(path.parent)
        return _token(data)

    def close(self) -> None:
        """Do nothing: descriptors that stay open between calls, of folders, are the file system's."""

    # Names

    def _path(self, name: str) -> Path:
        """Return the path of an object, after a look at each folder above it."""
        parts = checked_name(name).split("/")
        return self._below(parts[:-1]) / parts[-1]

    def _below(self, folders: Sequence[str]) -> Path:
        path = self._root
        for folder in folders:
            path = path / folder
            found = self._fs.info(path)
            if found is not None and found.kind == "other":
                raise self._foreign(path)
        return path

    def _length(self, path: Path) -> int | None:
        """Return the length of an object's file; None where there is none, or a folder."""
        found = self._fs.info(path)
        if found is not None and found.kind == "other":
            raise self._foreign(path)
        return found.length_bytes if found is not None and found.kind == "file" else None

    def _foreign(self, path: Path) -> StoreRefused:
        hint = "see what it is, and remove it; no link is followed here"
        return StoreRefused(self.url, f"{path} is neither a file nor a folder", hint)

    def _open(self, name: str) -> File:
        path = self._path(name)
        try:
            if self._length(path) is not None:
                return self._fs.open(path)
        except FileNotFoundError:  # deleted meanwhile
            pass
        raise ObjectMissing(name, self.url)

    def _exists(self, name: str, path: Path) -> StoreError:
        """Return the error for a name that is taken, after making durable what another may have linked and not yet synced."""
        found = self._fs.info(path)
        if found is not None and found.kind != "file":
            return self._foreign(path) if found.kind == "other" else self._error(IsADirectoryError(errno.EISDIR, "", str(path)))
        self._fs.sync_dir(path.parent)
        return ObjectExists(name)

    def _walk(self, folder: Path, prefix: str) -> Iterator[ObjectInfo]:
        with self._asked():
            found = []
            for part in self._names_in(folder):
                info = self._fs.info(folder / part) if is_object_name(part) else None
                if info is not None and info.kind != "other":
                    is_folder = info.kind == "folder"
                    found.append((f"{prefix}{part}{'/' if is_folder else ''}", folder / part, info.length_bytes))
        for name, path, length in sorted(found):  # as names sort: a folder's slash comes after a point and a dash
            if not name.endswith("/"):
                yield ObjectInfo(name, length)
            elif is_object_name(f"{name}x"):  # neither deeper nor longer than names are
                yield from self._walk(path, name)

    def _names_in(self, folder: Path) -> Sequence[str]:
        try:
            return self._fs.list_dir(folder)
        except FileNotFoundError:
            return []
        except NotADirectoryError:
            if folder == self._root:
                raise
            return []

    # Writing

    def _make_folder(self, folder: Path) -> None:
        """Make a folder and its name durable; of one that this object has made, only see that it is still there.

        Raises StoreUnavailable where one is not.
        """
        for made in (self._writing, folder):
            if made in self._made and self._fs.info(made) is None:
                reason = f"{made} was there and is gone; mount its disk again, or restart what writes to it, to begin anew"
                raise StoreUnavailable(self.url, reason)
        found = self._fs.info(folder)
        if found is not None and found.kind == "other" and folder != self._root:
            raise self._foreign(folder)
        if folder not in self._made:
            self._fs.make_dir(folder)
            self._made.add(folder)

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[tuple[Path, File]]:
        """Give a locked file to write to; remove its name afterwards, whatever it was linked to or renamed."""
        with self._asked():
            self._make_folder(self._writing)
            self._sweep()
            path = self._writing / f"{self._random_bytes(16).hex()}.tmp"
            lock = self._fs.lock(path)  # makes the file too, so that it is never there unlocked
        try:
            with self._asked():
                file = self._fs.open(path, writable=True)
            with self._closing(file):
                yield path, file
        finally:
            with contextlib.suppress(OSError):  # gone by a rename; or the disk fails, then it is swept one day
                self._fs.remove(path)
            lock.release()

    def _sweep(self) -> None:
        """Remove what crashed writers have left, once; a file that is locked belongs to a live one."""
        with self._sweeping:
            if self._is_swept:
                return
            for name in self._fs.list_dir(self._writing):
                path = self._writing / name
                if name.endswith(".tmp") and self._length(path) is not None:
                    with contextlib.suppress(OSError):
                        lock = self._fs.lock(path)
                        try:
                            self._fs.remove(path)
                        finally:
                            lock.release()
            self._is_swept = True

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Keep other processes from replacing the object. Raises ReplaceConflict where one is doing so."""
        mark = hashlib.sha256(checked_name(name).encode()).hexdigest()
        with self._asked():
            self._make_folder(self._writing)
            path = self._writing / f"{mark}.lock"
            self._length(path)  # refuses a link, which the lock would follow
            try:
                lock = self._fs.lock(path)
            except BlockingIOError:
                raise ReplaceConflict(name) from None
        try:
            yield
        finally:
            lock.release()

    def _make_durable(self, name: str) -> None:
        """Make an object durable that was read: whoever put it in its place may have died before it was."""
        try:
            self._fs.sync_dir(self._path(name).parent)
        except OSError as error:
            if error.errno not in _READ_ONLY:
                raise self._error(error) from error

    @contextlib.contextmanager
    def _closing(self, file: File) -> Iterator[None]:
        try:
            yield
        finally:
            with self._asked():  # a share says so here at times that it could not write
                file.close()

    @contextlib.contextmanager
    def _asked(self) -> Iterator[None]:
        """Say in the store's own errors what the file system answers."""
        try:
            yield
        except OSError as error:
            raise self._error(error) from error

    def _error(self, error: OSError) -> StoreError:
        reason = os.strerror(error.errno) if error.errno else str(error)
        if error.filename is not None:
            reason = f"{error.filename}: {reason}"
        hint = _HINTS.get(error.errno or 0)
        return StoreUnavailable(self.url, reason) if hint is None else StoreRefused(self.url, reason, hint)


def _token(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
