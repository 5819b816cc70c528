"""What a range of the log did to each key: its versions, collected from groups, not yet resolved against what was there before.

A key's versions are a chain of tuples ``(revision, value, create_revision, version, older)``, newest first, as in the
memtable; a deletion has the value None. Version 0 is a blind put: one version more than what was there before.
"""

from __future__ import annotations

import struct
from typing import TypeAlias

from kvserver.base.types import SYSTEM_NAMESPACE
from kvserver.wal.commit_record import EFFECTS, ONE_LENGTH, PUT, decode_commit, pack_one

Changes: TypeAlias = "tuple[int, bytes | None, int, int, Changes | None]"

DROPPED_ROW = b"dropped/"
"""What the system's row that says that a namespace was dropped begins with; the id follows (u32, big-endian)."""

_ONE = struct.Struct("<I6sHII")  # as commit_record's, but the fields that a commit of one blind put fixes are one
_PLAIN = pack_one(0, EFFECTS, 0, 1, PUT, 0, 0, 0, 0)[4:10]


class RangeChanges:
    """The changes of all keys of a range, by namespace and key."""

    def __init__(self, after_revision: int) -> None:
        self.namespaces: dict[int, dict[bytes, Changes]] = {}
        self.dropped: set[int] = set()
        """The namespaces that the range dropped."""
        self.revision = after_revision

    def add_group(self, first_revision: int, count: int, payload: bytes) -> None:
        """Add the commits of the next group. Raises ValueError where it does not parse to exactly ``count``, or is not the next.

        Nearly all commits are one blind put each, so those are told by comparing six bytes, and make one tuple.
        """
        if first_revision != self.revision + 1:
            raise ValueError(f"a group begins at revision {first_revision}, where {self.revision + 1} is the next")
        at, end, revision = 0, len(payload), first_revision
        unpack = _ONE.unpack_from
        run_namespace = SYSTEM_NAMESPACE
        changes: dict[bytes, Changes] = {}
        while at + ONE_LENGTH <= end:
            length, kind, key_length, value_length, namespace = unpack(payload, at)
            value_at = at + ONE_LENGTH + key_length
            stop = at + length
            if kind != _PLAIN or not namespace or stop != value_at + value_length or stop > end:
                stop = self._add_commit(payload, at, end, revision)
            else:
                if namespace != run_namespace:
                    run_namespace = namespace
                    changes = self._changes(namespace)
                key = payload[at + ONE_LENGTH : value_at]
                changes[key] = (revision, payload[value_at:stop], 0, 0, changes.get(key))
            revision += 1
            at = stop
        if at != end or revision - first_revision != count:
            raise ValueError(f"the group holds {revision - first_revision} commits, not {count}, or has a rest")
        self.revision = revision - 1

    def _changes(self, namespace: int) -> dict[bytes, Changes]:
        changes = self.namespaces.get(namespace)
        if changes is None:
            changes = self.namespaces[namespace] = {}
        return changes

    def _add_commit(self, payload: bytes, at: int, end: int, revision: int) -> int:
        """Add a commit of any form and return where the next begins. Raises ValueError."""
        effects, stop = decode_commit(payload, at, end)
        for op, namespace, key, value, create_revision, version, _ in effects:
            changes = self._changes(namespace)
            changes[key] = (revision, value if op == PUT else None, create_revision, version, changes.get(key))
            if namespace == SYSTEM_NAMESPACE and op == PUT and key.startswith(DROPPED_ROW):
                self.dropped.add(int.from_bytes(key[len(DROPPED_ROW) :], "big"))
        return stop
