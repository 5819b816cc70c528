"""Gives a node a store: a copy of another node's, or what the archive holds.

Both are put together in ``incoming/`` and take the place of what there is in one step (``engine.swap``), when every byte of them
was checked and is durable. Until then the node goes on with what it has. What an attempt has left that did not end is removed by
the next one; only a restore from the archive, which keeps a record of how far it is, is gone on with.

What another node sends is hostile until it is checked. How much will come is said first, compared with the room there is, and
held to. A file's name is one name without folders, of the characters that tables use. A file is whole when its hash says so, and
the copy when all files are there and its origin speaks of the position that the sender named last.

The log is empty behind both: it is shipped from the whole segment on that holds the next revision.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

from kvserver.archive.plan import RestoreTarget, make_plan
from kvserver.archive.restore import RestoreOptions, restore
from kvserver.archive.restore_tables import OpenTables
from kvserver.archive.store import Store
from kvserver.base import failpoints
from kvserver.base.environment import Environment
from kvserver.base.errors import Code, Corruption, Refused, ReplicationError
from kvserver.base.fs import File, remove_tree
from kvserver.base.limits import MIB
from kvserver.base.paths import DataPaths
from kvserver.base.types import CREATION_REVISION, Position
from kvserver.engine.swap import discard_incoming
from kvserver.replication.messages import CheckpointPart, EpochBegin
from kvserver.replication.waiting import Beside
from kvserver.storage.origin import Origin, read_origin
from kvserver.storage.restore_record import read_restore_record

MOST_FILES = 100_000
MOST_PIECE_BYTES = 4 * MIB
_SPARE_BYTES = 64 * MIB
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class CopyRefused(ReplicationError):
    """What was sent as a copy of the store is none."""

    def __init__(self, what: str) -> None:
        super().__init__(Code.WRONG_PEER, f"the copy of the store is refused: {what}", "fetch it again, or from another node")


class Copied(NamedTuple):
    """A copy lies whole in ``incoming/``."""

    position: Position
    cluster_id: bytes
    """Of the tables: those of a fork that was not written to yet are its parent's."""
    files: int
    bytes: int


async def fetch_copy(env: Environment, paths: DataPaths, parts: AsyncIterator[CheckpointPart], beside: Beside) -> Copied:
    """Put a copy that is being sent together in ``incoming/``; it is whole and durable on return.

    Raises CopyRefused, Refused (DISK_FULL) where there is no room, OSError, and whatever the sender's call raises.
    """
    await beside(lambda: begin_incoming(env, paths), "fetch-copy")
    assembly = _Assembly(env, paths)
    try:
        async for part in parts:
            await beside(lambda part=part: assembly.add(part), "fetch-copy")  # type: ignore[misc]
            failpoints.hit("bootstrap.after_part")
        return await beside(assembly.finish, "fetch-copy")
    finally:
        await beside(assembly.close, "fetch-copy")
        close = getattr(parts, "aclose", None)
        if close is not None:
            await close()


def begin_incoming(env: Environment, paths: DataPaths) -> None:
    """Remove what an attempt before has left, and make the folders of a copy. Raises OSError."""
    discard_incoming(env, paths)
    copy = DataPaths(paths.incoming)
    env.fs.make_dir(copy.wal)
    env.fs.make_dir(copy.tables)


