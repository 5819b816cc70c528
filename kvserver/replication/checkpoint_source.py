"""Sends copies of the store to nodes that have none, or none that is of use.

    hold     the log from behind what is in tables: nothing that the copy will lack can go meanwhile
    make     a checkpoint in ``scratch/``, by hard links; then the hold moves up to what is behind it. Memory is written into
             tables before, unless that takes long: it may wait for the quorum, and the quorum for the very node that asks
    send     its files, one after the other, in pieces with a SHA-256 at each file's end; then the record of its origin, as a
             file of the same kind; last the position that all of it stands at
    remove   the checkpoint: also where the caller hangs up, the disk is full, or nobody asks for the next piece

The hold outlives the call: whoever fetched the copy opens it first and then asks for the log. It goes when the follower is
shipped the log (``following``), which holds what it needs by a slot of its own, or did not come back within ``LINGER_S``.

The first message has no file: it says how many files and bytes will come, so that the other side can refuse more.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import itertools
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from kvserver.base import failpoints
from kvserver.base.environment import Environment
from kvserver.base.errors import Code, KvError, Refused, ReplicationError
from kvserver.base.events import Listener, ignore
from kvserver.base.fs import FileSystem, opened, remove_tree
from kvserver.base.limits import MIB
from kvserver.base.paths import DataPaths
from kvserver.base.replication_events import CopySent
from kvserver.commit.refusals import tables_failed
from kvserver.commit.ticket import answered
from kvserver.engine.checkpoint import CheckpointDone
from kvserver.engine.database import Database
from kvserver.engine.obsolete_files import HoldRefused
from kvserver.replication.messages import CheckpointPart, NodeIdentity
from kvserver.replication.waiting import Beside, Sleep, on_thread, pause
from kvserver.storage.origin import Origin, read_origin

PIECE_BYTES = 1 * MIB
LINGER_S = 300.0
"""How long the log is held for a node that has fetched a copy and did not come back for the rest."""

FLUSHED_WITHIN_S = 5.0
"""What is not in tables by then is no part of the copy, and is shipped as log."""

HOLD = "bootstrap:"
"""What the names of these holds begin with."""

MOST_COPIES = 4
"""So many are sent at once; who asks for more is told to come again."""


Result = TypeVar("Result")


class _Found(NamedTuple):
    """A file of the copy."""

    path: Path
    length: int


class CheckpointSource:
    """Sends copies of one open store. Belongs to the event loop. To be closed before the store is."""

    def __init__(
        self,
        env: Environment,
        paths: DataPaths,
        database: Database,
        listener: Listener = ignore,
        sleep: Sleep = asyncio.sleep,
        beside: Beside = on_thread,
    ) -> None:
        self._env = env
        self._paths = paths
        self._database = database
        self._listener = listener
        self._sleep = sleep
        self._beside = beside
        self.reserve: Callable[[NodeIdentity, int], None] = lambda identity, revision: None
        """Told which node was given a copy as of which revision; may hold the log for it. Raises HoldRefused."""
        self._numbers = itertools.count(1)
        self._held: dict[str, int] = {}
        """For each node whose log is held, the number of its newest copy."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._lingering: set[asyncio.Task[None]] = set()
        """Of these, those that only wait until a hold is over."""
        self._sending = 0
        self._closed = False

    async def parts(self, identity: NodeIdentity) -> AsyncGenerator[CheckpointPart, None]:
        """Yield a copy of the store, piece by piece. Raises KvError."""
        if identity.cluster_id and identity.cluster_id != self._database.identity.cluster_id:
            what = f"{identity.name} belongs to cluster {identity.cluster_id.hex()}, not to this one"
            raise ReplicationError(Code.WRONG_PEER, what, "give it an empty data folder, or name another node")
        if self._closed or self._sending >= MOST_COPIES:
            raise Refused(Code.OVERLOADED, f"{self._sending} copies of the store are being sent already", "try again later")
        number, began = next(self._numbers), self._env.clock.monotonic()
        folder = self._paths.scratch / f"bootstrap-{number}"
        self._sending += 1
        try:
            self._hold(identity.name, number, self._database.marks.flushed + 1)
            made = await self._make(folder)
            self._hold(identity.name, number, made.position.revision + 1)
            self._reserve(identity, made.position.revision)
            files, origin = await self._in_thread(lambda: self._list(folder))
            total = sum(file.length for file in files)
            yield CheckpointPart("", b"", total_files=len(files), total_bytes=total)
            for file in files:
                pieces = _pieces(self._env.fs, file)
                while (piece := await self._in_thread(functools.partial(next, pieces, None))) is not None:
                    yield piece
            yield CheckpointPart("", b"", position=origin.position, epochs=tuple(origin.epochs))
            seconds = self._env.clock.monotonic() - began
            self._listener(CopySent(identity.name, origin.position.revision, len(files), total, seconds))
            lingering = self._keep(self._let_go_later(identity.name, number))
            self._lingering.add(lingering)
            lingering.add_done_callback(self._lingering.discard)
        except BaseException:
            self._let_go(identity.name, number)
            raise
        finally:
            self._sending -= 1
            self._keep(self._remove(folder))

    def following(self, name: str) -> None:
        """Note that a node is shipped the log: what it needs of it is held by its slot."""
        if name in self._held:
            self._let_go(name, self._held[name])

    async def close(self) -> None:
        """Let go of everything, and wait until what was made is removed."""
        self._closed = True
        for name, number in list(self._held.items()):
            self._let_go(name, number)
        for lingering in self._lingering:
            lingering.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- the log that the copy lacks --------------------------------------------------------------------------------

    def _hold(self, name: str, number: int, revision: int) -> None:
        try:
            self._database.hold(HOLD + name, revision)
        except HoldRefused as error:
            raise _going(error) from error
        self._held[name] = number

    def _reserve(self, identity: NodeIdentity, revision: int) -> None:
        try:
            self.reserve(identity, revision)
        except HoldRefused as error:
            raise _going(error) from error

    def _let_go(self, name: str, number: int) -> None:
        if self._held.get(name) == number:  # or the same node has begun anew meanwhile
            del self._held[name]
            self._database.release_hold(HOLD + name)

    async def _let_go_later(self, name: str, number: int) -> None:
        await self._sleep(LINGER_S)
        self._let_go(name, number)

    # -- the copy -----------------------------------------------------------------------------------------------------

    async def _make(self, folder: Path) -> CheckpointDone:
        """Make the checkpoint; one that nobody waits for any more is removed when it is there."""
        flushing, flushed = self._database.flush(), asyncio.Event()
        flushing.on_done(flushed.set)
        if not await pause(self._sleep, FLUSHED_WITHIN_S, flushed):
            flushing = answered(self._database.marks.flushed)
        task = asyncio.ensure_future(self._database.checkpoint(folder, scratch=True, flushing=flushing))
        try:
            made = await asyncio.shield(task)
        except asyncio.CancelledError:
            self._keep(self._remove_when(task, folder))
            raise
        failpoints.hit("bootstrap.after_checkpoint")
        return made

    def _list(self, folder: Path) -> tuple[list[_Found], Origin]:
        copy = DataPaths(folder)
        origin = read_origin(self._env, copy)
        assert origin is not None, "a checkpoint ends with its origin"
        places = [copy.tables / name for name in self._env.fs.list_dir(copy.tables)]
        found = [(path, self._env.fs.info(path)) for path in [*places, copy.origin]]
        return [_Found(path, info.length_bytes) for path, info in found if info is not None and info.kind == "file"], origin

    async def _remove(self, folder: Path) -> None:
        with contextlib.suppress(OSError):  # the next start empties the folder
            await self._beside(lambda: remove_tree(self._env.fs, folder), "scratch")

    async def _remove_when(self, making: asyncio.Future[CheckpointDone], folder: Path) -> None:
        await asyncio.wait([making])
        if not making.cancelled():
            making.exception()
        await self._remove(folder)

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        try:
            return await self._beside(work, "send-copy")
        except (OSError, KvError) as error:
            raise tables_failed(error) from error

    def _keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin a task that goes on when the call has ended."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _going(error: HoldRefused) -> Refused:
    return Refused(Code.OVERLOADED, f"the log is going while it is to be held: {error}", "try again")


def _pieces(fs: FileSystem, file: _Found) -> Iterator[CheckpointPart]:
    """Yield a file; the last piece has its hash, and an empty file has one piece."""
    digest = hashlib.sha256()
    at = 0
    with opened(fs.open(file.path)) as content:
        while True:
            data = content.pread(min(PIECE_BYTES, file.length - at), at) if at < file.length else b""
            if at < file.length and not data:
                raise OSError(f"{file.path} became shorter while it was sent")
            digest.update(data)
            at += len(data)
            if at >= file.length:
                yield CheckpointPart(file.path.name, data, sha256=digest.digest())
                return
            yield CheckpointPart(file.path.name, data)
