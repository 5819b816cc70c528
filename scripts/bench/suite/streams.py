"""A client of one Pipeline stream that costs little: frames as fast as they are answered, or at a fixed rate."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

import grpc

from kvproto.v1 import admin_pb2, kv_pb2

MERGED_AFTER_S = 4
"""After so many looks, one a second, at which the tables are the same nothing is being merged."""

MakeFrame = Callable[[], kv_pb2.PipelineRequest | None]
OnAnswer = Callable[[int], None]
"""Told how many operations were carried out, as each frame is answered."""


class Done(NamedTuple):
    """A frame that was answered: operations, and seconds from when it was, or ought to have been, sent."""

    operations: int
    seconds: float


def puts(keys: list[bytes], values: list[bytes]) -> kv_pb2.PipelineRequest:
    """Return a frame of puts."""
    return kv_pb2.PipelineRequest(frame_id=1, puts=kv_pb2.PutColumns(keys=keys, values=values))


def gets(keys: list[bytes]) -> kv_pb2.PipelineRequest:
    """Return a frame of gets."""
    return kv_pb2.PipelineRequest(frame_id=1, gets=kv_pb2.GetColumns(keys=keys))


def repeated(frames: list[kv_pb2.PipelineRequest], seconds: float) -> MakeFrame:
    """Return what gives the frames, again and again, for so long."""

    def endless() -> Iterator[kv_pb2.PipelineRequest]:
        while True:
            yield from frames

    until = time.perf_counter() + seconds
    walk = endless()
    return lambda: next(walk) if time.perf_counter() < until else None


def _check(frame: kv_pb2.PipelineRequest, answer: object) -> int:
    """Return the operations of a frame. Raises SystemExit unless all of them were carried out."""
    if not isinstance(answer, kv_pb2.PipelineResponse):
        raise SystemExit("the server ended the stream before every frame was answered")
    operations = len(frame.puts.keys) or len(frame.gets.keys)
    missing = frame.HasField("gets") and not all(answer.gets.mod_revisions)
    if answer.failures or missing or (frame.HasField("puts") and answer.commits != operations):
        raise SystemExit(f"a frame was not carried out: {answer.failures[:1]}")
    return operations


async def _closed(address: str, make: MakeFrame, in_flight: int, on_answer: OnAnswer) -> list[Done]:
    done: list[Done] = []
    async with grpc.aio.insecure_channel(address) as channel:
        call = _pipeline(channel)
        sent: deque[tuple[float, kv_pb2.PipelineRequest]] = deque()
        more = True
        while more or sent:
            while more and len(sent) < in_flight:
                frame = make()
                if frame is None:
                    more = False
                    break
                sent.append((time.perf_counter(), frame))
                await call.write(frame)
            if sent:
                answer = await call.read()
                begun, frame = sent.popleft()
                done.append(Done(_check(frame, answer), time.perf_counter() - begun))
                on_answer(done[-1].operations)
        await call.done_writing()
        while await call.read() is not grpc.aio.EOF:
            pass
    return done


async def _paced(address: str, make: MakeFrame, frames_per_s: float) -> list[Done]:
    done: list[Done] = []
    async with grpc.aio.insecure_channel(address) as channel:
        call = _pipeline(channel)
        sent: deque[tuple[float, kv_pb2.PipelineRequest]] = deque()

        async def read() -> None:
            while (answer := await call.read()) is not grpc.aio.EOF:
                due, frame = sent.popleft()
                done.append(Done(_check(frame, answer), time.perf_counter() - due))

        reader = asyncio.create_task(read())
        begin, number = time.perf_counter(), 0
        while (frame := make()) is not None:
            due = begin + number / frames_per_s
            number += 1
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            sent.append((due, frame))
            await call.write(frame)
        await call.done_writing()
        await reader
    return done


def _pipeline(channel: grpc.aio.Channel) -> grpc.aio.StreamStreamCall[kv_pb2.PipelineRequest, kv_pb2.PipelineResponse]:
    method = channel.stream_stream(
        "/kvproto.v1.KV/Pipeline",
        request_serializer=kv_pb2.PipelineRequest.SerializeToString,
        response_deserializer=kv_pb2.PipelineResponse.FromString,
    )
    return cast("grpc.aio.StreamStreamCall[kv_pb2.PipelineRequest, kv_pb2.PipelineResponse]", method())


def run_closed(address: str, make: MakeFrame, in_flight: int, on_answer: OnAnswer = lambda operations: None) -> list[Done]:
    """Keep so many frames under way until ``make`` returns None; return what was answered."""
    return asyncio.run(_closed(address, make, in_flight, on_answer))


def run_paced(address: str, make: MakeFrame, frames_per_s: float) -> list[Done]:
    """Send so many frames a second, however fast they are answered; latency counts from when each ought to have been sent."""
    return asyncio.run(_paced(address, make, frames_per_s))


def flush(address: str) -> int:
    """Have the server flush; return the flushed revision."""
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(
            "/kvproto.v1.Admin/Flush",
            request_serializer=admin_pb2.FlushRequest.SerializeToString,
            response_deserializer=admin_pb2.FlushResponse.FromString,
        )
        answer: admin_pb2.FlushResponse = call(admin_pb2.FlushRequest(), timeout=300)
        return int(answer.flushed_revision)


def until_merged(address: str, timeout_s: float = 120.0) -> None:
    """Wait until the server's tables have not changed for some seconds, or for so long."""
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(
            "/kvproto.v1.Admin/Status",
            request_serializer=admin_pb2.StatusRequest.SerializeToString,
            response_deserializer=admin_pb2.StatusResponse.FromString,
        )
        seen: deque[tuple[int, int]] = deque(maxlen=MERGED_AFTER_S)
        for _ in range(round(timeout_s)):
            time.sleep(1.0)
            status: admin_pb2.StatusResponse = call(admin_pb2.StatusRequest(), timeout=60)
            seen.append((status.level0_files, status.pending_compaction_bytes))
            if len(seen) == MERGED_AFTER_S and len(set(seen)) == 1:
                return


def percentile(done: list[Done], share: float) -> float:
    """Return a percentile of the latencies, in milliseconds."""
    ordered = sorted(one.seconds for one in done)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000
