"""docs/archive_format.md says of every byte and field what the code writes, and its example is an object that is still read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zstandard

from kvserver.archive import dictionary, records, segment_format
from kvserver.archive.dictionary import Dictionary, encode_dictionary
from kvserver.archive.names import ArchiveNames, SegmentId
from kvserver.archive.records import MAX_RECORD_BYTES, SegmentEntry
from kvserver.archive.segment_format import (
    BLOCK_INDEX_LENGTH,
    HEADER_LENGTH,
    NO_FRAME,
    TRAILER_LENGTH,
    decode_header,
    decode_index,
    decode_trailer,
    segment_id_of,
)
from kvserver.archive.segment_reading import check_segment, read_entry
from kvserver.archive.segment_writing import CompressOptions, SegmentCompressor
from kvserver.base.coding import chain_hash, crc32c
from kvserver.base.limits import KIB, MIB
from kvserver.base.types import Position
from kvserver.wal import format as fmt
from kvserver.wal.checker import SegmentChecker
from support.memory_store import MemoryStore
from support.segments import RawSegment
from unit.archive.test_records import CODECS
from unit.docs.documents import in_code, number, section
from unit.docs.test_log_format_doc import CLUSTER_ID, HEADER, SEGMENT

DOCUMENT = "docs/archive_format.md"
TYPES = {"u32": 4, "u64": 8}
NAMES = ArchiveNames(CLUSTER_ID)
BLOCK_LINE = 16


def archived() -> tuple[bytes, SegmentEntry]:
    """Return the log's example as an object of the archive, and its entry."""
    checker = SegmentChecker("example")
    checker.feed(SEGMENT)
    raw = RawSegment(HEADER)
    raw.data = SEGMENT
    compressor = SegmentCompressor(raw.file(), HEADER, checker.finish().end, len(SEGMENT), "example", CompressOptions())
    return b"".join(compressor.parts()), compressor.entry


def trained() -> Dictionary:
    """Return a small dictionary."""
    samples = [b"".join(b"%d common words %d; " % (number * at, at) for at in range(30)) for number in range(100)]
    return dictionary.train(samples, dictionary.FIRST_ID, 1 * KIB)


def _fields(title: str) -> list[tuple[int, int, str, str]]:
    """Return offset, length, type and name of the fields of a section's first table that has offsets."""
    (rows,) = (table for table in section(DOCUMENT, title).tables() if "offset" in table[0])
    return [(number(row["offset"]), number(row["length"]), row["type"], "".join(in_code(row["field"]))) for row in rows]


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values with positions and epochs taken apart."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Position):
            found |= _flat({f"{name}.epoch": value.epoch, f"{name}.revision": value.revision, f"{name}.chain": value.chain})
        elif isinstance(value, tuple):
            found |= {f"{name}.number": value[0], f"{name}.nonce": value[1]}
        else:
            found[name] = value
    return found


def _header() -> tuple[bytes, dict[str, Any]]:
    data = archived()[0][:HEADER_LENGTH]
    fixed = {"magic": b"KVARCSEG", "format_version": segment_format.FORMAT_VERSION, "header_length": HEADER_LENGTH}
    return data, {**fixed, **decode_header(data)._asdict(), "crc": crc32c(0, data[:-4])}


def _index_entry() -> tuple[bytes, dict[str, Any]]:
    data = archived()[0]
    index = data[-TRAILER_LENGTH - BLOCK_INDEX_LENGTH : -TRAILER_LENGTH]
    (block,) = decode_index(decode_header(data), decode_trailer(data[-TRAILER_LENGTH:]), index)
    return index, block._asdict()


def _trailer() -> tuple[bytes, dict[str, Any]]:
    data = archived()[0][-TRAILER_LENGTH:]
    return data, {**decode_trailer(data)._asdict(), "crc": crc32c(0, data[:-12]), "magic": b"KVARCEND"}


def _dictionary() -> tuple[bytes, dict[str, Any]]:
    made = trained()
    data = encode_dictionary(made, CLUSTER_ID)[: dictionary.HEADER_LENGTH]
    fixed = {"magic": b"KVARCDIC", "format_version": dictionary.FORMAT_VERSION, "header_length": dictionary.HEADER_LENGTH}
    own = {"cluster_id": CLUSTER_ID, "id": made.id, "length": len(made.data), "sha256": made.sha256}
    return data, {**fixed, **own, "crc": crc32c(0, data[:-4])}


STRUCTURES: dict[str, Callable[[], tuple[bytes, dict[str, Any]]]] = {
    "Header": _header,
    "Index entry": _index_entry,
    "Trailer": _trailer,
    "Dictionary": _dictionary,
}


