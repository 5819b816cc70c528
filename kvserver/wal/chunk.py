"""Checks a chunk of somebody else's log against the log that it is to continue. Pure: nothing is written here, or changed.

A chunk is (segment id, offset, bytes): whole frames of one segment as they lie on disk; offset 0 brings the header block before
them. Whoever sends it may be wrong, old, of another cluster, or of a history that ended elsewhere, and the network may have
lost, repeated or reordered what he sent. So everything is proven from the bytes: the checksum of each frame, the chain of
history from the last frame that is here on, and of a new segment that it begins exactly where the one before it ended.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

from kvserver.base.errors import Corruption
from kvserver.base.types import Position
from kvserver.wal import format as fmt
from kvserver.wal.checker import MAX_FRAME_LENGTH
from kvserver.wal.sequence import FrameSequence


class ChunkRefused(Exception):
    """A chunk does not continue this log, or does not check. Nothing of it was written."""


class ReceivedGroup(NamedTuple):
    """A group of commits that came in a chunk."""

    first_revision: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody asks for
    payload: bytes
    position: Position
    """Behind it."""


class Before(NamedTuple):
    """The segment that a new one must follow."""

    header: fmt.SegmentHeader
    position: Position
    """Behind its seal."""


class Checked(NamedTuple):
    """What is known of a chunk that was checked whole."""

    walk: FrameSequence
    """Where its segment stands behind it."""
    is_sealed: bool
    """Its last frame is the segment's seal."""
    met: bool
    """The log passes through the position that the tables hold, here or earlier."""
    groups: list[ReceivedGroup]
    """Those behind the tables."""


