"""Messages into what the engine is asked to do, and what it answers back into messages. Checks on the way in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from kvproto.v1 import errors_pb2, kv_pb2
from kvserver.base.errors import ConditionFailed, KvError, NotPrimary, UnknownNamespace
from kvserver.base.limits import MIB
from kvserver.base.types import Version
from kvserver.commit.refusals import policy_unmet
from kvserver.commit.replay import ReplayPipeline
from kvserver.commit.requests import Batch, Committed, Delete, DeleteSpan, Keyed, Mutation, Put
from kvserver.engine.database import Database
from kvserver.service import validation
from kvserver.storage.ranges import EVERYTHING, KeySpan, prefix_span

LOCAL = kv_pb2.DURABILITY_LOCAL
REPLICATED = kv_pb2.DURABILITY_REPLICATED
MEMORY = kv_pb2.DURABILITY_MEMORY

_FAILURE_TEXT_BYTES = 1 * MIB
"""The failures of one frame carry so many bytes of text at most; those behind carry their code only."""


class Answers:
    """What the answers of one node have in common: who it is, and how well what it shows is kept."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._cluster_id = database.identity.cluster_id
        self._node = database.identity.node_name

    def header(self, revision: int) -> kv_pb2.ResponseHeader:
        """Return the header of an answer that depends on this revision; 0: on no commit in particular, so the visible one."""
        return kv_pb2.ResponseHeader(
            cluster_id=self._cluster_id,
            node=self._node,
            epoch=self._database.history.current.number,
            revision=revision or self._database.marks.visible,
        )

    def reached(self, revision: int) -> kv_pb2.Durability.ValueType:
        """Return the level that a revision has reached by now."""
        marks = self._database.marks
        if revision > marks.durable:
            return MEMORY
        return LOCAL if marks.replicated is None or revision > marks.replicated else REPLICATED


