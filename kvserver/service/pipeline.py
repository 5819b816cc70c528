"""A stream of frames: many independent operations a message, effects in the order sent, answers as they may be told.

Columnar frames are the fast path, and the reason why this is not written as a loop over operations: a frame of a thousand
puts is checked by a handful of calls over whole columns, carried out by one submission, and answered by one run of
revisions. Only a frame that breaks a rule is looked at pair by pair, to tell the failing operations from the others.

Each operation is judged by itself: one that fails, or is refused for want of room, does not keep later ones from being
carried out. What is refused as a whole (no operation of it was begun) is answered ``rejected``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Any

from kvproto.v1 import kv_pb2
from kvserver.base.errors import InvalidRequest, KvError, OutcomeUnknown
from kvserver.base.types import Version
from kvserver.commit.idempotency import IdempotencyKey
from kvserver.commit.requests import Committed, Delete, DeleteRun, DeletesDone, Found, Keyed, PutRun, ReadRun, RunDone
from kvserver.commit.ticket import Ticket
from kvserver.engine.database import Database
from kvserver.service import convert, validation
from kvserver.service.frames import FrameContext, PendingFrame, as_it_is, fits, within_budget
from kvserver.service.mixed import carry_out_mixed
from kvserver.storage.view import Pin

Failures = list[tuple[int, KvError]]


class PipelineSession:
    """One stream. ``handle`` belongs to the event loop and is called in the order of the frames."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._answers = convert.Answers(database)
        self._namespaces = convert.Namespaces(database)
        self._last: Ticket[Any] | None = None
        """The newest submission of this stream, which may stand in line; reads behind it must, too. None: it only reads."""

    def handle(self, frame: kv_pb2.PipelineRequest) -> PendingFrame | Awaitable[PendingFrame]:
        """Carry a frame out. Never raises KvError: refusals are answers too."""
        context = FrameContext(frame.frame_id, self._answers)
        try:
            context.memory = validation.wants_memory(frame.durability)
            key = validation.idempotency_of(frame)
            namespace = self._namespaces.find(frame.namespace)
            match frame.WhichOneof("operations"):
                case "puts":
                    return self._puts(context, namespace, list(frame.puts.keys), list(frame.puts.values), key)
                case "deletes" if key is not None:
                    return self._keyed_deletes(context, namespace, list(frame.deletes.keys), key)
                case "deletes":
                    return self._deletes(context, namespace, list(frame.deletes.keys))
                case "gets" | "mixed" if key is not None:
                    raise validation.invalid_field(
                        "idempotency",
                        "must be given with puts or deletes only; operations of a mixed frame have keys of their own",
                    )
                case "gets":
                    keys = list(frame.gets.keys)
                    seen = self._database.reading_at(0, convert.session_of(frame), frame.max_lag_ms)
                    if not seen.done:
                        return self._gets_behind(seen, context, namespace, keys)
                    seen.answer()
                    return self._gets(context, namespace, keys)
                case "mixed":
                    operations = frame.mixed.operations
                    validation.check_operation_count(len(operations))
                    seen = self._database.reading_at(0, convert.session_of(frame), frame.max_lag_ms)
                    return self._mixed(seen, context, namespace, operations)
                case _:
                    raise validation.invalid_field("operations", "is missing; a frame has one kind of operations")
        except KvError as error:
            return PendingFrame((), partial(context.rejection, error))

    async def _mixed(
        self, seen: Ticket[int], context: FrameContext, namespace: int, operations: Sequence[kv_pb2.Operation]
    ) -> PendingFrame:
        try:
            await seen
        except KvError as error:
            return PendingFrame((), partial(context.rejection, error))
        pending = await carry_out_mixed(self._database, self._namespaces, context, namespace, operations)
        self._last = pending.newest or self._last
        return pending

    # -- puts -----------------------------------------------------------------------------------------------------

    def _puts(
        self, context: FrameContext, namespace: int, keys: list[bytes], values: list[bytes], key: IdempotencyKey | None
    ) -> PendingFrame:
        if len(keys) != len(values):
            raise validation.invalid_field("puts", f"has {len(keys)} keys and {len(values)} values; they must be as many")
        validation.check_operation_count(len(keys))
        failed: Failures = []
        if keys and not validation.are_puttable(keys, values):
            keys, values, failed = _split_puts(keys, values)
        if not keys:
            return PendingFrame((), partial(context.answer, failures=failed))
        run = PutRun(namespace, keys, values)
        request = run if key is None else Keyed(run, key, self._database.now_ms())
        ticket = self._last = self._database.submit(request, as_it_is, context.memory)
        return PendingFrame((ticket,), partial(self._puts_answer, context, ticket, len(keys), failed))

    def _puts_answer(
        self, context: FrameContext, ticket: Ticket[RunDone], puts: int, failed: Failures
    ) -> kv_pb2.PipelineResponse:
        try:
            first, commits = ticket.answer()
        except OutcomeUnknown as error:
            return context.answer(failures=_with_all_others(failed, puts + len(failed), error))
        except KvError as error:
            return context.rejection(error)
        return context.answer(first + commits - 1, failures=failed, first_revision=first, commits=commits)

    # -- deletes --------------------------------------------------------------------------------------------------

    def _deletes(self, context: FrameContext, namespace: int, keys: list[bytes]) -> PendingFrame | Awaitable[PendingFrame]:
        validation.check_operation_count(len(keys))
        keys, places, failed = _split_keys(keys)
        requests = [Delete(namespace, key) for key in keys]
        if self._database.state.view.has_tables:
            return self._prepared_deletes(context, requests, places, failed)
        return self._submit_deletes(context, requests, places, failed, None)

    async def _prepared_deletes(
        self, context: FrameContext, requests: list[Delete], places: Sequence[int], failed: Failures
    ) -> PendingFrame:
        """Read from the tables whether the keys exist, all in one, before the first of them is deleted."""
        try:
            pin = await self._database.prepare(requests)
        except KvError as error:
            return PendingFrame((), partial(context.rejection, error))
        return self._submit_deletes(context, requests, places, failed, pin)

    def _submit_deletes(
        self, context: FrameContext, requests: list[Delete], places: Sequence[int], failed: Failures, pin: Pin | None
    ) -> PendingFrame:
        submit, memory = self._database.submit, context.memory
        tickets = [submit(request, as_it_is, memory, pin) for request in requests]
        self._last = tickets[-1] if tickets else self._last
        return PendingFrame(tickets, partial(self._deletes_answer, context, tickets, places, failed))

    def _deletes_answer(
        self, context: FrameContext, tickets: list[Ticket[Committed]], places: Sequence[int], failed: Failures
    ) -> kv_pb2.PipelineResponse:
        absent: list[int] = []
        depends_on = first = commits = 0
        for place, ticket in zip(places, tickets, strict=True):
            try:
                done = ticket.answer()
            except KvError as error:
                failed.append((place, error))
                continue
            depends_on = max(depends_on, convert.depends_on(done))
            if done.revision:
                first = first or done.revision
                commits += 1
            else:
                absent.append(place)
        response = context.answer(depends_on, failures=failed, first_revision=first, commits=commits)
        response.absent.extend(absent)
        return response

    def _keyed_deletes(
        self, context: FrameContext, namespace: int, keys: list[bytes], key: IdempotencyKey
    ) -> PendingFrame | Awaitable[PendingFrame]:
        """Carry deletions out that are remembered together: as one submission, so that all are, or none."""
        validation.check_operation_count(len(keys))
        asked = len(keys)
        keys, places, failed = _split_keys(keys)
        if not keys:
            return PendingFrame((), partial(context.answer, failures=failed))
        request = Keyed(DeleteRun(namespace, keys), key, self._database.now_ms())

        def submit(pin: Pin | None) -> PendingFrame:
            ticket = self._last = self._database.submit(request, as_it_is, context.memory, pin)
            return PendingFrame((ticket,), partial(_keyed_deletes_answer, context, ticket, places, asked, failed))

        async def prepared() -> PendingFrame:
            try:
                return submit(await self._database.prepare([request]))
            except KvError as error:
                return PendingFrame((), partial(context.rejection, error))

        return prepared() if self._database.state.view.has_tables else submit(None)

    # -- gets -----------------------------------------------------------------------------------------------------

    async def _gets_behind(self, seen: Ticket[int], context: FrameContext, namespace: int, keys: list[bytes]) -> PendingFrame:
        """Read when the node shows what the caller has seen: what it wrote itself without waiting for the disk, as a rule."""
        try:
            await seen
            return self._gets(context, namespace, keys)
        except KvError as error:
            return PendingFrame((), partial(context.rejection, error))

    def _gets(self, context: FrameContext, namespace: int, keys: list[bytes]) -> PendingFrame:
        validation.check_operation_count(len(keys))
        asked = len(keys)
        keys, places, failed = _split_keys(keys)
        if not keys:
            return PendingFrame((), partial(_columns, context, Found([], 0), places, asked, failed))
        if self._last is None:  # a stream that only reads: what is visible is all that it may ask for, and never has to wait
            revision = self._database.marks.visible
            ticket: Ticket[Any] = self._database.read(namespace, keys, revision)
            ticket.convert_with(lambda versions: Found(versions, revision))
            return PendingFrame((ticket,), partial(self._gets_answer, context, ticket, places, asked, failed))
        request = ReadRun(namespace, keys)
        if self._last.waiting:
            ticket = self._last = self._database.submit(request, as_it_is)
        else:  # the line of the others' writes is none of its business
            ticket = self._database.pipeline.read_now(request, as_it_is)
        return PendingFrame((ticket,), partial(self._gets_answer, context, ticket, places, asked, failed))

    def _gets_answer(
        self, context: FrameContext, ticket: Ticket[Found], places: Sequence[int], asked: int, failed: Failures
    ) -> kv_pb2.PipelineResponse:
        try:
            found = ticket.answer()
        except KvError as error:
            return context.rejection(error)
        return _columns(context, found, places, asked, failed)


