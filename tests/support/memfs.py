"""A complete file system in memory whose processes can be killed and whose power can fail.

    fs = MemoryFileSystem()
    ...                                     # a program runs on it
    fs.kill()                               # kill -9: the page cache stays, open files and locks die
    after = fs.power_loss(lambda _: LOST)   # a new file system: only what was synced

``support.memdisk`` says what a power loss may do; ``support.crashes`` enumerates what it may leave.
"""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

from kvserver.base.fs import NameInfo
from support.memdisk import Choose, Directory, Disk, Inode, Node, Truncate, Unsynced, Write

_DEFAULT_FREE_BYTES = 1 << 40


def os_error(number: int, path: object = None) -> OSError:
    """Return the error, and the subclass of OSError, that the operating system would give for an error number."""
    text = os.strerror(number)
    return OSError(number, text) if path is None else OSError(number, text, str(path))


class _Process:
    """Who holds open files and locks; not alive after a kill."""

    __slots__ = ("alive",)

    def __init__(self) -> None:
        self.alive = True


class _World:
    """What all processes share: the disk, who holds which lock, and the one mutex over everything."""

    def __init__(self, disk: Disk) -> None:
        self.mutex = threading.RLock()
        self.disk = disk
        self.locks: dict[Inode, _Process] = {}
        self.failing_syncs: list[tuple[Path | None, int]] = []


class MemoryFile:
    """An open file of a ``MemoryFileSystem``."""

    def __init__(self, world: _World, process: _Process, path: Path, inode: Inode, writable: bool) -> None:
        self._world = world
        self._process = process
        self._path = path
        self._inode = inode
        self._writable = writable
        self._closed = False

    def pwrite(self, data: bytes, offset: int) -> None:
        """Write all of the data at the offset, in the page cache."""
        with self._world.mutex:
            self._check(offset, write_error=errno.EBADF)
            if data:
                self._inode.change(Write(offset, bytes(data)))

    def pread(self, length: int, offset: int) -> bytes:
        """Read up to so many bytes of the page cache."""
        with self._world.mutex:
            self._check(min(length, offset))
            return self._inode.volatile.read(length, offset)

    def size(self) -> int:
        """Return the length in bytes."""
        with self._world.mutex:
            self._check()
            return len(self._inode.volatile)

    def truncate(self, length: int) -> None:
        """Cut or extend the file, in the page cache."""
        with self._world.mutex:
            self._check(length, write_error=errno.EINVAL)
            self._inode.change(Truncate(length))

    def datasync(self) -> None:
        """Move what was written, by whatever process, to the disk."""
        with self._world.mutex:
            self._check()
            for position, (path, error) in enumerate(self._world.failing_syncs):
                if path is None or path == self._path:
                    del self._world.failing_syncs[position]
                    self._inode.abandon()
                    raise os_error(error, self._path)
            self._inode.settle()

    def sync(self) -> None:
        """Do what ``datasync`` does: there is no further metadata here."""
        self.datasync()

    def close(self) -> None:
        """Close the file; a second time nothing happens."""
        with self._world.mutex:
            if not self._closed:
                self._check()
                self._closed = True

    def drop_unsynced(self) -> None:
        """Do to this file what a failed sync does: its unsynced changes stay visible, and no later sync writes them."""
        with self._world.mutex:
            self._check()
            self._inode.abandon()

    def _check(self, number: int = 0, write_error: int | None = None) -> None:
        if self._closed or not self._process.alive:
            raise os_error(errno.EBADF, self._path)
        if number < 0:
            raise os_error(errno.EINVAL, self._path)
        if write_error is not None and not self._writable:
            raise os_error(write_error, self._path)


class MemoryLock:
    """A held lock of a ``MemoryFileSystem``."""

    def __init__(self, world: _World, process: _Process, inode: Inode) -> None:
        self._world = world
        self._process = process
        self._inode: Inode | None = inode

    def release(self) -> None:
        """Let go of the lock; a second time nothing happens. Raises OSError (EBADF) for a lock of a dead process."""
        with self._world.mutex:
            if not self._process.alive:
                raise os_error(errno.EBADF)
            if self._inode is not None:
                del self._world.locks[self._inode]
                self._inode = None


