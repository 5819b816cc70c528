"""Bad input of every kind: a clear error with a stable code, nothing lost, and the server goes on."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from integration.serving import Node, Stream, refusal_of, refused, serving
from kvproto.v1 import admin_pb2, kv_pb2
from kvserver.base.limits import MAX_COMMIT_MUTATIONS, MAX_FRAME_OPERATIONS, MAX_KEY_BYTES, MAX_VALUE_BYTES

BIG_KEY = bytes(MAX_KEY_BYTES + 1)
BIG_VALUE = bytes(MAX_VALUE_BYTES + 1)
Put, Get, Delete, Write, Scan, Sync = (
    kv_pb2.PutRequest,
    kv_pb2.GetRequest,
    kv_pb2.DeleteRequest,
    kv_pb2.WriteRequest,
    kv_pb2.ScanRequest,
    kv_pb2.SyncRequest,
)


def mutation(key: bytes = b"k", **fields: Any) -> kv_pb2.Mutation:
    return kv_pb2.Mutation(put=kv_pb2.PutMutation(key=key, **fields))


UNARY: list[tuple[str, Message, str, str, str]] = [
    ("Put", Put(), "INVALID_ARGUMENT", "EMPTY_KEY", "at least one byte"),
    ("Put", Put(key=BIG_KEY), "INVALID_ARGUMENT", "KEY_TOO_LARGE", "8192"),
    ("Put", Put(key=b"k", value=BIG_VALUE), "INVALID_ARGUMENT", "VALUE_TOO_LARGE", "1048576"),
    ("Put", Put(key=b"k", namespace="nowhere"), "NOT_FOUND", "UNKNOWN_NAMESPACE", "nowhere"),
    ("Put", Put(key=b"k", namespace="no where"), "INVALID_ARGUMENT", "INVALID_NAMESPACE_NAME", "no where"),
    ("Put", Put(key=b"k", namespace="n" * 100_000), "INVALID_ARGUMENT", "INVALID_NAMESPACE_NAME", "255"),
    ("Put", Put(key=b"k", durability=kv_pb2.DURABILITY_LOCAL), "INVALID_ARGUMENT", "INVALID_FIELD", "durability"),
    ("Put", Put(key=b"k", durability=1234), "INVALID_ARGUMENT", "INVALID_FIELD", "durability"),  # type: ignore[arg-type]
    ("Put", Put(key=b"k", if_absent=True, if_revision=0), "INVALID_ARGUMENT", "INVALID_FIELD", "if_absent"),
    ("Get", Get(), "INVALID_ARGUMENT", "EMPTY_KEY", ""),
    ("Get", Get(key=BIG_KEY), "INVALID_ARGUMENT", "KEY_TOO_LARGE", ""),
    ("Get", Get(key=b"k", namespace="nowhere"), "NOT_FOUND", "UNKNOWN_NAMESPACE", "nowhere"),
    ("Get", Get(key=b"k", revision=2**64 - 1), "OUT_OF_RANGE", "FUTURE_REVISION", ""),
    (
        "Get",
        Get(key=b"k", session=kv_pb2.SessionToken(epoch=7, revision=3)),
        "FAILED_PRECONDITION",
        "HISTORY_LOST",
        "epoch 7",
    ),
    ("Delete", Delete(), "INVALID_ARGUMENT", "INVALID_FIELD", "target"),
    ("Delete", Delete(key=b""), "INVALID_ARGUMENT", "EMPTY_KEY", ""),
    ("Delete", Delete(key=BIG_KEY), "INVALID_ARGUMENT", "KEY_TOO_LARGE", ""),
    ("Delete", Delete(prefix=BIG_KEY), "INVALID_ARGUMENT", "KEY_TOO_LARGE", "prefix"),
    ("Delete", Delete(range=kv_pb2.KeyRange(start=b"b", end=b"a")), "INVALID_ARGUMENT", "INVERTED_RANGE", ""),
    ("Delete", Delete(range=kv_pb2.KeyRange(start=b"a", end=b"a")), "INVALID_ARGUMENT", "INVERTED_RANGE", ""),
    ("Delete", Delete(prefix=b"p", if_revision=3), "INVALID_ARGUMENT", "INVALID_FIELD", "if_revision"),
    ("Delete", Delete(key=b"k", namespace="nowhere"), "NOT_FOUND", "UNKNOWN_NAMESPACE", ""),
    ("Delete", Delete(key=b"k", durability=9), "INVALID_ARGUMENT", "INVALID_FIELD", "durability"),  # type: ignore[arg-type]
    ("Write", Write(), "INVALID_ARGUMENT", "INVALID_FIELD", "mutations"),
    ("Write", Write(mutations=[kv_pb2.Mutation()]), "INVALID_ARGUMENT", "INVALID_FIELD", "kind"),
    ("Write", Write(mutations=[mutation(), mutation()]), "INVALID_ARGUMENT", "DUPLICATE_KEY", "twice"),
    ("Write", Write(mutations=[mutation(b"")]), "INVALID_ARGUMENT", "EMPTY_KEY", ""),
    ("Write", Write(mutations=[mutation()], namespace="nowhere"), "NOT_FOUND", "UNKNOWN_NAMESPACE", ""),
    (
        "Write",
        Write(mutations=[mutation(b"%d" % number) for number in range(MAX_COMMIT_MUTATIONS + 1)]),
        "INVALID_ARGUMENT",
        "COMMIT_TOO_LARGE",
        "10000",
    ),
    (
        "Write",
        Write(mutations=[mutation(b"%d" % number, value=bytes(MAX_VALUE_BYTES)) for number in range(3)]),
        "INVALID_ARGUMENT",
        "COMMIT_TOO_LARGE",
        "3145728",
    ),
    ("Sync", Sync(revision=99), "OUT_OF_RANGE", "FUTURE_REVISION", "99"),
    ("Sync", Sync(level=kv_pb2.DURABILITY_MEMORY), "INVALID_ARGUMENT", "INVALID_FIELD", "level"),
    ("Sync", Sync(level=55), "INVALID_ARGUMENT", "INVALID_FIELD", "level"),  # type: ignore[arg-type]
    ("CreateNamespace", admin_pb2.CreateNamespaceRequest(), "INVALID_ARGUMENT", "INVALID_NAMESPACE_NAME", "255"),
    ("CreateNamespace", admin_pb2.CreateNamespaceRequest(name="a b"), "INVALID_ARGUMENT", "INVALID_NAMESPACE_NAME", ""),
]

SCANS: list[tuple[kv_pb2.ScanRequest, str, str]] = [
    (Scan(limit=-1), "INVALID_ARGUMENT", "INVALID_FIELD"),
    (Scan(range=kv_pb2.KeyRange(start=b"b", end=b"a")), "INVALID_ARGUMENT", "INVERTED_RANGE"),
    (Scan(prefix=BIG_KEY), "INVALID_ARGUMENT", "KEY_TOO_LARGE"),
    (Scan(namespace="nowhere"), "NOT_FOUND", "UNKNOWN_NAMESPACE"),
    (Scan(revision=50), "OUT_OF_RANGE", "FUTURE_REVISION"),
    (Scan(session=kv_pb2.SessionToken(epoch=1, revision=2**60)), "OUT_OF_RANGE", "FUTURE_REVISION"),
]


async def still_serves(node: Node) -> None:
    """Show that a write is still taken, kept and found."""
    revision = (await node.kv.Put(Put(key=b"still", value=b"here"))).header.revision
    found = (await node.kv.Get(Get(key=b"still"))).kv
    assert (found.value, found.mod_revision) == (b"here", revision)


async def test_every_bad_request_has_a_status_a_code_and_a_message_that_names_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        for method, request, status, code, said in UNARY:
            stub = node.admin if method == "CreateNamespace" else node.kv
            refusal = await refused(getattr(stub, method)(request))
            assert (refusal.status, refusal.code) == (status, code), (method, refusal)
            assert said in refusal.message or said in refusal.hint, (method, refusal)
            assert len(refusal.message) <= 1000
        assert node.database.marks.assigned == 1, "something of it was carried out"
        await still_serves(node)


async def test_every_bad_scan_is_refused_before_its_first_chunk(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        for request, status, code in SCANS:
            refusal = await refused(node.kv.Scan(request).read())
            assert (refusal.status, refusal.code) == (status, code), request
        await still_serves(node)


async def test_the_largest_of_everything_is_taken(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        key, value = bytes(MAX_KEY_BYTES), bytes(MAX_VALUE_BYTES)
        await node.kv.Put(Put(key=key, value=value))
        assert (await node.kv.Get(Get(key=key))).kv.value == value
        small = [mutation(b"%d" % number) for number in range(MAX_COMMIT_MUTATIONS)]
        assert (await node.kv.Write(Write(mutations=small))).put == MAX_COMMIT_MUTATIONS
        stream = Stream(node)
        await stream.puts(1, {b"%d" % number: b"" for number in range(MAX_FRAME_OPERATIONS)})
        assert [answer.commits for answer in await stream.rest()] == [MAX_FRAME_OPERATIONS]
        refusal = await refused(node.kv.Delete(Delete(prefix=b"")))
        assert (refusal.status, refusal.code) == ("INVALID_ARGUMENT", "RANGE_TOO_LARGE")
        await still_serves(node)


async def test_bytes_that_are_no_message(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        for method in ("/kvproto.v1.KV/Put", "/kvproto.v1.Admin/Status"):
            refusal = await refused(node.channel.unary_unary(method)(b"\xff\xff\xff"))
            assert (refusal.status, refusal.code) == ("INVALID_ARGUMENT", "INVALID_FIELD")
        refusal = await refused(node.channel.unary_unary("/kvproto.v1.KV/Get")(b"\x0a\x02\xff\xfe"))
        assert refusal.code == "INVALID_FIELD", "a string that is no UTF-8"
        refusal = await refused(node.channel.unary_stream("/kvproto.v1.KV/Scan")(b"\xff").read())
        assert refusal.code == "INVALID_FIELD"
        refusal = await refused(node.channel.unary_unary("/grpc.health.v1.Health/Check")(b"\xff"))
        assert refusal.status == "INVALID_ARGUMENT"
        await still_serves(node)


async def test_methods_that_do_not_exist(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        for method in ("/kvproto.v1.KV/Drop", "/kvproto.v1.Nothing/Get", "/Get"):
            assert (await refused(node.channel.unary_unary(method)(b""))).status == "UNIMPLEMENTED"
        await still_serves(node)


async def test_a_message_over_the_limit(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        refusal = await refused(node.kv.Put(Put(key=b"k", value=bytes(5 * 1024 * 1024))))
        assert refusal.status == "RESOURCE_EXHAUSTED"
        await still_serves(node)


async def test_compressed_messages_are_refused_without_being_unpacked(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        options = (("grpc.use_local_subchannel_pool", 1),)
        async with grpc.aio.insecure_channel(node.address, options, grpc.Compression.Gzip) as channel:
            refusal = await refused(channel.unary_unary("/kvproto.v1.KV/Put")(bytes(3 * 1024 * 1024)))
        assert refusal.status == "UNIMPLEMENTED"
        assert "gzip" in refusal.message
        await still_serves(node)


async def test_metadata_over_the_limit(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        refusal = await refused(node.kv.Get(Get(key=b"k"), metadata=(("large", "x" * 40_000),)))
        assert refusal.status == "RESOURCE_EXHAUSTED"
        await still_serves(node)


async def test_a_frame_over_the_message_limit_ends_its_stream_and_leaves_what_came_before(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        stream = Stream(node)
        await stream.puts(1, {b"before": b"1"})
        assert (await stream.answer()).commits == 1
        await stream.puts(2, {b"%d" % number: bytes(1024 * 1024) for number in range(6)})
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.call.read()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await node.kv.Get(Get(key=b"before"))).kv.value == b"1"
        assert node.database.marks.assigned == 2
        await still_serves(node)


async def test_a_frame_that_is_no_message_ends_its_stream_after_the_answers_before_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        call = node.channel.stream_stream("/kvproto.v1.KV/Pipeline")()
        good = kv_pb2.PipelineRequest(frame_id=1, puts=kv_pb2.PutColumns(keys=[b"k"], values=[b"v"]))
        await call.write(good.SerializeToString())
        await call.write(b"\xff\xff")
        assert kv_pb2.PipelineResponse.FromString(await call.read()).commits == 1
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        refusal = refusal_of(caught.value)
        assert (refusal.status, refusal.code) == ("INVALID_ARGUMENT", "INVALID_FIELD")
        await still_serves(node)


async def test_a_stream_ended_by_its_client_is_answered_to_the_last_frame(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        stream = Stream(node)
        for number in range(20):
            await stream.puts(number, {b"%d" % number: b"v"})
        answers = await stream.rest()
        assert sorted(answer.frame_id for answer in answers) == list(range(20))
        assert await stream.call.code() is grpc.StatusCode.OK
        empty = Stream(node)
        assert await empty.rest() == []
        assert await empty.call.code() is grpc.StatusCode.OK


GARBAGE: list[Callable[[], bytes]] = [
    lambda: b"\0" * 5000,
    lambda: bytes(range(256)) * 20,
    lambda: b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    lambda: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 3000,
    lambda: b"",
]


@pytest.mark.parametrize("garbage", range(len(GARBAGE)))
async def test_garbage_on_the_port(tmp_path: Path, garbage: int) -> None:
    async with serving(tmp_path) as node:

        def send() -> None:
            with socket.create_connection(("127.0.0.1", node.port), 5) as connection:
                connection.sendall(GARBAGE[garbage]())
                connection.shutdown(socket.SHUT_WR)
                connection.settimeout(5)
                try:
                    while connection.recv(4096):
                        pass
                except ConnectionResetError:
                    pass

        await asyncio.to_thread(send)
        await still_serves(node)


async def test_a_fault_of_the_servers_own_shows_nothing_of_its_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path) as node:

        def broken(*_: object) -> None:
            raise RuntimeError("secret inside")

        with monkeypatch.context() as patch:
            patch.setattr(node.database, "read", broken)
            refusal = await refused(node.kv.Get(Get(key=b"k")))
            assert (refusal.status, refusal.code) == ("INTERNAL", "INTERNAL")
            assert "secret" not in refusal.message + refusal.hint
            patch.setattr(node.database, "scan", broken)
            assert (await refused(node.kv.Scan(Scan()).read())).code == "INTERNAL"
            patch.setattr(node.database, "submit", broken)
            stream = Stream(node)
            await stream.puts(1, {b"k": b"v"})
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stream.call.read()
            assert refusal_of(caught.value).code == "INTERNAL"
        assert caplog.text.count("\nRuntimeError: secret inside") == 3, "the log has it, with its traceback"
        await still_serves(node)
