"""One call in which a follower is shipped the log: what it does with each envelope, and what that says about its state.

Of every envelope the epoch is looked at first: a source whose epoch is lower than what was promised is not listened to any more,
in the middle of whatever it sends. Its marks are passed on only once the log was accepted: what a source shows says
something about this node only where the two are known to have one history. What it carries is taken last.

A *hash point* is a revision at which both sides look at their content. Nothing beyond it may be applied before this side has
looked, so the call stands still there: what was handed over is waited for, and the next chunk is held back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

from kvserver.base.limits import MIB
from kvserver.base.types import NO_EPOCH, Epoch
from kvserver.engine.database import Database
from kvserver.replication.home import FollowerFloor, Home, obeyed
from kvserver.replication.messages import Accepted, Chunk, Diverged, Envelope, Gone, HashAt, ShippedMarks
from kvserver.replication.peer import FollowCall
from kvserver.replication.receiving import Ended, IntakeFailed, Receiving
from kvserver.replication.source_check import check_epoch
from kvserver.replication.states import FollowerState, Happening, StateMachine
from kvserver.wal import format as fmt

CAUGHT_UP_BYTES = 1 * MIB
"""A follower that has all that there was when it was accepted, and no more than that before it, has what there is."""

FELL_BEHIND_BYTES = 64 * MIB
"""... and one that has so much before it has not, any more."""


class Following:
    """One call. Belongs to the event loop."""

    def __init__(self, home: Home, floor: FollowerFloor, database: Database, machine: StateMachine, address: str) -> None:
        self.marks = ShippedMarks()
        """What was heard last."""
        self.on_marks: Callable[[ShippedMarks, int], None] = lambda marks, at_ms: None
        """Told of the marks of each envelope, and of the time by this node's clock."""
        self.was_streaming = False
        self.receiving: Receiving | None = None
        self._home = home
        self._floor = floor
        self._database = database
        self._machine = machine
        self._address = address
        self._told: tuple[Epoch, str] = (NO_EPOCH, "")
        self._goal = 0
        """What was durable at the source when it accepted."""
        self._point = 0
        """A revision at which the content is to be looked at; 0: none."""
        self._seen_point = 0

    @property
    def durable_bytes(self) -> int:
        """Return the bytes that were taken in this call."""
        return self.receiving.intake.durable_bytes if self.receiving is not None else 0

    async def run(self, call: FollowCall, interrupted: Awaitable[None]) -> Ended | None:
        """Take what is shipped until the call ends, or something interrupts it (None).

        On return, however it ends, nothing is under way: what was handed to the store is durable and applied, or failed.
        Raises Setback, IntakeFailed, KvError, as ``Receiving`` does.
        """
        self.receiving = Receiving(self._database, call, self._floor.env.clock, self._floor.sleep)
        try:
            return await self.receiving.run(self._on_envelope, [interrupted])
        finally:
            with contextlib.suppress(IntakeFailed):  # it was told by whoever handed the chunk over
                await self.receiving.intake.ended()
            self._database.contact_lost()

    async def _on_envelope(self, envelope: Envelope) -> Ended | None:
        marks, body = envelope
        check_epoch(obeyed(self._home), self._address, marks.epoch)
        self.marks = marks
        self.on_marks(marks, self._floor.env.clock.now_ms())
        if marks.epoch != NO_EPOCH and (marks.epoch, marks.primary) != self._told:
            self._told = (marks.epoch, marks.primary)
            self._home.on_epoch(*self._told)
        if isinstance(body, Gone | Diverged):
            return Ended(body)
        if isinstance(body, Accepted):
            what = f"{self._address} ships from segment {body.segment_id:016x}, offset {body.offset}"
            self._machine.happen(Happening.ACCEPTED, what)
            self._goal = marks.durable
        elif isinstance(body, HashAt):
            await self._home.on_hash(body.revision, body.hash)
        if self._is_accepted:
            await self._look(marks.hash_point, body)
            self._database.hear(marks.visible, marks.archived)
            self._settle_state(len(body.data) if isinstance(body, Chunk) else 0)
        return None

    @property
    def _is_accepted(self) -> bool:
        return self.receiving is not None and self.receiving.accepted is not None

    async def _look(self, point: int, body: object) -> None:
        """Have the content looked at where the next chunk, or nothing at all, would go beyond a hash point."""
        if point > self._seen_point:
            self._point = point
        if not self._point:
            return
        assert self.receiving is not None
        following = first_revision(body) if isinstance(body, Chunk) else 0
        if isinstance(body, Chunk) and following <= self._point:
            return  # before the point, or what this node has
        intake = self.receiving.intake
        if isinstance(body, Chunk):
            await intake.drained()
        applied = self._database.marks.applied
        if applied == self._point and not intake.waiting_bytes:
            self._seen_point, self._point = self._point, 0
            await self._home.on_hash_point(applied)
        elif applied > self._point:
            self._seen_point, self._point = self._point, 0

    def _settle_state(self, coming_bytes: int) -> None:
        assert self.receiving is not None
        left = self.marks.pending_bytes + self.receiving.intake.waiting_bytes + coming_bytes
        state = self._machine.state
        has_goal = self._database.marks.applied >= self._goal
        if state is FollowerState.CATCHUP_STREAM and has_goal and left <= CAUGHT_UP_BYTES:
            self.was_streaming = True
            self._machine.happen(Happening.CAUGHT_UP, f"{self._address} has no more than {left:,} bytes that are not here")
        elif state is FollowerState.STREAMING and left > FELL_BEHIND_BYTES:
            self._machine.happen(Happening.FELL_BEHIND, f"{self._address} has {left:,} bytes that are not here")


def first_revision(chunk: Chunk) -> int:
    """Return the first revision that a chunk may hold, by its first frame or its segment's header; 0 where it has none."""
    if not chunk.offset:
        try:
            return fmt.decode_segment_header(chunk.data).first_revision
        except ValueError:
            return 0  # whoever takes the chunk says what is wrong with it
    frame = fmt.parse_frame_header(chunk.data, 0)
    return frame.first_revision if frame is not None else 0