class MemoryFileSystem:
    """A file system in memory, as one process sees it. Thread-safe. Paths are absolute; the root folder exists."""

    def __init__(self) -> None:
        self._world = _World(Disk())
        self._process = _Process()
        self.free_space_bytes = _DEFAULT_FREE_BYTES
        """What ``free_bytes`` answers; nothing is refused here (``FaultFileSystem`` has a budget that refuses)."""

    # What every file system can

    def create(self, path: Path) -> MemoryFile:
        """Create a file; its name is not durable yet."""
        with self._world.mutex:
            directory, name = self._parent(path)
            if name in directory.volatile:
                raise os_error(errno.EEXIST, path)
            inode = Inode()
            self._world.disk.change_names(f"create {path}", (directory, name, inode))
            return MemoryFile(self._world, self._process, path, inode, writable=True)

    def open(self, path: Path, writable: bool = False) -> MemoryFile:
        """Open an existing file."""
        with self._world.mutex:
            return MemoryFile(self._world, self._process, path, self._file(path), writable)

    def rename(self, old: Path, new: Path) -> None:
        """Give a file or folder another name, replacing a file; nothing happens when both names are of one file."""
        with self._world.mutex:
            old_directory, old_name = self._parent(old)
            new_directory, new_name = self._parent(new)
            node = self._find(old)
            target = new_directory.volatile.get(new_name)
            if target is node:
                return
            if isinstance(node, Directory) and new.is_relative_to(old):
                raise os_error(errno.EINVAL, new)
            if old.is_relative_to(new):
                raise os_error(errno.ENOTEMPTY, new)
            if isinstance(target, Directory):
                raise os_error(errno.ENOTEMPTY if isinstance(node, Directory) else errno.EISDIR, new)
            if target is not None and isinstance(node, Directory):
                raise os_error(errno.ENOTDIR, new)
            self._world.disk.change_names(
                f"rename {old} to {new}", (old_directory, old_name, None), (new_directory, new_name, node)
            )

    def link(self, existing: Path, new: Path) -> None:
        """Give a file a second name."""
        with self._world.mutex:
            node = self._find(existing)
            directory, name = self._parent(new)
            if name in directory.volatile:
                raise os_error(errno.EEXIST, new)
            if isinstance(node, Directory):
                raise os_error(errno.EPERM, existing)
            self._world.disk.change_names(f"link {existing} as {new}", (directory, name, node))

    def remove(self, path: Path) -> None:
        """Remove a file's name."""
        with self._world.mutex:
            self._file(path)
            directory, name = self._parent(path)
            self._world.disk.change_names(f"remove {path}", (directory, name, None))

    def remove_dir(self, path: Path) -> None:
        """Remove an empty folder."""
        with self._world.mutex:
            if self._directory(path).volatile:
                raise os_error(errno.ENOTEMPTY, path)
            directory, name = self._parent(path)
            self._world.disk.change_names(f"remove folder {path}", (directory, name, None))

    def exists(self, path: Path) -> bool:
        """Say whether the name exists."""
        return self.info(path) is not None

    def info(self, path: Path) -> NameInfo | None:
        """Return what a name stands for: a file or a folder."""
        with self._world.mutex:
            try:
                node = self._find(path)
            except (FileNotFoundError, NotADirectoryError):
                return None
            return NameInfo("folder", 0) if isinstance(node, Directory) else NameInfo("file", len(node.volatile))

    def list_dir(self, path: Path) -> list[str]:
        """Return the names in a folder, sorted."""
        with self._world.mutex:
            return sorted(self._directory(path).volatile)

    def make_dir(self, path: Path) -> None:
        """Create a folder and those above it, where they do not exist, and make their names durable."""
        with self._world.mutex:
            if self.exists(path) and isinstance(self._find(path), Directory):
                return
            self.make_dir(path.parent)
            directory, name = self._parent(path)
            if name in directory.volatile:
                raise os_error(errno.EEXIST, path)
            self._world.disk.change_names(f"make folder {path}", (directory, name, Directory()))
            self._world.disk.settle_names(directory)

    def sync_dir(self, path: Path) -> None:
        """Move the names in a folder to the disk."""
        with self._world.mutex:
            self._world.disk.settle_names(self._directory(path))

    def lock(self, path: Path) -> MemoryLock:
        """Lock the file exclusively, creating it; BlockingIOError where it is held, by this process or another."""
        with self._world.mutex:
            if not self.exists(path):
                self.create(path).close()
            inode = self._file(path)
            if inode in self._world.locks:
                raise os_error(errno.EAGAIN, path)
            self._world.locks[inode] = self._process
            return MemoryLock(self._world, self._process, inode)

    def free_bytes(self, path: Path) -> int:
        """Return ``free_space_bytes``."""
        self._find(path)
        return self.free_space_bytes

    # Death of a process, loss of power

    def kill(self, for_good: bool = False) -> None:
        """End the process: its open files and locks raise OSError (EBADF) from now on, its locks are free.

        Everything written stays readable, synced or not. This object then speaks for the next process; with
        ``for_good`` it raises EBADF too, so that threads the dead process left running cannot reach what the next one
        sees.
        """
        with self._world.mutex:
            dead, self._process = self._process, _Process()
            dead.alive = False
            self._process.alive = not for_good
            self._world.locks = {inode: holder for inode, holder in self._world.locks.items() if holder is not dead}

    def another_process(self) -> MemoryFileSystem:
        """Return the same files as another process sees them: with its own open files and locks, to be killed alone."""
        return self._on(self._world)

    def clone(self) -> MemoryFileSystem:
        """Return an independent copy of cache and disk, without open files and locks; cheap: contents are shared."""
        with self._world.mutex:
            return self._on(_World(self._world.disk.clone()))

    def unsynced(self) -> list[Unsynced]:
        """Return what a power loss may drop or tear, in a stable order."""
        with self._world.mutex:
            return self._world.disk.unsynced()

    def power_loss(self, choose: Choose, ordered_names: bool = True) -> MemoryFileSystem:
        """Return a new file system: what is on the disk after the power fails now. This one goes on unharmed.

        ``choose`` says what is left of each unsynced change. With ``ordered_names``, a lost change of a name takes
        with it the later ones in its folder.
        """
        with self._world.mutex:
            return self._on(_World(self._world.disk.after_power_loss(choose, ordered_names)))

    def fail_next_sync(self, error: int = errno.EIO, path: Path | None = None) -> None:
        """Make the next sync of a file (of the file opened by this path) fail, and its unsynced writes be abandoned."""
        with self._world.mutex:
            self._world.failing_syncs.append((path, error))

    def drop_caches(self) -> None:
        """Evict clean pages: what was abandoned by a failed sync is then gone from the cache as well."""
        with self._world.mutex:
            for node in self._world.disk.nodes():
                if isinstance(node, Inode):
                    node.evict()

    # For tests that set a scene or look at it

    def plant(self, path: Path, data: bytes) -> None:
        """Give a file this content, name and data durable, as if it had always been there; makes the folders above."""
        with self._world.mutex:
            self.make_dir(path.parent)
            directory, name = self._parent(path)
            if name in directory.volatile:
                self.remove(path)
            file = self.create(path)
            file.pwrite(data, 0)
            file._inode.settle()
            file.close()
            self._world.disk.settle_names(directory)

    def contents(self) -> dict[Path, bytes]:
        """Return the content of every file, by path, as a process sees it."""
        found: dict[Path, bytes] = {}

        def visit(directory: Directory, path: Path) -> None:
            for name, node in sorted(directory.volatile.items()):
                if isinstance(node, Directory):
                    visit(node, path / name)
                else:
                    found[path / name] = node.volatile.read(len(node.volatile), 0)

        with self._world.mutex:
            visit(self._world.disk.root, Path("/"))
        return found

    def _on(self, world: _World) -> MemoryFileSystem:
        other = MemoryFileSystem()
        other._world = world
        other.free_space_bytes = self.free_space_bytes
        return other

    def _find(self, path: Path) -> Node:
        """Return what a path leads to, as this process sees it."""
        if not path.is_absolute():
            raise ValueError(f"paths are absolute here, unlike {str(path)!r}")
        with self._world.mutex:
            if not self._process.alive:
                raise os_error(errno.EBADF, path)
            node: Node = self._world.disk.root
            for name in path.parts[1:]:
                if not isinstance(node, Directory):
                    raise os_error(errno.ENOTDIR, path)
                if name not in node.volatile:
                    raise os_error(errno.ENOENT, path)
                node = node.volatile[name]
            return node

    def _directory(self, path: Path) -> Directory:
        node = self._find(path)
        if not isinstance(node, Directory):
            raise os_error(errno.ENOTDIR, path)
        return node

    def _file(self, path: Path) -> Inode:
        node = self._find(path)
        if isinstance(node, Directory):
            raise os_error(errno.EISDIR, path)
        return node

    def _parent(self, path: Path) -> tuple[Directory, str]:
        """Return the folder that a path's last name is in, and the name."""
        if path == path.parent:
            raise os_error(errno.EBUSY, path)
        return self._directory(path.parent), path.name
