"""Takes from the archive what a node's log lacks: the segments that go on exactly where it ends, in order, as far as they go.

The log of a follower is the same bytes as the primary's, so a segment counts only if it is the one that the log is in the middle
of, by its id, or the one that follows the log's last position. Segments without commits count too: a restore leaves them out,
but the next one names them as the one before it. Where an epoch was left in the middle of an archived segment, nothing behind
that place is taken; whoever has the next epoch's log has that segment as it goes on there.

Nothing is taken on the archive's word: blocks are checked by their checksums, frames by the log that takes them (CRC, order,
chain), and each segment has to end where the manifest says. What comes next is fetched and decompressed while the log takes what
came before it.

What is archived was shown by the primary, so it may be shown here. It has to be told to the store, because what is not visible
cannot be written into tables, and a long log does not fit memory.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import itertools
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import NamedTuple

from kvserver.archive.catalog import Catalog, read_catalog
from kvserver.archive.dictionary import Dictionaries
from kvserver.archive.errors import damaged
from kvserver.archive.lineage import Link
from kvserver.archive.names import ArchiveNames
from kvserver.archive.records import SegmentEntry
from kvserver.archive.segment_reading import ArchivedSegment, open_segment
from kvserver.archive.store import Store
from kvserver.base.limits import MIB
from kvserver.base.replication_events import ArchiveCaughtUp
from kvserver.base.types import LogEnd, Position
from kvserver.commit.replay import ReplayPipeline
from kvserver.engine.database import Database
from kvserver.replication.home import FollowerFloor
from kvserver.replication.messages import Chunk
from kvserver.replication.receiving import Intake, IntakeFailed
from kvserver.replication.waiting import end_all
from kvserver.wal import format as fmt
from kvserver.wal.checker import MAX_FRAME_LENGTH

CHUNK_BYTES = 1 * MIB
"""Frames are handed over in chunks of about so many bytes; a larger one is a chunk of its own."""


AT_ONCE = 4
"""So many chunks are made in one go beside the event loop, which a thread's begin holds up for a millisecond."""

AHEAD = 1
"""So many goes wait for the log to have room, while one more is made and one is handed over."""


class Piece(NamedTuple):
    """A segment of which something is wanted."""

    entry: SegmentEntry
    offset: int
    """From here on."""
    upto: Position | None
    """Nothing behind this position; None: all of it."""

    @property
    def end(self) -> Position:
        """Return the position to which it leads."""
        return self.upto if self.upto is not None else self.entry.end


def pieces_behind(catalog: Catalog, end: LogEnd, parted: Position | None = None) -> list[Piece]:
    """Return what the archive has behind the end of a log, in order; nothing where it does not go on exactly there.

    ``parted``: where the history of whoever is followed left an epoch; nothing of it is taken behind that, whatever the archive
    holds: the new primary may not have come to closing its manifest yet.
    """
    at, segment_id, offset = end
    pieces: list[Piece] = []
    entries = [(link, entry) for link in catalog.line if link.cluster_id == catalog.cluster_id for entry in link.part.entries]
    by_previous: dict[Position, list[tuple[Link, SegmentEntry]]] = {}
    for link, entry in entries:
        by_previous.setdefault(entry.previous, []).append((link, entry))
    found = next((one for one in entries if _begins(one[1], at, segment_id, offset)), None)
    used = {segment_id}
    if found is None:
        offset = 0
        found = _next(by_previous, at, used)
    while found is not None:
        link, entry = found
        used.add(entry.segment_id)
        upto = link.upto if link.upto is not None and link.upto.revision < entry.end.revision else None
        if parted is not None and parted.epoch == entry.start.epoch and parted.revision < (upto or entry.end).revision:
            upto = parted
        if upto is not None and upto.revision <= at.revision:
            # It stands where the epoch was left. Tables go on with the next epoch; a log would need the end of its segment.
            found = _next(by_previous, at, used) if not segment_id and not pieces else None
            offset = 0
            continue
        pieces.append(Piece(entry, offset, upto))
        if upto is not None:
            break
        at, offset = entry.end, 0
        found = _next(by_previous, at, used)
    return pieces


