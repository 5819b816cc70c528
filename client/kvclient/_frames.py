"""One frame of a Pipeline stream: the operations of many callers as one message, and its answer taken apart again.

Pure: a frame is filled, made into a request, and given its answer; whoever waits is told through a ``Waiter``.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable
from itertools import repeat
from typing import Any, Protocol

from kvclient import _calls as calls
from kvclient import _errors as errors
from kvclient._types import BatchResult, DeleteResult, Durability, Entry, WriteResult
from kvproto.v1 import kv_pb2

OPERATION_BYTES = 12
"""What an operation costs in a message beside its key and value, at most."""

_MEMORY = calls.durability_wanted(Durability.MEMORY)
_POLICY = calls.durability_wanted(Durability.POLICY)


class Waiter(Protocol):
    """Somebody who waits for one outcome: an ``asyncio.Future``, or what the blocking client has in its place."""

    def done(self) -> bool:
        """Return whether the outcome is known, or nobody waits for it any more."""

    def set_result(self, result: Any, /) -> None:
        """Tell what came of it."""

    def set_exception(self, error: BaseException, /) -> None:
        """Tell why nothing came of it."""


class Kind(enum.IntEnum):
    """What a frame holds; frames of one kind are filled one after the other."""

    GETS = 0
    PUTS = 1
    DELETES = 2
    MIXED = 3
    MEMORY_PUTS = 4
    """As PUTS, answered before they are durable; the same for the next two."""
    MEMORY_DELETES = 5
    MEMORY_MIXED = 6


def kind_of(kind: Kind, durability: Durability) -> Kind:
    """Return the kind of a write with the durability that its caller wants."""
    if durability is Durability.POLICY:
        return kind
    if durability is Durability.MEMORY:
        return Kind(kind + 3)
    raise errors.InvalidRequestError("INVALID_FIELD", f"a write asks for POLICY or MEMORY, not {durability.name}")


class Frame:
    """Operations of one kind, and those who wait for them, in the same order.

    ``keys`` holds the keys or, in mixed frames, the operations. An answer that does not fit the frame (fewer columns than
    keys, more commits than puts) is the server's fault: then nothing is known of the frame's writes.
    """

    __slots__ = (
        "attempt",
        "by_key",
        "deadlines",
        "earliest",
        "frame_id",
        "hops",
        "idempotency",
        "keys",
        "kind",
        "max_operations",
        "open_outcome",
        "size_bytes",
        "values",
        "waiters",
    )

    def __init__(self, kind: Kind, attempt: int = 1) -> None:
        self.kind = kind
        self.attempt = attempt
        """How often its operations have been sent, this time included."""
        self.hops = 0
        """How often they were sent on by a node that is not the primary."""
        self.idempotency: kv_pb2.IdempotencyKey | None = None
        """Under what the frame is remembered as a whole; then it is only ever sent again unchanged."""
        self.by_key = False
        """Each of its operations has a key of its own."""
        self.open_outcome = False
        """It was sent before, under keys, and not answered: what was carried out of it is not known."""
        self.frame_id = 0
        self.max_operations = 0
        """How many it may be filled with."""
        self.keys: list[Any] = []
        self.values: list[bytes] = []
        self.waiters: list[Waiter] = []
        self.deadlines: list[float] = []
        self.earliest = math.inf
        """The first of the deadlines."""
        self.size_bytes = 0

    @property
    def reads(self) -> bool:
        """Whether it only reads: then it may be sent again, whatever became of it."""
        return self.kind is Kind.GETS

    @property
    def repeatable(self) -> bool:
        """Whether it may be sent again although it may have been carried out."""
        return self.reads or self.by_key or self.idempotency is not None

    def unanswered(self) -> list[int]:
        """Return the places of those who still wait."""
        return [place for place, waiter in enumerate(self.waiters) if not waiter.done()]

    def part(self, places: Iterable[int], attempt: int) -> Frame:
        """Return a frame with the operations at these places, to be sent as it is."""
        part = Frame(self.kind, attempt)
        part.hops, part.by_key, part.open_outcome = self.hops, self.by_key, self.open_outcome
        for place in places:
            part.keys.append(self.keys[place])
            part.values.append(self.values[place])
            part.waiters.append(self.waiters[place])
            part.deadlines.append(self.deadlines[place])
        part.earliest = min(part.deadlines, default=math.inf)
        return part

    def cut(self, count: int) -> None:
        """Keep only so many operations."""
        for column in (self.keys, self.values, self.waiters, self.deadlines):
            del column[count:]

    def split(self, count: int) -> Frame:
        """Return a frame with the first so many operations, and keep the others.

        The bytes of those that left still count: what stays may be most of them, and must not be filled beyond the bound.
        """
        head = Frame(self.kind, self.attempt)
        head.hops, head.by_key, head.open_outcome = self.hops, self.by_key, self.open_outcome
        head.keys, self.keys = self.keys[:count], self.keys[count:]
        head.values, self.values = self.values[:count], self.values[count:]
        head.waiters, self.waiters = self.waiters[:count], self.waiters[count:]
        head.deadlines, self.deadlines = self.deadlines[:count], self.deadlines[count:]
        head.earliest = self.earliest  # not later than the first of either
        return head

    def fail_all(self, make_error: Callable[[], errors.KvClientError]) -> None:
        """Tell everybody who still waits the same, each with an error of its own."""
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_exception(make_error())

    def request(self, namespace: str, session: kv_pb2.SessionToken | None, max_lag_ms: int = 0) -> kv_pb2.PipelineRequest:
        """Return the message; reads carry what the client has seen."""
        kind = self.kind
        request = kv_pb2.PipelineRequest(
            frame_id=self.frame_id,
            namespace=namespace,
            durability=_MEMORY if kind >= Kind.MEMORY_PUTS else _POLICY,
            idempotency=self.idempotency,
            max_lag_ms=max_lag_ms,
        )
        match kind:
            case Kind.GETS:
                request.gets.keys.extend(self.keys)
                if session is not None:
                    request.session.CopyFrom(session)
            case Kind.PUTS | Kind.MEMORY_PUTS:
                request.puts.keys.extend(self.keys)
                request.puts.values.extend(self.values)
            case Kind.DELETES | Kind.MEMORY_DELETES:
                request.deletes.keys.extend(self.keys)
            case _:
                request.mixed.operations.extend(self.keys)
        return request

    # -- the answer -----------------------------------------------------------------------------------------------

    def settle(self, answer: kv_pb2.PipelineResponse) -> dict[int, errors.KvClientError]:
        """Tell each caller its outcome; return the failures, of which nobody has been told yet.

        Raises ServerError, before anybody was told anything, for an answer that does not fit.
        """
        failures = self._failures(answer)
        if len(failures) == len(self.keys):
            return failures
        results = self._results(answer, failures)
        if failures:
            for place, result in results:
                if not self.waiters[place].done():
                    self.waiters[place].set_result(result)
            return failures
        for waiter, (_, result) in zip(self.waiters, results, strict=True):
            if not waiter.done():
                waiter.set_result(result)
        return failures

    def _failures(self, answer: kv_pb2.PipelineResponse) -> dict[int, errors.KvClientError]:
        if not answer.failures and not answer.rejected:
            return {}
        writes = not self.reads
        if answer.rejected:
            if not answer.failures:
                raise _unfit("it was rejected without a reason")
            reason = answer.failures[0]
            return {place: errors.from_failure(reason, writes=writes, rejected=True) for place in range(len(self.keys))}
        failures = {failure.index: errors.from_failure(failure, writes=writes) for failure in answer.failures}
        if any(place >= len(self.keys) for place in failures):
            raise _unfit("it names an operation that was never sent")
        return failures

    def _results(self, answer: kv_pb2.PipelineResponse, failures: dict[int, errors.KvClientError]) -> Iterable[tuple[int, Any]]:
        """Return place and result of each operation that did not fail."""
        places: Iterable[int] = range(len(self.keys))
        if failures:
            places = [place for place in places if place not in failures]
        match self.kind:
            case Kind.GETS:
                return self._entries(answer, places)
            case Kind.PUTS | Kind.MEMORY_PUTS:
                return self._put_results(answer, len(failures), places)
            case Kind.DELETES | Kind.MEMORY_DELETES:
                return self._delete_results(answer, failures, places)
            case _:
                return self._mixed_results(answer, places)

    def _entries(self, answer: kv_pb2.PipelineResponse, places: Iterable[int]) -> Iterable[tuple[int, Entry | None]]:
        found = answer.gets
        columns = (self.keys, found.values, found.create_revisions, found.mod_revisions, found.versions)
        if any(len(column) != len(self.keys) for column in columns):
            raise _unfit("it has fewer rows than keys were asked for, or more")
        entries = [entry if entry.version else None for entry in map(Entry._make, zip(*columns, strict=True))]
        return ((place, entries[place]) for place in places)

    def _put_results(
        self, answer: kv_pb2.PipelineResponse, failed: int, places: Iterable[int]
    ) -> Iterable[tuple[int, WriteResult]]:
        if answer.commits != len(self.keys) - failed:
            raise _unfit(f"it counts {answer.commits} commits of {len(self.keys)} puts and {failed} failures")
        _check_run(answer)
        revisions = range(answer.first_revision, answer.first_revision + answer.commits)
        reached, epoch = calls.durability_reached(answer.reached), answer.header.epoch
        return zip(places, map(WriteResult._make, zip(revisions, repeat(reached), repeat(epoch))), strict=True)

    def _delete_results(
        self, answer: kv_pb2.PipelineResponse, failures: dict[int, errors.KvClientError], places: Iterable[int]
    ) -> Iterable[tuple[int, DeleteResult]]:
        absent = set(answer.absent)
        if any(place >= len(self.keys) or place in failures for place in absent):
            raise _unfit("it calls a key absent that was not to be deleted, or whose deletion failed")
        if answer.commits != len(self.keys) - len(failures) - len(absent):
            raise _unfit(f"it counts {answer.commits} commits of {len(self.keys)} deletions")
        _check_run(answer)
        reached, epoch = calls.durability_reached(answer.reached), answer.header.epoch
        results = []
        revision = answer.first_revision
        for place in places:
            if place in absent:
                results.append((place, DeleteResult(0, answer.header.revision, reached, epoch)))
            else:
                results.append((place, DeleteResult(1, revision, reached, epoch)))
                revision += 1
        return results

    def _mixed_results(self, answer: kv_pb2.PipelineResponse, places: Iterable[int]) -> Iterable[tuple[int, Any]]:
        if len(answer.results) != len(self.keys):
            raise _unfit("it has fewer results than operations, or more")
        reached, epoch = calls.durability_reached(answer.reached), answer.header.epoch
        results: list[tuple[int, Any]] = []
        for place in places:
            operation, done = self.keys[place], answer.results[place]
            match operation.WhichOneof("kind"):
                case "put":
                    if not done.revision:
                        raise _unfit("a put has neither a revision nor a failure")
                    results.append((place, WriteResult(done.revision, reached, epoch)))
                case "delete":
                    revision = done.revision or answer.header.revision
                    results.append((place, DeleteResult(done.deleted, revision, reached, epoch)))
                case _:
                    revision = done.revision or answer.header.revision
                    puts = sum(mutation.HasField("put") for mutation in operation.write.mutations)
                    results.append((place, BatchResult(puts, done.deleted, revision, reached, epoch)))
        return results


def _check_run(answer: kv_pb2.PipelineResponse) -> None:
    """Raise ServerError where commits have no revisions."""
    if answer.commits and not answer.first_revision:
        raise _unfit(f"it counts {answer.commits} commits and names no revision")


def _unfit(why: str) -> errors.ServerError:
    return errors.ServerError("UNEXPECTED_STATUS", f"the answer does not fit its frame: {why}")
