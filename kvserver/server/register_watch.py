"""What a node knows of its cluster's register: looked at every other second, and what was seen last, for the event loop to ask.

A register may hang or be down for hours. It is read on a thread of its own, one look at a time; what was seen last stays known,
and that nothing new was seen is said. A deposed primary learns here, if not sooner, that another epoch has begun.

A look that was asked for has begun behind the question: whoever has written to the register may rely on what it says. One that
takes too long is given up, and no other is begun before it has ended: threads that hang must not become more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from kvserver.base.errors import KvError, ReplicationError
from kvserver.base.register import EpochRecord, NodeRecord, PolicyNote, Register
from kvserver.base.types import Epoch
from kvserver.replication.store_register import StoreRegister
from kvserver.replication.waiting import on_thread, pause

LOG = logging.getLogger("kvserver.server")

LOOK_S = 2.0

ANSWER_S = 15.0
"""A register that has not answered for so long counts as one that cannot be read."""

Seen = tuple[list[EpochRecord], list[NodeRecord], list[PolicyNote]]


class RegisterWatch:
    """Belongs to the event loop."""

    def __init__(self, register: Register, on_look: Callable[[], None]) -> None:
        self._register = register
        self._on_look = on_look
        self._task: asyncio.Task[None] | None = None
        self._joined: NodeRecord | None = None
        self._join_error = ""
        self._one_look = asyncio.Lock()
        """One look at a time: of two, the one that began first must not have the last word."""
        self._reading: asyncio.Future[Seen] | None = None
        self._woken = asyncio.Event()
        self.me: NodeRecord | None = None
        """What the register is to be told of this node; None: nothing yet."""
        self.leads: Epoch | None = None
        """The epoch under which this node is primary; None: it is not."""
        self.records: list[EpochRecord] = []
        self.nodes: list[NodeRecord] = []
        self.notes: list[PolicyNote] = []
        self.error = ""
        """Why the last look saw nothing; empty where it did."""
        self.looked = False
        """Something was seen since the start."""

    async def start(self) -> None:
        """Look once, then again and again. A register that cannot be reached is no reason not to start."""
        await self.look()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Look no more. A look under way goes on on its thread, and tells nobody."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def wake(self) -> None:
        """Look soon, without anybody who waits for it."""
        self._woken.set()

    async def look(self) -> None:
        """Look now."""
        async with self._one_look:
            await self._look()

    async def _look(self) -> None:
        former = self._reading
        if former is not None and not former.done():
            await asyncio.wait([former], timeout=ANSWER_S)
        if former is None or former.done():
            self._reading = asyncio.ensure_future(on_thread(self._read, "register"))
            await asyncio.wait([self._reading], timeout=ANSWER_S)
        reading = self._reading
        assert reading is not None
        if not reading.done():
            self._failed(f"it has not answered for {ANSWER_S:.0f} s")
            return
        try:
            self.records, self.nodes, self.notes = reading.result()
        except (KvError, OSError) as error:
            self._failed(error.message if isinstance(error, KvError) else str(error))
            return
        if self.error:
            LOG.info("the register is reached again")
        self.error, self.looked = "", True
        begun = self.newest_begun()
        if begun is not None and begun.epoch == self.leads and self.me is not None and self.me not in self.nodes:
            # Another node goes by this one's name. The others look there for the primary, so the primary takes it back.
            LOG.warning("another node has joined under the name %s; a node needs a name of its own", self.me.name)
            self._joined = None
        self._on_look()

    def _failed(self, what: str) -> None:
        if what != self.error:
            LOG.warning("the register cannot be read: %s", what)
        self.error = what

    def primary(self) -> NodeRecord | None:
        """Return the node that began the newest epoch that has begun; None where that is not known."""
        begun = self.newest_begun()
        return self.named(begun.node, begun.node_id) if begun is not None else None

    def newest_begun(self) -> EpochRecord | None:
        """Return the newest epoch under which something may have been written; None: there is none, as far as was seen."""
        return next((record for record in reversed(self.records) if record.begun), None)

    def newest_claim(self) -> EpochRecord | None:
        """Return the newest claim, whatever became of it; None: there is none, as far as was seen."""
        return self.records[-1] if self.records else None

    def twin_of(self, epoch: Epoch) -> EpochRecord | None:
        """Return another epoch of the same number; None: there is none, as far as was seen."""
        return next((one for one in self.records if one.epoch.number == epoch.number and one.epoch != epoch), None)

    def named(self, name: str, node_id: str) -> NodeRecord | None:
        """Return what the register knows of a node."""
        return next((node for node in self.nodes if node.name == name and node.node_id == node_id), None)

    def _read(self) -> Seen:
        self._join()
        return self._register.records(), self._register.nodes(), self._register.notes()

    def _join(self) -> None:
        """Have the register know this node. One that can only be read says all the same who is primary."""
        me = self.me
        if me is None or me == self._joined:
            return
        try:
            self._register.join(me)
        except (KvError, OSError) as error:
            if str(error) != self._join_error:
                LOG.warning("the register does not take this node's address: %s", error)
            self._join_error = str(error)
        else:
            self._joined, self._join_error = me, ""

    async def _run(self) -> None:
        while True:
            await pause(asyncio.sleep, LOOK_S, self._woken)
            self._woken.clear()
            try:
                await self.look()
            except Exception:  # what is wrong with one look must not keep a primary from hearing that it was deposed
                LOG.exception("a fault while the register was looked at")


class RememberedRegister(StoreRegister):
    """The register of a follower's start, which only reads: where it cannot be reached, what was seen of it last."""

    def __init__(self, register: StoreRegister, watch: RegisterWatch) -> None:
        self._register = register
        self._watch = watch
        self.id = register.id
        self.url = register.url
        self.founded = register.founded

    def records(self) -> list[EpochRecord]:
        """Return all epochs, as far as they are known."""
        try:
            return self._register.records()
        except (ReplicationError, OSError):
            return self._watch.records
