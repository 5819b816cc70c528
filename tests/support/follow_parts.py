"""Parts of the scene of followers: time that passes when it is told to, and segments put into an archive."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
from collections.abc import Callable
from typing import Any

from kvserver.archive.manifest import EpochManifest
from kvserver.archive.names import ArchiveNames
from kvserver.archive.records import ClusterRecord, encode_cluster
from kvserver.archive.segment_writing import CompressOptions, SegmentCompressor
from kvserver.archive.store import ObjectExists, Store
from kvserver.base.fs import FileSystem, opened
from kvserver.engine.database import Database
from support.clocks import ManualClock


class Times:
    """Sleeps and timers, in the order in which they end."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self._order = itertools.count()
        self._heap: list[tuple[float, int, Callable[[], None], list[bool]]] = []

    async def sleep(self, seconds: float) -> None:
        """Wait until so much time has passed."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.call_later(seconds, lambda: None if future.done() else future.set_result(None))
        await future

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Any:
        """Call back when so much time has passed."""
        alive = [True]
        heapq.heappush(self._heap, (self.clock.monotonic() + seconds, next(self._order), callback, alive))

        class Timer:
            def cancel(self) -> None:
                alive[0] = False

        return Timer()

    def advance(self) -> None:
        """Let time pass until the next one ends."""
        while self._heap:
            at, _, callback, alive = heapq.heappop(self._heap)
            if alive[0]:
                self.clock.advance_ms(max(0.0, at - self.clock.monotonic()) * 1000)
                callback()
                return


def archive_sealed(database: Database, fs: FileSystem, store: Store, clock: ManualClock) -> None:
    """Put all sealed segments of a store into an archive, and list them."""
    cluster_id = database.identity.cluster_id
    names = ArchiveNames(cluster_id)
    with contextlib.suppress(ObjectExists):
        store.create(names.cluster, [encode_cluster(ClusterRecord(cluster_id, b"", None, "tester", clock.now_ms()))])
    manifest: EpochManifest | None = None
    for info in database.sealed_segments():
        epoch, branch = info.header.epoch, info.header.branch
        if manifest is None or manifest.epoch != epoch:
            if manifest is not None:
                manifest.close(epoch, branch)
            manifest = EpochManifest.open(store, names, epoch, branch, "tester", clock)
        with opened(fs.open(info.path)) as file:
            options = CompressOptions(block_bytes=4096)
            compressor = SegmentCompressor(file, info.header, info.end, info.length_bytes, info.path, options)
            parts = list(compressor.parts())
        with contextlib.suppress(ObjectExists):
            store.create(names.segment(compressor.entry.id), parts)
            manifest.append([compressor.entry])
