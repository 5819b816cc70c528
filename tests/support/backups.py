"""What the tests of backups ask and do again and again."""

from __future__ import annotations

from pathlib import Path

from kvserver.archive.names import parse_file
from kvserver.engine.database import Database
from support.archived_store import ArchivedStore
from support.fault_store import FaultStore
from support.faultfs import ProcessKilled
from support.memory_store import MemoryStore


def objects(kept: ArchivedStore) -> dict[str, bytes]:
    """Return the objects of a store's archive, to look at or to spoil."""
    store = kept.store.inner if isinstance(kept.store, FaultStore) else kept.store
    assert isinstance(store, MemoryStore)
    return store.objects


def files(kept: ArchivedStore) -> set[str]:
    """Return the names of the files of all backups."""
    return {name for name in objects(kept) if parse_file(name)}


def restored(kept: ArchivedStore, target: str = "/restored/it") -> Database:
    """Restore the newest revision and open what comes of it."""
    kept.restore(target=Path(target))
    return kept.open_copy(Path(target))


def kill() -> None:
    """End the process, as far as a test goes: to be armed at a failpoint."""
    raise ProcessKilled
