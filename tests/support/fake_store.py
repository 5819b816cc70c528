"""A store in a dict that keeps the contract's promises about revisions, for tests of what talks to a server.

It is single-threaded by its lock, forgets everything at its end, and is as simple as the contract allows: it judges
requests, not performance.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from typing import Any

from kvproto.v1 import kv_pb2

MAX_KEY_BYTES = 8 * 1024
MAX_VALUE_BYTES = 1024 * 1024
MAX_COMMIT_MUTATIONS = 10_000


class FakeError(Exception):
    """A refusal: the stable code by name, a message, and what else travels in the details."""

    def __init__(self, code: str, message: str = "refused", hint: str = "", **extra: str) -> None:
        super().__init__(f"{message} [{code}]")
        self.code = code
        self.message = message
        self.hint = hint
        self.extra = extra


@dataclasses.dataclass(frozen=True)
class Row:
    """One version of a key; a value of None is a deletion."""

    revision: int
    value: bytes | None
    create_revision: int
    version: int


class FakeStore:
    """Namespaces, keys, versions, an epoch, and the difference between assigned and visible."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.epoch = 1
        self.branches: dict[int, int] = {}
        self.assigned = 1
        self.visible = 1
        self.oldest_readable = 1
        self.max_range = MAX_COMMIT_MUTATIONS
        self.namespaces: dict[str, tuple[int, int]] = {"": (1, 1)}
        self.last_namespace_id = 1
        self.rows: dict[tuple[str, bytes], list[Row]] = {}
        self.answers: dict[tuple[bytes, int], Any] = {}
        """What was answered under idempotency keys."""

    def restart(self) -> None:
        """Stop as after a crash: what was not visible is gone, and a new epoch begins."""
        with self.lock:
            self.branches[self.epoch] = self.visible
            self.epoch += 1
            self.assigned = self.visible
            for key, chain in list(self.rows.items()):
                self.rows[key] = [row for row in chain if row.revision <= self.visible]

    def newest(self, namespace: str, key: bytes) -> Row | None:
        """Return the newest version, visible or not; None where the key does not exist."""
        chain = self.rows.get((namespace, key))
        return chain[-1] if chain and chain[-1].value is not None else None

    def at(self, namespace: str, key: bytes, revision: int) -> kv_pb2.KeyValue | None:
        """Return the version that a reader at a revision sees."""
        seen = [row for row in self.rows.get((namespace, key), ()) if row.revision <= revision]
        if not seen or seen[-1].value is None:
            return None
        row = seen[-1]
        return kv_pb2.KeyValue(
            key=key,
            value=row.value or b"",
            create_revision=row.create_revision,
            mod_revision=row.revision,
            version=row.version,
        )

    def history(self, namespace: str, key: bytes, below: int) -> list[kv_pb2.HistoryEntry]:
        """Return what was done to a key below a revision, newest first, as far back as it can still be read."""
        found = []
        for row in reversed(self.rows.get((namespace, key), ())):
            in_the_past = row.revision <= self.oldest_readable
            if row.revision < below and not (in_the_past and row.value is None):
                kv = kv_pb2.KeyValue(key=key, mod_revision=row.revision)
                if row.value is not None:
                    kv.MergeFrom(kv_pb2.KeyValue(value=row.value, create_revision=row.create_revision, version=row.version))
                found.append(kv_pb2.HistoryEntry(deleted=row.value is None, kv=kv))
            if in_the_past:
                break
        return found

    def read_revision(self, asked: int, session: kv_pb2.SessionToken) -> int:
        """Return the revision to read at; the session's own writes become visible, as if it had waited for them."""
        branch = self.branches.get(session.epoch, self.assigned)
        if session.epoch > self.epoch or session.revision > branch:
            followed = {"next_epoch": str(session.epoch + 1)} if session.epoch < self.epoch else {}
            raise FakeError("HISTORY_LOST", "the session is not part of this history", branch=str(branch), **followed)
        self.visible = max(self.visible, session.revision)
        if asked > self.visible:
            raise FakeError("FUTURE_REVISION", f"revision {asked} is above {self.visible}")
        if asked and asked < self.oldest_readable:
            oldest = str(self.oldest_readable)
            raise FakeError("COMPACTED", f"revision {asked} was compacted", oldest_readable_revision=oldest)
        return asked or self.visible

    def commit(self, durability: int) -> int:
        """Assign the next revision; a MEMORY write stays invisible until something waits for it."""
        self.assigned += 1
        if durability != kv_pb2.DURABILITY_MEMORY:
            self.visible = self.assigned
        return self.assigned

    def keys(self, namespace: str, start: bytes, end: bytes) -> Iterator[bytes]:
        """Walk the keys of a range in order, deleted ones included."""
        for space, key in sorted(self.rows):
            if space == namespace and key >= start and (not end or key < end):
                yield key

    def write_row(self, namespace: str, key: bytes, value: bytes | None, revision: int) -> None:
        """Append one version."""
        before = self.newest(namespace, key)
        created, version = (before.create_revision, before.version + 1) if before else (revision, 1)
        self.rows.setdefault((namespace, key), []).append(Row(revision, value, created, version))

    # -- operations -----------------------------------------------------------------------------------------------

    def get(self, request: kv_pb2.GetRequest) -> tuple[int, kv_pb2.KeyValue | None]:
        """Return the revision read at, and what a key was there."""
        self.check_namespace(request.namespace)
        self.check_pair(request.key)
        at = self.read_revision(request.revision, request.session)
        return at, self.at(request.namespace, request.key, at)

    def put(self, request: kv_pb2.PutRequest) -> int:
        """Put a key; return the commit's revision."""
        self.check_namespace(request.namespace)
        self.check_pair(request.key, request.value)
        self.check_condition(request.namespace, request.key, wanted_revision(request))
        revision = self.commit(request.durability)
        self.write_row(request.namespace, request.key, request.value, revision)
        return revision

    def delete(self, request: kv_pb2.DeleteRequest) -> tuple[int, int]:
        """Delete what a request names; return the commit's revision (0: none was made) and how many keys are gone."""
        self.check_namespace(request.namespace)
        doomed = self.doomed(request.namespace, request)
        revision = self.commit(request.durability) if doomed else 0
        for key in doomed:
            self.write_row(request.namespace, key, None, revision)
        return revision, len(doomed)

    def write(self, request: kv_pb2.WriteRequest) -> tuple[int, int, int]:
        """Carry out a batch; return the commit's revision, and how many keys it put and deleted."""
        effects: list[tuple[str, bytes, bytes | None]] = []
        for mutation in request.mutations:
            namespace = mutation.namespace if mutation.HasField("namespace") else request.namespace
            self.check_namespace(namespace)
            if mutation.WhichOneof("kind") == "put":
                self.check_pair(mutation.put.key, mutation.put.value)
                self.check_condition(namespace, mutation.put.key, wanted_revision(mutation.put))
                effects.append((namespace, mutation.put.key, mutation.put.value))
            else:
                effects.extend((namespace, key, None) for key in self.doomed(namespace, mutation.delete))
        if not request.mutations:
            raise FakeError("INVALID_FIELD", "no mutations")
        if len({(namespace, key) for namespace, key, _ in effects}) < len(effects):
            raise FakeError("DUPLICATE_KEY", "one key is named twice")
        revision = self.commit(request.durability)
        for namespace, key, value in effects:
            self.write_row(namespace, key, value, revision)
        deleted = sum(value is None for _, _, value in effects)
        return revision, len(effects) - deleted, deleted

    # -- rules ----------------------------------------------------------------------------------------------------

    def check_namespace(self, namespace: str) -> None:
        """Refuse a namespace that does not exist."""
        if namespace not in self.namespaces:
            raise FakeError("UNKNOWN_NAMESPACE", f"there is no namespace {namespace!r}", "create it")

    def check_pair(self, key: bytes, value: bytes = b"") -> None:
        """Refuse keys and values outside the limits."""
        if not key:
            raise FakeError("EMPTY_KEY", "keys have at least one byte")
        if len(key) > MAX_KEY_BYTES:
            raise FakeError("KEY_TOO_LARGE", f"the key has {len(key)} bytes")
        if len(value) > MAX_VALUE_BYTES:
            raise FakeError("VALUE_TOO_LARGE", f"the value has {len(value)} bytes")

    def check_condition(self, namespace: str, key: bytes, wanted: int | None) -> None:
        """Refuse where the newest version is not the one wanted; 0 stands for a key that does not exist."""
        if wanted is None:
            return
        row = self.newest(namespace, key)
        found = row.revision if row else 0
        if found != wanted:
            raise FakeError("CONDITION_FAILED", f"key {key!r} is at {found}, not {wanted}", "read again", mod_revision=str(found))

    def doomed(self, namespace: str, message: kv_pb2.DeleteRequest | kv_pb2.DeleteMutation) -> list[bytes]:
        """Return the existing keys that a deletion names."""
        match message.WhichOneof("target"):
            case "key":
                self.check_pair(message.key)
                wanted = message.if_revision if message.HasField("if_revision") else None
                self.check_condition(namespace, message.key, wanted)
                return [message.key] if self.newest(namespace, message.key) else []
            case "range":
                start, end = message.range.start, message.range.end
                if end and start >= end:
                    raise FakeError("INVERTED_RANGE", "the start is not below the end")
                found = [key for key in self.keys(namespace, start, end) if self.newest(namespace, key)]
            case "prefix":
                every = self.keys(namespace, message.prefix, b"")
                found = [key for key in every if key.startswith(message.prefix) and self.newest(namespace, key)]
            case _:
                raise FakeError("INVALID_FIELD", "no target")
        if len(found) > self.max_range:
            raise FakeError("RANGE_TOO_LARGE", f"the range covers {len(found)} keys")
        return found


def wanted_revision(message: kv_pb2.PutRequest | kv_pb2.PutMutation) -> int | None:
    """Return the mod_revision that a put asks for; None for an unconditional one."""
    if message.if_absent:
        return 0
    return message.if_revision if message.HasField("if_revision") else None
