"""Requests into effects, judged against the newest state (applied, not necessarily visible). Pure but for what it reads.

Whatever is answered without a commit still shows something: that a key is absent, that a condition failed. ``depends_on``
names the newest revision it shows, deletions counted, and the pipeline holds the answer until that is visible.
"""

from __future__ import annotations

from typing import NamedTuple

from kvserver.base.errors import Code, ConditionFailed, InvalidRequest, KvError, NamespaceExists
from kvserver.base.limits import MAX_COMMIT_BYTES, MAX_COMMIT_MUTATIONS
from kvserver.base.types import Version
from kvserver.commit.requests import Batch, CreateNamespace, Delete, DeleteSpan, Found, Mutation, Put, ReadRun, Single
from kvserver.commit.state import State
from kvserver.storage.memtable import Chain
from kvserver.wal.commit_record import DELETE, EFFECT_LENGTH, PUT, Effect


class Evaluated(NamedTuple):
    """What a request comes to."""

    effects: list[Effect]
    """Empty: no commit is made."""
    depends_on: int
    put: int = 0
    deleted: int = 0
    namespace_id: int = 0


def evaluate(request: Single, state: State, assigned: int) -> Evaluated:
    """Return what a request comes to; ``assigned`` is the newest revision given out. Raises KvError with ``depends_on`` set."""
    match request:
        case Put():
            return _put(request, state, assigned)
        case Delete():
            return _delete(request, state)
        case DeleteSpan():
            return _delete_span(request, state, assigned)
        case Batch():
            return _batch(request, state, assigned)
        case CreateNamespace():
            return _create_namespace(request, state)


def _put(request: Put, state: State, assigned: int) -> Evaluated:
    if request.if_revision is None:
        effect = Effect(PUT, request.namespace, request.key, request.value)
    else:
        chain = _require(request.namespace, request.key, request.if_revision, state)
        create, version = assigned + 1, 1
        if chain is not None and chain[1] is not None:
            create, version = chain[2], chain[3] + 1
        effect = Effect(PUT, request.namespace, request.key, request.value, create, version)
    return Evaluated([effect], 0, put=1)


def _delete(request: Delete, state: State) -> Evaluated:
    if request.if_revision is None:
        chain = state.memtable.newest(request.namespace, request.key)
    else:
        chain = _require(request.namespace, request.key, request.if_revision, state)
    if not _exists(chain):
        return Evaluated([], chain[0] if chain is not None else 0)
    return Evaluated([Effect(DELETE, request.namespace, request.key, b"")], 0, deleted=1)


def _delete_span(request: DeleteSpan, state: State, assigned: int) -> Evaluated:
    effects: list[Effect] = []
    size = 0
    memtable = state.memtable
    memtable.catch_up(request.namespace, memtable.unordered(request.namespace))
    for key in memtable.keys(request.namespace, request.span.start, request.span.end):
        if _exists(memtable.newest(request.namespace, key)):
            effects.append(Effect(DELETE, request.namespace, key, b""))
            size += len(key) + EFFECT_LENGTH
            if len(effects) > MAX_COMMIT_MUTATIONS or size > MAX_COMMIT_BYTES:
                raise depending(
                    InvalidRequest(
                        Code.RANGE_TOO_LARGE,
                        f"the range holds more than {MAX_COMMIT_MUTATIONS} keys or {MAX_COMMIT_BYTES} bytes of them",
                        "delete it in parts, one smaller range after the other",
                    ),
                    assigned,
                )
    return Evaluated(effects, assigned, deleted=len(effects))


def _batch(request: Batch, state: State, assigned: int) -> Evaluated:
    effects: list[Effect] = []
    seen: set[tuple[int, bytes]] = set()
    depends_on = put = 0
    for mutation in request.mutations:
        try:
            part = _mutation(mutation, state, assigned)
        except ConditionFailed as error:  # that this one is named says that the conditions before it held
            depending(error, assigned)
            raise
        depends_on = max(depends_on, part.depends_on)
        put += part.put
        for effect in part.effects:
            target = (effect.namespace, effect.key)
            if target in seen:
                raise depending(
                    InvalidRequest(Code.DUPLICATE_KEY, f"key {effect.key[:64]!r} is named twice in one commit"),
                    assigned,
                )
            seen.add(target)
        effects.extend(part.effects)
    size = sum(len(effect.key) + len(effect.value) + EFFECT_LENGTH + 16 for effect in effects)
    if len(effects) > MAX_COMMIT_MUTATIONS or size > MAX_COMMIT_BYTES:
        raise depending(
            InvalidRequest(
                Code.COMMIT_TOO_LARGE,
                f"the commit comes to {len(effects)} mutations and {size} bytes; "
                f"at most {MAX_COMMIT_MUTATIONS} and {MAX_COMMIT_BYTES} fit",
                "split it, where it need not be atomic",
            ),
            assigned,
        )
    return Evaluated(effects, depends_on, put, len(effects) - put)


def _mutation(mutation: Mutation, state: State, assigned: int) -> Evaluated:
    match mutation:
        case Put():
            return _put(mutation, state, assigned)
        case Delete():
            return _delete(mutation, state)
        case DeleteSpan():
            return _delete_span(mutation, state, assigned)


def read_run(request: ReadRun, state: State) -> Found:
    """Return the newest versions of the keys, and the newest revision that they show."""
    versions: list[Version | None] = []
    depends_on = 0
    for key in request.keys:
        chain = state.memtable.newest(request.namespace, key)
        if chain is None:
            versions.append(None)
            continue
        depends_on = max(depends_on, chain[0])
        versions.append(None if chain[1] is None else Version(key, chain[1], chain[2], chain[0], chain[3]))
    return Found(versions, depends_on)


def _create_namespace(request: CreateNamespace, state: State) -> Evaluated:
    entry = state.namespaces.get(request.name)
    if entry is not None:
        raise depending(NamespaceExists(request.name), entry.create_revision)
    return Evaluated(state.creation_effects(request.name), 0, put=1, namespace_id=state.next_namespace_id)


def _exists(chain: Chain | None) -> bool:
    return chain is not None and chain[1] is not None


def _require(namespace: int, key: bytes, wanted: int, state: State) -> Chain | None:
    """Return the key's chain if its newest version is of the wanted revision (0: it does not exist). Raises ConditionFailed."""
    chain = state.memtable.newest(namespace, key)
    found = chain[0] if chain is not None and chain[1] is not None else 0
    if found != wanted:
        condition = f"if_revision={wanted}" if wanted else "if_absent"
        raise ConditionFailed(key, found, condition, depends_on=chain[0] if chain is not None else 0)
    return chain


def depending(error: KvError, revision: int) -> KvError:
    """Return the error, to be told only when the revision is visible."""
    error.depends_on = max(error.depends_on, revision)
    return error