def _begins(entry: SegmentEntry, at: Position, segment_id: int, offset: int) -> bool:
    """Say whether a log that ends there goes on within a segment."""
    if segment_id:
        return entry.segment_id == segment_id and entry.start.epoch == at.epoch and offset < entry.raw_length
    return entry.start.epoch == at.epoch and entry.start.revision <= at.revision < entry.end.revision


def _next(
    by_previous: dict[Position, list[tuple[Link, SegmentEntry]]], at: Position, used: set[int]
) -> tuple[Link, SegmentEntry] | None:
    following = [one for one in by_previous.get(at, ()) if one[1].segment_id not in used]
    # Of several that stand behind one position those without commits come first: they are what the others follow.
    return min(following, key=lambda one: (one[1].start.epoch.number, one[1].end.revision), default=None)


async def find_pieces(
    floor: FollowerFloor, url: str, cluster_id: bytes, end: LogEnd, parted: Position | None = None
) -> list[Piece]:
    """Return what ``pieces_behind`` does. Raises RevisionError (NO_RESTORE_PLAN), Corruption, StoreError."""
    store = floor.archive(url)
    try:
        return await floor.beside(lambda: pieces_behind(read_catalog(store, cluster_id), end, parted), "archive")
    finally:
        store.close()


async def take_from_archive(
    floor: FollowerFloor, url: str, cluster_id: bytes, pieces: list[Piece], database: Database, moved: Callable[[], None]
) -> None:
    """Take pieces, in order, into a store whose log they follow; ``moved`` is told of each that was taken.

    On return, however it ends, nothing is under way, and what was taken is kept. Raises Corruption where an object does not
    check, StoreError, IntakeFailed where the store does not take a chunk.
    """
    store = floor.archive(url)
    intake = Intake(database)
    expected = collections.deque(pieces)
    clock = floor.env.clock
    begin, begun = database.log_end().position.revision, clock.monotonic()
    try:
        async with contextlib.aclosing(_chunks_ahead(floor, store, ArchiveNames(cluster_id), pieces)) as chunks:
            async for piece, chunk in chunks:
                _show(database, piece.end.revision)
                await intake.take(chunk)
                while expected[0].end.revision <= database.log_end().position.revision and expected[0] is not piece:
                    expected.popleft()
                    moved()
        await intake.drained()
        for _ in expected:
            moved()
    finally:
        with contextlib.suppress(IntakeFailed):
            await intake.ended()
        if isinstance(database.pipeline, ReplayPipeline):
            database.pipeline.contact_lost()
        store.close()
    revision, seconds = database.log_end().position.revision, clock.monotonic() - begun
    floor.listener(ArchiveCaughtUp(begin, revision, len(pieces), intake.durable_bytes, seconds))


class _Making:
    """Makes a few chunks at a time, and tells of an error behind those that were made before it."""

    def __init__(self, chunks: Iterator[Chunk]) -> None:
        self._chunks = chunks
        self._error: Exception | None = None

    def some(self) -> list[Chunk]:
        """Return the next ones; none behind the last. Raises what making them raised."""
        if self._error is not None:
            raise self._error
        made: list[Chunk] = []
        try:
            for chunk in itertools.islice(self._chunks, AT_ONCE):
                made.append(chunk)
        except Exception as error:
            if not made:
                raise
            self._error = error
        return made


async def _chunks_ahead(
    floor: FollowerFloor, store: Store, names: ArchiveNames, pieces: list[Piece]
) -> AsyncGenerator[tuple[Piece, Chunk], None]:
    """Yield the chunks of all pieces, with those to come being made meanwhile. Raises Corruption, StoreError."""
    dictionaries = Dictionaries(store, names)
    made: asyncio.Queue[tuple[Piece, list[Chunk]] | Exception | None] = asyncio.Queue(AHEAD)

    async def make() -> None:
        try:
            for piece in pieces:
                opened = functools.partial(open_segment, store, names, piece.entry, dictionaries)
                making = _Making(chunks_of(await floor.beside(opened, "catch-up"), piece))
                while some := await floor.beside(making.some, "catch-up"):
                    await made.put((piece, some))
            await made.put(None)
        except Exception as error:  # told behind what was made before it
            await made.put(error)

    maker = asyncio.ensure_future(make())
    try:
        while (one := await made.get()) is not None:
            if isinstance(one, Exception):
                raise one
            piece, some = one
            for chunk in some:
                yield piece, chunk
    finally:
        await end_all([maker])


