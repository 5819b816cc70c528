"""What is served is exactly what the contract promises, each method in the form in which it promises it."""

from __future__ import annotations

from typing import Any, cast

from google.protobuf.descriptor import MethodDescriptor

from kvproto.v1 import admin_pb2, kv_pb2
from kvserver.service import admin, archive, kv
from kvserver.service.methods import FrameMethod, Method, ScanMethod, UnaryMethod

WRITES = {"Put", "Delete", "Write", "CreateNamespace", "DropNamespace", "Compact"}


class _Nothing:
    """Stands in for a database where nothing is asked of it but who it is."""

    def __getattr__(self, name: str) -> Any:
        return self


class _Clock:
    def monotonic(self) -> float:
        return 0.0


def _methods() -> list[Method]:
    nothing = cast(Any, _Nothing())
    clock = cast(Any, _Clock())
    return [
        *kv.KvService(nothing).methods(),
        *admin.AdminService(nothing, clock).methods(),
        *archive.ArchiveService(nothing, None, nothing, clock).methods(),
    ]


def _contract() -> dict[tuple[str, str], MethodDescriptor]:
    services = [service for file in (kv_pb2, admin_pb2) for service in file.DESCRIPTOR.services_by_name.values()]
    return {(service.full_name, method.name): method for service in services for method in service.methods}


def test_the_contract_is_served_as_a_whole_and_nothing_else() -> None:
    methods = _methods()
    assert {(method.service, method.name) for method in methods} == set(_contract())
    assert len(methods) == len(_contract())


def test_each_method_has_the_form_of_the_contract() -> None:
    contract = _contract()
    for method in _methods():
        promised = contract[method.service, method.name]
        streams = (promised.client_streaming, promised.server_streaming)
        kinds = {(False, False): UnaryMethod, (False, True): ScanMethod, (True, True): FrameMethod}
        assert isinstance(method, kinds[streams]), method.name
        assert method.request.DESCRIPTOR is promised.input_type


def test_the_methods_that_write_are_marked() -> None:
    assert {method.name for method in _methods() if isinstance(method, UnaryMethod) and method.writes} == WRITES