class _Assembly:
    """The files of a copy as they come. Its calls block; one at a time."""

    def __init__(self, env: Environment, paths: DataPaths) -> None:
        self._env = env
        self._copy = DataPaths(paths.incoming)
        self._announced: CheckpointPart | None = None
        self._names: set[str] = set()
        self._bytes = 0
        self._name = ""
        """Of the file that is being sent; empty: none is."""
        self._file: File | None = None
        self._length = 0
        self._digest = hashlib.sha256()
        self._end: tuple[Position, tuple[EpochBegin, ...]] | None = None

    def add(self, part: CheckpointPart) -> None:
        """Take the next part. Raises CopyRefused, Refused, OSError."""
        if self._end is not None:
            raise CopyRefused("something follows its end")
        if self._announced is None:
            self._announce(part)
            return
        if part.total_files or part.total_bytes:
            raise CopyRefused("how much of it there is was said twice")
        if part.position is not None:
            if part.file or part.data or self._name:
                raise CopyRefused(f"it ends in the middle of the file {self._name or part.file!r}")
            self._end = part.position, part.epochs
            return
        self._take(part)

    def _announce(self, part: CheckpointPart) -> None:
        if part.file or part.data or part.position is not None:
            raise CopyRefused("it begins without saying how much there is of it")
        if not 0 < part.total_files <= MOST_FILES or part.total_bytes < 0:
            raise CopyRefused(f"it is said to have {part.total_files} files")
        free_bytes = self._env.fs.free_bytes(self._copy.root)
        if free_bytes < part.total_bytes + _SPARE_BYTES:
            raise Refused(
                Code.DISK_FULL,
                f"the copy takes {part.total_bytes // MIB:,} MiB, and the disk of {self._copy.root.parent} has "
                f"{free_bytes // MIB:,} MiB free",
                "free space: it is tried again",
            )
        self._announced = part

    def _take(self, part: CheckpointPart) -> None:
        assert self._announced is not None
        if not self._name or part.file != self._name:
            self._begin(part.file)
        if len(part.data) > MOST_PIECE_BYTES or self._bytes + len(part.data) > self._announced.total_bytes:
            raise CopyRefused(f"it is larger than the {self._announced.total_bytes:,} bytes that were said")
        if not part.data and not part.sha256:
            raise CopyRefused(f"a piece of {part.file!r} is empty")
        assert self._file is not None
        self._file.pwrite(part.data, self._length)
        self._digest.update(part.data)
        self._length += len(part.data)
        self._bytes += len(part.data)
        if part.sha256:
            self._end_file(part)

    def _begin(self, name: str) -> None:
        assert self._announced is not None
        if self._name:
            raise CopyRefused(f"{name[:64]!r} begins before {self._name!r} has ended")
        if not _NAME.fullmatch(name):
            raise CopyRefused(f"{name[:64]!r} is not the name of a file of the tables")
        if name.lower() in self._names:
            raise CopyRefused(f"it has two files called {name!r}")
        if len(self._names) >= self._announced.total_files:
            raise CopyRefused(f"it has more than the {self._announced.total_files} files that were said")
        self._names.add(name.lower())
        is_origin = name == self._copy.origin.name
        self._file = self._env.fs.create(self._copy.origin if is_origin else self._copy.tables / name)
        self._name, self._length, self._digest = name, 0, hashlib.sha256()

    def _end_file(self, part: CheckpointPart) -> None:
        assert self._file is not None
        if self._digest.digest() != part.sha256:
            raise CopyRefused(f"the file {part.file!r} does not have the hash that was sent with it")
        self._file.sync()
        self._file.close()
        self._file, self._name = None, ""

    def finish(self) -> Copied:
        """Check that all of it came, and make it durable. Raises CopyRefused, OSError."""
        announced = self._announced
        if announced is None or self._end is None:
            raise CopyRefused("it was not sent to its end")
        if (len(self._names), self._bytes) != (announced.total_files, announced.total_bytes):
            raise CopyRefused(
                f"{announced.total_files} files of {announced.total_bytes:,} bytes were said, "
                f"{len(self._names)} of {self._bytes:,} came"
            )
        origin = self._origin()
        self._env.fs.sync_dir(self._copy.tables)
        self._env.fs.sync_dir(self._copy.root)
        return Copied(origin.position, origin.cluster_id, announced.total_files, announced.total_bytes)

    def _origin(self) -> Origin:
        try:
            origin = read_origin(self._env, self._copy)
        except Corruption as error:
            raise CopyRefused(f"the record of its origin does not check: {error.what}") from error
        if origin is None:
            raise CopyRefused("the record of its origin is missing")
        assert self._end is not None
        position, epochs = self._end
        if origin.position != position or origin.epochs != list(epochs):
            raise CopyRefused("the record of its origin speaks of another position than the sender")
        numbers = [epoch.number for epoch, _ in epochs]
        if numbers != sorted(set(numbers)) or (position.revision > CREATION_REVISION and not numbers):
            raise CopyRefused("the epochs that lead to it are not in order")
        return origin

    def close(self) -> None:
        """Close the file that was being written."""
        if self._file is not None:
            self._file.close()
            self._file = None


# -- from the archive ------------------------------------------------------------------------------------------------------


def restore_copy(
    env: Environment,
    paths: DataPaths,
    store: Store,
    cluster_id: bytes,
    open_tables: OpenTables | None = None,
    still_wanted: Callable[[], bool] = lambda: True,
) -> Copied:
    """Put the newest state that the archive leads to together in ``incoming/``; whole and durable on return. Blocks.

    It stays the same cluster, and claims nothing. A restore that was begun there before and did not end is gone on with, unless
    it was another one. Raises RevisionError (NO_RESTORE_PLAN), Corruption, StoreError, Refused (DISK_FULL).
    """
    fs = env.fs
    copy = DataPaths(paths.incoming)
    plan = make_plan(store, cluster_id, RestoreTarget())
    if not _is_begun(env, copy, store, cluster_id):
        discard_incoming(env, paths)

    def go_on(progress: object) -> None:
        if not still_wanted():
            raise Refused(Code.NOT_SERVING, "nobody waits for the restore any more")

    done = restore(env, store, plan, paths.incoming, RestoreOptions(open_tables=open_tables), go_on)
    fs.make_dir(copy.wal)
    if fs.exists(copy.building):
        remove_tree(fs, copy.building)
    fs.sync_dir(copy.tables)
    fs.sync_dir(copy.root)
    names = fs.list_dir(copy.tables)
    total = sum(info.length_bytes for name in names if (info := fs.info(copy.tables / name)) is not None)
    return Copied(done.position, done.cluster_id, len(names), total)


def _is_begun(env: Environment, copy: DataPaths, store: Store, cluster_id: bytes) -> bool:
    """Say whether a restore of this cluster from this archive was begun, and did not end."""
    if not env.fs.exists(copy.root):
        return False
    try:
        found = read_restore_record(env, copy)
    except Corruption:
        return False
    same = found is not None and (found.archive_url, found.cluster_id, found.take_over) == (store.url, cluster_id, False)
    return same and found is not None and found.target == str(copy.root)
