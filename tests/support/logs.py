"""Logs small enough to be damaged byte by byte, written by the real writer on a file system in memory."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

from kvserver.base.clock import Clock
from kvserver.base.events import Event, Listener, ignore
from kvserver.base.fs import FileSystem
from kvserver.base.limits import KIB
from kvserver.base.options import WalOptions
from kvserver.base.paths import DataPaths
from kvserver.base.types import CREATION_REVISION, NO_EPOCH, Epoch, Position
from kvserver.wal import format as fmt
from kvserver.wal.commit_record import encode_put_run
from kvserver.wal.log import LogWriter
from kvserver.wal.recovery import RecoveredLog, recover
from kvserver.wal.space import LogSpace
from support.clocks import ManualClock

PATHS = DataPaths(Path("/data"))
CLUSTER_ID = bytes(range(1, 17))
EPOCH = Epoch(1, 0x1111222233334444)
CREATION = Position(NO_EPOCH, CREATION_REVISION, fmt.creation_chain(CLUSTER_ID))

SMALL = WalOptions(
    segment_bytes=64 * KIB,
    max_group_bytes=2 * KIB,
    max_frame_bytes=4 * KIB,
    ahead_bytes=24 * KIB,
    fill_step_bytes=4 * KIB,
    idle_mark_ms=1,
    space_retry_ms=1,
)
"""The smallest figures that still fit together."""


@dataclasses.dataclass(frozen=True)
class Group:
    """What ``apply`` of recovery is handed for one group."""

    first_revision: int
    commits: int
    payload: bytes


def payload_of(*keys: str, value: bytes = b"value") -> bytes:
    """Return the payload of one blind put for each key."""
    return encode_put_run(1, [key.encode() for key in keys], [value] * len(keys))


def segment_ids() -> Callable[[], int]:
    """Return what gives out ids that differ and repeat in every run."""
    numbers = itertools.count(1)
    return lambda: 0x0123456789ABCDEF ^ (next(numbers) << 40)


class SmallLog:
    """A log of a primary without threads, and what was written into it."""

    def __init__(
        self,
        fs: FileSystem,
        options: WalOptions = SMALL,
        clock: Clock | None = None,
        listener: Listener = ignore,
        new_segment_id: Callable[[], int] | None = None,
    ) -> None:
        self.fs = fs
        self.clock = clock or ManualClock()
        fs.make_dir(PATHS.wal)
        self.space = LogSpace(fs, PATHS, options, listener)
        self.writer = LogWriter(fs, PATHS, self.clock, options, self.space, new_segment_id or segment_ids(), listener)
        self.groups: list[Group] = []

    def begin(self, epoch: Epoch = EPOCH, recovered: RecoveredLog | None = None) -> SmallLog:
        """Create the epoch's first segment, behind what was recovered; return the log itself."""
        if recovered is None:
            self.writer.begin_epoch(CLUSTER_ID, epoch, CREATION, [], 0)
        else:
            self.writer.begin_epoch(CLUSTER_ID, epoch, recovered.position, recovered.segments, recovered.time_ms)
        return self

    def put(self, *keys: str, value: bytes = b"value") -> Group:
        """Write a group of one put for each key."""
        payload = payload_of(*keys, value=value)
        group = Group(self.writer.position.revision + 1, len(keys), payload)
        self.writer.write_group(len(keys), payload)
        self.groups.append(group)
        return group


@dataclasses.dataclass
class Recovery:
    """What a recovery returned, applied and reported."""

    log: RecoveredLog
    groups: list[Group]
    events: list[Event]


def recover_log(fs: FileSystem, known: Position | None = None, begun: Epoch | None = None) -> Recovery:
    """Recover the log of ``PATHS``. Raises what recovery raises."""
    groups: list[Group] = []
    events: list[Event] = []
    log = recover(fs, PATHS, CLUSTER_ID, known, lambda *group: groups.append(Group(*group)), events.append, begun)
    return Recovery(log, groups, events)
