"""What tests of the joining share: a waiter that counts its outcomes, answers as an honest server gives them, and ways to
bring a client's streams into a state.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from kvclient import _errors as errors
from kvclient import _operations as operations
from kvclient._frames import Frame, Kind
from kvclient._joiner import MAX_FRAMES, Joiner
from kvclient._retry import Retry
from kvclient._types import Durability
from kvproto.v1 import errors_pb2, kv_pb2

POLICY = Durability.POLICY
FAR = 1_000.0
"""A deadline that is far away."""


class Waiter:
    """Waits for one outcome and keeps all that it was told, so that a second one is seen."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.given_up = False

    def done(self) -> bool:
        return self.given_up or bool(self.told)

    def set_result(self, result: Any) -> None:
        self.told.append(result)

    def set_exception(self, error: BaseException) -> None:
        self.told.append(error)

    @property
    def outcome(self) -> Any:
        assert len(self.told) == 1, f"{len(self.told)} outcomes: {self.told}"
        return self.told[0]

    @property
    def code(self) -> str:
        assert isinstance(self.outcome, errors.KvClientError), self.outcome
        return self.outcome.code


class Line:
    """A joiner whose clock stands still until the test moves it."""

    def __init__(self, retry: Retry | None = None) -> None:
        self.joiner = Joiner(self._woken, retry or Retry(attempts=3, first_pause_s=0.1, max_pause_s=0.4))
        self.now = 0.0
        self.wakes = 0

    def _woken(self) -> None:
        self.wakes += 1

    def add(self, operation: operations.Operation[Any], deadline: float = FAR) -> Waiter:
        waiter = Waiter()
        self.joiner.add(*operation, deadline, waiter)
        return waiter

    def put(self, key: bytes = b"k", value: bytes = b"v", deadline: float = FAR) -> Waiter:
        return self.add(operations.put(key, value, POLICY), deadline)

    def get(self, key: bytes = b"k", deadline: float = FAR) -> Waiter:
        return self.add(operations.get(key), deadline)

    def send(self) -> Frame:
        """Take the next frame, as the stream does that sends it."""
        frame = self.joiner.next_frame()
        assert frame is not None, "there is nothing to send"
        return frame

    def settle(self, frame: Frame, failed: Mapping[int, str] | None = None, **fields: Any) -> None:
        """Answer a frame."""
        self.joiner.settle(answer_to(frame, failed, **fields), self.now)

    def reject(self, frame: Frame, code: str) -> None:
        """Refuse a frame as a whole."""
        self.joiner.settle(rejection_of(frame, code), self.now)

    def lose(self, *, carried_out: bool = True, closing: bool = False) -> None:
        """Lose the stream."""
        self.joiner.lost(lambda writes: errors.cut_off("h:1", writes=writes), self.now, carried_out=carried_out, closing=closing)

    def expire(self, now: float) -> None:
        """Let it be so late."""
        self.now = now
        self.joiner.expire(
            now,
            lambda writes: errors.not_sent_in_time("h:1", writes=writes, connected=True),
            lambda writes: errors.not_answered_in_time("h:1", writes=writes),
        )

    def run_out(self) -> None:
        """Let time pass until what is sent again stands in line."""
        self.expire(self.joiner.next_due())


def failure(index: int, code: str, **fields: Any) -> kv_pb2.Failure:
    return kv_pb2.Failure(index=index, code=errors_pb2.ErrorCode.Value(code), message="refused", **fields)


def rejection_of(frame: Frame, code: str) -> kv_pb2.PipelineResponse:
    return kv_pb2.PipelineResponse(frame_id=frame.frame_id, rejected=True, failures=[failure(0, code)])


def answer_to(frame: Frame, failed: Mapping[int, str] | None = None, first: int = 10, **fields: Any) -> kv_pb2.PipelineResponse:
    """Return an honest answer: those places failed, all else done; read keys have the value ``of <key>``, and
    deletions find every key but ``absent``.
    """
    failed = failed or {}
    answer = kv_pb2.PipelineResponse(
        header=kv_pb2.ResponseHeader(epoch=1, revision=first + len(frame.keys)),
        frame_id=frame.frame_id,
        reached=kv_pb2.DURABILITY_LOCAL,
        failures=[failure(place, code) for place, code in sorted(failed.items())],
    )
    done = [place for place in range(len(frame.keys)) if place not in failed]
    match frame.kind:
        case Kind.GETS:
            for place, key in enumerate(frame.keys):
                found = place not in failed and key != b"absent"
                answer.gets.values.append(b"of " + key if found else b"")
                for column in (answer.gets.mod_revisions, answer.gets.create_revisions, answer.gets.versions):
                    column.append(int(found))
        case Kind.DELETES | Kind.MEMORY_DELETES:
            answer.absent.extend(place for place in done if frame.keys[place] == b"absent")
            answer.commits = len(done) - len(answer.absent)
        case Kind.PUTS | Kind.MEMORY_PUTS:
            answer.commits = len(done)
        case _:
            for place in range(len(frame.keys)):
                answer.results.add(revision=first + place if place not in failed else 0)
            answer.commits = len(done)
    if frame.kind not in (Kind.GETS, Kind.MIXED, Kind.MEMORY_MIXED) and answer.commits:
        answer.first_revision = first
    answer.MergeFrom(kv_pb2.PipelineResponse(**fields))
    return answer


# -- over a connection ------------------------------------------------------------------------------------------------


async def eventually(condition: Callable[[], Any], limit_s: float = 20.0) -> None:
    """Return when a condition holds that other threads bring about and tell nobody of."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        await asyncio.sleep(0.005)


def line_of(kv: Any, stream: str) -> Joiner:
    """Return the line of a client's stream, ``reads`` or ``writes``."""
    joiner: Joiner = getattr(getattr(kv, "client", kv), f"_{stream}")._joiner
    return joiner


def in_line(kv: Any, stream: str = "writes") -> int:
    """Return how many operations stand in line and have not been sent."""
    return sum(len(frame.keys) for frame in line_of(kv, stream)._line.copy())


def under_way(kv: Any, stream: str = "writes") -> int:
    """Return how many operations have been sent and not answered."""
    return sum(len(frame.keys) for frame in list(line_of(kv, stream)._under_way.values()))


async def fill(kv: Any, held: str, frames: int = MAX_FRAMES) -> list[asyncio.Task[Any]]:
    """Have as many frames under way as there may be, of one operation each, whose answers the server holds back."""
    stream = "reads" if held == "Get" else "writes"
    tasks = []
    for number in range(frames):
        call = kv.get(b"held%d" % number) if held == "Get" else kv.put(b"held%d" % number, b"v")
        tasks.append(asyncio.create_task(call))
        await eventually(lambda expected=number + 1: under_way(kv, stream) == expected)
    return tasks


async def outcomes(calls: list[Any]) -> list[Any]:
    """Return the results and errors of calls, in order."""
    return await asyncio.gather(*calls, return_exceptions=True)
