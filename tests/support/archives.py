"""Small archives that are real in every byte: segments, manifests, backups, forks, gaps; quick to make on a store in memory.

    scene = ArchiveScene()              # a store's archive, at its creation
    scene.begin()                       # epoch 1
    scene.segment(2, 1)                 # a sealed segment of two groups, of two commits and of one: revisions 2 to 4
    backup = scene.backup()             # at the end of the log
    branch = scene.position
    scene.segment(3)
    scene.begin(branch=branch)          # epoch 2 parts before the last segment
    fork = scene.fork(branch)           # another store's prefix in the same archive

Each group is one second later than the one before; ``scene.time_of`` tells when each revision was committed.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence

from kvserver.archive.manifest import EpochManifest
from kvserver.archive.names import ArchiveNames, backup_id
from kvserver.archive.records import (
    BackupFile,
    BackupRecord,
    ClusterRecord,
    Gap,
    PointRecord,
    SegmentEntry,
    decode_manifest,
    encode_backup,
    encode_cluster,
    encode_manifest,
    encode_point,
)
from kvserver.archive.store import Store
from kvserver.base.types import CREATION_REVISION, NO_EPOCH, Epoch, Position
from kvserver.wal import format as fmt
from support.clocks import ManualClock
from support.logs import CLUSTER_ID
from support.memory_store import MemoryStore
from support.segments import RawSegment

BEGIN_MS = 1_750_000_000_000
GROUP_MS = 1000
"""From one group to the next."""


class ArchiveScene:
    """The archive of one cluster, and where its log stands."""

    def __init__(
        self, store: Store | None = None, cluster_id: bytes = CLUSTER_ID, parent: tuple[bytes, Position] | None = None
    ) -> None:
        """Create the cluster's record; ``parent``: the store that it is a fork of, and where."""
        self.store: Store = store if store is not None else MemoryStore()
        self.cluster_id = cluster_id
        self.names = ArchiveNames(cluster_id)
        self.clock = ManualClock()
        self.now_ms = BEGIN_MS
        self.position = parent[1] if parent else Position(NO_EPOCH, CREATION_REVISION, fmt.creation_chain(cluster_id))
        self.epochs: list[tuple[Epoch, Position]] = []
        """All that were begun, each with its branch."""
        self.entries: list[SegmentEntry] = []
        """All that were listed, in the order of writing."""
        self.frame_ends: dict[int, Position] = {}
        """The position at the end of each group, by its last revision; of the newest epoch that has it."""
        self.time_of: dict[int, int] = {}
        """When each revision was committed; of the newest epoch that has it."""
        self.raw: dict[SegmentEntry, bytes] = {}
        """Each segment as it lay in ``wal/``."""
        self._ids = itertools.count(1)
        self._previous_id = 0
        self._manifest: EpochManifest | None = None
        record = ClusterRecord(cluster_id, parent[0] if parent else b"", parent[1] if parent else None, "tester", BEGIN_MS)
        self.store.create(self.names.cluster, [encode_cluster(record)])

    @property
    def epoch(self) -> Epoch:
        """Return the current epoch."""
        return self.epochs[-1][0]

    @property
    def manifest(self) -> EpochManifest:
        """Return the current epoch's manifest."""
        assert self._manifest is not None, "begin comes first"
        return self._manifest

    @property
    def objects(self) -> dict[str, bytes]:
        """Return the objects of a store in memory, for tests that damage them."""
        assert isinstance(self.store, MemoryStore)
        return self.store.objects

    def begin(self, number: int | None = None, branch: Position | None = None, close: bool = True) -> Epoch:
        """Begin an epoch, at the end of the log or at an earlier position, and close the one before."""
        highest = max((epoch.number for epoch, _ in self.epochs), default=self.position.epoch.number)
        number = number if number is not None else highest + 1
        epoch = Epoch(number, int.from_bytes(hashlib.sha256(self.cluster_id + bytes([number])).digest()[:8], "little") | 1)
        branch = branch if branch is not None else self.position
        if self._manifest is not None and close:
            self._manifest.close(epoch, branch)
        self.epochs.append((epoch, branch))
        self._manifest = EpochManifest.open(self.store, self.names, epoch, branch, "tester", self.clock)
        self.position = Position(epoch, branch.revision, fmt.epoch_chain(self.cluster_id, epoch, branch))
        return epoch

    def raw_segment(self, *groups: int, keys: Sequence[str] | None = None) -> RawSegment:
        """Return a sealed segment of so many commits in each group, behind the end of the log, which moves."""
        epoch, branch = self.epochs[-1]
        first_of_epoch = self.position == Position(epoch, branch.revision, fmt.epoch_chain(self.cluster_id, epoch, branch))
        header = fmt.SegmentHeader(
            cluster_id=self.cluster_id,
            segment_id=(epoch.nonce ^ next(self._ids) << 20) & (1 << 64) - 1,
            epoch=epoch,
            branch=branch,
            first_revision=self.position.revision + 1,
            created_ms=self.now_ms,
            previous_segment_id=self._previous_id,
            previous=branch if first_of_epoch else self.position,
        )
        segment = RawSegment(header)
        for commits in groups:
            self.now_ms += GROUP_MS
            first = segment.revision + 1
            names = keys or [f"key-{revision}" for revision in range(first, first + commits)]
            segment.put(*names, value=f"value-{first}".encode(), time_ms=self.now_ms)
            self.time_of |= dict.fromkeys(range(first, segment.revision + 1), self.now_ms)
            self.frame_ends[segment.revision] = segment.end
        segment.seal(time_ms=self.now_ms)
        self._previous_id = header.segment_id
        self.position = segment.end
        return segment

    def put(self, *groups: int, block_bytes: int = 64 * 1024, keys: Sequence[str] | None = None) -> SegmentEntry:
        """Archive a segment of so many commits in each group, without listing it."""
        segment = self.raw_segment(*groups, keys=keys)
        entry = segment.archive(self.store, self.names, block_bytes=block_bytes)
        self.raw[entry] = segment.data
        return entry

    def segment(self, *groups: int, block_bytes: int = 64 * 1024, keys: Sequence[str] | None = None) -> SegmentEntry:
        """Archive a segment of so many commits in each group, and list it in a record of its own."""
        entry = self.put(*groups, block_bytes=block_bytes, keys=keys)
        self.record(entry)
        return entry

    def record(self, *entries: SegmentEntry, gap: Gap | None = None) -> None:
        """List segments in one record."""
        self.manifest.append(entries, gap)
        self.entries += entries

    def gap(self, *groups: int) -> Gap:
        """Let so many groups of commits be missing, and say so in the manifest."""
        after = self.position
        self.raw_segment(*groups)
        gap = Gap(after, after.revision + 1, self.position.revision)
        self.manifest.append([], gap)
        return gap

    def epochs_until(self, position: Position) -> list[tuple[Epoch, Position]]:
        """Return the epochs of this store that lead to a position, oldest first."""
        return [(epoch, branch) for epoch, branch in self.epochs if epoch.number <= position.epoch.number]

    def backup(
        self, at: Position | None = None, files: dict[str, bytes] | None = None, owner_id: bytes | None = None
    ) -> BackupRecord:
        """Make a backup at a position, the end of the log usually, of files that are no real tables."""
        at = at if at is not None else self.position
        files = files if files is not None else {"CURRENT": b"common", f"{at.revision:06}.sst": f"state {at}".encode()}
        listed = []
        for path, data in files.items():
            sha256 = hashlib.sha256(data).digest()
            name = self.names.file(sha256)
            if not any(info.name == name for info in self.store.list(self.names.files)):
                self.store.create(name, [data])
            listed.append(BackupFile(path, len(data), sha256))
        self.now_ms += 1
        record = BackupRecord(
            id=backup_id(at.revision, self.now_ms),
            cluster_id=self.cluster_id,
            owner_id=owner_id or self.cluster_id,
            position=at,
            time_ms=self.time_of.get(at.revision, 0),
            epochs=self.epochs_until(at),
            oldest_readable_revision=1,
            files=listed,
            node_name="tester",
            made_ms=self.now_ms,
        )
        self.store.create(self.names.backup(record.id), [encode_backup(record)])
        return record

    def point(self, name: str, revision: int) -> PointRecord:
        """Give a revision a name."""
        record = PointRecord(name, self.cluster_id, revision, self.time_of.get(revision, 0), "", self.now_ms)
        self.store.create(self.names.point(name), [encode_point(record)])
        return record

    def fork(self, at: Position | None = None, cluster_id: bytes | None = None) -> ArchiveScene:
        """Return the archive, in the same store, of a fork at a position, the end of the log usually."""
        at = at if at is not None else self.position
        cluster_id = cluster_id or hashlib.sha256(self.cluster_id + at.chain).digest()[:16]
        fork = ArchiveScene(self.store, cluster_id, (self.cluster_id, at))
        fork.now_ms = self.now_ms
        return fork

    def rewrite(self, at: int, /, in_epoch: int | None = None, **changes: object) -> bytes:
        """Replace the manifest record of a number by one with other fields, though no writer would; return its bytes."""
        name = self.names.manifest(in_epoch if in_epoch is not None else self.epoch.number, at)
        record = decode_manifest(name, self.store.read(name))
        data = encode_manifest(record._replace(**changes))  # type: ignore[arg-type]
        self.store.delete(name)
        self.store.create(name, [data])
        return data


def family(length: int = 3) -> ArchiveScene:
    """Return an archive with three epochs, restarts, a parted history and backups: something of everything, nothing damaged."""
    scene = ArchiveScene()
    scene.begin()
    scene.segment(2, 1)
    scene.backup()
    scene.segment(1, 1, 1)
    parting = scene.position
    scene.segment(4)
    scene.begin(branch=parting)
    for _ in range(length):
        scene.segment(2, 2)
    scene.segment()
    scene.backup()
    scene.begin()
    scene.segment()
    scene.begin(number=scene.epoch.number + 2)
    scene.segment(1, 3)
    return scene