def _keyed_deletes_answer(
    context: FrameContext, ticket: Ticket[DeletesDone], places: Sequence[int], asked: int, failed: Failures
) -> kv_pb2.PipelineResponse:
    try:
        first, commits, bitmap, depends_on = ticket.answer()
    except OutcomeUnknown as error:
        return context.answer(failures=_with_all_others(failed, asked, error))
    except KvError as error:
        return context.rejection(error)
    response = context.answer(depends_on, failures=failed, first_revision=first, commits=commits)
    for number, bits in enumerate(bitmap):
        response.absent.extend(places[8 * number + bit] for bit in range(8) if bits >> bit & 1)
    return response


def _columns(context: FrameContext, found: Found, places: Sequence[int], asked: int, failed: Failures) -> kv_pb2.PipelineResponse:
    """Return the answer to columnar reads: a row for every key asked for, empty where it failed or does not exist."""
    rows: list[Version | None] = found.versions
    if len(rows) != asked or not fits(rows):
        kept = dict(within_budget(zip(places, rows, strict=True), failed))
        rows = [kept.get(place) for place in range(asked)]
    response = context.answer(found.depends_on, failures=failed)
    if not asked:
        return response
    _, values, create_revisions, mod_revisions, numbers = zip(*[version or _NOTHING for version in rows], strict=True)
    response.gets.values.extend(values)
    response.gets.mod_revisions.extend(mod_revisions)
    response.gets.create_revisions.extend(create_revisions)
    response.gets.versions.extend(numbers)
    return response


