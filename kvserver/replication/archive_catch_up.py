"""Takes from the archive what a node's log lacks: the segments that go on exactly where it ends, in order, as far as they go.

The log of a follower is the same bytes as the primary's, so a segment counts only if it is the one that the log is in the middle
of, by its id, or the one that follows the log's last position. Segments without commits count too: a restore leaves them out,
but the next one names them as the one before it. Where an epoch was left in the middle of an archived segment, nothing behind
that place is taken; whoever has the next epoch's log has that segment as it goes on there.

Nothing is taken on the archive's word: blocks are checked by their checksums, frames by the log that takes them (CRC, order,
chain), and each segment has to end where the manifest says.

What is archived was shown by the primary, so it may be shown here. It has to be told to the store, because what is not visible
cannot be written into tables, and a long log does not fit memory.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

from kvserver.archive.catalog import Catalog, read_catalog
from kvserver.archive.dictionary import Dictionaries
from kvserver.archive.errors import damaged
from kvserver.archive.lineage import Link
from kvserver.archive.names import ArchiveNames
from kvserver.archive.records import SegmentEntry
from kvserver.archive.segment_reading import ArchivedSegment, open_segment
from kvserver.base.limits import MIB
from kvserver.base.replication_events import ArchiveCaughtUp
from kvserver.base.types import LogEnd, Position
from kvserver.commit.replay import ReplayPipeline
from kvserver.engine.database import Database
from kvserver.replication.home import FollowerFloor
from kvserver.replication.messages import Chunk
from kvserver.replication.receiving import Intake, IntakeFailed
from kvserver.wal import format as fmt
from kvserver.wal.checker import MAX_FRAME_LENGTH

CHUNK_BYTES = 1 * MIB
"""Frames are handed over in chunks of about so many bytes; a larger one is a chunk of its own."""


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


def pieces_behind(catalog: Catalog, end: LogEnd) -> list[Piece]:
    """Return what the archive has behind the end of a log, in order; nothing where it does not go on exactly there."""
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


async def find_pieces(floor: FollowerFloor, url: str, cluster_id: bytes, end: LogEnd) -> list[Piece]:
    """Return what the archive has behind the end of a log. Raises RevisionError (NO_RESTORE_PLAN), Corruption, StoreError."""
    store = floor.archive(url)
    try:
        return await floor.beside(lambda: pieces_behind(read_catalog(store, cluster_id), end), "archive")
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
    names = ArchiveNames(cluster_id)
    dictionaries = Dictionaries(store, names)
    intake = Intake(database)
    clock = floor.env.clock
    begin, begun = database.log_end().position.revision, clock.monotonic()
    try:
        for piece in pieces:
            _show(database, piece.end.revision)
            segment = await floor.beside(functools.partial(open_segment, store, names, piece.entry, dictionaries), "catch-up")
            chunks = chunks_of(segment, piece)
            while (chunk := await floor.beside(functools.partial(next, chunks, None), "catch-up")) is not None:
                await intake.take(chunk)
            await intake.drained()
            reached = database.log_end().position
            if reached != piece.end:
                what = f"it leads to revision {reached.revision}, not to where the manifest says, {piece.end.revision}"
                raise damaged(names.segment(piece.entry.id), 0, what)
            moved()
    finally:
        with contextlib.suppress(IntakeFailed):
            await intake.drained()
        if isinstance(database.pipeline, ReplayPipeline):
            database.pipeline.contact_lost()
        store.close()
    revision, seconds = database.log_end().position.revision, clock.monotonic() - begun
    floor.listener(ArchiveCaughtUp(begin, revision, len(pieces), intake.durable_bytes, seconds))


def _show(database: Database, revision: int) -> None:
    """Let be seen what is archived. It is no word of the primary: whoever waits for one goes on waiting."""
    if isinstance(database.pipeline, ReplayPipeline):
        database.pipeline.hear(revision)


def chunks_of(segment: ArchivedSegment, piece: Piece, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Chunk]:
    """Yield a segment from an offset on as chunks of whole frames, as far as is wanted. Raises Corruption, StoreError."""
    entry, at, upto = piece
    data = b""  # from ``at`` on
    whole, ended = 0, False  # so many bytes of it are whole frames
    for blocks in _gathered(_blocks_from(segment, at), chunk_bytes):
        data += blocks
        whole, ended = _walk(segment, data, at, whole, upto)
        if ended:
            break
        if whole >= chunk_bytes:
            yield Chunk(entry.segment_id, at, data[:whole])
            at, data, whole = at + whole, data[whole:], 0
    if not ended and whole < len(data):
        raise damaged(segment.name, 0, f"the segment in it ends in the middle of a frame, at offset {at + whole}")
    if whole:
        yield Chunk(entry.segment_id, at, data[:whole])


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


def _walk(segment: ArchivedSegment, data: bytes, at: int, whole: int, upto: Position | None) -> tuple[int, bool]:
    """Return how many bytes are whole frames that are wanted, and whether the next frame is not wanted any more."""
    while True:
        if not at + whole:
            length = fmt.SEGMENT_HEADER_LENGTH
        elif len(data) - whole < fmt.FRAME_HEADER_LENGTH:
            return whole, False
        else:
            frame = fmt.parse_frame_header(data, whole)
            if frame is None or frame.frame_length > MAX_FRAME_LENGTH:
                raise damaged(segment.name, 0, f"the segment in it has no frame at its offset {at + whole}")
            length = frame.frame_length
            # A mark or a seal behind the last group that is wanted is whoever's was primary then.
            if upto is not None and frame.last_revision >= upto.revision + (frame.kind == fmt.GROUP):
                return whole, True
        if length > len(data) - whole:
            return whole, False
        whole += length


def _blocks_from(segment: ArchivedSegment, offset: int) -> Iterator[bytes]:
    """Yield the raw blocks from an offset on."""
    if not offset:
        yield from segment.raw_blocks()
        return
    number, skipped = divmod(offset, segment.header.block_bytes)
    for at in range(number, len(segment.blocks)):
        yield segment.block(at)[skipped:]
        skipped = 0
