"""Requests into effects, judged against the newest state (applied, not necessarily visible). Pure but for what it reads.

Whatever is answered without a commit still shows something: that a key is absent, that a condition failed. ``depends_on``
names the newest revision it shows, deletions counted, and the pipeline holds the answer until that is visible.

What lies in tables was read beforehand and comes as a ``Pin``: nothing here waits.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from kvserver.base.errors import (
    Code,
    ConditionFailed,
    InvalidRequest,
    KvError,
    NamespaceExists,
    RevisionError,
    UnknownNamespace,
)
from kvserver.base.limits import MAX_COMMIT_BYTES, MAX_COMMIT_MUTATIONS
from kvserver.base.policy import make_policy
from kvserver.base.types import DEFAULT_NAMESPACE
from kvserver.commit.requests import (
    Batch,
    CompactHistory,
    CreateNamespace,
    Delete,
    DeleteSpan,
    DropNamespace,
    ForgetAnswers,
    Mutation,
    Put,
    SetPolicy,
    Single,
)
from kvserver.commit.state import State
from kvserver.storage.view import Pin
from kvserver.wal.commit_record import DELETE, EFFECT_LENGTH, PUT, Effect


class Evaluated(NamedTuple):
    """What a request comes to."""

    effects: list[Effect]
    """Empty: no commit is made."""
    depends_on: int
    put: int = 0
    deleted: int = 0
    namespace_id: int = 0


def evaluate(request: Single, state: State, assigned: int, pin: Pin | None = None) -> Evaluated:
    """Return what a request comes to; ``assigned`` is the newest revision given out. Raises KvError with ``depends_on`` set."""
    pin = pin or state.view.pin()
    match request:
        case Put():
            return _put(request, state, assigned, pin)
        case Delete():
            return _delete(request, state, pin)
        case DeleteSpan():
            return _delete_span(request, state, assigned, pin)
        case Batch():
            return _batch(request, state, assigned, pin)
        case CreateNamespace():
            return _create_namespace(request, state)
        case DropNamespace():
            return _drop_namespace(request, state, assigned)
        case CompactHistory():
            return _compact_history(request, state, assigned)
        case SetPolicy():
            return _set_policy(request, state)
        case ForgetAnswers():
            return Evaluated(state.answers.forget_effects(request.before_ms), 0)


def _put(request: Put, state: State, assigned: int, pin: Pin) -> Evaluated:
    state.require_live(request.namespace)
    effect = Effect(PUT, request.namespace, request.key, request.value)
    if request.if_revision is not None:
        _require(request.namespace, request.key, request.if_revision, state, pin)
        if not request.if_revision:  # what is there is known to be nothing; else it stays "one more than that"
            effect = effect._replace(create_revision=assigned + 1, version=1)
    return Evaluated([effect], 0, put=1)


def _delete(request: Delete, state: State, pin: Pin) -> Evaluated:
    state.require_live(request.namespace)
    if request.if_revision is None:
        revision, exists = state.view.newest(request.namespace, request.key, pin)
    else:
        revision, exists = _require(request.namespace, request.key, request.if_revision, state, pin)
    if not exists:
        return Evaluated([], revision)
    return Evaluated([Effect(DELETE, request.namespace, request.key, b"")], 0, deleted=1)


def _delete_span(request: DeleteSpan, state: State, assigned: int, pin: Pin) -> Evaluated:
    namespace, span = request.namespace, request.span
    state.require_live(namespace)
    effects: list[Effect] = []
    size = 0
    in_tables, too_many = pin.spans.get((namespace, span), ([], False))
    stored = set(in_tables)
    for key in _keys_of_span(request, state, pin, in_tables):
        if too_many:
            break
        if _exists(namespace, key, state, pin, stored):
            effects.append(Effect(DELETE, namespace, key, b""))
            size += len(key) + EFFECT_LENGTH
            too_many = len(effects) > MAX_COMMIT_MUTATIONS or size > MAX_COMMIT_BYTES
    if too_many:
        raise depending(
            InvalidRequest(
                Code.RANGE_TOO_LARGE,
                f"the range holds more than {MAX_COMMIT_MUTATIONS} keys or {MAX_COMMIT_BYTES} bytes of them",
                "delete it in parts, one smaller range after the other",
            ),
            assigned,
        )
    return Evaluated(effects, assigned, deleted=len(effects))


def _keys_of_span(request: DeleteSpan, state: State, pin: Pin, stored: list[bytes]) -> Iterator[bytes]:
    """Yield the keys of a span that memory or the tables know, in order, deleted ones included; each only as it is asked for."""
    walks: list[Iterable[bytes]] = [stored]
    for memtable in state.view.sources(pin.rows.generation):
        memtable.catch_up(request.namespace, memtable.unordered(request.namespace))
        walks.append(memtable.keys(request.namespace, request.span.start, request.span.end))
    for key, _ in itertools.groupby(heapq.merge(*walks)):
        yield key


def _exists(namespace: int, key: bytes, state: State, pin: Pin, stored: set[bytes]) -> bool:
    for memtable in state.view.sources(pin.rows.generation):
        chain = memtable.newest(namespace, key)
        if chain is not None:
            return chain[1] is not None
    return key in stored


def _batch(request: Batch, state: State, assigned: int, pin: Pin) -> Evaluated:
    effects: list[Effect] = []
    seen: set[tuple[int, bytes]] = set()
    depends_on = put = 0
    for mutation in request.mutations:
        try:
            part = _mutation(mutation, state, assigned, pin)
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


def _mutation(mutation: Mutation, state: State, assigned: int, pin: Pin) -> Evaluated:
    match mutation:
        case Put():
            return _put(mutation, state, assigned, pin)
        case Delete():
            return _delete(mutation, state, pin)
        case DeleteSpan():
            return _delete_span(mutation, state, assigned, pin)


def _create_namespace(request: CreateNamespace, state: State) -> Evaluated:
    entry = state.namespaces.get(request.name)
    if entry is not None:
        raise depending(NamespaceExists(request.name), entry.create_revision)
    return Evaluated(state.creation_effects(request.name), 0, put=1, namespace_id=state.next_namespace_id)


def _drop_namespace(request: DropNamespace, state: State, assigned: int) -> Evaluated:
    entry = state.namespaces.get(request.name)
    if entry is None:
        raise depending(UnknownNamespace(request.name), assigned)
    if entry.id == DEFAULT_NAMESPACE:
        raise InvalidRequest(
            Code.INVALID_NAMESPACE_NAME,
            "the default namespace cannot be dropped",
            "delete its keys with: kvctl delete --prefix ''",
        )
    return Evaluated(state.drop_effects(entry), 0, deleted=1, namespace_id=entry.id)


def _compact_history(request: CompactHistory, state: State, assigned: int) -> Evaluated:
    if request.revision > assigned:
        raise depending(
            RevisionError(
                Code.FUTURE_REVISION,
                f"revision {request.revision} does not exist yet; the newest is {assigned}",
                "name an existing revision, or none for the newest one",
            ),
            assigned,
        )
    oldest = request.revision or assigned
    commit, already = state.newest_compaction
    if oldest <= already:
        return Evaluated([], commit)
    return Evaluated(state.compaction_effects(oldest), 0)


def _set_policy(request: SetPolicy, state: State) -> Evaluated:
    newest, wanted = state.newest_policy, make_policy(request.policy.write_quorum, request.policy.members)
    if wanted.is_same_rule(newest):
        return Evaluated([], newest.revision)
    return Evaluated(state.policy_effects(wanted), 0)


def _require(namespace: int, key: bytes, wanted: int, state: State, pin: Pin) -> tuple[int, bool]:
    """Return revision and existence of a key's newest version if that is of the wanted revision (0: it does not exist).

    Raises ConditionFailed.
    """
    revision, exists = state.view.newest(namespace, key, pin)
    found = revision if exists else 0
    if found != wanted:
        condition = f"if_revision={wanted}" if wanted else "if_absent"
        raise ConditionFailed(key, found, condition, depends_on=revision)
    return revision, exists


def depending(error: KvError, revision: int) -> KvError:
    """Return the error, to be told only when the revision is visible."""
    error.depends_on = max(error.depends_on, revision)
    return error
