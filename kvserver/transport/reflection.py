"""The standard reflection service: tells tools such as grpcurl what is served, so that they need no ``.proto`` files.

Served under both of its names, ``grpc.reflection.v1`` and ``v1alpha``, whose messages are the same bytes; tools ask for the
first and fall back to the second. The servicer of grpc_reflection knows the second only, does not find methods, and answers
bytes that are no message with a fault of its own, so only its messages are used here.

What can be asked for is what is served and what that refers to, nothing else that the process happens to have loaded.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf import descriptor_pool, text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha import reflection_pb2

from kvserver.base.errors import KvError
from kvserver.service.status import Canonical
from kvserver.transport.errors import decode, end_with

V1 = "grpc.reflection.v1"
V1ALPHA = "grpc.reflection.v1alpha"
NAMES = (f"{V1}.ServerReflection", f"{V1ALPHA}.ServerReflection")

MAX_STREAMS = 256
"""Streams of questions that may be open; more are refused."""

_DETAILS = (error_details_pb2.DESCRIPTOR, status_pb2.DESCRIPTOR)
"""What the details of errors consist of: no service refers to it, and tools want to print it."""

_Response: Any = reflection_pb2.ServerReflectionResponse


class Reflection:
    """Answers questions about services. Belongs to the event loop."""

    def __init__(self, services: Iterable[str]) -> None:
        """Take the names of all services; those that no loaded ``.proto`` file defines are listed and cannot be described."""
        self._services = sorted({*services, *NAMES})
        self._pool = descriptor_pool.DescriptorPool()
        self._files: dict[str, tuple[bytes, tuple[str, ...]]] = {}
        loaded = descriptor_pool.Default()
        for service in services:
            try:
                self._add(loaded.FindServiceByName(service).file)
            except KeyError:
                continue
        for file in (*_DETAILS, reflection_pb2.DESCRIPTOR):
            self._add(file)
        self._add_bytes(_v1_of(reflection_pb2.DESCRIPTOR))
        self._streams = 0

    def _add(self, file: Any) -> None:
        """Take in a loaded file with those that it imports, which a pool wants first."""
        if file.name not in self._files:
            for dependency in file.dependencies:
                self._add(dependency)
            self._add_bytes(file.serialized_pb)

    def _add_bytes(self, serialized: bytes) -> None:
        file = self._pool.AddSerializedFile(serialized)
        self._files[file.name] = serialized, tuple(dependency.name for dependency in file.dependencies)

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """Return the service for grpc.aio, under each of its names."""
        handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(self._serve)
        return tuple(grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler}) for name in NAMES)

    async def _serve(self, _: Any, context: Any) -> None:
        """Answer questions one by one until the client has no more. Streams still open do not delay the server's end."""
        if self._streams >= MAX_STREAMS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MAX_STREAMS} streams are open already")
        self._streams += 1
        try:
            while (raw := await context.read()) is not grpc.aio.EOF:
                try:
                    request = decode(reflection_pb2.ServerReflectionRequest, raw)
                except KvError as error:
                    await end_with(context, error)
                await context.write(self.answer(request).SerializeToString())
        finally:
            self._streams -= 1

    def answer(self, request: Any) -> Any:
        """Return the answer to one question; what cannot be found is part of it."""
        found: dict[str, Any]
        try:
            match request.WhichOneof("message_request"):
                case "list_services":
                    found = {"list_services_response": {"service": [{"name": name} for name in self._services]}}
                case "file_by_filename":
                    found = self._described(request.file_by_filename)
                case "file_containing_symbol":
                    found = self._described(self._file_of(request.file_containing_symbol))
                case "file_containing_extension":
                    asked = request.file_containing_extension
                    message = self._pool.FindMessageTypeByName(asked.containing_type)
                    extension: Any = self._pool.FindExtensionByNumber(message, asked.extension_number)
                    found = self._described(extension.file.name)
                case "all_extension_numbers_of_type":
                    message = self._pool.FindMessageTypeByName(request.all_extension_numbers_of_type)
                    numbers = sorted(extension.number for extension in self._pool.FindAllExtensions(message))
                    found = {"all_extension_numbers_response": {"base_type_name": message.full_name, "extension_number": numbers}}
                case _:
                    found = _error(Canonical.INVALID_ARGUMENT, "the request asks for nothing that is known here")
        except KeyError:
            found = _error(Canonical.NOT_FOUND, "nothing of this name is served here")
        return _Response(valid_host=request.host, original_request=request, **found)

    def _file_of(self, symbol: str) -> str:
        """Return the name of the file that defines a symbol; KeyError where none does."""
        try:
            name = self._pool.FindFileContainingSymbol(symbol).name
        except KeyError:  # the pool finds everything but methods
            service, _, method = symbol.rpartition(".")
            name = self._pool.FindServiceByName(service).methods_by_name[method].containing_service.file.name
        return str(name)

    def _described(self, name: str) -> dict[str, Any]:
        """Return a file followed by all that it needs; KeyError where there is none of the name."""
        needed: dict[str, bytes] = {}
        names = [name]
        while names:
            name = names.pop()
            if name not in needed:
                needed[name], imported = self._files[name]
                names.extend(imported)
        return {"file_descriptor_response": {"file_descriptor_proto": list(needed.values())}}


def _error(code: Canonical, what: str) -> dict[str, Any]:
    return {"error_response": {"error_code": int(code), "error_message": what}}


def _v1_of(alpha: Any) -> bytes:
    """Return the description of ``grpc.reflection.v1``: that of ``v1alpha`` under the other name, which is all they differ in."""
    spelled = text_format.MessageToString(FileDescriptorProto.FromString(alpha.serialized_pb))
    file = text_format.Parse(spelled.replace(V1ALPHA, V1), FileDescriptorProto())
    file.name = V1.replace(".", "/") + "/reflection.proto"
    serialized: bytes = file.SerializeToString()
    return serialized
