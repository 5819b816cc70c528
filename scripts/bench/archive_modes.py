"""Archives sealed segments in one of five ways, beside an event loop that would serve writes, and says what it cost.

    archive_modes.py MODE LEVEL SEGMENTS_DIR ARCHIVE_DIR

The first four are the steps by which such a thing grows; the last is the server's own archiver, with its checks, its reading
back and its manifest. Prints seconds, how long the loop was held up in all and at most, processor seconds, and the memory
above idle.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import sys
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import zstandard

from archive_segments import CLUSTER_ID
from kvserver.archive.archiver import Archiver, ArchiverOptions
from kvserver.archive.folder_store import FolderStore
from kvserver.archive.names import ArchiveNames
from kvserver.archive.records import ClusterRecord
from kvserver.archive.segment_format import segment_id_of
from kvserver.archive.segment_writing import CompressOptions, SegmentCompressor
from kvserver.base.environment import Environment
from kvserver.base.events import ignore
from kvserver.base.fs import OsFileSystem, opened
from kvserver.base.paths import DataPaths
from kvserver.base.types import Epoch, Position
from kvserver.wal.reader import SegmentReader
from kvserver.wal.recovery import list_segments
from kvserver.wal.segment import SegmentInfo

WORKERS = 2
TICK_S = 0.001
FS = OsFileSystem()
NAMES = ArchiveNames(CLUSTER_ID)


def segments_of(root: Path) -> list[SegmentInfo]:
    """Return the sealed segments below a folder, as a log knows them."""
    found = []
    paths = DataPaths(root)
    for name in list_segments(FS, paths):
        reader = SegmentReader(paths.segment(name), paths.segment(name).read_bytes())
        for _ in reader.frames():
            pass
        if reader.end.value == "sealed" and reader.groups:
            found.append(SegmentInfo(name, reader.path, reader.header, reader.position, len(reader.data)))
    return found


def compress_whole(store: FolderStore, level: int, info: SegmentInfo) -> None:
    """Compress a segment in one piece and put it: no checks, no reading back."""
    packed = zstandard.ZstdCompressor(level=level, write_checksum=True).compress(info.path.read_bytes())
    store.create(NAMES.segment(segment_id_of(info.header, info.end, info.length_bytes)), [packed])


def compress_streaming(store: FolderStore, level: int, info: SegmentInfo) -> None:
    """Compress a segment block by block, checking its frames, and read back what was put."""
    with opened(FS.open(info.path)) as file:
        compressor = SegmentCompressor(
            file, info.header, info.end, info.length_bytes, info.path.name, CompressOptions(level=level)
        )
        name = NAMES.segment(segment_id_of(info.header, info.end, info.length_bytes))
        store.create(name, compressor.parts())
    for _ in store.stream(name):
        pass


class Loop:
    """An event loop's beat: how late its timers fire while something else goes on."""

    def __init__(self) -> None:
        self.late_s = 0.0
        self.longest_s = 0.0

    async def beat(self) -> None:
        """Sleep and see, until cancelled."""
        while True:
            begun = time.perf_counter()
            await asyncio.sleep(TICK_S)
            late = time.perf_counter() - begun - TICK_S
            if late > TICK_S:
                self.late_s += late
                self.longest_s = max(self.longest_s, late)


@contextlib.asynccontextmanager
async def beating(loop: Loop) -> AsyncIterator[None]:
    """Keep the beat going."""
    task = asyncio.create_task(loop.beat())
    await asyncio.sleep(0.05)
    try:
        yield
    finally:
        await asyncio.sleep(0)
        task.cancel()


async def by_mode(mode: str, level: int, store: FolderStore, segments: list[SegmentInfo]) -> None:
    """Archive the segments in one of the first four ways."""
    if mode == "blocking":
        for info in segments:
            compress_whole(store, level, info)
            await asyncio.sleep(0)
    elif mode == "off the loop":
        for info in segments:
            await asyncio.to_thread(compress_whole, store, level, info)
    else:
        work: Callable[[FolderStore, int, SegmentInfo], None] = compress_whole if mode == "parallel" else compress_streaming
        gate = asyncio.Semaphore(WORKERS)

        async def one(info: SegmentInfo) -> None:
            async with gate:
                await asyncio.to_thread(work, store, level, info)

        await asyncio.gather(*map(one, segments))


class Source:
    """Sealed segments as the archiver sees them in a server."""

    def __init__(self, segments: list[SegmentInfo]) -> None:
        self._segments = segments

    def sealed(self) -> list[SegmentInfo]:
        """Return them."""
        return self._segments

    def visible_revision(self) -> int:
        """Return the newest revision."""
        return self._segments[-1].end.revision

    def epochs(self) -> list[tuple[Epoch, Position]]:
        """Return each epoch with its begin."""
        header = self._segments[0].header
        return [(header.epoch, header.branch)]

    def foreign_epochs(self) -> frozenset[Epoch]:
        """Return none: there is one node."""
        return frozenset()

    def on_archived(self, position: Position) -> None:
        """Hear how far the archive is."""

    def on_pressure(self, *told: object) -> None:
        """Hear how far behind it is."""

    def free_bytes(self) -> int:
        """Return the room on the disk."""
        return 1 << 40


async def queued(level: int, store: FolderStore, segments: list[SegmentInfo]) -> None:
    """Archive the segments with the server's archiver."""
    cluster = ClusterRecord(CLUSTER_ID, b"", None, "bench", 0)
    options = ArchiverOptions(workers=WORKERS, level=level)
    archiver = Archiver(Environment(), lambda: store, NAMES, Source(segments), options, ignore, "bench", cluster)
    archiver.start()
    await asyncio.to_thread(archiver.stop, 120.0)  # which archives what is sealed
    if archiver.figures().archived != segments[-1].end:
        raise SystemExit("the archiver did not end in time")


def peak_mib() -> float:
    """Return the process's highest resident memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def cpu_s() -> float:
    """Return the processor time of the process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def main() -> None:
    """Archive, and print what it cost."""
    mode, level, root, target = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
    # In a child, so that the bytes read to know the segments do not count as this process's memory.
    segments = read_beside(root)
    store = FolderStore(FS, target)
    loop = Loop()
    idle_mib, idle_cpu_s = peak_mib(), cpu_s()
    async with beating(loop):
        begun = time.perf_counter()
        if mode == "queued":
            await queued(level, store, segments)
        else:
            await by_mode(mode, level, store, segments)
        seconds = time.perf_counter() - begun
    figures = {
        "seconds": seconds,
        "late_ms": loop.late_s * 1000,
        "longest_ms": loop.longest_s * 1000,
        "cpu_s": cpu_s() - idle_cpu_s,
        "above_idle_mib": peak_mib() - idle_mib,
        "stored_bytes": sum(found.length for found in store.list(NAMES.segments)),
    }
    print(json.dumps(figures))


def read_beside(root: Path) -> list[SegmentInfo]:
    """Return the segments, read by another process."""
    with ProcessPoolExecutor(1) as pool:
        return pool.submit(segments_of, root).result()


if __name__ == "__main__":
    asyncio.run(main())