class ChunkChecker:
    """Checks the chunks of one log. Not safe for several threads."""

    def __init__(self, cluster_id: bytes, base: Position | None) -> None:
        self._cluster_id = cluster_id
        self._base = base

    def begin(self, segment_id: int, data: bytes, before: Before | None, creation: Position) -> FrameSequence:
        """Return a walk at the begin of the segment whose first chunk this is. Raises ChunkRefused.

        ``before`` None: it is the log's first. Then it follows the tables, where there are any: it has to begin at or before
        the revision behind them, and what it says of its past is proven when it passes through their position; else the
        store's creation.
        """
        try:
            header = fmt.decode_segment_header(data[: fmt.SEGMENT_HEADER_LENGTH])
        except ValueError as error:
            raise ChunkRefused(f"segment {segment_id:016x} cannot begin so: {error}") from error
        label = f"segment {segment_id:016x} (epoch {header.epoch.number}, from revision {header.first_revision})"
        if header.segment_id != segment_id or not segment_id:
            raise ChunkRefused(f"{label}: its header block is of segment {header.segment_id:016x}")
        if header.cluster_id != self._cluster_id:
            raise ChunkRefused(f"{label}: it belongs to another cluster ({header.cluster_id.hex()})")
        if header.first_revision != header.previous.revision + 1:
            raise ChunkRefused(f"{label}: it does not begin behind revision {header.previous.revision}, which it says it follows")
        if before is not None:
            self._check_follows(label, header, before)
        elif self._base is None:
            if header.previous != creation or header.previous_segment_id:
                raise ChunkRefused(f"{label}: this log is empty and begins with the store's creation, not behind {_at(header)}")
        elif header.first_revision > self._base.revision + 1:
            what = f"the tables end at revision {self._base.revision}; the log between is missing"
            raise ChunkRefused(f"{label}: {what}")
        if header.previous.epoch != header.epoch:
            self._check_branch(label, header)
        return FrameSequence(label, header)

    def walk(self, begin: FrameSequence, data: bytes, at: int, met: bool) -> Checked:
        """Check the frames from an offset of the data on, which continue the walk; the walk itself does not move.

        Raises ChunkRefused.
        """
        walk = copy.copy(begin)
        base = self._base
        met = met or base is None or base in (walk.header.previous, walk.start)
        groups: list[ReceivedGroup] = []
        seed = fmt.crc_seed(walk.header.segment_id)
        is_sealed = False
        while at < len(data):
            if is_sealed:
                raise _refused(walk, "something follows the seal")
            frame = self._frame(walk, data, at, seed)
            offset = walk.offset
            body = at + fmt.FRAME_HEADER_LENGTH
            try:
                walk.accept(frame, fmt.next_chain(walk.chain, frame, data, at))
                if frame.kind == fmt.SEAL:
                    walk.check_seal(offset, data[body : body + frame.payload_length])
                    is_sealed = True
            except Corruption as error:
                raise ChunkRefused(f"{error.path}, at offset {error.offset}: {error.what}") from error
            if frame.kind == fmt.GROUP:
                met = self._pass(walk, frame, offset, met)
                if base is None or frame.last_revision > base.revision:
                    payload = data[body : body + frame.payload_length]
                    groups.append(ReceivedGroup(frame.first_revision, frame.commits, payload, walk.position))
            at += frame.frame_length
        return Checked(walk, is_sealed, met, groups)

    def _frame(self, walk: FrameSequence, data: bytes, at: int, seed: int) -> fmt.FrameHeader:
        """Return the header of the frame at an offset of the data; it is whole, of the segment, and its checksum matches."""
        frame = fmt.parse_frame_header(data, at)
        if frame is None:
            cut_off = at + fmt.FRAME_HEADER_LENGTH > len(data)
            raise _refused(walk, "a frame is cut off in its header" if cut_off else "there is no frame where one must be")
        if frame.segment_id != walk.header.segment_id:
            raise _refused(walk, f"the frame is of segment {frame.segment_id:016x}")
        if frame.flags:
            raise _refused(walk, f"the frame has flags {frame.flags}, which this version does not know")
        if frame.frame_length > MAX_FRAME_LENGTH:
            raise _refused(walk, f"the frame claims {frame.frame_length} bytes; none has more than {MAX_FRAME_LENGTH}")
        if at + frame.frame_length > len(data):
            raise _refused(walk, f"a frame of {frame.frame_length} bytes is cut off after {len(data) - at}")
        if not fmt.frame_checks(data, at, frame, seed):
            raise _refused(walk, "the checksum of the frame does not match")
        return frame

    def _pass(self, walk: FrameSequence, frame: fmt.FrameHeader, offset: int, met: bool) -> bool:
        """Say whether the log has met the tables behind a group; the group is not behind them unless it has, or is refused."""
        base = self._base
        if met or base is None or walk.position == base:
            return True
        if frame.last_revision <= base.revision:
            return False
        if frame.first_revision <= base.revision:
            what = f"the tables end at revision {base.revision}, inside its revisions {frame.first_revision} to "
            raise _refused(walk, f"the group is of another history than the tables: {what}{frame.last_revision}", offset)
        what = f"it comes past revision {base.revision} of epoch {base.epoch.number}, where they end, by another way"
        raise _refused(walk, f"the segment is of another history than the tables: {what}", offset)

    def _check_follows(self, label: str, header: fmt.SegmentHeader, before: Before) -> None:
        """Check that a segment begins where the one before it ended. Raises ChunkRefused."""
        old, position = before
        if header.segment_id == old.segment_id:
            raise ChunkRefused(f"{label}: it is here already, whole")
        if header.epoch.number < old.epoch.number:
            raise ChunkRefused(f"{label}: its epoch is lower than epoch {old.epoch.number}, which this log has come to")
        if header.epoch.number == old.epoch.number and header.epoch != old.epoch:
            raise ChunkRefused(f"{label}: another epoch of the same number is in this log, with another nonce")
        if header.previous != position or header.previous_segment_id != old.segment_id:
            here = f"epoch {position.epoch.number}, revision {position.revision}, in segment {old.segment_id:016x}"
            raise ChunkRefused(
                f"{label}: it follows {_at(header)}, but this log ends at {here}; a segment is missing or from another history"
            )
        if header.epoch == old.epoch and header.branch != old.branch:
            raise ChunkRefused(f"{label}: its epoch began elsewhere than the segment before it says")
        if (header.epoch.number, header.first_revision) == (old.epoch.number, old.first_revision):
            raise ChunkRefused(f"{label}: a segment of its name is here, and it holds no commit")

    def _check_branch(self, label: str, header: fmt.SegmentHeader) -> None:
        """Check what the first segment of an epoch says of its begin. Raises ChunkRefused."""
        if header.branch != header.previous or header.epoch.number <= header.previous.epoch.number:
            raise ChunkRefused(f"{label}: its epoch does not continue the one before it")


def _at(header: fmt.SegmentHeader) -> str:
    previous = header.previous
    return f"epoch {previous.epoch.number}, revision {previous.revision}, in segment {header.previous_segment_id:016x}"


def _refused(walk: FrameSequence, what: str, offset: int | None = None) -> ChunkRefused:
    error = walk.corruption(what, offset)
    return ChunkRefused(f"{error.path}, at offset {error.offset}: {error.what}")
