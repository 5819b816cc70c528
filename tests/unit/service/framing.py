"""A session on a store that moves only when it is told to, and short ways to say what goes into a mixed frame."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from kvproto.v1 import errors_pb2, kv_pb2
from kvserver.engine.database import Database
from kvserver.service.pipeline import PipelineSession
from support.stores import settle


class Frames:
    """A session on a store that moves only when it is told to."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.session = PipelineSession(database)
        self.answers: dict[int, kv_pb2.PipelineResponse] = {}

    def send(self, frame_id: int, **fields: Any) -> None:
        pending = self.session.handle(kv_pb2.PipelineRequest(frame_id=frame_id, **fields))
        if inspect.isawaitable(pending):
            pending = asyncio.run(_awaited(pending))
        pending.on_done(lambda: self.answers.__setitem__(frame_id, pending.response()))

    def puts(self, frame_id: int, keys: list[bytes], values: list[bytes] | None = None, **fields: Any) -> None:
        values = [b"v"] * len(keys) if values is None else values
        self.send(frame_id, puts=kv_pb2.PutColumns(keys=keys, values=values), **fields)

    def deletes(self, frame_id: int, *keys: bytes, **fields: Any) -> None:
        self.send(frame_id, deletes=kv_pb2.DeleteColumns(keys=keys), **fields)

    def gets(self, frame_id: int, *keys: bytes, **fields: Any) -> None:
        self.send(frame_id, gets=kv_pb2.GetColumns(keys=keys), **fields)

    def mixed(self, frame_id: int, *operations: kv_pb2.Operation, **fields: Any) -> None:
        self.send(frame_id, mixed=kv_pb2.MixedOperations(operations=operations), **fields)

    def settled(self, frame_id: int) -> kv_pb2.PipelineResponse:
        settle(self.database)
        return self.answers.pop(frame_id)


async def _awaited(pending: Any) -> Any:
    return await pending


def failures(answer: kv_pb2.PipelineResponse) -> dict[int, str]:
    assert [failure.index for failure in answer.failures] == sorted(failure.index for failure in answer.failures)
    return {failure.index: errors_pb2.ErrorCode.Name(failure.code) for failure in answer.failures}


def put(key: bytes, value: bytes = b"v", **fields: Any) -> kv_pb2.Operation:
    return kv_pb2.Operation(put=kv_pb2.PutRequest(key=key, value=value, **fields))


def get(key: bytes, **fields: Any) -> kv_pb2.Operation:
    return kv_pb2.Operation(get=kv_pb2.GetRequest(key=key, **fields))


def delete(**fields: Any) -> kv_pb2.Operation:
    return kv_pb2.Operation(delete=kv_pb2.DeleteRequest(**fields))
