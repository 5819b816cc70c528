"""Mixed frames: one message an operation, of any kind, each with a result or a failure of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeAlias

from kvproto.v1 import kv_pb2
from kvserver.base.errors import KvError
from kvserver.commit.requests import Batch, Committed, Delete, DeleteSpan, Found, Keyed, Put, ReadRun
from kvserver.commit.ticket import Ticket
from kvserver.engine.database import Database
from kvserver.service import convert, validation
from kvserver.service.frames import FrameContext, PendingFrame, as_it_is, within_budget

Command: TypeAlias = Put | Delete | DeleteSpan | Batch | Keyed | ReadRun

SLICE_OPERATIONS = 512
"""So many operations are carried out before the event loop gets its turn: some milliseconds' worth."""


async def carry_out_mixed(
    database: Database,
    namespaces: convert.Namespaces,
    context: FrameContext,
    namespace: int,
    operations: Sequence[kv_pb2.Operation],
) -> PendingFrame:
    """Carry the operations out, in order. They keep their order among themselves; others' commits may come in between."""
    outcomes: list[Ticket[Any] | KvError] = []
    for begin in range(0, len(operations), SLICE_OPERATIONS):
        if begin:
            await asyncio.sleep(0)
        part, now_ms = operations[begin : begin + SLICE_OPERATIONS], database.now_ms()
        commands = [_command(operation, namespace, namespaces, now_ms) for operation in part]
        sound = [command for command in commands if not isinstance(command, KvError)]
        try:  # one read of the tables for all of them; what they change themselves is above the tables
            pin = await database.prepare(sound)
        except KvError as error:
            outcomes.extend(command if isinstance(command, KvError) else error for command in commands)
            continue
        for command in commands:
            if isinstance(command, KvError):
                outcomes.append(command)
            else:
                memory = context.memory and not isinstance(command, ReadRun)
                outcomes.append(database.submit(command, as_it_is, memory, pin))
    tickets = [outcome for outcome in outcomes if isinstance(outcome, Ticket)]
    return PendingFrame(tickets, partial(_answer, context, outcomes))


def _command(operation: kv_pb2.Operation, namespace: int, namespaces: convert.Namespaces, now_ms: int) -> Command | KvError:
    """Return what an operation asks for, or why it is refused."""
    try:
        match operation.WhichOneof("kind"):
            case "get":
                return _read(operation.get, namespace)
            case "put":
                _check_frame_holds(operation.put)
                return convert.keyed(convert.put(namespace, operation.put), operation.put, now_ms)
            case "delete":
                _check_frame_holds(operation.delete)
                return convert.keyed(convert.delete(namespace, operation.delete), operation.delete, now_ms)
            case "write":
                _check_frame_holds(operation.write)
                return convert.keyed(convert.batch(operation.write, namespace, namespaces), operation.write, now_ms)
            case _:
                raise validation.invalid_field("kind", "is missing; an operation is a get, a put, a delete or a write")
    except KvError as error:
        return error


def _read(request: kv_pb2.GetRequest, namespace: int) -> ReadRun:
    if request.namespace:
        raise _not_here("namespace")
    if request.revision:
        raise _not_here("revision")
    if request.HasField("session"):
        raise _not_here("session")
    validation.check_key(request.key)
    return ReadRun(namespace, [request.key])


def _check_frame_holds(request: kv_pb2.PutRequest | kv_pb2.DeleteRequest | kv_pb2.WriteRequest) -> None:
    if request.namespace:
        raise _not_here("namespace")
    if request.durability:
        raise _not_here("durability")


def _not_here(name: str) -> KvError:
    return validation.invalid_field(name, "must be empty within a frame; the frame's own holds, and its reads see the newest")


def _answer(context: FrameContext, outcomes: Sequence[Ticket[Any] | KvError]) -> kv_pb2.PipelineResponse:
    failed: list[tuple[int, KvError]] = []
    found: list[tuple[int, Any]] = []
    results = [kv_pb2.OperationResult() for _ in outcomes]
    depends_on = commits = 0
    for place, outcome in enumerate(outcomes):
        try:
            if isinstance(outcome, KvError):
                raise outcome
            done: Committed | Found = outcome.answer()
        except KvError as error:
            failed.append((place, error))
            continue
        if isinstance(done, Found):
            depends_on = max(depends_on, done.depends_on)
            found.append((place, done.versions[0]))
            continue
        depends_on = max(depends_on, convert.depends_on(done))
        commits += done.revision > 0
        results[place].revision = done.revision
        results[place].deleted = done.deleted
    for place, version in within_budget(found, failed):
        if version is not None:
            results[place].kv.CopyFrom(convert.key_value(version))
    response = context.answer(depends_on, failures=failed, commits=commits)
    response.results.extend(results)
    return response
