"""What a node knows of its cluster's register: looked at every other second, and what was seen last, for the event loop to ask.

A register may hang or be down for hours. It is read on a thread, one look at a time; what was seen last stays known, and since
when nothing new was seen is said. A deposed primary learns here, if not sooner, that another epoch has begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from kvserver.base.errors import KvError, ReplicationError
from kvserver.base.register import EpochRecord, NodeRecord, PolicyNote, Register
from kvserver.replication.store_register import StoreRegister

LOG = logging.getLogger("kvserver.server")

LOOK_S = 2.0


class RegisterWatch:
    """Belongs to the event loop."""

    def __init__(self, register: Register, on_look: Callable[[], None]) -> None:
        self._register = register
        self._on_look = on_look
        self._task: asyncio.Task[None] | None = None
        self._joined: NodeRecord | None = None
        self._one_look = asyncio.Lock()
        """One look at a time: of two, the one that began first must not have the last word."""
        self.me: NodeRecord | None = None
        """What the register is to be told of this node; None: nothing yet."""
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

    async def look(self) -> None:
        """Look now."""
        async with self._one_look:
            await self._look()

    async def _look(self) -> None:
        try:
            self.records, self.nodes, self.notes = await asyncio.to_thread(self._read)
            if self.error:
                LOG.info("the register is reached again")
            self.error, self.looked = "", True
        except (KvError, OSError) as error:
            what = error.message if isinstance(error, KvError) else str(error)
            if what != self.error:
                LOG.warning("the register cannot be read: %s", what)
            self.error = what
            return
        self._on_look()

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

    def named(self, name: str, node_id: str) -> NodeRecord | None:
        """Return what the register knows of a node."""
        return next((node for node in self.nodes if node.name == name and node.node_id == node_id), None)

    def _read(self) -> tuple[list[EpochRecord], list[NodeRecord], list[PolicyNote]]:
        me = self.me
        if me is not None and me != self._joined:
            self._register.join(me)
            self._joined = me
        return self._register.records(), self._register.nodes(), self._register.notes()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            await self.look()


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
