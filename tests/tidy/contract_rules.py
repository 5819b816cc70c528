"""The rules of style for the contract: a sentence above everything in it, and codes that are the server's codes."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc_tools
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

_SENTENCE = re.compile(r"[.:?!][)\"'`]*$")

# For each kind of descriptor: its repeated fields that need a comment, as (name in the descriptor, number, what it is).
# A path of numbers and indexes is how protoc says what a comment belongs to.
_PARTS: Mapping[type, tuple[tuple[str, int, str], ...]] = {
    descriptor_pb2.FileDescriptorProto: (
        ("message_type", 4, "message"),
        ("enum_type", 5, "enum"),
        ("service", 6, "service"),
    ),
    descriptor_pb2.DescriptorProto: (
        ("field", 2, "field"),
        ("nested_type", 3, "message"),
        ("enum_type", 4, "enum"),
        ("oneof_decl", 8, "oneof"),
    ),
    descriptor_pb2.EnumDescriptorProto: (("value", 2, "enum value"),),
    descriptor_pb2.ServiceDescriptorProto: (("method", 2, "rpc"),),
}


def describe(protos: Path) -> descriptor_pb2.FileDescriptorSet:
    """Return what protoc makes of the .proto files below a folder, comments included."""
    sources = sorted(str(path.relative_to(protos)) for path in protos.rglob("*.proto"))
    assert sources, f"no .proto file lies below {protos}"
    descriptor, name = tempfile.mkstemp()
    os.close(descriptor)
    try:
        well_known = Path(grpc_tools.__file__).parent / "_proto"
        arguments = ["-I", str(protos), "-I", str(well_known), "--include_source_info", f"--descriptor_set_out={name}"]
        code = protoc.main([sys.executable, *arguments, *sources])
        assert code == 0, f"protoc refused the files below {protos}"
        return descriptor_pb2.FileDescriptorSet.FromString(Path(name).read_bytes())
    finally:
        Path(name).unlink()


def uncommented(described: descriptor_pb2.FileDescriptorSet) -> list[str]:
    """Return a message for every part of the contract that has no sentence directly above it."""
    messages = []
    for file in described.file:
        lines = {tuple(location.path): location for location in file.source_code_info.location}
        for path, kind, name in _walk(file, (), ""):
            location = lines[path]
            if not _SENTENCE.search(location.leading_comments.strip()):
                where = f"{file.name}:{location.span[0] + 1}"
                messages.append(f"{where}: the {kind} {name} has no sentence directly above it. Fix: write what it promises")
    return messages


def _walk(part: Any, above: tuple[int, ...], prefix: str) -> Iterator[tuple[tuple[int, ...], str, str]]:
    for attribute, number, kind in _PARTS.get(type(part), ()):
        for index, child in enumerate(getattr(part, attribute)):
            if _is_made_by_protoc(part, kind, child, index):
                continue
            path = (*above, number, index)
            yield path, kind, prefix + child.name
            yield from _walk(child, path, f"{prefix}{child.name}.")


def _is_made_by_protoc(part: Any, kind: str, child: Any, index: int) -> bool:
    """Say whether nobody wrote this: the entry of a map, or the oneof that stands for an optional field."""
    if kind == "message":
        return bool(child.options.map_entry)
    return kind == "oneof" and any(field.proto3_optional and field.oneof_index == index for field in part.field)


def code_differences(codes: Mapping[str, int], contract: Mapping[str, int]) -> list[str]:
    """Return a message for every code that the server and the contract do not both have with the same number."""
    wanted = {name: number for name, number in contract.items() if number}
    messages = []
    for name in sorted(codes.keys() | wanted.keys()):
        if codes.get(name) != wanted.get(name):
            messages.append(
                f"{name} is {codes.get(name)} in kvserver/base/errors.py and {wanted.get(name)} in errors.proto. "
                "Fix: give both the same name and number (a number that was released never changes), then `make protos`"
            )
    return messages
