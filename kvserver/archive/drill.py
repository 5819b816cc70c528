"""The drill: the archive is restored into a scratch folder, and what comes of it is compared with what the node held.

It proves what no check of bytes can: that backup, log and everything that reads them lead back to the same state, and how
long that takes. Nothing is registered in the archive, and the scratch folder is removed, however it ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from kvserver.archive.plan import RestoreTarget, make_plan
from kvserver.archive.restore import OnProgress, RestoreOptions, restore
from kvserver.archive.restore_target import unusable
from kvserver.archive.store import Store
from kvserver.base.environment import Environment
from kvserver.base.fs import remove_tree
from kvserver.base.limits import MIB
from kvserver.base.paths import DataPaths
from kvserver.storage.content_hash import ContentHash, content_hash
from kvserver.storage.tables import TableReader

_CACHE_BYTES = 8 * MIB

OpenReader = Callable[[Path], TableReader]


class DrillReport(NamedTuple):
    """What a drill came to."""

    revision: int
    expected: ContentHash
    """Of the node, at that revision."""
    found: ContentHash
    """Of what was restored."""
    base_id: str
    """The backup that it began with; empty: it began with the log."""
    base_bytes: int
    raw_bytes: int
    """Of the log."""
    plan_seconds: float
    base_seconds: float
    log_seconds: float
    hash_seconds: float
    seconds: float

    @property
    def ok(self) -> bool:
        """Say whether what was restored is what the node held."""
        return (self.found.sha256, self.found.keys) == (self.expected.sha256, self.expected.keys)

    @property
    def what(self) -> str:
        """Return what was found, in a sentence."""
        if self.ok:
            return f"revision {self.revision} was restored as it was: {self.found.keys:,} keys, the same hash"
        return (
            f"what was restored of revision {self.revision} is not what the node held: {self.found.keys:,} keys instead of "
            f"{self.expected.keys:,}, hash {self.found.sha256.hex()} instead of {self.expected.sha256.hex()}"
        )


def drill(
    env: Environment,
    store: Store,
    cluster_id: bytes,
    expected: ContentHash,
    scratch: Path,
    options: RestoreOptions | None = None,
    progress: OnProgress = lambda progress: None,
    open_reader: OpenReader | None = None,
) -> DrillReport:
    """Restore to the revision of a hash, which the archive must hold, in a folder that does not exist yet, and compare.

    Blocks. A difference is not raised but reported. Raises InvalidRequest (TARGET_UNUSABLE), and what planning and restoring
    raise: RevisionError (NO_RESTORE_PLAN), Corruption, Refused (DISK_FULL), StoreError.
    """
    clock = env.clock
    begun = clock.monotonic()
    if env.fs.info(scratch) is not None:
        raise unusable(scratch, "exists already, and a drill removes its folder", "name a folder that does not exist")
    try:
        plan = make_plan(store, cluster_id, RestoreTarget(revision=expected.revision))
        planned = clock.monotonic()
        done = restore(env, store, plan, scratch, options, progress)
        restored = clock.monotonic()
        with contextlib.closing((open_reader or _open_rocks)(DataPaths(scratch).tables)) as tables:
            found = content_hash(tables)
        hashed = clock.monotonic()
    finally:
        remove_tree(env.fs, scratch)
    return DrillReport(
        revision=expected.revision,
        expected=expected,
        found=found,
        base_id=plan.base.id if plan.base is not None else "",
        base_bytes=done.base_bytes,
        raw_bytes=done.raw_bytes,
        plan_seconds=planned - begun,
        base_seconds=done.base_seconds,
        log_seconds=done.log_seconds,
        hash_seconds=hashed - restored,
        seconds=hashed - begun,
    )


def _open_rocks(path: Path) -> TableReader:
    from kvserver.storage.rocks import open_reader

    return open_reader(path, _CACHE_BYTES)
