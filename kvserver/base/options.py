"""What can be set, floor by floor: frozen values with defaults, checked when they are made."""

from __future__ import annotations

import dataclasses

from kvserver.base.limits import KIB, MAX_GROUP_BYTES, MAX_LOG_FRAME_BYTES, MIB


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


@dataclasses.dataclass(frozen=True, slots=True)
class WalOptions:
    """How the log is cut into segments and groups, and how much of its space is made ready ahead of need."""

    segment_bytes: int = 64 * MIB
    seal_age_ms: int = 60_000
    """A segment that holds commits is sealed at this age; 0: never by age."""
    max_group_bytes: int = MAX_GROUP_BYTES
    max_frame_bytes: int = MAX_LOG_FRAME_BYTES
    ahead_bytes: int = 8 * MIB
    """Zero-filled and synced before it is needed, in the open segment and in the next one."""
    fill_step_bytes: int = 1 * MIB
    idle_mark_ms: int = 100
    """After this much idleness an empty frame carries the durable revision forward."""
    space_retry_ms: int = 1_000
    """How long to wait before space that could not be had is asked for again."""
    group_window_ms: int = 4
    """After a group of many small submissions the next one begins so long after it; 0: at once (docs/adr/0011)."""
    grouping: bool = True
    """Off: every submission gets a sync of its own; for comparison only."""

    def __post_init__(self) -> None:
        """Refuse values that do not fit together with ValueError."""
        _require(self.max_group_bytes <= self.max_frame_bytes, "max_group_bytes must not exceed max_frame_bytes")
        _require(self.ahead_bytes >= self.max_frame_bytes + 8 * KIB, "ahead_bytes must exceed a frame by 8 KiB")
        _require(self.segment_bytes >= self.ahead_bytes, "segment_bytes must be at least ahead_bytes")
        _require(self.segment_bytes >= 2 * self.max_frame_bytes + 8 * KIB, "segment_bytes must hold two frames and 8 KiB")
        _require(self.segment_bytes < 1 << 32, "segment_bytes must stay below 4 GiB")
        _require(self.fill_step_bytes >= 4 * KIB, "fill_step_bytes must be at least 4 KiB")


@dataclasses.dataclass(frozen=True, slots=True)
class PipelineOptions:
    """How much may be under way before a write waits, and before it is refused."""

    max_unwritten_bytes: int = 6 * MIB
    """Encoded bytes handed to the log and not yet durable; above it submissions wait in line."""
    max_waiting: int = 20_000
    """Submissions in that line; above it they are refused."""
    max_waiting_bytes: int = 64 * MIB
    max_unreplicated: int = 20_000
    """Answers that are durable here and wait for the policy's quorum; above it submissions wait in line."""
    max_unreplicated_bytes: int = 64 * MIB
    """The same for bytes of commits and answers."""
    memory_limit_bytes: int = 256 * MIB
    """What is not in tables yet may occupy, bookkeeping included; above it writes wait in line. 0: no limit."""
    overlap: bool = True
    """Off: nothing is evaluated or inserted while a sync is under way; for comparison only."""

    def __post_init__(self) -> None:
        """Refuse values that do not fit together with ValueError."""
        _require(self.max_unwritten_bytes >= MAX_LOG_FRAME_BYTES, "max_unwritten_bytes must hold one frame")
        _require(self.max_waiting >= 1, "max_waiting must be at least 1")
        _require(self.max_unreplicated >= 1, "max_unreplicated must be at least 1")
        _require(self.max_unreplicated_bytes >= 1, "max_unreplicated_bytes must be at least 1")


@dataclasses.dataclass(frozen=True, slots=True)
class TableOptions:
    """When memory is written into tables, how tables are kept, and for how long what was replaced can still be read."""

    memtable_bytes: int = 64 * MIB
    """Bytes of keys, values and bookkeeping at which a memtable is frozen and flushed."""
    memtable_keys: int = 160_000
    """Keys in one namespace at which it is: a larger dict stalls the event loop when it grows."""
    block_cache_bytes: int = 384 * MIB
    """Memory for parts of tables that are read often, their indexes and filters included."""
    max_level0_files: int = 24
    """Tables not merged yet above which nothing is flushed, and so, in time, writes wait."""
    max_pending_compaction_bytes: int = 16 * 1024 * MIB
    """The same for bytes that wait to be merged."""
    history_ms: int = 3_600_000
    """A revision can be read at for so long; 0: no bound by time."""
    history_revisions: int = 10_000_000
    """... and while it is one of so many newest ones; 0: no bound by number."""
    bucket_revisions: int = 65_536
    """History is given up in steps of so many revisions. Fixed when a store gets its first table."""
    flush_retry_ms: int = 1_000
    """How long to wait after a flush that failed."""

    def __post_init__(self) -> None:
        """Refuse values that do not fit together with ValueError."""
        _require(self.memtable_bytes >= 1 * KIB, "memtable_bytes must be at least 1 KiB")
        _require(self.memtable_keys >= 1, "memtable_keys must be at least 1")
        _require(self.max_level0_files >= 8, "max_level0_files must be at least 8, or merging is never ahead of it")
        _require(self.bucket_revisions >= 1, "bucket_revisions must be at least 1")
        _require(self.history_ms >= 0 and self.history_revisions >= 0, "history cannot be kept for less than no time")


@dataclasses.dataclass(frozen=True, slots=True)
class EngineOptions:
    """Everything that the database is opened with."""

    wal: WalOptions = dataclasses.field(default_factory=WalOptions)
    pipeline: PipelineOptions = dataclasses.field(default_factory=PipelineOptions)
    tables: TableOptions = dataclasses.field(default_factory=TableOptions)
    node_name: str = "node"
