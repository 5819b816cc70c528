"""Which of a client's connections a call goes over. Both clients have the same ones; each brings its own kinds.

    primary      writes, and reads unless they are told otherwise
    followers    reads that are to be served by followers
    any          reads that any node may serve
    node         what is asked of the very node that was named: how it is, a flush, a checkpoint, the archive

All share one session, so that whoever reads from a follower does not read behind what it wrote. A connection is made when the
first call needs it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, Protocol, Self, TypeVar

from kvclient import _calls as calls
from kvclient._search import ReadFrom, Seek, seek_of

OF_A_NODE = frozenset({"Status", "Flush", "Checkpoint", "ArchiveStatus", "ArchiveNow", "CreateBackup", "ContentHash"})
"""Calls that are meant for the node that was named, whatever it is."""

READS = frozenset({"Get", "History"})


class Connecting(Protocol):
    """A connection, as far as this module knows of it."""

    closed: bool

    def beside(self, seek: Seek) -> Self:
        """Return another one of the same client."""


ConnectionT = TypeVar("ConnectionT", bound=Connecting)
StreamT = TypeVar("StreamT")


class Routes(Generic[ConnectionT, StreamT]):
    """The connections of one client, and its streams of reads; safe for many threads."""

    def __init__(
        self,
        primary: ConnectionT,
        read_from: ReadFrom,
        make_stream: Callable[[ConnectionT], StreamT],
    ) -> None:
        self.default = seek_of(read_from)
        """Where reads go that do not say."""
        self._primary = primary
        self._make_stream = make_stream
        self._connections = {Seek.PRIMARY: primary}
        self._streams: dict[Seek, StreamT] = {}
        self._making = threading.Lock()

    def to(self, read_from: ReadFrom | None) -> Seek:
        """Return where a read goes; raise ValueError for a choice that is none."""
        return self.default if read_from is None else seek_of(read_from)

    def connection(self, seek: Seek) -> ConnectionT:
        """Return the connection that looks for nodes of a kind."""
        with self._making:
            return self._connection(seek)

    def reads(self, seek: Seek) -> StreamT:
        """Return the stream of reads over it."""
        with self._making:
            if seek not in self._streams:
                self._streams[seek] = self._make_stream(self._connection(seek))
            return self._streams[seek]

    def of(self, call: calls.Call[Any], read_from: ReadFrom | None) -> ConnectionT:
        """Return the connection for a unary call."""
        if call.method in OF_A_NODE:
            return self.connection(Seek.NODE)
        return self.connection(self.to(read_from)) if call.method in READS else self._primary

    def end(self) -> tuple[list[ConnectionT], list[StreamT]]:
        """Mark all connections as closed, and those to come; return what there is."""
        with self._making:
            for connection in self._connections.values():
                connection.closed = True
            return list(self._connections.values()), list(self._streams.values())

    def _connection(self, seek: Seek) -> ConnectionT:
        if seek not in self._connections:
            made = self._connections[seek] = self._primary.beside(seek)
            made.closed = self._primary.closed
        return self._connections[seek]
