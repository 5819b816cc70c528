"""Streams of frames: bounded in what is under way, answered to the last frame that was carried out, however they end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from integration.serving import Stream, refusal_of, refused, serving, stalled_disk, until
from kvproto.v1 import errors_pb2, kv_pb2
from kvserver.base import failpoints
from kvserver.transport import frame_stream


async def test_answers_come_as_they_may_be_told_not_in_order(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        await node.kv.Put(kv_pb2.PutRequest(key=b"old", value=b"v"))
        with stalled_disk() as release:
            stream = Stream(node)
            await stream.puts(1, {b"new": b"v"})
            await stream.gets(2, b"old")
            assert (await stream.answer()).frame_id == 2
            release.set()
            assert (await stream.answer()).frame_id == 1


async def test_no_more_than_so_many_frames_are_under_way(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        with stalled_disk() as release:
            stream = Stream(node)
            sender = asyncio.ensure_future(_send_puts(stream, 300))
            await until(lambda: node.database.marks.assigned == 1 + frame_stream.MAX_FRAMES)
            await asyncio.sleep(0.2)
            assert node.database.marks.assigned == 1 + frame_stream.MAX_FRAMES
            release.set()
            await sender
        assert len(await stream.rest()) == 300
        assert node.database.marks.visible == 301


async def test_no_more_than_so_many_bytes_are_under_way(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        with stalled_disk() as release:
            stream = Stream(node)
            sender = asyncio.ensure_future(_send_puts(stream, 30, value=bytes(1024 * 1024)))
            await asyncio.sleep(0.5)
            await until(lambda: node.database.marks.assigned > 1)
            under_way = node.database.marks.assigned - 1 + node.database.pipeline.waiting
            assert under_way <= 9, "8 MiB, and the frame that was let in last"
            release.set()
            await sender
        assert len(await stream.rest()) == 30


async def test_a_client_that_does_not_take_its_answers_slows_only_itself(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        await node.kv.Put(kv_pb2.PutRequest(key=b"k", value=bytes(1024 * 1024)))
        stream = Stream(node)
        sent = 0

        async def send() -> None:
            nonlocal sent
            for number in range(200):
                await stream.gets(number, b"k")
                sent += 1

        sender = asyncio.ensure_future(send())
        await asyncio.sleep(1.0)
        received = next(stats for stats in node.server.stats if stats.method == "Pipeline").received
        assert received <= frame_stream.MAX_FRAMES + 16, "it went on reading although nobody took the answers"
        assert (await node.kv.Get(kv_pb2.GetRequest(key=b"k"))).kv.mod_revision == 2
        for _ in range(200):
            assert len((await stream.answer()).gets.values[0]) == 1024 * 1024
        await sender
        assert await stream.rest() == []


async def test_a_slow_scan_holds_nobody_and_ends_when_its_reader_leaves(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        stream = Stream(node)
        await _send_puts(stream, 40, value=bytes(1024 * 1024))
        await stream.rest()
        call = node.kv.Scan(kv_pb2.ScanRequest())
        await call.read()
        stats = next(stats for stats in node.server.stats if stats.method == "Scan")
        await asyncio.sleep(0.3)
        assert stats.sent < 40, "the whole answer was pushed at a reader who does not read"
        await node.kv.Put(kv_pb2.PutRequest(key=b"other"))
        call.cancel()
        await until(lambda: stats.handled.get(grpc.StatusCode.CANCELLED.value[0]) == 1)


async def test_a_client_that_hangs_up_takes_back_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        with stalled_disk() as release:
            stream = Stream(node)
            await _send_puts(stream, 10)
            await until(lambda: node.database.marks.assigned == 11)
            stream.call.cancel()
            await asyncio.sleep(0.1)
            release.set()
        await node.kv.Sync(kv_pb2.SyncRequest())
        assert (await node.kv.Get(kv_pb2.GetRequest(key=b"9"))).kv.mod_revision == 11


async def test_a_stop_answers_what_was_carried_out_and_says_so_of_the_rest(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        with stalled_disk() as release:
            stream = Stream(node)
            sender = asyncio.ensure_future(_send_puts(stream, 200))
            await until(lambda: node.database.marks.assigned == 1 + frame_stream.MAX_FRAMES)
            unary = asyncio.ensure_future(node.kv.Put(kv_pb2.PutRequest(key=b"unary")))
            await until(lambda: node.database.marks.assigned == 2 + frame_stream.MAX_FRAMES)
            stop = asyncio.ensure_future(node.server.stop(5.0))
            await asyncio.sleep(0.1)
            assert not stop.done()
            release.set()
            answers, refusal = await _answers_until_refused(stream)
            await stop
            assert (await unary).header.revision == 2 + frame_stream.MAX_FRAMES
        assert (refusal.status, refusal.code) == ("UNAVAILABLE", "NOT_SERVING")
        assert [answer.frame_id for answer in answers] == list(range(frame_stream.MAX_FRAMES))
        assert node.database.marks.assigned == 2 + frame_stream.MAX_FRAMES
        sender.cancel()


async def test_an_idle_stream_is_ended_at_once_by_a_stop(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        stream = Stream(node)
        await stream.puts(1, {b"k": b"v"})
        await stream.answer()
        begun = asyncio.get_running_loop().time()
        await node.server.stop(5.0)
        assert asyncio.get_running_loop().time() - begun < 2
        _, refusal = await _answers_until_refused(stream)
        assert refusal.code == "NOT_SERVING"


async def test_a_connection_that_never_answers_does_not_use_up_the_grace(tmp_path: Path) -> None:
    settings = b"\0\0\0\x04\0\0\0\0\0"
    async with serving(tmp_path) as node:
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings)
        await reader.readexactly(9)  # it was taken for a client
        begun = asyncio.get_running_loop().time()
        await node.server.stop(5.0)
        assert asyncio.get_running_loop().time() - begun < 2
        writer.close()


async def test_a_stop_in_the_middle_of_a_frame_lets_it_end(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        stream = Stream(node)
        operations = [kv_pb2.Operation(put=kv_pb2.PutRequest(key=b"%d" % number)) for number in range(8000)]
        await stream.mixed(1, *operations)
        await until(lambda: node.database.marks.assigned > 1)
        assert node.database.marks.assigned < 8001, "the test came too late to see it"
        begun = asyncio.get_running_loop().time()
        await node.server.stop(5.0)
        assert asyncio.get_running_loop().time() - begun < 3
        answers, refusal = await _answers_until_refused(stream)
        assert [len(answer.results) for answer in answers] == [8000]
        assert (answers[0].commits, refusal.code) == (8000, "NOT_SERVING")


async def test_what_hangs_longer_than_the_grace_is_cut_off(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        with stalled_disk() as release:
            call = asyncio.ensure_future(refused(node.kv.Put(kv_pb2.PutRequest(key=b"k"))))
            await until(lambda: node.database.marks.assigned == 2)
            begun = asyncio.get_running_loop().time()
            await node.server.stop(0.3)
            assert asyncio.get_running_loop().time() - begun < 2
            assert (await call).code == "", "the outcome is unknown, and no word of the server's says otherwise"
            release.set()


async def test_when_the_log_fails_every_answer_says_what_is_true(tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError(5, "the disk is gone")

    async with serving(tmp_path) as node:
        stream = Stream(node)
        await stream.puts(1, {b"before": b"v"})
        assert (await stream.answer()).commits == 1
        failpoints.arm("wal.after_write", fail)
        await stream.puts(2, {b"a": b"v", b"b": b"v"})
        assert await _codes(stream) == {0: "OUTCOME_UNKNOWN", 1: "OUTCOME_UNKNOWN"}
        await stream.puts(3, {b"c": b"v"})
        assert await _codes(stream) == {0: "LOG_FAILED"}
        refusal = await refused(node.kv.Put(kv_pb2.PutRequest(key=b"d")))
        assert (refusal.status, refusal.code) == ("UNAVAILABLE", "LOG_FAILED")
        assert (await node.kv.Get(kv_pb2.GetRequest(key=b"before"))).HasField("kv")
        assert not (await node.kv.Get(kv_pb2.GetRequest(key=b"a"))).HasField("kv")


@pytest.mark.parametrize("streams", [8])
async def test_many_streams_at_once_each_keep_their_order(tmp_path: Path, streams: int) -> None:
    async with serving(tmp_path) as node:

        async def one(name: int) -> None:
            stream = Stream(node)
            for number in range(50):
                await stream.puts(number, {b"%d" % name: b"%d" % number})
                await stream.gets(1000 + number, b"%d" % name)
            answers = {answer.frame_id: answer for answer in await stream.rest()}
            for number in range(50):
                assert answers[1000 + number].gets.values == [b"%d" % number]
                assert answers[1000 + number].gets.mod_revisions == [answers[number].first_revision]

        await asyncio.gather(*(one(name) for name in range(streams)))


async def _send_puts(stream: Stream, frames: int, value: bytes = b"v") -> None:
    for number in range(frames):
        await stream.puts(number, {b"%d" % number: value})


async def _answers_until_refused(stream: Stream) -> tuple[list[Any], Any]:
    answers = []
    try:
        while True:
            answers.append(await stream.answer())
    except grpc.aio.AioRpcError as error:
        return answers, refusal_of(error)


async def _codes(stream: Stream) -> dict[int, str]:
    return {failure.index: errors_pb2.ErrorCode.Name(failure.code) for failure in (await stream.answer()).failures}
