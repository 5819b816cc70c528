"""A disk that is full or cannot be written: writes are refused by name, reads go on, nothing acknowledged is lost."""

from __future__ import annotations

import errno
from pathlib import Path

from integration.serving import Stream, refused, serving, until
from kvproto.v1 import admin_pb2, errors_pb2, kv_pb2
from kvserver.base.environment import Environment
from kvserver.base.limits import MIB
from kvserver.base.options import EngineOptions, WalOptions
from kvserver.server.probes import Phase, Probes
from support.faultfs import Fault, FaultFileSystem, FaultPlan
from support.memfs import MemoryFileSystem

OPTIONS = EngineOptions(
    wal=WalOptions(segment_bytes=16 * MIB, ahead_bytes=6 * MIB, space_retry_ms=20, idle_mark_ms=10),
)
VALUE = bytes(MIB)


async def test_a_full_disk_refuses_writes_by_name_and_takes_them_again_when_there_is_room() -> None:
    fs = FaultFileSystem(MemoryFileSystem(), FaultPlan(space_bytes=40 * MIB))
    env = Environment(fs=fs)
    async with serving(Path("/data"), OPTIONS, env) as node:
        probes = Probes(env.clock)
        probes.phase, probes.database = Phase.SERVING, node.database
        assert all(check.passed for check in probes.ready())
        written = []
        for number in range(100):
            refusal = await _put(node, number)
            if refusal is not None:
                break
            written.append(number)
        assert refusal is not None, "the disk never filled"
        assert (refusal.status, refusal.code) == ("RESOURCE_EXHAUSTED", "DISK_FULL")
        assert "nothing was written" in refusal.message and refusal.hint
        stream = Stream(node)
        await stream.puts(1, {b"%d" % number: VALUE for number in range(3)})
        await stream.gets(2, b"0")
        answers = {answer.frame_id: answer for answer in await stream.rest()}
        assert answers[1].rejected
        assert [errors_pb2.ErrorCode.Name(failure.code) for failure in answers[1].failures] == ["DISK_FULL"]
        assert answers[2].gets.mod_revisions == [2]
        assert [check.name for check in probes.ready() if not check.passed] == ["disk"]
        status = await node.admin.Status(admin_pb2.StatusRequest())
        assert any("no more room" in warning for warning in status.warnings)
        fs.add_space(100 * MIB)
        await until(lambda: all(check.passed for check in probes.ready()))
        assert await _put(node, 1000) is None
        for number in [*written, 1000]:
            assert (await node.kv.Get(kv_pb2.GetRequest(key=b"%d" % number))).HasField("kv")


async def test_a_disk_that_cannot_be_written_refuses_by_another_name() -> None:
    fault = Fault(at=3, kinds={"create"}, error=errno.EROFS, forever=True, where=lambda path: "prepared" in path.name)
    inner = MemoryFileSystem()
    async with serving(Path("/data"), OPTIONS, Environment(fs=inner)):
        pass
    fs = FaultFileSystem(inner, FaultPlan([fault]))
    async with serving(Path("/data"), OPTIONS, Environment(fs=fs)) as node:
        for number in range(100):
            refusal = await _put(node, number)
            if refusal is not None:
                break
        assert refusal is not None
        assert (refusal.status, refusal.code) == ("RESOURCE_EXHAUSTED", "DISK_UNAVAILABLE")
        assert (await node.kv.Get(kv_pb2.GetRequest(key=b"0"))).HasField("kv")


async def _put(node, number):  # type: ignore[no-untyped-def]
    call = node.kv.Put(kv_pb2.PutRequest(key=b"%d" % number, value=VALUE))
    try:
        return await refused(call)
    except AssertionError:
        return None
