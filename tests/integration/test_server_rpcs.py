"""Every rpc over the wire, and the order between them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from integration.serving import Node, Stream, methods_of, refused, scanned, serving, stalled_disk, until
from kvproto.v1 import admin_pb2, kv_pb2
from kvserver.base.errors import OpenRefused
from kvserver.base.options import EngineOptions, PipelineOptions
from kvserver.service.methods import UnaryMethod
from kvserver.transport.grpc_aio import GrpcServer
from kvserver.transport.rpc_metrics import MethodStats
from kvserver.transport.unary import serve_scan, serve_unary

LOCAL, MEMORY = kv_pb2.DURABILITY_LOCAL, kv_pb2.DURABILITY_MEMORY
ONE_AT_A_TIME = EngineOptions(pipeline=PipelineOptions(overlap=False))


async def put(node: Node, key: bytes, value: bytes = b"v", **fields: Any) -> int:
    response = await node.kv.Put(kv_pb2.PutRequest(key=key, value=value, **fields))
    return int(response.header.revision)


async def get(node: Node, key: bytes, **fields: Any) -> kv_pb2.GetResponse:
    response = await node.kv.Get(kv_pb2.GetRequest(key=key, **fields))
    assert isinstance(response, kv_pb2.GetResponse)
    return response


async def keys(node: Node, **fields: Any) -> list[bytes]:
    return [kv.key for chunk in await scanned(node, **fields) for kv in chunk.kvs]


async def test_put_get_delete(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        response = await node.kv.Put(kv_pb2.PutRequest(key=b"k", value=b"1"))
        assert (response.header.revision, response.reached, response.header.epoch) == (2, LOCAL, 1)
        assert response.header.cluster_id == node.database.identity.cluster_id
        await put(node, b"k", b"2")
        found = (await get(node, b"k")).kv
        assert (found.value, found.create_revision, found.mod_revision, found.version) == (b"2", 2, 3, 2)
        assert (await get(node, b"k", revision=2)).kv.value == b"1"
        deleted = await node.kv.Delete(kv_pb2.DeleteRequest(key=b"k"))
        assert (deleted.deleted, deleted.header.revision, deleted.reached) == (1, 4, LOCAL)
        assert not (await get(node, b"k")).HasField("kv")
        assert (await node.kv.Delete(kv_pb2.DeleteRequest(key=b"k"))).deleted == 0
        assert await put(node, b"k") == 5
        assert (await get(node, b"k")).kv.version == 1


async def test_conditions(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        assert await put(node, b"k", if_absent=True) == 2
        refusal = await refused(node.kv.Put(kv_pb2.PutRequest(key=b"k", if_absent=True)))
        assert (refusal.status, refusal.code) == ("FAILED_PRECONDITION", "CONDITION_FAILED")
        assert refusal.metadata == {"mod_revision": "2"}
        assert refusal.hint
        assert await put(node, b"k", if_revision=2) == 3
        assert (await refused(node.kv.Delete(kv_pb2.DeleteRequest(key=b"k", if_revision=2)))).metadata["mod_revision"] == "3"
        assert (await refused(node.kv.Put(kv_pb2.PutRequest(key=b"x", if_revision=9)))).metadata["mod_revision"] == "0"
        assert await put(node, b"x", if_revision=0) == 4


async def test_write_is_atomic(tmp_path: Path) -> None:
    def mutations(*conditions: int | None) -> list[kv_pb2.Mutation]:
        return [
            kv_pb2.Mutation(put=kv_pb2.PutMutation(key=b"k%d" % number, value=b"v", if_revision=condition))
            for number, condition in enumerate(conditions)
        ]

    async with serving(tmp_path) as node:
        response = await node.kv.Write(kv_pb2.WriteRequest(mutations=mutations(None, 0, None)))
        assert (response.header.revision, response.put, response.deleted, response.reached) == (2, 3, 0, LOCAL)
        refusal = await refused(node.kv.Write(kv_pb2.WriteRequest(mutations=mutations(None, 7))))
        assert (refusal.code, refusal.metadata) == ("CONDITION_FAILED", {"mod_revision": "2"})
        assert (await get(node, b"k0")).kv.mod_revision == 2
        deletion = kv_pb2.Mutation(delete=kv_pb2.DeleteMutation(prefix=b"k"))
        fresh = kv_pb2.Mutation(put=kv_pb2.PutMutation(key=b"new"))
        response = await node.kv.Write(kv_pb2.WriteRequest(mutations=[deletion, fresh]))
        assert (response.header.revision, response.put, response.deleted) == (3, 1, 3)


async def test_namespaces(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        created = await node.admin.CreateNamespace(admin_pb2.CreateNamespaceRequest(name="team/a"))
        assert (created.namespace.name, created.namespace.id, created.namespace.create_revision) == ("team/a", 2, 2)
        await put(node, b"k", b"here", namespace="team/a")
        await put(node, b"k", b"there")
        assert (await get(node, b"k", namespace="team/a")).kv.value == b"here"
        assert await keys(node, namespace="team/a") == [b"k"]
        both = [
            kv_pb2.Mutation(put=kv_pb2.PutMutation(key=b"both")),
            kv_pb2.Mutation(namespace="team/a", put=kv_pb2.PutMutation(key=b"both")),
        ]
        response = await node.kv.Write(kv_pb2.WriteRequest(mutations=both))
        assert response.put == 2
        listed = await node.admin.ListNamespaces(admin_pb2.ListNamespacesRequest())
        assert [(one.name, one.id, one.create_revision) for one in listed.namespaces] == [("", 1, 1), ("team/a", 2, 2)]
        assert (await refused(node.admin.CreateNamespace(admin_pb2.CreateNamespaceRequest(name="team/a")))).code == (
            "NAMESPACE_EXISTS"
        )


async def test_scan_forms(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        for key in (b"a", b"b1", b"b2", b"c"):
            await put(node, key, b"value of " + key)
        assert await keys(node) == [b"a", b"b1", b"b2", b"c"]
        assert await keys(node, prefix=b"b") == [b"b1", b"b2"]
        assert await keys(node, range=kv_pb2.KeyRange(start=b"b1", end=b"c")) == [b"b1", b"b2"]
        assert await keys(node, reverse=True, limit=2) == [b"c", b"b2"]
        assert await keys(node, revision=3) == [b"a", b"b1"]
        limited = (await scanned(node, limit=2))[-1]
        assert (limited.done, limited.more, limited.count) == (True, True, 2)
        exact = (await scanned(node, limit=4))[-1]
        assert (exact.done, exact.more, exact.count) == (True, False, 4)
        counted = await scanned(node, count_only=True, prefix=b"b")
        assert [(chunk.count, len(chunk.kvs)) for chunk in counted] == [(2, 0)]
        bare = (await scanned(node, keys_only=True, prefix=b"a"))[0].kvs[0]
        assert (bare.key, bare.value, bare.mod_revision) == (b"a", b"", 2)
        nothing = await scanned(node, prefix=b"x")
        assert [(chunk.done, chunk.count) for chunk in nothing] == [(True, 0)]


async def test_a_scan_comes_in_bounded_chunks_all_at_one_revision(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        stream = Stream(node)
        pairs = {b"%05d" % number: bytes(1000) for number in range(5000)}
        await stream.puts(1, dict(list(pairs.items())[:3500]))
        await stream.puts(2, dict(list(pairs.items())[3500:]))
        await stream.rest()
        chunks = []
        async for chunk in node.kv.Scan(kv_pb2.ScanRequest()):
            if not chunks:
                await put(node, b"00000x")
                await put(node, b"04999", b"changed meanwhile")
            chunks.append(chunk)
        assert [kv.key for chunk in chunks for kv in chunk.kvs] == sorted(pairs)
        assert {kv.value for chunk in chunks for kv in chunk.kvs} == {bytes(1000)}
        assert len(chunks) > 10
        assert {chunk.header.revision for chunk in chunks} == {5001}
        assert max(chunk.ByteSize() for chunk in chunks) < 512 * 1024
        assert [chunk.done for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


async def test_the_largest_pair_is_scanned_by_a_client_with_grpcs_own_limits(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        for number in range(3):
            await put(node, b"%d" % number + bytes(8 * 1024 - 1), bytes(1024 * 1024))
        chunks = await scanned(node)
        assert [len(kv.value) for chunk in chunks for kv in chunk.kvs] == [1024 * 1024] * 3


async def test_sync_and_memory_writes(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        with stalled_disk() as release:
            response = await node.kv.Put(kv_pb2.PutRequest(key=b"k", value=b"v", durability=MEMORY))
            assert response.reached == MEMORY
            assert not (await get(node, b"k")).HasField("kv")
            session = kv_pb2.SessionToken(epoch=response.header.epoch, revision=response.header.revision)
            own = asyncio.ensure_future(get(node, b"k", session=session))
            synced = asyncio.ensure_future(node.kv.Sync(kv_pb2.SyncRequest()))
            await asyncio.sleep(0.1)
            assert not own.done() and not synced.done()
            release.set()
            assert (await own).kv.value == b"v"
            assert ((await synced).header.revision, (await synced).reached) == (2, LOCAL)
        assert (await node.kv.Sync(kv_pb2.SyncRequest(revision=1))).header.revision == 1


async def test_status(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        await put(node, b"k", bytes(100))
        status = await node.admin.Status(admin_pb2.StatusRequest())
        assert (status.role, status.format_version, status.keys) == ("primary", 2, 1)
        marks = (status.assigned_revision, status.applied_revision, status.durable_revision, status.visible_revision)
        assert marks == (2, 2, 2, 2)
        assert (status.oldest_readable_revision, status.header.revision) == (1, 2)
        assert len(status.chain) == 16
        assert status.epoch_nonce == node.database.history.current.nonce
        assert status.memory_bytes > 100
        assert status.wal_segments == 1
        assert status.wal_bytes > 4096
        assert list(status.warnings) == []


async def test_one_stream_sees_its_own_writes_in_order(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        stream = Stream(node)
        await stream.puts(1, {b"k": b"1"})
        await stream.gets(2, b"k")
        await stream.deletes(3, b"k")
        await stream.gets(4, b"k")
        await stream.mixed(5, kv_pb2.Operation(put=kv_pb2.PutRequest(key=b"k", value=b"2", if_absent=True)))
        await stream.gets(6, b"k")
        answers = {answer.frame_id: answer for answer in await stream.rest()}
        assert [list(answers[number].gets.values) for number in (2, 4, 6)] == [[b"1"], [b""], [b"2"]]
        assert [answers[number].header.revision for number in (1, 3, 5)] == [2, 3, 4]
        assert await stream.call.code() is grpc.StatusCode.OK


async def test_a_memory_write_in_a_stream_is_read_with_its_token(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        with stalled_disk() as release:
            stream = Stream(node)
            await stream.puts(1, {b"k": b"v"}, durability=MEMORY)
            answer = await stream.answer()
            assert (answer.reached, answer.first_revision) == (MEMORY, 2)
            session = kv_pb2.SessionToken(epoch=answer.header.epoch, revision=answer.header.revision)
            own = asyncio.ensure_future(get(node, b"k", session=session))
            await asyncio.sleep(0.05)
            assert not own.done()
            release.set()
            assert (await own).kv.value == b"v"


async def test_a_write_that_waits_in_line_is_given_up_in_time_to_say_so(tmp_path: Path) -> None:
    async with serving(tmp_path, ONE_AT_A_TIME) as node:
        with stalled_disk() as release:
            first = asyncio.ensure_future(put(node, b"under way"))
            await until(lambda: node.database.pipeline.unwritten)
            refusal = await refused(node.kv.Put(kv_pb2.PutRequest(key=b"in line"), timeout=0.4))
            assert (refusal.status, refusal.code) == ("UNAVAILABLE", "NOT_WRITTEN")
            release.set()
            assert await first == 2
        assert not (await get(node, b"in line")).HasField("kv")
        assert await put(node, b"later") == 3


async def test_a_write_whose_caller_hangs_up_in_line_is_not_carried_out(tmp_path: Path) -> None:
    async with serving(tmp_path, ONE_AT_A_TIME) as node:
        with stalled_disk() as release:
            first = asyncio.ensure_future(put(node, b"under way"))
            await until(lambda: node.database.pipeline.unwritten)
            call = node.kv.Put(kv_pb2.PutRequest(key=b"in line"))
            await until(lambda: node.database.pipeline.waiting)
            call.cancel()
            await asyncio.sleep(0.1)
            release.set()
            await first
        assert await put(node, b"later") == 3


async def test_a_write_under_way_is_kept_though_its_caller_hangs_up(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        with stalled_disk() as release:
            call = node.kv.Put(kv_pb2.PutRequest(key=b"k", value=b"v"))
            await until(lambda: node.database.pipeline.unwritten)
            call.cancel()
            release.set()
        await node.kv.Sync(kv_pb2.SyncRequest())
        assert (await get(node, b"k")).kv.value == b"v"


class _LateCall:
    """A call whose deadline had passed when it arrived."""

    def __init__(self) -> None:
        self.details = b""

    def time_remaining(self) -> float:
        return 0

    async def abort(self, code: grpc.StatusCode, text: str, metadata: Any) -> None:
        self.details = metadata[0][1]
        raise grpc.aio.AbortError


async def test_what_arrives_too_late_is_not_begun(tmp_path: Path) -> None:
    expected = {"Put": b"NOT_WRITTEN", "Get": b"DEADLINE", "Scan": b"DEADLINE"}
    async with serving(tmp_path) as node:
        for method in methods_of(node.database):
            if method.name not in expected:
                continue
            serve = serve_unary if isinstance(method, UnaryMethod) else serve_scan
            call = _LateCall()
            with pytest.raises(grpc.aio.AbortError):
                await serve(method, MethodStats("", "", ""))(b"\x12\x01k", call)  # type: ignore[operator]
            assert expected.pop(method.name) in call.details
        assert node.database.marks.assigned == 1
    assert not expected


async def test_health_by_name_and_role(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        health: Any = health_pb2_grpc.HealthStub(node.channel)
        for name in ("", "kvproto.v1.KV", "kvproto.v1.Admin", "primary"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        refusal = await refused(health.Check(health_pb2.HealthCheckRequest(service="follower")))
        assert refusal.status == "NOT_FOUND"


async def test_those_who_watch_health_are_told_of_the_end_and_do_not_delay_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        health: Any = health_pb2_grpc.HealthStub(node.channel)
        calls = [health.Watch(health_pb2.HealthCheckRequest(service="primary")) for _ in range(2)]
        unknown = health.Watch(health_pb2.HealthCheckRequest(service="nobody"))
        for call in calls:
            assert (await call.read()).status == health_pb2.HealthCheckResponse.SERVING
        assert (await unknown.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        calls.pop().cancel()
        begun = asyncio.get_running_loop().time()
        await node.server.stop(5.0)
        assert asyncio.get_running_loop().time() - begun < 2
        assert (await calls[0].read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await calls[0].read() is grpc.aio.EOF


async def test_two_servers_never_share_a_port(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        second = GrpcServer([], ())
        with pytest.raises(OpenRefused) as caught:
            await second.start("127.0.0.1", node.port)
        assert str(node.port) in caught.value.message and "--listen" in caught.value.hint


@pytest.mark.parametrize("in_flight", [256])
async def test_many_calls_on_one_connection(tmp_path: Path, in_flight: int) -> None:
    async with serving(tmp_path) as node:
        revisions = await asyncio.gather(*(put(node, b"%d" % number) for number in range(4 * in_flight)))
        assert sorted(revisions) == list(range(2, 4 * in_flight + 2))
        assert node.database.log_figures().groups < 4 * in_flight