class Namespaces:
    """Finds namespaces by name, and tells a name that cannot exist from one that does not."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, name: str) -> int:
        """Return the id of a visible namespace. Raises UnknownNamespace, InvalidRequest.

        Whether a namespace exists that was never heard of is only for a primary to say that shows all that it recovered:
        NotPrimary on a follower, Refused (POLICY_UNMET) where the policy's quorum is still waited for.
        """
        try:
            return self._database.namespace_id(name)
        except UnknownNamespace:
            validation.check_namespace_name(name)
            pipeline, marks = self._database.pipeline, self._database.marks
            if isinstance(pipeline, ReplayPipeline):
                raise NotPrimary(pipeline.primary) from None
            if marks.visible < marks.opened:
                raise policy_unmet(0, "what was recovered is not shown before it is") from None
            raise


def put(namespace: int, message: kv_pb2.PutRequest | kv_pb2.PutMutation) -> Put:
    """Return the put that a message asks for. Raises InvalidRequest."""
    key, value = message.key, message.value
    validation.check_pair(key, value)
    conditional = message.HasField("if_revision")
    if message.if_absent:
        if conditional:
            raise validation.invalid_field("if_absent", "and if_revision must not be given together")
        return Put(namespace, key, value, 0)
    return Put(namespace, key, value, message.if_revision) if conditional else Put(namespace, key, value)


def delete(namespace: int, message: kv_pb2.DeleteRequest | kv_pb2.DeleteMutation) -> Delete | DeleteSpan:
    """Return the deletion that a message asks for. Raises InvalidRequest."""
    target = message.WhichOneof("target")
    conditional = message.HasField("if_revision")
    if target == "key":
        validation.check_key(message.key)
        return Delete(namespace, message.key, message.if_revision if conditional else None)
    if target is None:
        raise validation.invalid_field("target", "is missing; give a key, a range or a prefix")
    if conditional:
        raise validation.invalid_field("if_revision", "must be given with a single key only")
    if target == "range":
        return DeleteSpan(namespace, span_of_range(message.range))
    return DeleteSpan(namespace, prefix_span(validation.check_prefix(message.prefix)))


def batch(request: kv_pb2.WriteRequest, default_namespace: int, namespaces: Namespaces) -> Batch:
    """Return the atomic commit that a message asks for. Raises InvalidRequest, UnknownNamespace."""
    validation.check_mutation_count(len(request.mutations))
    return Batch([_mutation(message, default_namespace, namespaces) for message in request.mutations])


def keyed(
    command: Put | Delete | DeleteSpan | Batch,
    request: kv_pb2.PutRequest | kv_pb2.DeleteRequest | kv_pb2.WriteRequest,
    now_ms: int,
) -> Put | Delete | DeleteSpan | Batch | Keyed:
    """Return the command, to be carried out once if its request has an idempotency key. Raises InvalidRequest."""
    key = validation.idempotency_of(request)
    return command if key is None else Keyed(command, key, now_ms)


def _mutation(message: kv_pb2.Mutation, default_namespace: int, namespaces: Namespaces) -> Mutation:
    namespace = namespaces.find(message.namespace) if message.HasField("namespace") else default_namespace
    kind = message.WhichOneof("kind")
    if kind == "put":
        return put(namespace, message.put)
    if kind == "delete":
        return delete(namespace, message.delete)
    raise validation.invalid_field("kind", "is missing; a mutation is a put or a delete")


def span_of_range(message: kv_pb2.KeyRange) -> KeySpan:
    """Return the span of a range. Raises InvalidRequest."""
    return validation.check_span(KeySpan(message.start, message.end))


def span_of_scan(request: kv_pb2.ScanRequest) -> KeySpan:
    """Return the span that a scan walks. Raises InvalidRequest."""
    keys = request.WhichOneof("keys")
    if keys == "range":
        return span_of_range(request.range)
    if keys == "prefix":
        return prefix_span(validation.check_prefix(request.prefix))
    return EVERYTHING


def session_of(request: kv_pb2.GetRequest | kv_pb2.ScanRequest | kv_pb2.PipelineRequest) -> tuple[int, int] | None:
    """Return the position that the caller has seen, None where it names none."""
    return (request.session.epoch, request.session.revision) if request.HasField("session") else None


def key_value(version: Version) -> kv_pb2.KeyValue:
    """Return one version of a key as a message."""
    key, value, create_revision, mod_revision, number = version
    return kv_pb2.KeyValue(key=key, value=value, create_revision=create_revision, mod_revision=mod_revision, version=number)


def fill_columns(columns: kv_pb2.VersionColumns, versions: list[Version]) -> None:
    """Write versions into the columns of a message."""
    if versions:
        keys, values, create_revisions, mod_revisions, numbers = zip(*versions, strict=True)
        columns.keys.extend(keys)
        columns.values.extend(values)
        columns.create_revisions.extend(create_revisions)
        columns.mod_revisions.extend(mod_revisions)
        columns.versions.extend(numbers)


def depends_on(done: Committed) -> int:
    """Return the revision that the answer to a write shows something of; 0: of none."""
    return done.revision or done.depends_on


def error_code(error: KvError) -> errors_pb2.ErrorCode.ValueType:
    """Return the contract's name for a code: the same number, which a test holds equal."""
    return cast("errors_pb2.ErrorCode.ValueType", int(error.code))


def failures(errors: Iterable[tuple[int, KvError]]) -> list[kv_pb2.Failure]:
    """Return the failed operations of a frame as messages; the text of all of them together is bounded."""
    room = _FAILURE_TEXT_BYTES
    found = []
    for index, error in errors:
        failure = kv_pb2.Failure(index=index, code=error_code(error))
        room -= len(error.message) + len(error.hint)
        if room >= 0:
            failure.message = error.message
            failure.hint = error.hint
            failure.details.update(error.details)
        if isinstance(error, ConditionFailed):
            failure.mod_revision = error.mod_revision
        found.append(failure)
    return found
