"""All followers of one node: who is let in, what is held for them, and what they are told together.

A call goes through these steps, and the order matters:

    1. who asks and which epochs it knows are looked at (``judge.check_hello``); nothing is done for a stranger
    2. the slot holds the log from where the follower's ends, so that nothing is deleted between the answer and the first chunk
    3. its place in the log is judged, on the worker thread, because that reads files
    4. it is shipped the log (``shipment``), or told why not

A second call of the same node takes over from the first: a connection that broke may be noticed here last. Another node of the
same name is refused while the first is connected.

A node that ships may be a primary or a follower; what it says of itself is asked of ``standing`` at every message. It ends with
``close``, before its database does: every call then ends with NOT_SERVING, and followers look for who serves instead.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import NamedTuple, Protocol, TypeVar

from kvserver.base.environment import Environment
from kvserver.base.errors import KvError, NotServing
from kvserver.base.events import Listener, ignore
from kvserver.base.limits import MIB
from kvserver.base.paths import DataPaths
from kvserver.base.shipping_events import (
    FollowerConnected,
    FollowerDisconnected,
    FollowerForked,
    FollowerRefused,
    SlotsNotWritten,
    TwoPrimariesMet,
)
from kvserver.base.types import Epoch, LogEnd
from kvserver.engine.worker import Post, Worker
from kvserver.replication import judge, tail_compression
from kvserver.replication.messages import Accepted, Ack, Diverged, Envelope, EpochBegin, Gone, Hello, NodeIdentity, ShippedMarks
from kvserver.replication.shipment import CallLater, ReadsLog, Shipment, Supplies, Timer, run_beside
from kvserver.replication.slots import Slot, SlotInfo, Slots
from kvserver.wal.tail import LogGone

FOLLOW_S = 1.0
"""How often the holds are moved to where the followers are."""

Result = TypeVar("Result")


class Standing(NamedTuple):
    """What a node says of itself at this moment."""

    epoch: Epoch
    """The epoch that it serves under: of a follower, that of its log."""
    promised: Epoch
    visible: int
    archived: int
    primary: str
    """The address of the primary, as far as it knows."""
    follows: str = ""
    """The address of the node that it follows; empty: nobody."""
    held_by_all: int = 0
    """What every node that follows the primary has durably, and the archive; 0: nothing is known of it."""


@dataclasses.dataclass(frozen=True, slots=True)
class ShippingOptions:
    """What can be set."""

    slot_max_bytes: int = 1024 * MIB
    compression: str = tail_compression.AUTO
    """Of ``tail_compression.SETTINGS``."""


class ShipsFrom(Protocol):
    """The part of a database that shipping needs."""

    def log_end(self) -> LogEnd:
        """Return where the log durably ends."""

    def tail(self) -> ShippedLog:
        """Return a reader of the log's bytes, for one thread at a time."""

    def observe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back whenever durable, visible or the list of segments moved; return how to stop it."""

    def hold(self, name: str, revision: int) -> None:
        """Hold the log from a revision on. Raises HoldRefused."""

    def release_hold(self, name: str) -> None:
        """Let go of what a name holds."""


class ShippedLog(ReadsLog, judge.Places, Protocol):
    """What is asked of the log: ``kvserver.wal.tail.LogTail``."""

    def pending_bytes(self, segment_id: int, offset: int) -> int:
        """Return the durable bytes behind a place, over all segments."""

    def close(self) -> None:
        """Close the file that is kept open."""


class Shipping:
    """Ships one database's log to all who follow it. Belongs to the event loop.

    Make it right behind ``Database.open``, before the loop does anything else: what is held for followers has to be held before
    something is deleted. Then ``start``.
    """

    def __init__(
        self,
        env: Environment,
        paths: DataPaths,
        database: ShipsFrom,
        identity: NodeIdentity,
        epochs: Callable[[], list[EpochBegin]],
        standing: Callable[[], Standing],
        post: Post,
        options: ShippingOptions | None = None,
        listener: Listener = ignore,
        worker: Worker | None = None,
        call_later: CallLater | None = None,
    ) -> None:
        """Read who followed before. Raises Corruption, OSError.

        ``epochs``: of this node's history, oldest first, those that came since the open too. ``worker``: does what blocks.
        """
        self._env = env
        self._database = database
        self._identity = identity
        self._epochs = epochs
        self._standing = standing
        self._options = options or ShippingOptions()
        self._listener = listener
        self._worker = worker or Worker("shipper", post)
        self._call_later = call_later
        self._figures = database.tail()
        """For the event loop alone; it is asked nothing that reads files."""
        self._slots = Slots(env.fs, paths, env.clock, database, self._options.slot_max_bytes, listener)
        self._slots.load(self._figures.oldest_revision())
        self._shipments: dict[Slot, Shipment] = {}
        self._candidates: set[Shipment] = set()
        self._writing = False
        self._closed: KvError | None = None
        self._stop_observing: Callable[[], None] | None = None
        self._timer: Timer | None = None
        self.on_ack: Callable[[str, str, Ack], None] = lambda name, node_id, ack: None
        """Called for every acknowledgement of a follower, with its name and id; also of lower epochs, and of less than before."""
        self.on_begins_anew: Callable[[str], None] = lambda name: None
        """Called with the name of a follower that goes back by order, or begins with a new copy: what it said counts no more."""
        self.on_higher_epoch: Callable[[Epoch], None] = lambda epoch: None
        """Called when another node knows a higher epoch: a primary is deposed."""

    def start(self) -> None:
        """Begin to move: on the event loop, once."""
        if self._call_later is None:
            self._call_later = asyncio.get_running_loop().call_later
        self._worker.start()
        self._stop_observing = self._database.observe(self._wake_all)
        self._tick()

    # -- one follower -------------------------------------------------------------------------------------------------

    async def ship(self, hello: Hello, acks: AsyncIterator[Ack]) -> AsyncGenerator[Envelope, None]:
        """Yield what a follower is sent. Raises KvError, before the first envelope where it is refused."""
        call = object()
        slot: Slot | None = None
        log = self._database.tail()
        try:
            self._raise_closed()
            if not self._epochs():
                raise NotServing("this node has no log yet")
            judge.check_hello(self._here(), hello)
            slot = self._connect(hello, call)
            verdict = await self._judge(hello, log)
            self._raise_closed()
            if slot.call is not call:
                raise _taken_over()
            if isinstance(verdict, judge.Accept):
                async with aclosing(self._accepted(hello, slot, self._make(slot, log, verdict), verdict, acks)) as envelopes:
                    async for envelope in envelopes:
                        yield envelope
            else:
                yield Envelope(self._marks(), self._refusal(slot, verdict))
        except KvError as error:
            self._report(hello, error)
            raise
        finally:
            if slot is not None:
                self._slots.disconnect(slot, call)
            self._close(log)

    async def _judge(self, hello: Hello, log: ShippedLog) -> judge.Verdict:
        here = self._here()
        try:
            return await self._beside(lambda: judge.judge(here, hello, log))
        except (OSError, LogGone) as error:
            raise NotServing(f"the log cannot be read: {error}") from error

    async def _accepted(
        self, hello: Hello, slot: Slot, shipment: Shipment, begin: judge.Accept, acks: AsyncIterator[Ack]
    ) -> AsyncGenerator[Envelope, None]:
        """Ship the log to a follower that was let in."""
        revision = hello.end.position.revision
        compression = tail_compression.choose(hello.compressions, self._options.compression, hello.identity.address)
        accepted = Accepted(begin.segment_id, begin.offset, self._epochs(), compression)
        why = "it ended the call, or the connection broke"
        self._shipments[slot] = shipment
        self._listener(FollowerConnected(slot.name, slot.node_id, slot.address, revision, compression))
        try:
            async with aclosing(shipment.envelopes(accepted, revision, acks)) as envelopes:
                async for envelope in envelopes:
                    yield envelope
        except KvError as error:
            why = error.message
            raise
        finally:
            if self._shipments.get(slot) is shipment:
                del self._shipments[slot]
            self._listener(FollowerDisconnected(slot.name, slot.acknowledged, why))

    def _connect(self, hello: Hello, call: object) -> Slot:
        oldest = self._figures.oldest_revision()
        slot = self._slots.connect(hello.identity, hello.end, oldest, call, hello.only_log)
        former = self._shipments.pop(slot, None)
        if former is not None:
            former.end(_taken_over())
        return slot

    def _refusal(self, slot: Slot, verdict: judge.Verdict) -> Gone | Diverged:
        if isinstance(verdict, judge.Forked):
            self._listener(FollowerForked(slot.name, verdict.what))
            verdict = verdict.diverged
        assert not isinstance(verdict, judge.Accept)
        if isinstance(verdict, Gone):
            self._slots.gone(slot, verdict.archived if verdict.archived + 1 >= verdict.oldest else 0)
        else:
            self._slots.parted(slot, verdict.common.revision)
            self.on_begins_anew(slot.name)
        return verdict

    def _make(self, slot: Slot, log: ShippedLog, begin: judge.Accept) -> Shipment:
        assert self._call_later is not None, "start comes first"

        def on_ack(ack: Ack) -> None:
            judge.check_heard(self._here(), ack.epoch, slot.name)
            self._slots.on_ack(slot, ack)
            if slot.is_kept:  # one that is lower than before too: what a member lost is on fewer disks now
                self.on_ack(slot.name, slot.node_id, ack)

        def on_caught_up() -> None:
            slot.is_streaming = True

        supplies = Supplies(
            log=log,
            log_end=self._database.log_end,
            pending_bytes=self._figures.pending_bytes,
            marks=self._marks,
            beside=self._beside,
            clock=self._env.clock,
            call_later=self._call_later,
            on_ack=on_ack,
            on_caught_up=on_caught_up,
        )
        return Shipment(supplies, begin)

    def _report(self, hello: Hello, error: KvError) -> None:
        name = hello.identity.name
        if error is not self._closed:
            self._listener(FollowerRefused(name, error.code.name, error.message))
        if isinstance(error, judge.TwoPrimaries):
            self._listener(TwoPrimariesMet(name, error.mine.number, error.mine.nonce, error.theirs.nonce))
        if isinstance(error, judge.HigherEpoch):
            self.on_higher_epoch(error.epoch)

    # -- all of them --------------------------------------------------------------------------------------------------

    def slots(self) -> list[SlotInfo]:
        """Return who follows, or did and may come back; by name."""
        for slot, shipment in self._shipments.items():
            slot.lag_bytes = shipment.lag_bytes()
        return self._slots.list()

    def drop_slot(self, name: str) -> None:
        """Forget a follower, and end its call. Raises InvalidRequest (INVALID_FIELD) for a name that none has."""
        slot = self._slots.drop(name)
        shipment = self._shipments.get(slot)
        if shipment is not None:
            shipment.end(NotServing("somebody dropped the follower's slot"))
        self._write_slots()

    def reserve(self, identity: NodeIdentity, revision: int) -> None:
        """Hold the log for a node that is about to be sent a copy of the store as of this revision. Raises HoldRefused."""
        self._slots.reserve(identity, revision)
        self.on_begins_anew(identity.name)
        self._write_slots()

    def announce(self, revision: int) -> list[str]:
        """Say to the followers that the content at this revision will be hashed; return the names of those to whom it is said.

        No later revision is sent to them before. Where some may have been sent already, it is not said.
        """
        return [slot.name for slot, shipment in self._shipments.items() if shipment.announce(revision)]

    def tell_hash(self, revision: int, content_hash: bytes) -> None:
        """Send the hash of an announced revision to those to whom it was announced."""
        for shipment in self._shipments.values():
            shipment.tell_hash(revision, content_hash)

    def close(self, error: KvError | None = None) -> None:
        """End all calls with an error, NotServing if none is given; wait for the worker's thread. Twice does no harm."""
        if self._closed is not None:
            return
        self._closed = error or NotServing("the node is stopping, or changing its part")
        for shipment in self._shipments.values():
            shipment.end(self._closed)
        if self._stop_observing is not None:
            self._stop_observing()
        if self._timer is not None:
            self._timer.cancel()
        self._worker.stop()
        self._figures.close()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _here(self) -> judge.Here:
        standing = self._standing()
        return judge.Here(
            self._identity, standing.promised, self._epochs(), self._database.log_end(), standing.archived, standing.follows
        )

    def _marks(self) -> ShippedMarks:
        standing = self._standing()
        return ShippedMarks(
            epoch=standing.epoch,
            durable=self._database.log_end().position.revision,
            visible=standing.visible,
            archived=standing.archived,
            time_ms=self._env.clock.now_ms(),
            primary=standing.primary,
            held_by_all=standing.held_by_all,
        )

    def _beside(self, work: Callable[[], Result]) -> Awaitable[Result]:
        self._raise_closed()
        return run_beside(self._worker.run, work)

    def _close(self, log: ShippedLog) -> None:
        """Close a reader that the worker may be reading with."""
        if self._closed is None:
            self._worker.run(log.close, lambda result: None)
        else:
            log.close()

    def _raise_closed(self) -> None:
        if self._closed is not None:
            raise self._closed

    def _wake_all(self) -> None:
        for shipment in self._shipments.values():
            shipment.wake()

    def _tick(self) -> None:
        """Move the holds, write them down where they changed, and come again."""
        if self._closed is not None or self._call_later is None:
            return
        self._slots.follow(self._figures)
        self._write_slots()
        self._timer = self._call_later(FOLLOW_S, self._tick)

    def _write_slots(self) -> None:
        if self._writing or self._closed is not None or not self._slots.is_unwritten:
            return
        self._writing = True
        data = self._slots.record()

        def done(result: object) -> None:
            self._writing = False
            if isinstance(result, Exception):
                self._slots.is_unwritten = True  # with the next tick
                self._listener(SlotsNotWritten(str(result) or repr(result)))

        self._worker.run(lambda: self._slots.write(data), done)


def _taken_over() -> KvError:
    return NotServing("the same node has called again; this call is over")
