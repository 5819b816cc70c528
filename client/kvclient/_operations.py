"""Makes the operations that are joined into frames: checked here, once, for both clients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Generic, NamedTuple, TypeVar

from kvclient import _types as types
from kvclient._calls import unsigned
from kvclient._frames import OPERATION_BYTES, Kind, kind_of
from kvproto.v1 import kv_pb2

ResultT = TypeVar("ResultT")

BY_KEY = frozenset({Kind.MIXED, Kind.MEMORY_MIXED})
"""Kinds whose operations are remembered one by one."""

PUT_KINDS = {types.Durability.POLICY: Kind.PUTS, types.Durability.MEMORY: Kind.MEMORY_PUTS}
"""The kinds of the puts that clients make most."""


class Operation(NamedTuple, Generic[ResultT]):
    """An operation for a frame; its outcome is a ResultT."""

    kind: Kind
    key: Any
    """The key or, for a mixed frame, the operation's message."""
    value: bytes
    size_bytes: int


def key_of(key: bytes) -> bytes:
    """Return a key or a value as bytes; raise TypeError for anything that is none."""
    if type(key) is bytes:
        return key
    if isinstance(key, (bytes, bytearray, memoryview)):
        return bytes(key)
    raise TypeError(f"keys and values are bytes, not {type(key).__name__}: {key!r:.80}")


def size_of(key: bytes, value: bytes = b"") -> int:
    """Return what an operation adds to a message, at most."""
    return len(key) + len(value) + OPERATION_BYTES


def get(key: bytes) -> Operation[types.Entry | None]:
    """Make the read of a key's newest version."""
    key = key_of(key)
    return Operation(Kind.GETS, key, b"", size_of(key))


def put(key: bytes, value: bytes, durability: types.Durability) -> Operation[types.WriteResult]:
    """Make a put without a condition."""
    kind = PUT_KINDS.get(durability) or kind_of(Kind.PUTS, durability)
    key, value = key_of(key), key_of(value)
    return Operation(kind, key, value, size_of(key, value))


def put_if(
    key: bytes, value: bytes, if_absent: bool, if_revision: int | None, durability: types.Durability
) -> Operation[types.WriteResult]:
    """Make a put with a condition."""
    put = kv_pb2.PutRequest(key=key_of(key), value=key_of(value), if_absent=if_absent)
    if if_revision is not None:
        put.if_revision = unsigned("if_revision", if_revision)
    return _mixed(kv_pb2.Operation(put=put), durability)


def delete(
    target: types.Delete | types.DeleteRange | types.DeletePrefix, durability: types.Durability
) -> Operation[types.DeleteResult]:
    """Make the deletion of a key, a range or a prefix."""
    if isinstance(target, types.Delete) and target.if_revision is None:
        key = key_of(target.key)
        return Operation(kind_of(Kind.DELETES, durability), key, b"", size_of(key))
    request = kv_pb2.DeleteRequest()
    _set_target(request, target)
    return _mixed(kv_pb2.Operation(delete=request), durability)


def write(mutations: Iterable[types.Mutation], durability: types.Durability) -> Operation[types.BatchResult]:
    """Make an atomic batch."""
    request = kv_pb2.WriteRequest()
    request.mutations.extend(_mutation(mutation) for mutation in mutations)
    return _mixed(kv_pb2.Operation(write=request), durability)


def with_key(operation: Operation[ResultT], key: kv_pb2.IdempotencyKey) -> Operation[ResultT]:
    """Return an operation of a mixed frame, to be remembered under a key."""
    message = operation.key
    getattr(message, message.WhichOneof("kind")).idempotency.CopyFrom(key)
    return operation._replace(size_bytes=message.ByteSize() + OPERATION_BYTES)


def _mixed(message: kv_pb2.Operation, durability: types.Durability) -> Operation[Any]:
    return Operation(kind_of(Kind.MIXED, durability), message, b"", message.ByteSize() + OPERATION_BYTES)


def _set_target(message: Any, target: types.Delete | types.DeleteRange | types.DeletePrefix) -> None:
    """Fill in what a deletion deletes."""
    match target:
        case types.Delete():
            message.key = key_of(target.key)
            if target.if_revision is not None:
                message.if_revision = unsigned("if_revision", target.if_revision)
        case types.DeleteRange():
            message.range.CopyFrom(kv_pb2.KeyRange(start=key_of(target.start), end=key_of(target.end)))
        case types.DeletePrefix():
            message.prefix = key_of(target.prefix)


def _mutation(mutation: types.Mutation) -> kv_pb2.Mutation:
    """Return one mutation of a batch as it is sent."""
    message = kv_pb2.Mutation()
    if mutation.namespace is not None:
        message.namespace = mutation.namespace
    if isinstance(mutation, types.Put):
        key, value = key_of(mutation.key), key_of(mutation.value)
        message.put.CopyFrom(kv_pb2.PutMutation(key=key, value=value, if_absent=mutation.if_absent))
        if mutation.if_revision is not None:
            message.put.if_revision = unsigned("if_revision", mutation.if_revision)
    else:
        _set_target(message.delete, mutation)
    return message
