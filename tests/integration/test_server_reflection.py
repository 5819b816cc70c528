"""Reflection: a client that has no ``.proto`` files finds out what is served and how to speak to it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from integration.serving import Node, refused, serving
from kvserver.transport import reflection

Request: Any = reflection_pb2.ServerReflectionRequest
Response: Any = reflection_pb2.ServerReflectionResponse

SERVICES = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "kvproto.v1.Admin",
    "kvproto.v1.KV",
]

both_names = pytest.mark.parametrize("name", reflection.NAMES)


def questions(node: Node, name: str) -> Any:
    """Open a stream of questions; the messages of both names are the same bytes."""
    call = node.channel.stream_stream(f"/{name}/ServerReflectionInfo", Request.SerializeToString, Response.FromString)
    return call()


async def ask(node: Node, name: str, **question: Any) -> Any:
    call = questions(node, name)
    await call.write(Request(**question))
    answer = await call.read()
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    return answer


def _learn_and_put(address: str) -> Any:
    """Do what grpcurl does: learn the messages from the server alone, then make a call with them."""
    with grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert sorted(database.get_services()) == SERVICES
        pool = descriptor_pool.DescriptorPool(database)
        for service in SERVICES:
            assert pool.FindServiceByName(service).methods
        put = pool.FindServiceByName("kvproto.v1.KV").methods_by_name["Put"]
        request: Any = message_factory.GetMessageClass(put.input_type)
        response: Any = message_factory.GetMessageClass(put.output_type)
        call = channel.unary_unary("/kvproto.v1.KV/Put", request.SerializeToString, response.FromString)
        return call(request(key=b"k", value=b"v"))


async def test_a_client_without_protos_learns_them_and_puts_a_key(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        answer = await asyncio.to_thread(_learn_and_put, node.address)
        assert (type(answer).DESCRIPTOR.full_name, answer.header.revision) == ("kvproto.v1.PutResponse", 2)


@both_names
async def test_services_are_listed_under_both_names(tmp_path: Path, name: str) -> None:
    async with serving(tmp_path) as node:
        answer = await ask(node, name, host="h", list_services="")
        assert [service.name for service in answer.list_services_response.service] == SERVICES
        assert (answer.valid_host, answer.original_request.host) == ("h", "h")


@both_names
@pytest.mark.parametrize(
    ("question", "file"),
    [
        ({"file_by_filename": "kvproto/v1/kv.proto"}, "kvproto/v1/kv.proto"),
        ({"file_containing_symbol": "kvproto.v1.KV"}, "kvproto/v1/kv.proto"),
        ({"file_containing_symbol": "kvproto.v1.Admin.Status"}, "kvproto/v1/admin.proto"),
        ({"file_containing_symbol": "kvproto.v1.PutRequest"}, "kvproto/v1/kv.proto"),
        ({"file_containing_symbol": "google.rpc.ErrorInfo"}, "google/rpc/error_details.proto"),
        ({"file_containing_symbol": "grpc.reflection.v1.ServerReflection"}, "grpc/reflection/v1/reflection.proto"),
        ({"file_containing_symbol": "grpc.health.v1.HealthCheckRequest"}, "grpc_health/v1/health.proto"),
    ],
)
async def test_files_come_first_and_whole(tmp_path: Path, name: str, question: dict[str, str], file: str) -> None:
    async with serving(tmp_path) as node:
        answer = await ask(node, name, **question)
        files = [FileDescriptorProto.FromString(raw) for raw in answer.file_descriptor_response.file_descriptor_proto]
        assert files[0].name == file
        assert {needed for described in files for needed in described.dependency} <= {described.name for described in files}


async def test_the_description_of_v1_is_complete(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        answer = await ask(node, reflection.NAMES[0], file_containing_symbol=reflection.NAMES[0])
        (raw,) = answer.file_descriptor_response.file_descriptor_proto
        described = FileDescriptorProto.FromString(raw)
        described.ClearField("options")  # packages of other languages, which newer versions of grpcio-reflection name
        assert "v1alpha" not in str(described)
        pool = descriptor_pool.DescriptorPool()
        pool.AddSerializedFile(raw)
        (method,) = pool.FindServiceByName(reflection.NAMES[0]).methods
        assert method.output_type.full_name == "grpc.reflection.v1.ServerReflectionResponse"


@both_names
@pytest.mark.parametrize(
    ("question", "status"),
    [
        ({"file_by_filename": "nothing.proto"}, "NOT_FOUND"),
        ({"file_by_filename": "google/protobuf/unittest.proto"}, "NOT_FOUND"),
        ({"file_containing_symbol": ""}, "NOT_FOUND"),
        ({"file_containing_symbol": "kvproto.v1.KV.Nothing"}, "NOT_FOUND"),
        ({"file_containing_symbol": "." * 1000}, "NOT_FOUND"),
        ({"file_containing_symbol": "google.protobuf.compiler.Version"}, "NOT_FOUND"),
        ({"file_containing_extension": {"containing_type": "kvproto.v1.PutRequest", "extension_number": -1}}, "NOT_FOUND"),
        ({"file_containing_extension": {"containing_type": "x", "extension_number": 1}}, "NOT_FOUND"),
        ({"all_extension_numbers_of_type": "x"}, "NOT_FOUND"),
        ({}, "INVALID_ARGUMENT"),
    ],
)
async def test_what_is_not_there_is_said_and_the_stream_goes_on(
    tmp_path: Path, name: str, question: dict[str, Any], status: str
) -> None:
    async with serving(tmp_path) as node:
        call = questions(node, name)
        await call.write(Request(**question))
        answer = await call.read()
        assert answer.error_response.error_code == grpc.StatusCode[status].value[0]
        assert answer.error_response.error_message
        await call.write(Request(all_extension_numbers_of_type="kvproto.v1.PutRequest"))
        assert (await call.read()).all_extension_numbers_response.base_type_name == "kvproto.v1.PutRequest"
        call.cancel()


async def test_bytes_that_are_no_question_are_refused_by_name(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        call: Any = node.channel.stream_stream(f"/{reflection.NAMES[0]}/ServerReflectionInfo")()
        await call.write(b"\xff\xff")
        refusal = await refused(call.read())
        assert (refusal.status, refusal.code) == ("INVALID_ARGUMENT", "INVALID_FIELD")


async def test_streams_are_bounded_and_do_not_delay_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflection, "MAX_STREAMS", 2)
    async with serving(tmp_path) as node:
        first, second = (questions(node, reflection.NAMES[1]) for _ in range(2))
        for call in (first, second):
            await call.write(Request(list_services=""))
            assert (await call.read()).HasField("list_services_response")
        assert (await refused(questions(node, reflection.NAMES[0]).read())).status == "RESOURCE_EXHAUSTED"
        await first.done_writing()
        assert await first.read() is grpc.aio.EOF
        assert (await ask(node, reflection.NAMES[0], list_services="")).HasField("list_services_response")
        begun = asyncio.get_running_loop().time()
        await node.server.stop(5.0)
        assert asyncio.get_running_loop().time() - begun < 2
