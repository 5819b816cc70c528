"""The one object of an archive that is replaced: from where on history is promised, and who removes files at the moment."""

from __future__ import annotations

from collections.abc import Callable

from kvserver.archive.errors import damaged
from kvserver.archive.names import ArchiveNames
from kvserver.archive.records import RetentionRecord, decode_retention, encode_retention
from kvserver.archive.store import ReplaceConflict, Store

_ATTEMPTS = 16
"""So often is a replacement tried again after another writer was quicker."""


def read_retention(store: Store, names: ArchiveNames) -> RetentionRecord | None:
    """Return the record; None where nothing was ever given up. Raises Corruption, StoreError."""
    return _read(store, names)[0]


def change_retention(store: Store, names: ArchiveNames, change: Callable[[RetentionRecord], RetentionRecord]) -> RetentionRecord:
    """Replace the record by what ``change`` makes of it, durably, and return that; nothing is written where it stays the same.

    ``change`` is called again where another writer was quicker; what it raises ends it. The first revision never goes back.
    Raises Corruption, ReplaceConflict where others go on being quicker, StoreError: then it may have been replaced or not.
    """
    attempts_left = _ATTEMPTS
    while True:
        current, token = _read(store, names)
        before = current if current is not None else RetentionRecord(names.cluster_id, 0, 0)
        after = change(before)
        if after.first_revision < before.first_revision:
            raise ValueError(f"what was given up below revision {before.first_revision} cannot be promised again")
        if after == before:
            return before
        try:
            store.replace(names.retention, encode_retention(after), token)
            return after
        except ReplaceConflict:
            attempts_left -= 1
            if not attempts_left:
                raise


def _read(store: Store, names: ArchiveNames) -> tuple[RetentionRecord | None, str | None]:
    held = store.held(names.retention)
    if held is None:
        return None, None
    record = decode_retention(names.retention, held.data)
    if record.cluster_id != names.cluster_id:
        raise damaged(names.retention, 0, f"it is of another cluster, {record.cluster_id.hex()}")
    return record, held.token
