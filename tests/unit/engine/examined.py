"""A small sound store, written by hand on a disk in memory, and a machine below it, for the checks to look at."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from kvserver.base.environment import Environment
from kvserver.base.identity_file import create_identity
from kvserver.base.register import NodeRecord
from kvserver.base.types import DEFAULT_NAMESPACE, SYSTEM_NAMESPACE, Position
from kvserver.engine.examination.examine import examine
from kvserver.engine.examination.findings import Finding, Level
from kvserver.engine.examination.subject import FileFacts, Subject
from kvserver.replication.local_register import KIND, LocalRegister
from kvserver.storage import rows
from kvserver.storage.rows import Flushed, Statistics
from kvserver.storage.tables import Row
from kvserver.wal import format as fmt
from support.clocks import ManualClock
from support.logs import CLUSTER_ID, CREATION, EPOCH, PATHS, SmallLog
from support.memfs import MemoryFile, MemoryFileSystem

MOUNTS = "20 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n21 20 0:5 / /proc rw - proc proc rw\n"
LIMITS = (
    "Limit                     Soft Limit           Hard Limit           Units     \n"
    "Max file size             unlimited            unlimited            bytes     \n"
    "Max open files            65536                65536                files     \n"
)
OWNER = 1000
BUCKET_REVISIONS = 4
SYSTEM_ROWS = {b"next-namespace-id": (3).to_bytes(4, "little"), b"namespace/team": (2).to_bytes(4, "little")}


class FakeMachine:
    """What the operating system would say."""

    def __init__(self) -> None:
        self.uid = OWNER
        self.files: dict[Path, FileFacts] = {}
        self.modes: dict[Path, int] = {}
        self.free_and_all_inodes = (1_000_000, 2_000_000)

    def user(self) -> int:
        return self.uid

    def facts(self, path: Path) -> FileFacts:
        return self.files.get(path, FileFacts(OWNER, self.modes.get(path, 0o700), (0xFE, 0), 77))

    def inodes(self, path: Path) -> tuple[int, int]:
        return self.free_and_all_inodes


class RowReader:
    """A ``TableReader`` over rows in memory; ``damage`` is raised by every read."""

    def __init__(self, held: dict[bytes, bytes], damage: Exception | None = None) -> None:
        self.held = held
        self.damage = damage
        self.closed = False

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.held.get(key) for key in keys]

    def rows(self, start: bytes, end: bytes, limit: int, max_bytes: int = 0, reverse: bool = False) -> list[Row]:
        if self.damage is not None:
            raise self.damage
        found = sorted(key for key in self.held if start <= key and (not end or key < end))
        return [(key, self.held[key]) for key in found[:limit]]

    def close(self) -> None:
        self.closed = True


@dataclasses.dataclass
class Scene:
    """Revisions 2 to 5, 6 to 9 and 10 to 13 in a segment each, tables up to 9, and a clean stop."""

    fs: MemoryFileSystem = dataclasses.field(default_factory=MemoryFileSystem)
    clock: ManualClock = dataclasses.field(default_factory=ManualClock)
    machine: FakeMachine = dataclasses.field(default_factory=FakeMachine)
    rows: dict[bytes, bytes] = dataclasses.field(default_factory=dict)
    deep: bool = True
    probe_disk: bool = False
    open_error: Exception | None = None
    read_error: Exception | None = None
    readers: list[RowReader] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        env = Environment(self.fs, self.clock, lambda length: CLUSTER_ID[:length])
        self.fs.plant(PATHS.lock, b"")
        create_identity(env, PATHS, "tester", KIND)
        register = LocalRegister(self.fs, PATHS)
        register.claim(EPOCH, NodeRecord("tester", "tester", ""), self.clock.now_ms())
        register.record_branch(EPOCH, CREATION)
        log = self.log = SmallLog(self.fs, clock=self.clock).begin()
        register.record_begun(EPOCH)
        self.positions: list[Position] = []
        for number in range(6):
            if number in (2, 4):
                log.writer.rotate()
            log.put(f"a{number}", f"b{number}")
            self.positions.append(log.writer.position)
        log.writer.close()
        log.space.close()
        for name, text in (("mountinfo", MOUNTS), ("limits", LIMITS), ("cgroup", "0::/kv\n")):
            self.kernel(f"/proc/self/{name}", text)
        self.kernel("/proc/meminfo", "MemTotal:       16000000 kB\n")
        self._fill_tables()

    def _fill_tables(self) -> None:
        self.fs.plant(PATHS.tables / "CURRENT", b"MANIFEST-000001\n")
        self.fs.make_dir(PATHS.building)
        keys = [f"{letter}{number}".encode() for number in range(4) for letter in "ab"]
        held = {
            rows.data_key(DEFAULT_NAMESPACE, key): rows.encode_version(2 + at, 2 + at, 1, b"v") for at, key in enumerate(keys)
        }
        held |= {rows.data_key(SYSTEM_NAMESPACE, key): rows.encode_version(2, 2, 1, value) for key, value in SYSTEM_ROWS.items()}
        held[rows.statistics_key(DEFAULT_NAMESPACE)] = rows.encode_statistics(Statistics(8, 16, 8))
        held[rows.history_key(1, DEFAULT_NAMESPACE, b"a0", 5)] = rows.encode_version(2, 2, 1, b"v")
        held[rows.time_key(9)] = rows.encode_time(self.clock.now_ms())
        self.rows |= held
        self.flush_mark(self.positions[3])

    def kernel(self, path: str, text: str) -> None:
        """Let a file of the kernel say this."""
        self.fs.plant(Path(path), text.encode())

    def flush_mark(self, position: Position, cluster_id: bytes = CLUSTER_ID) -> None:
        """Let the tables say that they are so far."""
        flushed = Flushed(cluster_id, position, self.clock.now_ms(), BUCKET_REVISIONS)
        self.rows[rows.FLUSHED_KEY] = rows.encode_flushed(flushed)

    def oldest(self, revision: int) -> None:
        """Let this be the oldest readable revision."""
        row = rows.encode_version(9, 9, 1, revision.to_bytes(8, "little"))
        self.rows[rows.data_key(SYSTEM_NAMESPACE, b"oldest-readable-revision")] = row

    def segments(self) -> list[Path]:
        """Return the log's files, oldest first."""
        return [PATHS.wal / name for name in self.fs.list_dir(PATHS.wal)]

    def change(self, path: Path, how: Callable[[bytes], bytes]) -> None:
        """Change what a file holds."""
        self.fs.plant(path, how(self.fs.contents()[path]))

    def remove(self, *paths: Path) -> None:
        """Remove files."""
        for path in paths:
            self.fs.remove(path)

    def remove_below(self, folder: Path) -> None:
        """Remove all files below a folder."""
        self.remove(*(path for path in self.fs.contents() if path.is_relative_to(folder)))

    def tear_end(self) -> None:
        """Lose the last seal and half of the group before it."""
        self.change(self.segments()[-1], lambda data: data[: -fmt.SEAL_FRAME_LENGTH - 20] + b"\1" * 20)

    def take_other_history(self) -> None:
        """Let the tables be at the same revision by another history."""
        epoch, revision, _ = self.positions[3]
        self.flush_mark(Position(epoch, revision, bytes(16)))

    def slow_disk(self, sync_ms: int) -> None:
        """Let a sync take so long, and ask for the probe."""
        self.probe_disk = True
        create = self.fs.create

        def slow_create(path: Path) -> MemoryFile:
            file = create(path)
            datasync = file.datasync

            def slow_datasync() -> None:
                self.clock.advance_ms(sync_ms)
                datasync()

            file.datasync = slow_datasync  # type: ignore[method-assign]
            return file

        self.fs.create = slow_create  # type: ignore[method-assign]

    def open_tables(self, path: Path) -> RowReader:
        """Open the tables, as the module of the tables would."""
        if self.open_error is not None:
            raise self.open_error
        self.readers.append(RowReader(self.rows, self.read_error))
        return self.readers[-1]

    def subject(self) -> Subject:
        """Return it as the checks see it."""
        return Subject(
            self.fs,
            PATHS,
            self.clock,
            self.machine,
            {KIND: LocalRegister},
            self.open_tables,
            deep=self.deep,
            probe_disk=self.probe_disk,
        )

    def examine(self) -> list[Finding]:
        """Return what all checks find."""
        return examine(self.subject())


def worse_than_ok(findings: list[Finding]) -> list[Finding]:
    """Return the findings that somebody has to read."""
    return [finding for finding in findings if finding.level is not Level.OK]
