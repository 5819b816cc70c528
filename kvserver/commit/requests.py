"""What the pipeline is asked to do and what it answers, as values. They are valid when they get here: services check limits."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, TypeAlias

from kvserver.base.limits import MAX_COMMIT_BYTES
from kvserver.base.policy import Policy
from kvserver.base.types import Version
from kvserver.commit.idempotency import FORGET_AT_ONCE, ROW_BYTES, IdempotencyKey
from kvserver.storage.ranges import KeySpan


@dataclasses.dataclass(frozen=True, slots=True)
class Put:
    """Put one key; ``if_revision`` None: always, 0: only if it does not exist, n: only if commit n wrote its newest version."""

    namespace: int
    key: bytes
    value: bytes
    if_revision: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Delete:
    """Delete one key, if it exists."""

    namespace: int
    key: bytes
    if_revision: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class DeleteSpan:
    """Delete all keys of a span."""

    namespace: int
    span: KeySpan


Mutation: TypeAlias = Put | Delete | DeleteSpan


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """Carry out several mutations in one commit; conditions and spans see the state before it."""

    mutations: list[Mutation]


@dataclasses.dataclass(frozen=True, slots=True)
class CreateNamespace:
    """Add a namespace to the catalogue."""

    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class DropNamespace:
    """Take a namespace out of the catalogue, and all its keys with it."""

    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class CompactHistory:
    """Let revisions below this one be read no more; 0: below the newest one."""

    revision: int


@dataclasses.dataclass(frozen=True, slots=True)
class SetPolicy:
    """Let another policy hold from this commit on; until it is visible, the one before it must hold too."""

    policy: Policy


@dataclasses.dataclass(frozen=True, slots=True)
class PutRun:
    """Many commits of one unconditional put each; the columns have equal length."""

    namespace: int
    keys: list[bytes]
    values: list[bytes]


@dataclasses.dataclass(frozen=True, slots=True)
class DeleteRun:
    """Many deletions of one key each; every one that finds its key is a commit of its own. Only within ``Keyed``."""

    namespace: int
    keys: list[bytes]


@dataclasses.dataclass(frozen=True, slots=True)
class Keyed:
    """Carry a write out once, however often it comes under its key; what it comes to is remembered with it."""

    request: Put | Delete | DeleteSpan | Batch | PutRun | DeleteRun
    key: IdempotencyKey
    now_ms: int
    """The time on this node."""


@dataclasses.dataclass(frozen=True, slots=True)
class ForgetAnswers:
    """Forget what was issued under keys before a time, so much of it as fits a commit."""

    before_ms: int


@dataclasses.dataclass(frozen=True, slots=True)
class ReadRun:
    """Many reads of the newest state; the answer waits for what they show."""

    namespace: int
    keys: list[bytes]


Single: TypeAlias = (
    Put | Delete | DeleteSpan | Batch | CreateNamespace | DropNamespace | CompactHistory | ForgetAnswers | SetPolicy
)
Request: TypeAlias = Single | PutRun | ReadRun | Keyed


class Committed(NamedTuple):
    """What became of one write: its commit's revision, 0 where there was nothing to do."""

    revision: int
    depends_on: int
    """The revision itself or, without a commit, the one that shows that there was nothing to do."""
    put: int
    deleted: int
    namespace_id: int = 0


class RunDone(NamedTuple):
    """The revisions of a run of puts."""

    first_revision: int
    commits: int


class DeletesDone(NamedTuple):
    """The revisions of a run of deletions."""

    first_revision: int
    commits: int
    absent: bytes
    """A bit for each key, the lowest first, set where there was nothing to delete; empty: there was everywhere."""
    depends_on: int


class Found(NamedTuple):
    """What a run of reads found, one entry for each key."""

    versions: list[Version | None]
    depends_on: int


def size_bytes(request: Request) -> int:
    """Return an upper bound of the bytes that the request's commits take in the log, frame headers left out."""
    match request:
        case PutRun():
            return sum(map(len, request.keys)) + sum(map(len, request.values)) + 20 * len(request.keys)
        case Put():
            return len(request.key) + len(request.value) + 64
        case Delete():
            return len(request.key) + 64
        case DeleteSpan():
            return MAX_COMMIT_BYTES + 64
        case Batch():
            return min(sum(map(size_bytes, request.mutations)), MAX_COMMIT_BYTES) + 64
        case CreateNamespace() | DropNamespace() | CompactHistory() | SetPolicy():
            return 1024
        case ForgetAnswers():
            return 64 * FORGET_AT_ONCE
        case Keyed(DeleteRun(keys=keys)):
            return sum(map(len, keys)) + 21 * len(keys) + ROW_BYTES
        case Keyed(PutRun() | Put() | Delete() | DeleteSpan() | Batch() as inner):
            return size_bytes(inner) + ROW_BYTES
        case ReadRun() | Keyed():
            return 0


def spans_of(request: Request) -> list[DeleteSpan]:
    """Return the deletions of spans within a request."""
    match request:
        case DeleteSpan():
            return [request]
        case Keyed(DeleteSpan() | Batch() as inner):
            return spans_of(inner)
        case Batch():
            return [mutation for mutation in request.mutations if isinstance(mutation, DeleteSpan)]
        case _:
            return []


def judged_keys(request: Request) -> list[tuple[int, bytes]]:
    """Return the keys whose existence or newest revision decides what a request comes to, as (namespace, key)."""
    match request:
        case Delete():
            return [(request.namespace, request.key)]
        case Keyed(DeleteRun(namespace=namespace, keys=keys)):
            return [(namespace, key) for key in keys]
        case Keyed(Put() | Delete() | Batch() as inner):
            return judged_keys(inner)
        case Put():
            return [] if request.if_revision is None else [(request.namespace, request.key)]
        case Batch():
            return [pair for mutation in request.mutations for pair in judged_keys(mutation)]
        case _:
            return []
