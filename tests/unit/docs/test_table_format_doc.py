"""docs/table_format.md says of every byte of a row what the code writes there, and its example is what a flush writes."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from kvserver.base.types import Epoch, Position
from kvserver.storage import rows
from kvserver.storage.rows import Flushed, Statistics
from unit.docs.documents import in_code, number, section
from unit.storage.flush_scenes import BUCKET, Store, delete, put

DOCUMENT = "docs/table_format.md"
TYPES = {"u8": 1, "u32": 4, "u64": 8}

FLUSHED = Flushed(bytes(range(16)), Position(Epoch(3, 4), 5, bytes(range(50, 66))), 6, 7)


def _fields(title: str) -> list[tuple[int, int, str, str]]:
    """Return offset, length (0: the rest), type and name of the fields of a section's table."""
    return [
        (number(row["offset"]), number(row["length"] or "0"), row["type"], "".join(in_code(row["field"])))
        for row in section(DOCUMENT, title).table()
    ]


VALUES: dict[str, tuple[Callable[[], bytes], dict[str, bytes | int]]] = {
    "Version": (
        lambda: rows.encode_version(1, 2, 3, b"the value"),
        {"flags": 0, "mod_revision": 1, "create_revision": 2, "version": 3, "value": b"the value"},
    ),
    "Flushed": (
        lambda: rows.encode_flushed(FLUSHED),
        {
            "format": 1,
            "cluster_id": FLUSHED.cluster_id,
            "epoch.number": 3,
            "epoch.nonce": 4,
            "revision": 5,
            "chain": FLUSHED.position.chain,
            "time_ms": 6,
            "bucket_revisions": 7,
        },
    ),
    "Statistics": (
        lambda: rows.encode_statistics(Statistics(1, 2, 3)),
        {"keys": 1, "key_bytes": 2, "value_bytes": 3},
    ),
    "Time": (lambda: rows.encode_time(9), {"time_ms": 9}),
}


@pytest.mark.parametrize("title", VALUES)
def test_every_field_of_a_value_is_where_the_document_says(title: str) -> None:
    data, values = VALUES[title][0](), dict(VALUES[title][1])
    expected_at = 0
    for offset, length, kind, name in _fields(title):
        assert offset == expected_at, f"{title}: {name} begins at {expected_at}"
        assert TYPES.get(kind, length) == length, f"{title}: a {kind} is {TYPES[kind]} bytes long"
        end = offset + length if length else len(data)
        value = values.pop(name)
        assert data[offset:end] == (value if isinstance(value, bytes) else value.to_bytes(length, "little")), f"{title}: {name}"
        expected_at = end
    assert expected_at == len(data)
    assert not values, f"{title}: the document leaves out {sorted(values)}"


PARTS: dict[str, bytes | int] = {
    "namespace": 0x01020304,
    "key": b"a\0b",
    "bucket": 0x1112131415161718,
    "escaped key": rows.escape(b"a\0b"),
    "superseded_at": 0x2122232425262728,
    "name": b"flushed",
    "revision": 0x3132333435363738,
}
KEYS = {
    "d": rows.data_key(0x01020304, b"a\0b"),
    "h": rows.history_key(0x1112131415161718, 0x01020304, b"a\0b", 0x2122232425262728),
    "m": rows.FLUSHED_KEY,
    "s": rows.statistics_key(0x01020304),
    "t": rows.time_key(0x3132333435363738),
}


def test_the_keys_of_rows_are_made_of_the_parts_that_the_document_lists() -> None:
    made: dict[str, bytes] = {}
    for row in section(DOCUMENT, "Keys of rows").table():
        (kind,), (name,) = in_code(row["kind"]), in_code(row["part"])
        part = PARTS[name]
        if isinstance(part, int):
            assert number(row["length"]) == TYPES[row["type"]]
            part = part.to_bytes(TYPES[row["type"]], "big")
        else:
            assert (row["length"], row["type"]) == ("", "bytes")
        made[kind] = made.get(kind, kind.encode()) + part
    assert made == KEYS


def test_the_kinds_are_those_of_the_code_in_their_order() -> None:
    kinds = [line[:1].encode() for line in section(DOCUMENT, "In short").code_block()]
    assert kinds == sorted(kinds) == [rows.DATA, rows.HISTORY, rows.META, rows.STATISTICS, rows.TIMES]


def test_the_escape_is_the_one_that_is_described() -> None:
    text = " ".join(section(DOCUMENT, "Keys of rows").lines)
    zero, end = (bytes.fromhex(code) for code in in_code(text) if code.startswith("00 "))
    assert rows.escape(b"\0") == zero + end


def _meaning(key: bytes, row: bytes | None) -> str:
    """Say what a row of the example is."""
    kind = key[:1]
    if kind == rows.DATA:
        name = f"namespace {int.from_bytes(key[1:5], 'big')}, key {_text(rows.key_of(key))}"
        return f"{name}: {_version(row)}" if row is not None else f"{name}: removed"
    if kind == rows.HISTORY:
        bucket, namespace, user_key, superseded_at = rows.parse_history_key(key)
        return f"bucket {bucket}, namespace {namespace}, key {_text(user_key)} until {superseded_at}: {_version(row)}"
    assert row is not None
    if kind == rows.META:
        flushed = rows.decode_flushed(row)
        return f"flushed up to revision {flushed.position.revision} of epoch {flushed.position.epoch.number}"
    if kind == rows.STATISTICS:
        keys, key_bytes, value_bytes = rows.decode_statistics(row)
        where = int.from_bytes(key[1:], "big")
        return f"namespace {where}: {keys} keys of {key_bytes} bytes, values of {value_bytes}"
    revision, time_ms = rows.decode_time(key, row)
    return f"revision {revision} at {time_ms} ms"


def _text(key: bytes) -> str:
    return f'"{key.decode()}"' if key.isalpha() else key.hex(" ")


def _version(row: bytes | None) -> str:
    assert row is not None
    stored = rows.decode_version(row)
    return (
        f'revision {stored.mod_revision}, created {stored.create_revision}, version {stored.version}, "{stored.value.decode()}"'
    )


def example() -> list[str]:
    """Return the example: three lines a row."""
    store = Store()
    store.group([[put(b"old", b"1")], [put(b"gone", b"22")]])
    store.flush()
    store.group([[put(b"old", b"333")], [delete(b"gone")], [put(b"\0", b"x")], [put(b"\0", b"y")]])
    _, writer = store.flush()
    lines: list[str] = []
    for key, row in writer.rows:
        lines += [f"-- {_meaning(key, row)}", key.hex(), row.hex() if row is not None else "(none)"]
    return lines


def test_the_example_is_what_a_flush_writes() -> None:
    lines = example()
    assert section(DOCUMENT, "Example").code_block() == lines, "the example should read:\n" + "\n".join(lines)


def test_the_example_is_of_the_buckets_that_the_document_says() -> None:
    text = " ".join(section(DOCUMENT, "Example").lines)
    assert f"buckets of {BUCKET} revisions" in text


def test_the_head_of_a_version_is_as_long_as_its_fields() -> None:
    lengths = [length for _, length, _, _ in _fields("Version")]
    assert rows.VERSION_LENGTH == sum(lengths) == struct.calcsize("<BQQQ")
