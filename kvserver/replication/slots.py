"""Who follows this node, how far each of them is, and from where on the log is held for it.

A slot has a follower's name. It is made when a node of that name first follows, and stays when it goes away, so that it finds
the log that it needs when it comes back. It holds at most ``max_bytes`` of the log: beyond that the hold is let go, the slot is
*lost*, and the follower has to take the archive or a new copy. A full disk is worse than that, for it stops everybody.

The hold (``slot:<name>``) is the revision that the follower acknowledged as durable, not the one behind it: it may have all the
commits of a segment and lack its seal.

The holds are written to the file SLOTS, replaced as a whole, when the segment changes in which one begins. What it says may be
behind: then the log that it names may be gone already, and the next start holds all that is left instead. It is read before
anything can be deleted, so nothing that was held before a crash is lost by it.

How far a node is counts only while it does not go back. A node that has less than it acknowledged, under the same id, has lost
something that others relied on: an alarm says so, and its acknowledgements are not passed on until it has that again. A node that
was told that its history parted goes back by order, and begins anew.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

from kvserver.base.clock import Clock
from kvserver.base.errors import Code, Corruption, InvalidRequest, ReplicationError
from kvserver.base.events import Listener
from kvserver.base.fs import FileSystem, read_file, write_new_file
from kvserver.base.paths import DataPaths
from kvserver.base.record_file import decode_record, encode_record
from kvserver.base.shipping_events import FollowerWentBack, SlotDropped, SlotLost
from kvserver.base.types import NO_EPOCH, Epoch, LogEnd
from kvserver.engine.obsolete_files import HoldRefused
from kvserver.replication.messages import Ack, NodeIdentity

STREAMING = "streaming"
CATCHING_UP = "catching-up"
AWAY = "away"
LOST = "lost"

MAX_SLOTS = 64
"""More nodes than that are a mistake, such as a node that takes a new name at each start."""


class SlotInfo(NamedTuple):
    """One follower, as ``ListSlots`` tells it."""

    name: str
    node_id: str
    address: str
    connected: bool
    state: str
    """"streaming", "catching-up", "away" or "lost"."""
    received_revision: int
    durable_revision: int
    applied_revision: int
    hold_revision: int
    """0: nothing is held."""
    held_bytes: int
    max_bytes: int
    silent_ms: int
    lag_bytes: int
    epoch: Epoch = NO_EPOCH
    """The newest epoch of which it acknowledged to have the first header."""


class HoldsLog(Protocol):
    """What keeps segments from being deleted: the database."""

    def hold(self, name: str, revision: int) -> None:
        """Hold the log from a revision on, in place of what the name held. Raises HoldRefused."""

    def release_hold(self, name: str) -> None:
        """Let go of what a name holds."""


class MeasuresLog(Protocol):
    """How much of the log there is from where on: ``kvserver.wal.tail.LogTail``."""

    def begin_for(self, revision: int) -> tuple[int, int] | None:
        """Return the segment that contains the revision, or will, and offset 0; None: it is gone."""

    def pending_bytes(self, segment_id: int, offset: int) -> int:
        """Return the durable bytes behind a place, over all segments."""


@dataclasses.dataclass(slots=True, eq=False)
class Slot:
    """One follower. ``Slots`` alone changes it."""

    name: str
    node_id: str
    address: str
    is_kept: bool = True
    """Written down; a candidate that only catches up is not."""
    call: object | None = None
    """The call by which it is shipped the log now; None: it is away."""
    is_streaming: bool = False
    """It has had everything once in this call."""
    ack: Ack | None = None
    """The newest one that counts, of this node id since this node serves."""
    acknowledged: int = 0
    """The highest durable revision that it has acknowledged: it must not have less."""
    went_back: bool = False
    hold: int = 0
    """The revision from which on the log is held; 0: nothing is."""
    held_bytes: int = 0
    segment_id: int = 0
    """The segment in which the hold begins, as it was last written down."""
    heard_s: float = 0.0
    lag_bytes: int = 0


class Slots:
    """All followers of a node. Belongs to the event loop, but for ``write``."""

    def __init__(self, fs: FileSystem, paths: DataPaths, clock: Clock, log: HoldsLog, max_bytes: int, listener: Listener) -> None:
        self._fs = fs
        self._paths = paths
        self._clock = clock
        self._log = log
        self._max_bytes = max_bytes
        self._listener = listener
        self._slots: dict[str, Slot] = {}
        self.is_unwritten = False
        """The file SLOTS does not say what is so."""

    def load(self, oldest_revision: int) -> None:
        """Read who followed before the last end of the process, and hold the log for them again. Raises OSError, Corruption.

        To be called before anything can be deleted.
        """
        if self._fs.exists(self._paths.slots_temporary):
            self._fs.remove(self._paths.slots_temporary)
        if not self._fs.exists(self._paths.slots):
            return
        for fields in _decode(self._paths.slots, read_file(self._fs, self._paths.slots)):
            slot = Slot(fields["name"], fields["node_id"], fields["address"], heard_s=self._clock.monotonic())
            self._slots[slot.name] = slot
            if fields["hold_revision"]:
                self._hold(slot, max(fields["hold_revision"], 1), oldest_revision)

    # -- followers come and go ------------------------------------------------------------------------------------

    def connect(self, identity: NodeIdentity, end: LogEnd, oldest_revision: int, call: object, only_log: bool) -> Slot:
        """Note that a node is shipped the log now, from where its own ends, and hold the log for it.

        Raises ReplicationError (WRONG_PEER) while another node of its name is connected. Whoever was connected under the same
        id is taken over from; see ``Slot.call``.
        """
        name = f"candidate {identity.name}" if only_log else identity.name
        slot = self._slots.get(name)
        if slot is not None and slot.node_id != identity.node_id:
            if slot.call is not None:
                raise _name_taken(slot, identity)
            slot = self._slots[name] = Slot(name, identity.node_id, identity.address, hold=slot.hold)
        if slot is None:
            if len(self._slots) >= MAX_SLOTS:
                raise _too_many()
            slot = self._slots[name] = Slot(name, identity.node_id, identity.address, is_kept=not only_log)
        self.is_unwritten = self.is_unwritten or slot.is_kept
        slot.address, slot.call, slot.is_streaming = identity.address, call, False
        slot.heard_s = self._clock.monotonic()
        revision = end.position.revision
        self._note_progress(slot, revision)
        self._hold(slot, revision, oldest_revision)
        return slot

    def disconnect(self, slot: Slot, call: object) -> None:
        """Note that a call has ended; nothing changes where another one has taken over."""
        if slot.call is not call:
            return
        slot.call, slot.is_streaming = None, False
        slot.heard_s = self._clock.monotonic()
        if not slot.is_kept:
            self._release(slot)
            self._slots.pop(slot.name, None)

    def on_ack(self, slot: Slot, ack: Ack) -> bool:
        """Note how far a follower is; say whether that counts."""
        slot.heard_s = self._clock.monotonic()
        if not self._note_progress(slot, ack.durable):
            return False
        slot.ack = ack
        return True

    def parted(self, slot: Slot, revision: int) -> None:
        """Note that a follower was told to go back to a revision: having less than it acknowledged is no alarm then."""
        slot.acknowledged, slot.went_back, slot.ack = 0, False, None
        self._hold(slot, revision, revision)

    def gone(self, slot: Slot, archived_revision: int) -> None:
        """Note that the log that a follower needs is gone. What the archive lacks is held for it: it may come by that way."""
        self._lose(slot, 0)
        with contextlib.suppress(HoldRefused):
            if archived_revision:
                self._log.hold(_hold_name(slot), archived_revision + 1)
                slot.hold = archived_revision + 1

    def reserve(self, identity: NodeIdentity, revision: int) -> None:
        """Hold the log for a node that is about to be sent a copy of the store as of this revision. Raises HoldRefused."""
        slot = self._slots.get(identity.name)
        if slot is not None and slot.node_id != identity.node_id and slot.call is not None:
            raise _name_taken(slot, identity)
        if slot is None or slot.node_id != identity.node_id:
            slot = Slot(identity.name, identity.node_id, identity.address, hold=0 if slot is None else slot.hold)
        revision += 1  # the copy has the one that it is of, and the log may begin right behind it
        self._log.hold(_hold_name(slot), revision)
        self._slots[identity.name] = slot
        slot.hold, slot.heard_s, self.is_unwritten = revision, self._clock.monotonic(), True
        slot.acknowledged, slot.went_back, slot.ack = 0, False, None  # with the copy it begins anew

    def drop(self, name: str) -> Slot:
        """Forget a follower. Raises InvalidRequest (INVALID_FIELD) for a name that none has."""
        slot = self._slots.pop(name, None)
        if slot is None:
            raise InvalidRequest(Code.INVALID_FIELD, f"there is no slot of the name {name!r}", "list them with: kvctl repl slots")
        self._release(slot)
        self.is_unwritten = True
        self._listener(SlotDropped(name))
        return slot

    def list(self) -> list[SlotInfo]:
        """Return all followers, by name; candidates that only catch up are none."""
        now = self._clock.monotonic()
        return [self._info(slot, now) for _, slot in sorted(self._slots.items()) if slot.is_kept]

    # -- what is held ---------------------------------------------------------------------------------------------

    def follow(self, log: MeasuresLog) -> None:
        """Move the holds to where the followers are, and let go of those that hold too much."""
        for slot in self._slots.values():
            if not slot.hold and slot.call is None:
                continue
            needed = slot.hold if slot.went_back else max(slot.acknowledged, slot.hold)
            begin = log.begin_for(needed) or log.begin_for(needed + 1)
            if begin is None:
                continue
            held_bytes = log.pending_bytes(*begin)
            if held_bytes > self._max_bytes:
                if slot.hold:
                    self._lose(slot, held_bytes)
                continue
            self._hold(slot, needed, needed)
            slot.held_bytes = held_bytes
            if slot.is_kept and begin[0] != slot.segment_id:
                slot.segment_id, self.is_unwritten = begin[0], True

    def record(self) -> bytes:
        """Return what the file SLOTS is to say, and count it as written; the caller says so where it is not."""
        self.is_unwritten = False
        kept = [slot for _, slot in sorted(self._slots.items()) if slot.is_kept]
        fields = [
            {"name": slot.name, "node_id": slot.node_id, "address": slot.address, "hold_revision": slot.hold} for slot in kept
        ]
        return encode_record({"slots": fields})

    def write(self, data: bytes) -> None:
        """Replace the file SLOTS; durable on return. Blocks; on one thread at a time. Raises OSError."""
        fs, temporary = self._fs, self._paths.slots_temporary
        if fs.exists(temporary):
            fs.remove(temporary)
        write_new_file(fs, temporary, data)
        fs.rename(temporary, self._paths.slots)
        fs.sync_dir(self._paths.root)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _note_progress(self, slot: Slot, durable: int) -> bool:
        """Say whether a node has at least what it acknowledged; raise the alarm when it first has less."""
        if durable < slot.acknowledged:
            if not slot.went_back:
                slot.went_back = True
                self._listener(FollowerWentBack(slot.name, slot.node_id, slot.acknowledged, durable))
            return False
        slot.acknowledged, slot.went_back = durable, False
        return True

    def _hold(self, slot: Slot, revision: int, oldest_revision: int) -> None:
        """Hold the log for a follower from a revision on, or from the oldest one that is left; lost where neither can be had."""
        for attempt in (revision, revision + 1, oldest_revision):
            if attempt < revision:
                continue
            try:
                self._log.hold(_hold_name(slot), attempt)
            except HoldRefused:
                continue
            slot.hold = attempt
            return
        self._lose(slot, 0)

    def _lose(self, slot: Slot, held_bytes: int) -> None:
        if slot.hold:
            self._listener(SlotLost(slot.name, slot.hold, held_bytes, self._max_bytes if held_bytes else 0))
            self.is_unwritten = self.is_unwritten or slot.is_kept
        self._release(slot)

    def _release(self, slot: Slot) -> None:
        self._log.release_hold(_hold_name(slot))
        slot.hold = slot.held_bytes = slot.segment_id = 0

    def _info(self, slot: Slot, now_s: float) -> SlotInfo:
        state = (STREAMING if slot.is_streaming else CATCHING_UP) if slot.call is not None else AWAY if slot.hold else LOST
        ack = slot.ack
        return SlotInfo(
            name=slot.name,
            node_id=slot.node_id,
            address=slot.address,
            connected=slot.call is not None,
            state=state,
            received_revision=ack.received if ack else slot.acknowledged,
            durable_revision=ack.durable if ack else slot.acknowledged,
            applied_revision=ack.applied if ack else 0,
            hold_revision=slot.hold,
            held_bytes=slot.held_bytes,
            max_bytes=self._max_bytes,
            silent_ms=round((now_s - slot.heard_s) * 1000),
            lag_bytes=slot.lag_bytes,
            epoch=ack.epoch if ack else NO_EPOCH,
        )


def _hold_name(slot: Slot) -> str:
    return f"slot:{slot.name}"


def _too_many() -> ReplicationError:
    hint = "drop those that are no more; list them with: kvctl repl slots"
    return ReplicationError(Code.WRONG_PEER, f"this node has slots for {MAX_SLOTS} followers, and takes no other", hint)


def _name_taken(slot: Slot, identity: NodeIdentity) -> ReplicationError:
    return ReplicationError(
        Code.WRONG_PEER,
        f"a node named {identity.name!r} follows already, at {slot.address}: its id is {slot.node_id}, not {identity.node_id}",
        "give each node a name of its own with: --name",
    )


def _decode(path: object, data: bytes) -> Iterable[dict[str, Any]]:
    """Return the fields of each slot. Raises Corruption."""
    slots = decode_record(path, data).get("slots")
    kinds: dict[str, Callable[[Any], bool]] = {
        **dict.fromkeys(("name", "node_id", "address"), lambda value: isinstance(value, str)),
        "hold_revision": lambda value: isinstance(value, int) and value >= 0,
    }
    if not isinstance(slots, list):
        raise Corruption(path, 0, "it lists no slots", "remove it; followers that find their log gone take a new copy")
    for fields in slots:
        if not isinstance(fields, dict) or not all(name in fields and check(fields[name]) for name, check in kinds.items()):
            raise Corruption(
                path, 0, "a slot in it is not whole", "remove it; followers that find their log gone take a new copy"
            )
    return slots