def _show(database: Database, revision: int) -> None:
    """Let be seen what is archived. It is no word of the primary: whoever waits for one goes on waiting."""
    if isinstance(database.pipeline, ReplayPipeline):
        database.pipeline.hear(revision)


def chunks_of(segment: ArchivedSegment, piece: Piece, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Chunk]:
    """Yield a segment from an offset on as chunks of whole frames, as far as is wanted.

    The last one is not given out where it does not end at the position that is wanted. Raises Corruption, StoreError.
    """
    entry, at, upto = piece
    data = b""  # from ``at`` on
    place = _Place(0, False, None)
    for blocks in _gathered(_blocks_from(segment, at), chunk_bytes):
        whole = place.whole
        if whole >= chunk_bytes:
            yield Chunk(entry.segment_id, at, data[:whole])
            at, data, place = at + whole, data[whole:], place._replace(whole=0)
        data = data + blocks if data else blocks
        place = _walk(segment, data, at, place, upto)
        if place.ended:
            break
    whole, ended, last = place
    if not ended and whole < len(data):
        raise damaged(segment.name, 0, f"the segment in it ends in the middle of a frame, at offset {at + whole}")
    if last is not None and (last.last_revision, last.chain) != piece.end[1:]:
        what = f"it leads to revision {last.last_revision}, not to where the manifest says, {piece.end.revision}"
        raise damaged(segment.name, 0, what)
    if whole:
        yield Chunk(entry.segment_id, at, data[:whole])


class _Place(NamedTuple):
    """How far the frames of a segment were looked at."""

    whole: int
    """So many bytes of those at hand are whole frames that are wanted."""
    ended: bool
    """The next frame is not wanted any more."""
    last: fmt.FrameHeader | None
    """The last frame that is wanted; None: there is none yet."""


def _gathered(blocks: Iterator[bytes], least_bytes: int) -> Iterator[bytes]:
    """Yield blocks joined to so many bytes, so that small ones are not copied again and again."""
    held: list[bytes] = []
    size = 0
    for block in blocks:
        held.append(block)
        size += len(block)
        if size >= least_bytes:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)


def _walk(segment: ArchivedSegment, data: bytes, at: int, place: _Place, upto: Position | None) -> _Place:
    """Return how far data, which begins at an offset of the segment, is whole frames that are wanted."""
    whole, _, last = place
    while True:
        frame: fmt.FrameHeader | None = None
        if not at + whole:
            length = fmt.SEGMENT_HEADER_LENGTH
        elif len(data) - whole < fmt.FRAME_HEADER_LENGTH:
            return _Place(whole, False, last)
        else:
            frame = fmt.parse_frame_header(data, whole)
            if frame is None or frame.frame_length > MAX_FRAME_LENGTH:
                raise damaged(segment.name, 0, f"the segment in it has no frame at its offset {at + whole}")
            length = frame.frame_length
            # A mark or a seal behind the last group that is wanted is whoever's was primary then.
            if upto is not None and frame.last_revision >= upto.revision + (frame.kind == fmt.GROUP):
                return _Place(whole, True, last)
        if length > len(data) - whole:
            return _Place(whole, False, last)
        whole, last = whole + length, frame or last


def _blocks_from(segment: ArchivedSegment, offset: int) -> Iterator[bytes]:
    """Yield the raw blocks from an offset on."""
    if not offset:
        yield from segment.raw_blocks()
        return
    number, skipped = divmod(offset, segment.header.block_bytes)
    for at in range(number, len(segment.blocks)):
        yield segment.block(at)[skipped:]
        skipped = 0
