"""What a request must keep before anything is done with it. Every refusal names the field or the limit that it breaks.

Sizes of whole commits that depend on the store (a range deletion) are judged where they are known, in ``commit.evaluate``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from kvproto.v1 import kv_pb2
from kvserver.base.errors import Code, InvalidRequest
from kvserver.base.limits import (
    MAX_COMMIT_MUTATIONS,
    MAX_FRAME_OPERATIONS,
    MAX_KEY_BYTES,
    MAX_NAMESPACE_NAME_BYTES,
    MAX_VALUE_BYTES,
)
from kvserver.commit.idempotency import CLIENT_ID_BYTES, IdempotencyKey
from kvserver.storage.ranges import KeySpan

_NAMESPACE_NAME = re.compile(r"[A-Za-z0-9._/-]+", re.ASCII)


def invalid_field(name: str, what: str) -> InvalidRequest:
    """Return the refusal of a field whose value is outside what its comment in the contract allows."""
    return InvalidRequest(Code.INVALID_FIELD, f"{name} {what}")


def check_key(key: bytes) -> None:
    """Refuse an empty key (EMPTY_KEY) and one over the limit (KEY_TOO_LARGE)."""
    if not key:
        raise InvalidRequest(Code.EMPTY_KEY, "the key is empty; keys have at least one byte")
    if len(key) > MAX_KEY_BYTES:
        raise _key_too_large("the key", key)


def check_pair(key: bytes, value: bytes) -> None:
    """Refuse a key or value outside the limits (EMPTY_KEY, KEY_TOO_LARGE, VALUE_TOO_LARGE)."""
    check_key(key)
    if len(value) > MAX_VALUE_BYTES:
        raise InvalidRequest(
            Code.VALUE_TOO_LARGE,
            f"the value has {len(value)} bytes; at most {MAX_VALUE_BYTES} are allowed",
            "keep it in parts, under several keys",
        )


def check_span(span: KeySpan) -> KeySpan:
    """Return the span; refuse one whose start is not below its end (INVERTED_RANGE) or whose bounds no key can have."""
    # One byte more than a key may have: the key itself with a zero behind it is how a range begins after a key.
    for name, bound in (("the range's start", span.start), ("the range's end", span.end)):
        if len(bound) > MAX_KEY_BYTES + 1:
            raise _key_too_large(name, bound)
    if span.end and span.start >= span.end:
        raise InvalidRequest(
            Code.INVERTED_RANGE,
            "the range's start is not below its end",
            "a range holds the keys k with start <= k < end; an empty end means the namespace's end",
        )
    return span


def check_prefix(prefix: bytes) -> bytes:
    """Return the prefix; refuse one that no key can begin with (KEY_TOO_LARGE)."""
    if len(prefix) > MAX_KEY_BYTES:
        raise _key_too_large("the prefix", prefix)
    return prefix


def wants_memory(durability: int, name: str = "durability") -> bool:
    """Say whether a write asks to be answered before it is durable; refuse what requests may not ask for (INVALID_FIELD)."""
    if durability == kv_pb2.DURABILITY_UNSPECIFIED:
        return False
    if durability == kv_pb2.DURABILITY_MEMORY:
        return True
    raise invalid_field(name, f"must be DURABILITY_UNSPECIFIED or DURABILITY_MEMORY, not {durability}")


def idempotency_of(
    request: kv_pb2.PutRequest | kv_pb2.DeleteRequest | kv_pb2.WriteRequest | kv_pb2.PipelineRequest,
) -> IdempotencyKey | None:
    """Return the key under which a write is remembered, None where it has none; refuse one that is incomplete (INVALID_FIELD)."""
    if not request.HasField("idempotency"):
        return None
    key = request.idempotency
    if len(key.client_id) != CLIENT_ID_BYTES:
        raise invalid_field("idempotency.client_id", f"must have {CLIENT_ID_BYTES} bytes, not {len(key.client_id)}")
    if not key.issued_ms:
        raise invalid_field("idempotency.issued_ms", "is missing; it says when the write was first sent")
    return IdempotencyKey(key.client_id, key.number, key.issued_ms)


def check_limit(limit: int) -> int:
    """Return a scan's limit; refuse a negative one (INVALID_FIELD)."""
    if limit < 0:
        raise invalid_field("limit", f"must not be negative; it is {limit}")
    return limit


def check_mutation_count(count: int) -> None:
    """Refuse a commit of none (INVALID_FIELD) or too many mutations (COMMIT_TOO_LARGE)."""
    if not count:
        raise invalid_field("mutations", "is empty; a commit has at least one")
    if count > MAX_COMMIT_MUTATIONS:
        raise InvalidRequest(
            Code.COMMIT_TOO_LARGE,
            f"the commit has {count} mutations; at most {MAX_COMMIT_MUTATIONS} are allowed",
            "split it, where it need not be atomic",
        )


def check_operation_count(count: int) -> None:
    """Refuse a frame of too many operations (FRAME_TOO_LARGE)."""
    if count > MAX_FRAME_OPERATIONS:
        raise InvalidRequest(
            Code.FRAME_TOO_LARGE,
            f"the frame has {count} operations; at most {MAX_FRAME_OPERATIONS} are allowed",
            "send them in several frames",
        )


def check_namespace_name(name: str) -> None:
    """Refuse what no namespace may be called (INVALID_NAMESPACE_NAME). The empty name is the default namespace's alone."""
    if not 1 <= len(name) <= MAX_NAMESPACE_NAME_BYTES or not _NAMESPACE_NAME.fullmatch(name):
        raise InvalidRequest(
            Code.INVALID_NAMESPACE_NAME,
            f"{name[:64]!r} cannot be the name of a namespace",
            f"names have 1 to {MAX_NAMESPACE_NAME_BYTES} bytes of letters, digits, '.', '_', '-' and '/'",
        )


def are_puttable(keys: Sequence[bytes], values: Sequence[bytes]) -> bool:
    """Say whether all pairs of two columns, not empty ones, are within the limits. The hot path: no call an item."""
    return all(keys) and max(map(len, keys)) <= MAX_KEY_BYTES and max(map(len, values)) <= MAX_VALUE_BYTES


def are_keys(keys: Sequence[bytes]) -> bool:
    """Say whether all of a column, not an empty one, may be keys."""
    return all(keys) and max(map(len, keys)) <= MAX_KEY_BYTES


def _key_too_large(what: str, key: bytes) -> InvalidRequest:
    return InvalidRequest(Code.KEY_TOO_LARGE, f"{what} has {len(key)} bytes; at most {MAX_KEY_BYTES} are allowed")
