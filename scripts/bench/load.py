"""The loads: unary puts from a foreign client, columnar frames from a throw-away loop, bare syncs, replay."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections import deque
from pathlib import Path

import grpc

from kvproto.v1 import admin_pb2, kv_pb2
from processes import Server

VALUE = bytes(range(256))
PUT_PATH = "/kvproto.v1.KV/Put"


def h2load_unary(server: Server, calls: int, in_flight: int) -> float:
    """Return unary puts a second as h2load sees them. Raises SystemExit where not every call was answered with 200."""
    body = kv_pb2.PutRequest(key=b"bench", value=VALUE).SerializeToString()
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"\0" + len(body).to_bytes(4, "big") + body)
        file.flush()
        headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        command = ["h2load", "-n", str(calls), "-c", "1", "-m", str(in_flight), "-d", file.name, *headers]
        result = subprocess.run([*command, f"http://{server.address}{PUT_PATH}"], capture_output=True, text=True, check=True)
    answered = re.search(r"status codes: (\d+) 2xx", result.stdout)
    rate = re.search(r"finished in [^,]+, ([0-9.]+) req/s", result.stdout)
    if not answered or int(answered[1]) != calls or not rate:
        raise SystemExit(f"h2load did not get {calls} answers:\n{result.stdout}")
    return float(rate[1])


async def status(server: Server) -> admin_pb2.StatusResponse:
    """Return the server's own status."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        call = channel.unary_unary(
            "/kvproto.v1.Admin/Status",
            request_serializer=admin_pb2.StatusRequest.SerializeToString,
            response_deserializer=admin_pb2.StatusResponse.FromString,
        )
        answer: admin_pb2.StatusResponse = await call(admin_pb2.StatusRequest())
        return answer


async def pipeline_puts(server: Server, seconds: float, frame: int, in_flight: int, keys: int) -> tuple[float, float]:
    """Return durable puts a second in columnar frames, and the server's processor time an operation in microseconds."""
    key_pool = [b"key%08d" % number for number in range(keys)]
    frames = [key_pool[at : at + frame] for at in range(0, keys - frame + 1, frame)]
    values = [VALUE] * frame
    async with grpc.aio.insecure_channel(server.address) as channel:
        method = channel.stream_stream(
            "/kvproto.v1.KV/Pipeline",
            request_serializer=kv_pb2.PipelineRequest.SerializeToString,
            response_deserializer=kv_pb2.PipelineResponse.FromString,
        )
        call = method()
        sent: deque[int] = deque()
        number = done = 0
        begin, cpu = time.perf_counter(), server.cpu_seconds()
        while time.perf_counter() - begin < seconds or sent:
            while len(sent) < in_flight and time.perf_counter() - begin < seconds:
                puts = kv_pb2.PutColumns(keys=frames[number % len(frames)], values=values)
                await call.write(kv_pb2.PipelineRequest(frame_id=number, puts=puts))
                sent.append(number)
                number += 1
            if sent:
                answer = await call.read()
                if answer.commits != frame or answer.reached != kv_pb2.DURABILITY_LOCAL:
                    raise SystemExit(f"a frame was not answered as durable: {answer}")
                sent.popleft()
                done += frame
        elapsed, used = time.perf_counter() - begin, server.cpu_seconds() - cpu
        await call.done_writing()
        while await call.read() is not grpc.aio.EOF:
            pass
    return done / elapsed, used / done * 1e6


def bare_syncs(folder: Path, count: int = 2_000) -> float:
    """Return the median of a 4 KiB write and its fdatasync into zero-filled space, in milliseconds."""
    fd = os.open(folder / "bare", os.O_RDWR | os.O_CREAT)
    try:
        os.pwrite(fd, bytes(4096 * count), 0)
        os.fsync(fd)
        times = []
        for number in range(count):
            begin = time.perf_counter()
            os.pwrite(fd, b"x" * 4096, 4096 * number)
            os.fdatasync(fd)
            times.append(time.perf_counter() - begin)
    finally:
        os.close(fd)
    return sorted(times)[count // 2] * 1e3


def replay(data_dir: Path) -> tuple[float, int]:
    """Return how many commits a second opening the folder replays, and how many there were."""
    from kvserver.base.events import Event, LogRecovered
    from kvserver.engine.database import Database
    from kvserver.engine.table_kit import rocks
    from kvserver.replication.local_register import KIND, LocalRegister

    events: list[Event] = []
    begin = time.perf_counter()
    database = Database.open(
        data_dir,
        lambda env, paths: LocalRegister(env.fs, paths),
        KIND,
        post=lambda callback: callback(),
        kit=rocks(),
        listener=events.append,
        threads=False,
    )
    elapsed = time.perf_counter() - begin
    database.close()
    commits = sum(event.commits for event in events if isinstance(event, LogRecovered))
    return commits / elapsed, commits
