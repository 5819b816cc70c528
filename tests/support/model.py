"""What the store must do, as plainly as it can be said: a dict, and the list of what each commit changed."""

from __future__ import annotations

from typing import NamedTuple

from kvserver.commit.requests import Batch, CreateNamespace, Delete, Mutation, Put, PutRun, ReadRun, Request

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
        self.namespaces = {""}

    @property
    def revision(self) -> int:
        """Return the newest revision."""
        return 1 + len(self.commits)

    def apply(self, request: Request) -> Expected:
        """Carry out a request and return what it must come to."""
        match request:
            case PutRun():
                first = self.revision + 1
                for key, value in zip(request.keys, request.values, strict=True):
                    self._commit([Put(request.namespace, key, value)])
                return Expected(first, len(request.keys))
            case ReadRun():
                found = tuple(self.rows.get((request.namespace, key)) for key in request.keys)
                return Expected(0, 0, found=found)
            case CreateNamespace():
                if request.name in self.namespaces:
                    return Expected(0, 0, "NAMESPACE_EXISTS")
                self.namespaces.add(request.name)
                self.commits.append({})
                return Expected(self.revision, 1)
            case Put() | Delete():
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

    def _write(self, mutations: list[Mutation]) -> Expected:
        for mutation in mutations:
            assert isinstance(mutation, Put | Delete)
            row = self.rows.get((mutation.namespace, mutation.key))
            wanted = mutation.if_revision
            if wanted is not None and (row.mod_revision if row else 0) != wanted:
                return Expected(0, 0, "CONDITION_FAILED")
        changed = [m for m in mutations if isinstance(m, Put) or (m.namespace, m.key) in self.rows]  # type: ignore[union-attr]
        if not changed:
            return Expected(0, 0)
        deleted = sum(isinstance(mutation, Delete) for mutation in changed)
        self._commit(changed)
        return Expected(self.revision, 1, deleted=deleted)

    def _commit(self, mutations: list[Mutation]) -> None:
        revision = self.revision + 1
        changes: dict[Name, Row | None] = {}
        for mutation in mutations:
            assert isinstance(mutation, Put | Delete)
            name = (mutation.namespace, mutation.key)
            before = self.rows.get(name)
            if isinstance(mutation, Delete):
                changes[name] = None
                self.rows.pop(name, None)
            else:
                create, version = (before.create_revision, before.version + 1) if before else (revision, 1)
                changes[name] = self.rows[name] = Row(mutation.value, create, revision, version)
        self.commits.append(changes)
