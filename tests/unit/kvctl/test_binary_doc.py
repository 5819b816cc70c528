"""The section on the binary form in docs/kvctl.md, read literally: its tables take its example apart, byte by byte."""

from __future__ import annotations

import itertools
import json
import re
import zlib
from pathlib import Path
from typing import Any

import zstandard

from kvclient import Entry
from kvctl.binary import BinaryReader, BinaryWriter

PAGE = (Path(__file__).parents[3] / "docs" / "kvctl.md").read_text()
SECTION = PAGE[PAGE.index("### The binary form") : PAGE.index("## Nodes")]


def example() -> bytes:
    """Return the bytes of the example."""
    rows = re.findall(r"^([0-9a-f]{4})  ((?:[0-9a-f]{2} ?)+)", SECTION, re.MULTILINE)
    data = b"".join(bytes.fromhex(digits) for _, digits in rows)
    assert [int(offset, 16) for offset, _ in rows] == list(range(0, len(data), 16))
    return data


def table(title: str) -> list[tuple[int, int, str]]:
    """Return offset, length and field of the rows of a table whose places are figures."""
    part = SECTION[SECTION.index(title) :].partition("\n\n|")[2].partition("\n\n")[0]
    return [(int(offset), int(length), field) for offset, length, field in re.findall(r"\| (\d+) \| (\d+) \| `(\w+)`", part)]


def taken_apart(title: str, data: bytes) -> dict[str, Any]:
    """Return the fields of a head by the table of that title; numbers as numbers."""
    rows = table(title)
    for (offset, length, _), (following, _, _) in itertools.pairwise(rows):
        assert offset + length == following
    fields = {field: data[offset : offset + length] for offset, length, field in rows}
    return {field: part if field in ("magic", "kind") else int.from_bytes(part, "little") for field, part in fields.items()}


def test_the_example_is_what_the_tables_say() -> None:
    data = example()
    head = taken_apart("The head:", data)
    assert (head["magic"].hex(" ").upper(), head["version"], head["flags"]) == ("89 4B 56 44 0D 0A 1A 0A", 1, 1)
    assert f"`{head['magic'].hex(' ').upper()}`" in SECTION
    about = data[16 : 16 + head["about_length"]]
    assert json.loads(about) == {"cluster_id": bytes(range(16)).hex(), "epoch": 1, "revision": 2, "namespace": ""}
    end = 16 + len(about)
    assert data[end : end + 4] == zlib.crc32(data[:end]).to_bytes(4, "little")

    block = data[end + 4 :]
    fields = taken_apart("A block head:", block)
    assert (fields["kind"], fields["records"], fields["first_record"]) == (b"BLCK", 1, 1)
    assert fields["head_checksum"] == zlib.crc32(block[:24])
    stored = block[32 : 32 + fields["stored_length"]]
    assert fields["stored_checksum"] == zlib.crc32(stored)
    plain = zstandard.ZstdDecompressor().decompress(stored)
    assert len(plain) == fields["plain_length"]
    numbers = [int.from_bytes(plain[place : place + 8], "little") for place in (8, 16, 24)]
    assert (plain[:4], plain[4:8], numbers, plain[32:]) == (b"\1\0\0\0", b"\1\0\0\0", [2, 2, 1], b"kv")

    last = taken_apart("A block head:", block[32 + len(stored) :])
    assert len(block) == 32 + len(stored) + 32
    assert (last["kind"], last["stored_length"], last["plain_length"], last["records"], last["first_record"]) == (
        b"LAST",
        0,
        0,
        0,
        2,
    )


def test_the_example_is_read_and_written_so() -> None:
    data = example()
    reader = BinaryReader(iter([data]), "the example")
    about = reader.read_head()
    (batch,) = reader.batches(0)
    assert (batch.keys, batch.values, batch.faults) == ([b"k"], [b"v"], [])
    parts: list[bytes] = []
    writer = BinaryWriter(parts.append, about, with_revisions=True)
    writer.add(Entry(b"k", b"v", 2, 2, 1))
    writer.finish()
    written = b"".join(parts)
    heads_end = 16 + int.from_bytes(data[12:16], "little") + 4
    assert written[:heads_end] == data[:heads_end]
    assert written[-32:] == data[-32:], "what is compressed may differ with another version of zstd"