@pytest.mark.parametrize("title", STRUCTURES)
def test_every_field_is_where_the_document_says(title: str) -> None:
    data, nested = STRUCTURES[title]()
    values, expected_at = _flat(nested), 0
    for offset, length, kind, name in _fields(title):
        assert offset == expected_at, f"{title}: {name} begins at {expected_at}"
        assert TYPES.get(kind, length) == length, f"{title}: a {kind} is {TYPES[kind]} bytes long"
        value = values.pop(name)
        found = data[offset : offset + length]
        assert found == (value if isinstance(value, bytes) else value.to_bytes(length, "little")), f"{title}: {name}"
        expected_at += length
    assert expected_at == len(data)
    assert not values, f"{title}: the document leaves out {sorted(values)}"


def test_the_fixed_values_are_those_of_the_code() -> None:
    rows = {title: {row["field"]: row["meaning"] for row in section(DOCUMENT, title).tables()[-1]} for title in STRUCTURES}
    for title, module in (("Header", segment_format), ("Dictionary", dictionary)):
        assert rows[title]["`header_length`"] == str(module.HEADER_LENGTH)
        assert rows[title]["`format_version`"] == str(module.FORMAT_VERSION)
    assert rows["Header"]["`magic`"] == f"`{segment_format.HEADER_MAGIC.decode()}`"
    assert rows["Trailer"]["`magic`"] == f"`{segment_format.TRAILER_MAGIC.decode()}`"
    assert rows["Dictionary"]["`magic`"] == f"`{dictionary.MAGIC.decode()}`"
    assert str(NO_FRAME) in rows["Index entry"]["`frame_offset`"]
    assert f"{dictionary.FIRST_ID:,}" in rows["Dictionary"]["`id`"]


def test_the_limits_are_those_of_the_code() -> None:
    header = section(DOCUMENT, "Header")
    text = " ".join(header.lines)
    least, most, usual = re.search(r"the last: (.+?) to (.+?), usually (.+?) \|", text).groups()  # type: ignore[union-attr]
    limits = (segment_format.MIN_BLOCK_BYTES, segment_format.MAX_BLOCK_BYTES, segment_format.DEFAULT_BLOCK_BYTES)
    assert (number(least), number(most), number(usual)) == limits
    assert f"at most {segment_format.MAX_BLOCKS:,}," in text
    assert segment_format.MAX_RAW_LENGTH == (1 << 32) - 1
    about = " ".join(section(DOCUMENT, "Dictionary").lines)
    assert f"segments of at most {dictionary.SMALL_SEGMENT_BYTES // KIB} KiB" in about
    assert f"at most {dictionary.MAX_DICTIONARY_BYTES // MIB} MiB" in about
    assert f"dictionary of {dictionary.DEFAULT_DICTIONARY_BYTES // KIB} KiB" in about
    assert f"at most {MAX_RECORD_BYTES // MIB} MiB" in " ".join(section(DOCUMENT, "Records").lines)


def test_the_content_hash_is_the_one_that_is_described() -> None:
    text = " ".join(section(DOCUMENT, "Content hash").lines)
    entry = archived()[1]
    numbers = b"".join(value.to_bytes(8, "little") for value in (entry.end.revision, len(SEGMENT)))
    (begin,) = in_code(text)
    wanted = chain_hash(begin.encode() + SEGMENT[:4096] + entry.end.chain + numbers)
    assert entry.id == segment_id_of(HEADER, entry.end, len(SEGMENT)) == SegmentId(3, 42, 43, wanted)


def test_the_names_are_those_of_the_code() -> None:
    listed = [in_code(row["name"])[0] for row in section(DOCUMENT, "Names").table()]

    def shown(name: str, *digits: tuple[str, str]) -> str:
        name = name.removeprefix(NAMES.prefix)
        for digit, letter in digits:
            name = name.replace(digit, letter)
        return f"CCCC/{name}"

    segment = NAMES.segment(SegmentId(0x11111111, 0x2222222222222222, 0x3333333333333333, b"\x44" * 16))
    assert listed == [
        shown(NAMES.cluster),
        shown(segment, ("1", "E"), ("2", "F"), ("3", "L"), ("4" * 32, "H" * 4)),
        shown(NAMES.manifest(0x11111111, 0x22222222), ("1", "E"), ("2", "N")),
        shown(NAMES.backup(f"{'1' * 16}-{'2' * 16}"), ("1", "R"), ("2", "T")),
        shown(NAMES.file(b"\x11" * 32), ("1" * 64, "S" * 4)),
        shown(NAMES.upload(f"{'1' * 16}-{'2' * 16}"), ("1", "X"), ("2", "T")),
        shown(NAMES.point("p"), ("/p.", "/P.")),
        shown(NAMES.dictionary(0x11111111), ("1", "D")),
        shown(NAMES.retention),
    ]


# Records

PARTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "Segment of a manifest": lambda fields: fields["segments"][0],
    "Gap of a manifest": lambda fields: fields["gap"],
    "Closing of a manifest": lambda fields: fields["closing"],
    "Epoch of a backup": lambda fields: fields["epochs"][0],
    "File of a backup": lambda fields: fields["files"][0],
}
RECORDS = [
    *((f"{kind.capitalize()} record", kind, lambda fields: fields) for kind in CODECS),
    *((title, "manifest" if "manifest" in title else "backup", part) for title, part in PARTS.items()),
]


def _is_of_kind(value: Any, kind: str) -> bool:
    """Say whether a field's value is what the document calls its kind."""
    if match := re.fullmatch(r"(?:(\d+) or )?(\d+) bytes", kind):
        return isinstance(value, str) and len(bytes.fromhex(value)) in [int(length) for length in match.groups() if length]
    if kind.startswith("list of "):
        return isinstance(value, list)
    wanted = {
        "number": lambda: isinstance(value, int),
        "text": lambda: isinstance(value, str),
        "position": lambda: set(value) == {"epoch", "nonce", "revision", "chain"},
        "epoch": lambda: set(value) == {"number", "nonce"},
    }
    return wanted[kind]() if kind in wanted else isinstance(value, dict) and kind.startswith("[")


@pytest.mark.parametrize(("title", "kind", "part"), RECORDS, ids=[title for title, _, _ in RECORDS])
def test_the_fields_of_a_record_are_those_of_the_document(title: str, kind: str, part: Callable[[Any], Any]) -> None:
    record, encode, _ = CODECS[kind]
    whole = json.loads(encode(record))
    assert whole["archive"] == kind
    assert whole["format_version"] == records.FORMAT_VERSION
    fields = part({name: value for name, value in whole.items() if name not in ("archive", "format_version", "crc32c")})
    rows = {"".join(in_code(row["field"])): row["kind"] for row in section(DOCUMENT, title).table()}
    assert set(rows) == set(fields)
    for name, described in rows.items():
        assert _is_of_kind(fields[name], described), f"{title}: {name} is no {described}"
    if title.endswith("record"):
        assert in_code(" ".join(section(DOCUMENT, title).lines))[0] == kind


def test_every_kind_of_record_has_a_section() -> None:
    titles = [title for title, _, _ in RECORDS if title.endswith("record")]
    assert len(titles) == len(CODECS) == len([name for name in vars(records) if name.startswith("encode_")]) - 1


# The example


def _described(title: str, base: int, data: bytes) -> Iterator[str]:
    for offset, length, kind, name in _fields(title):
        raw = data[offset : offset + length]
        figure = "" if kind == "bytes" else f" = {int.from_bytes(raw, 'little')}"
        if kind == "bytes" and raw.isascii() and raw.decode().isprintable():
            figure = f' = "{raw.decode()}"'
        if name.endswith(("crc", "segment_id", "nonce")):
            figure = ""
        yield f"{base + offset:04x}  {raw.hex():<32}  {name}{figure}"


def described(data: bytes) -> list[str]:
    """Return an object of one block as the example shows it: offset, bytes, meaning."""
    at = len(data) - TRAILER_LENGTH
    index_at = at - BLOCK_INDEX_LENGTH
    block = [
        f"{offset:04x}  {data[offset : min(offset + BLOCK_LINE, index_at)].hex()}"
        for offset in range(HEADER_LENGTH, index_at, BLOCK_LINE)
    ]
    return [
        *("-- header", *_described("Header", 0, data)),
        *("-- block", *block),
        *("-- index", *_described("Index entry", index_at, data[index_at:at])),
        *("-- trailer", *_described("Trailer", at, data[at:])),
        f"{len(data):04x}  the object ends",
    ]


def test_the_example_is_an_object_that_is_read_as_the_example_of_the_log() -> None:
    lines = section(DOCUMENT, "Example").code_block()
    shown = [line.split() for line in lines if not line.startswith("--")][:-1]
    data = b"".join(bytes.fromhex(parts[1]) for parts in shown)
    should_be = "the example should read:\n" + "\n".join(described(archived()[0]))
    assert lines, should_be
    assert lines == described(data), should_be
    store = MemoryStore()
    id = archived()[1].id
    store.objects[NAMES.segment(id)] = data

    def none(id: int) -> Dictionary:
        raise AssertionError(f"the dictionary {id} was asked for")

    try:
        entry = read_entry(store, NAMES, id, none)
        assert check_segment(store, NAMES, entry, none).raw_crc == crc32c(0, SEGMENT)
    except Exception as error:
        raise AssertionError(should_be) from error
    header = decode_header(data)
    stored = data[HEADER_LENGTH : -TRAILER_LENGTH - header.index_length]
    assert zstandard.ZstdDecompressor().decompress(stored) == SEGMENT
    assert header.block_bytes == CompressOptions().block_bytes
    assert fmt.decode_segment_header(SEGMENT) == HEADER
