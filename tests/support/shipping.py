"""A node that ships its log, and followers of it, in one task: a real log in memory, no threads, time that a test moves.

node = ShippingNode()
stream = await node.follow()      # a follower with an empty log
node.put("a")
await node.settle()
stream.chunks                     # what it was sent
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

from kvserver.base.environment import Environment
from kvserver.base.errors import KvError
from kvserver.base.events import Event
from kvserver.base.fs import FileSystem
from kvserver.base.options import WalOptions
from kvserver.base.types import Epoch, LogEnd, Position
from kvserver.engine.obsolete_files import FLUSH, Holds, SegmentDeleter
from kvserver.engine.worker import Worker
from kvserver.replication.messages import Accepted, Ack, Chunk, Envelope, Hello, NodeIdentity
from kvserver.replication.shipper import Shipping, ShippingOptions, Standing
from kvserver.wal.node_log import NodeLog
from kvserver.wal.tail import LogTail
from support.clocks import ManualClock
from support.logs import CLUSTER_ID, CREATION, EPOCH, PATHS, SMALL, SmallLog
from support.memfs import MemoryFileSystem

TURNS = 60
"""So many turns of the loop are enough for everything that can happen without time to have happened."""


class InlineWorker(Worker):
    """Does its work where it is asked, and tells of it in a later turn of the loop, as a thread would."""

    def __init__(self) -> None:
        super().__init__("inline", lambda callback: asyncio.get_running_loop().call_soon(callback) and None)

    def start(self) -> None:
        """Start nothing."""

    def run(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """Do it now."""
        super().run(work, done)
        self.run_once()

    def stop(self) -> None:
        """Stop nothing."""


class _Timer:
    def __init__(self) -> None:
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Timers:
    """Timers that go off when a test moves the time."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._order = itertools.count()
        self._heap: list[tuple[float, int, _Timer, Callable[[], None]]] = []

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> _Timer:
        """Call back when so much time has passed."""
        timer = _Timer()
        heapq.heappush(self._heap, (self._clock.monotonic() + delay_s, next(self._order), timer, callback))
        return timer

    def due(self) -> None:
        """Call whatever is due."""
        while self._heap and self._heap[0][0] <= self._clock.monotonic() + 1e-9:
            _, _, timer, callback = heapq.heappop(self._heap)
            if not timer.is_cancelled:
                callback()

    @property
    def count(self) -> int:
        """Return how many have yet to go off."""
        return sum(not timer.is_cancelled for _, _, timer, _ in self._heap)


class FakeDatabase:
    """What shipping needs of a database, over a log."""

    def __init__(self, fs: FileSystem, log: NodeLog) -> None:
        self._fs = fs
        self.log = log
        self.holds = Holds(log.end.position.revision + 1, log.first_revision())
        self._observers: list[Callable[[], None]] = []

    def log_end(self) -> LogEnd:
        """Return where the log durably ends."""
        return self.log.end

    def tail(self) -> LogTail:
        """Return a reader."""
        return LogTail(self._fs, PATHS, self.log)

    def observe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back when told."""
        self._observers.append(callback)
        return lambda: self._observers.remove(callback)

    def hold(self, name: str, revision: int) -> None:
        """Hold the log."""
        self.holds.set(name, revision)

    def release_hold(self, name: str) -> None:
        """Let go."""
        self.holds.release(name)

    def moved(self) -> None:
        """Tell the observers."""
        for callback in list(self._observers):
            callback()


def identity(name: str, node_id: str = "") -> NodeIdentity:
    """Return who a node of the scene is."""
    return NodeIdentity(CLUSTER_ID, name, node_id or f"id-{name}", f"{name}:7400", "folder:x")


class Stream:
    """One call of a follower, and what it was sent."""

    def __init__(self, shipping: Shipping, hello: Hello) -> None:
        self.hello = hello
        self.envelopes: list[Envelope] = []
        self.error: BaseException | None = None
        self.is_paused = False
        self._acks: asyncio.Queue[Ack | None] = asyncio.Queue()
        self._task = asyncio.create_task(self._run(shipping))
        self._go_on = asyncio.Event()
        self._go_on.set()

    @property
    def has_ended(self) -> bool:
        """Say whether the call is over."""
        return self._task.done()

    @property
    def chunks(self) -> list[Chunk]:
        """Return the chunks it was sent."""
        return [envelope.body for envelope in self.envelopes if isinstance(envelope.body, Chunk)]

    @property
    def accepted(self) -> Accepted:
        """Return how it was accepted."""
        body = self.envelopes[0].body
        assert isinstance(body, Accepted)
        return body

    @property
    def sent_bytes(self) -> int:
        """Return the bytes of the chunks."""
        return sum(len(chunk.data) for chunk in self.chunks)

    def pause(self) -> None:
        """Take no envelope for now."""
        self._go_on.clear()

    def go_on(self) -> None:
        """Take them again."""
        self._go_on.set()

    def ack(self, durable: int, durable_bytes: int | None = None, epoch: Epoch = EPOCH, **more: int) -> None:
        """Acknowledge."""
        sent = self.sent_bytes if durable_bytes is None else durable_bytes
        self._acks.put_nowait(Ack(epoch, more.get("received", durable), durable, more.get("applied", durable), sent))

    def finish(self) -> None:
        """Send no more acknowledgements: the end, in order."""
        self._acks.put_nowait(None)

    async def hang_up(self) -> None:
        """End the call as a broken connection does."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, shipping: Shipping) -> None:
        envelopes = shipping.ship(self.hello, self._read_acks())
        try:
            async for envelope in envelopes:
                self.envelopes.append(envelope)
                await self._go_on.wait()
        except KvError as error:
            self.error = error
        finally:
            await envelopes.aclose()

    async def _read_acks(self) -> AsyncIterator[Ack]:
        while (ack := await self._acks.get()) is not None:
            yield ack