_NOTHING = Version(b"", b"", 0, 0, 0)


def _split_puts(keys: list[bytes], values: list[bytes]) -> tuple[list[bytes], list[bytes], Failures]:
    """Tell the pairs that may be put from those that may not; the slow path."""
    good_keys: list[bytes] = []
    good_values: list[bytes] = []
    failed: Failures = []
    for place, (key, value) in enumerate(zip(keys, values, strict=True)):
        try:
            validation.check_pair(key, value)
        except InvalidRequest as error:
            failed.append((place, error))
        else:
            good_keys.append(key)
            good_values.append(value)
    return good_keys, good_values, failed


def _split_keys(keys: list[bytes]) -> tuple[list[bytes], Sequence[int], Failures]:
    """Tell what may be a key from what may not; with the keys come their places in the frame."""
    if not keys or validation.are_keys(keys):
        return keys, range(len(keys)), []
    good: list[bytes] = []
    places: list[int] = []
    failed: Failures = []
    for place, key in enumerate(keys):
        try:
            validation.check_key(key)
        except InvalidRequest as error:
            failed.append((place, error))
        else:
            good.append(key)
            places.append(place)
    return good, places, failed


def _with_all_others(failed: Failures, operations: int, error: KvError) -> Failures:
    """Return the failures of a frame of which every operation failed: those that had their own reason, and the others."""
    own = dict(failed)
    return [(place, own.get(place, error)) for place in range(operations)]
