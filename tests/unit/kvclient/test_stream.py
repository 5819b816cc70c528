"""The blocking client's stream, driven by a script in place of gRPC: moments that a real connection seldom brings about."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from kvclient import Durability, Retry
from kvclient import _operations as operations
from kvclient._connection import Connection
from kvclient._link import Connected
from kvclient._stream import Stream
from kvclient._types import NO_SESSION
from kvproto.v1 import kv_pb2

LIMIT_S = 30.0


class ScriptedStub:
    """Stands for gRPC: each stream is handed the client's requests, and a function says what the stream brings."""

    def __init__(self, streams: list[Callable[[Iterator[Any]], Iterator[Any]]]) -> None:
        self.streams = streams

    def Pipeline(self, requests: Iterator[Any]) -> Any:
        return ScriptedCall(self.streams.pop(0)(requests))


class ScriptedCall:
    def __init__(self, answers: Iterator[Any]) -> None:
        self._answers = answers

    def __iter__(self) -> Iterator[Any]:
        return self._answers

    def cancel(self) -> None:
        pass


class Broken(grpc.RpcError):
    """A stream that broke."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "Socket closed"

    def trailing_metadata(self) -> None:
        return None


def test_a_frame_is_never_taken_for_a_stream_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC's thread asks for the next request just when the stream ends: what it took would be under way on no stream."""
    asked, lost = threading.Event(), threading.Event()
    late: list[threading.Thread] = []

    def breaks(requests: Iterator[Any]) -> Iterator[Any]:
        late.append(threading.Thread(target=lambda: list(requests), name="caller-grpc"))
        late[0].start()
        assert asked.wait(LIMIT_S)
        raise Broken
        yield

    def answers(requests: Iterator[Any]) -> Iterator[Any]:
        lost.set()
        late[0].join(LIMIT_S)
        for request in requests:
            yield kv_pb2.PipelineResponse(frame_id=request.frame_id, commits=len(request.puts.keys), first_revision=5)

    connection = Connection("h:1", 5.0, False, NO_SESSION, Retry())
    stub = ScriptedStub([breaks, answers])
    monkeypatch.setattr(connection, "connect", lambda deadline: None)
    monkeypatch.setattr(connection, "connected", Connected("h:1", {"KV": stub}))
    stream = Stream(connection, "")
    wait_for_work = stream._wait_for_work

    def just_then(ended: threading.Event | None = None) -> bool:
        found = wait_for_work(ended)
        if ended is not None and threading.current_thread().name == "caller-grpc":
            asked.set()
            assert lost.wait(LIMIT_S)
        return found

    monkeypatch.setattr(stream, "_wait_for_work", just_then)
    assert stream.run(operations.put(b"k", b"v", Durability.POLICY), LIMIT_S).revision == 5
    assert len(stream._joiner._under_way) == 0
    connection.closed = True
    stream.close()