class ShippingNode:
    """A primary with a small log, and its shipping."""

    def __init__(
        self,
        fs: FileSystem | None = None,
        options: ShippingOptions | None = None,
        wal: WalOptions = SMALL,
        log: NodeLog | None = None,
    ) -> None:
        self.fs = fs or MemoryFileSystem()
        self.clock = ManualClock()
        self.timers = Timers(self.clock)
        self.events: list[Event] = []
        self.fs.make_dir(PATHS.root)
        self.written = SmallLog(self.fs, wal, self.clock).begin() if log is None else None
        self.database = FakeDatabase(self.fs, log if self.written is None else self.written.writer)  # type: ignore[arg-type]
        self.epochs: list[tuple[Epoch, Position]] = [(EPOCH, CREATION)]
        self.standing = Standing(EPOCH, EPOCH, 1, 0, "a:7400")
        self.acks: list[tuple[str, Ack]] = []
        self.higher: list[Epoch] = []
        self.shipping = Shipping(
            Environment(fs=self.fs, clock=self.clock),
            PATHS,
            self.database,
            identity("a"),
            lambda: list(self.epochs),
            lambda: self.standing,
            lambda callback: None,
            options,
            self.events.append,
            worker=InlineWorker(),
            call_later=self.timers.call_later,
        )
        self.shipping.on_ack = lambda name, node_id, ack: self.acks.append((name, ack))
        self.shipping.on_higher_epoch = self.higher.append
        self.shipping.start()

    @property
    def revision(self) -> int:
        """Return the last durable revision."""
        return self.database.log_end().position.revision

    def put(self, *keys: str, value: bytes = b"value", show: bool = True) -> None:
        """Write a group, make it visible, and tell who wants to know."""
        assert self.written is not None
        self.written.put(*keys, value=value)
        if show:
            self.standing = self.standing._replace(visible=self.revision)
        self.database.moved()

    def rotate(self) -> None:
        """Seal the open segment."""
        assert self.written is not None
        self.written.space.step()
        self.written.writer.rotate()
        self.database.moved()

    def delete_obsolete(self) -> int:
        """Remove what nothing holds, all of it being in tables; return how many segments."""
        self.database.holds.set(FLUSH, self.revision + 1)
        deleter = SegmentDeleter(self.fs, PATHS, self.database.log, self.database.holds)  # type: ignore[arg-type]
        return len(deleter.delete_obsolete())

    def hello(self, name: str = "b", end: LogEnd | None = None, **changes: Any) -> Hello:
        """Return how a follower introduces itself; without an end, one with an empty store."""
        end = end or LogEnd(CREATION, 0, 0)
        return Hello(identity(name), EPOCH, end, list(self.epochs))._replace(**changes)

    async def follow(self, name: str = "b", end: LogEnd | None = None, **changes: Any) -> Stream:
        """Have a follower call."""
        stream = Stream(self.shipping, self.hello(name, end, **changes))
        await self.settle()
        return stream

    async def settle(self) -> None:
        """Let everything happen that needs no time."""
        for _ in range(TURNS):
            await asyncio.sleep(0)

    async def pass_ms(self, ms: float) -> None:
        """Let time pass."""
        self.clock.advance_ms(ms)
        self.timers.due()
        await self.settle()
