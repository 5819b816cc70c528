"""What the store must do, as plainly as it can be said: a dict, and the list of what each commit changed."""

from __future__ import annotations

from typing import NamedTuple

from kvserver.base.types import CREATION_REVISION, DEFAULT_NAMESPACE, FIRST_NAMESPACE
from kvserver.commit.requests import (
    Batch,
    CompactHistory,
    CreateNamespace,
    Delete,
    DeleteSpan,
    DropNamespace,
    Mutation,
    Put,
    PutRun,
    ReadRun,
    Request,
)

Name = tuple[int, bytes]


class Row(NamedTuple):
    """One live key."""

    value: bytes
    create_revision: int
    mod_revision: int
    version: int


class Expected(NamedTuple):
    """What a request must come to: its commits' revisions, or the name of what refuses it."""

    first_revision: int
    commits: int
    error: str = ""
    deleted: int = 0
    found: tuple[Row | None, ...] = ()


class Model:
    """The reference: requests one after the other, nothing concurrent, nothing lost."""

    def __init__(self) -> None:
        self.rows: dict[Name, Row] = {}
        self.commits: list[dict[Name, Row | None]] = []
        """What each commit changed; the first is revision 2."""
        self.namespaces = {"": DEFAULT_NAMESPACE}
        self.next_namespace_id = FIRST_NAMESPACE
        self._catalogues = [(0, self.namespaces.copy())]
        self._oldest = [(0, CREATION_REVISION)]

    @property
    def revision(self) -> int:
        """Return the newest revision."""
        return 1 + len(self.commits)

    @property
    def live_namespaces(self) -> list[int]:
        """Return the numbers of the namespaces that exist."""
        return list(self.namespaces.values())

    def namespaces_at(self, revision: int) -> dict[str, int]:
        """Return names and numbers of the namespaces that exist at a revision."""
        return [held for commit, held in self._catalogues if commit <= revision][-1]

    def oldest_readable(self, revision: int) -> int:
        """Return the oldest revision that the commits up to a revision left readable."""
        return [oldest for commit, oldest in self._oldest if commit <= revision][-1]

    def apply(self, request: Request) -> Expected:
        """Carry out a request and return what it must come to."""
        if not isinstance(request, CreateNamespace | DropNamespace | CompactHistory):
            named = [request] if not isinstance(request, Batch) else request.mutations
            if not {one.namespace for one in named} <= set(self.live_namespaces):
                return Expected(0, 0, "UNKNOWN_NAMESPACE")
        match request:
            case PutRun():
                first = self.revision + 1
                for key, value in zip(request.keys, request.values, strict=True):
                    self._commit([Put(request.namespace, key, value)])
                return Expected(first, len(request.keys))
            case ReadRun():
                found = tuple(self.rows.get((request.namespace, key)) for key in request.keys)
                return Expected(0, 0, found=found)
            case CreateNamespace() | DropNamespace():
                return self._change_catalogue(request)
            case CompactHistory():
                return self._compact(request.revision)
            case Put() | Delete() | DeleteSpan():
                return self._write([request])
            case Batch():
                return self._write(request.mutations)
        raise AssertionError(f"the model does not know {request}")

    def rows_at(self, revision: int) -> dict[Name, Row]:
        """Return the live keys at a revision."""
        rows: dict[Name, Row] = {}
        for changes in self.commits[: revision - 1]:
            for name, row in changes.items():
                if row is None:
                    rows.pop(name, None)
                else:
                    rows[name] = row
        return rows

    def versions(self, name: Name, oldest: int, newest: int) -> list[tuple[int, Row | None]]:
        """Return what was done to a key up to a revision, newest first, back to what was in force at the oldest one.

        None: it was deleted.
        """
        commits = enumerate(self.commits[: newest - 1], start=2)
        done = [(revision, changes[name]) for revision, changes in commits if name in changes]
        kept = [one for one in done if one[0] > oldest]
        before = [one for one in done if one[0] <= oldest]
        if before and before[-1][1] is not None:
            kept.insert(0, before[-1])
        return kept[::-1]

    def _change_catalogue(self, request: CreateNamespace | DropNamespace) -> Expected:
        exists = request.name in self.namespaces
        if isinstance(request, CreateNamespace):
            if exists:
                return Expected(0, 0, "NAMESPACE_EXISTS")
            self.namespaces[request.name] = self.next_namespace_id
            self.next_namespace_id += 1
            self.commits.append({})
            self._catalogues.append((self.revision, self.namespaces.copy()))
            return Expected(self.revision, 1)
        if not exists:
            return Expected(0, 0, "UNKNOWN_NAMESPACE")
        number = self.namespaces.pop(request.name)
        gone = [name for name in self.rows if name[0] == number]
        for name in gone:
            del self.rows[name]
        self.commits.append(dict.fromkeys(gone))
        self._catalogues.append((self.revision, self.namespaces.copy()))
        return Expected(self.revision, 1, deleted=1)

    def _compact(self, revision: int) -> Expected:
        if revision > self.revision:
            return Expected(0, 0, "FUTURE_REVISION")
        oldest = revision or self.revision
        if oldest <= self._oldest[-1][1]:
            return Expected(0, 0)
        self.commits.append({})
        self._oldest.append((self.revision, oldest))
        return Expected(self.revision, 1)

    def _write(self, mutations: list[Mutation]) -> Expected:
        changed: list[Put | Delete] = []
        for mutation in mutations:
            if isinstance(mutation, DeleteSpan):
                start, end = mutation.span
                held = [name for name in self.rows if name[0] == mutation.namespace]
                found = [key for _, key in held if start <= key and (not end or key < end)]
                changed.extend(Delete(mutation.namespace, key) for key in sorted(found))
                continue
            row = self.rows.get((mutation.namespace, mutation.key))
            wanted = mutation.if_revision
            if wanted is not None and (row.mod_revision if row else 0) != wanted:
                return Expected(0, 0, "CONDITION_FAILED")
            if row is not None or isinstance(mutation, Put):
                changed.append(mutation)
        names = [(mutation.namespace, mutation.key) for mutation in changed]
        if len(names) != len(set(names)):
            return Expected(0, 0, "DUPLICATE_KEY")
        if not changed:
            return Expected(0, 0)
        deleted = sum(isinstance(mutation, Delete) for mutation in changed)
        self._commit(changed)
        return Expected(self.revision, 1, deleted=deleted)

    def _commit(self, mutations: list[Put | Delete]) -> None:
        revision = self.revision + 1
        changes: dict[Name, Row | None] = {}
        for mutation in mutations:
            name = (mutation.namespace, mutation.key)
            before = self.rows.get(name)
            if isinstance(mutation, Delete):
                changes[name] = None
                self.rows.pop(name, None)
            else:
                create, version = (before.create_revision, before.version + 1) if before else (revision, 1)
                changes[name] = self.rows[name] = Row(mutation.value, create, revision, version)
        self.commits.append(changes)
