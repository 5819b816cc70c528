"""Mutations as JSON lines: the form in which ``kvctl write`` takes an atomic batch.

    {"op": "put", "key": "a", "value": "1", "if_revision": 7}
    {"op": "delete", "key": "b"}
    {"op": "delete_range", "start": "c", "end": "d"}
    {"op": "delete_prefix", "prefix": "tmp/"}

Unlike a record to import, a mutation may have no field that is not known: a condition with a slip of the pen in its name
would be a condition that is not there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from kvctl.bytes_form import bytes_of
from kvctl.failures import EXIT_REFUSED, CtlError
from kvctl.limits import MAX_COMMIT_MUTATIONS, excess_of
from kvctl.records import parse_object

if TYPE_CHECKING:
    from kvclient import Mutation

_BYTES = {"put": ("key", "value"), "delete": ("key",), "delete_range": ("start", "end"), "delete_prefix": ("prefix",)}
_OTHERS = {"put": ("if_absent", "if_revision"), "delete": ("if_revision",), "delete_range": (), "delete_prefix": ()}


class NumberedMutation(NamedTuple):
    """A mutation and the line that it stands on."""

    line: int
    mutation: Mutation


def parse_mutations(lines: Iterable[tuple[int, bytes]]) -> list[NumberedMutation]:
    """Return the mutations of numbered lines; raise CtlError that names the line at fault. Blank lines are ignored."""
    found: list[NumberedMutation] = []
    for number, line in lines:
        if not line.strip():
            continue
        try:
            mutation = parse(line)
        except ValueError as error:
            raise CtlError("BAD_INPUT", f"line {number}: {error}; nothing was written", line=number) from error
        _check_limits(number, mutation)
        found.append(NumberedMutation(number, mutation))
        if len(found) > MAX_COMMIT_MUTATIONS:
            message = f"line {number} is one mutation too many: a commit may have {MAX_COMMIT_MUTATIONS:,}; nothing was written"
            hint = "write it in several batches, each atomic on its own; 'kvctl import' loads what need not be atomic"
            raise CtlError("COMMIT_TOO_LARGE", message, hint, EXIT_REFUSED, line=number)
    return found


def parse(line: bytes) -> Mutation:
    """Return the mutation that a line holds; raise ValueError that says what is wrong with it."""
    from kvclient import Delete, DeletePrefix, DeleteRange, Put

    record = parse_object(line)
    operation = record.get("op")
    if not isinstance(operation, str) or operation not in _BYTES:
        raise ValueError(f'"op" must be one of {", ".join(_BYTES)}')
    _check_fields(operation, record)
    data = [bytes_of(record, name) for name in _BYTES[operation]]
    namespace = _optional(record, "namespace", str, "a string")
    if_revision = _optional(record, "if_revision", int, "a number that is not negative")
    if operation == "put":
        if_absent = bool(_optional(record, "if_absent", bool, "true or false"))
        if if_absent and if_revision is not None:
            raise ValueError('"if_absent" and "if_revision" exclude each other')
        return Put(data[0], data[1], if_absent=if_absent, if_revision=if_revision, namespace=namespace)
    if operation == "delete":
        return Delete(data[0], if_revision=if_revision, namespace=namespace)
    if operation == "delete_prefix":
        return DeletePrefix(data[0], namespace=namespace)
    if data[1] and data[0] >= data[1]:
        raise ValueError('the range is empty: "start" does not come before "end"')
    return DeleteRange(data[0], data[1], namespace=namespace)


def _check_fields(operation: str, record: dict[str, Any]) -> None:
    """Raise ValueError for a field that the operation does not have."""
    known = {"op", "namespace", *_OTHERS[operation]}
    for name in _BYTES[operation]:
        known.update((name, f"{name}_b64", f"{name}_hex"))
    unknown = [name for name in record if name not in known]
    if unknown:
        raise ValueError(f'"{operation}" has no field "{unknown[0]}"')


def _optional(record: dict[str, Any], name: str, kind: type, what: str) -> Any:
    """Return a field of one kind; None where it is missing or null."""
    value = record.get(name)
    if value is None:
        return None
    negative = kind is int and isinstance(value, int) and value < 0
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)) or negative:
        raise ValueError(f'"{name}" must be {what}')
    return value


def _check_limits(line: int, mutation: Mutation) -> None:
    """Raise CtlError for a key or value beyond a limit."""
    key = getattr(mutation, "key", None)
    if key is None:
        return
    excess = excess_of(len(key), len(getattr(mutation, "value", b"")))
    if excess is not None:
        raise CtlError(excess.code, f"line {line}: {excess.message}; nothing was written", "", EXIT_REFUSED, line=line)
