"""docs/log_format.md says of every byte what the code writes there, and its example is what the code writes."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvserver.base.clock import SystemClock
from kvserver.base.environment import Environment
from kvserver.base.events import ignore
from kvserver.base.identity_file import FORMAT_VERSION as FOLDER_VERSION
from kvserver.base.identity_file import create_identity
from kvserver.base.paths import DataPaths, SegmentName, is_prepared, is_torn, parse_segment
from kvserver.base.register import NodeRecord, PolicyNote
from kvserver.base.types import NO_EPOCH, Epoch, Position
from kvserver.engine.swap import begin_swap
from kvserver.replication import register_records
from kvserver.replication.local_register import LocalRegister
from kvserver.replication.messages import NodeIdentity
from kvserver.replication.slots import Slots
from kvserver.replication.store_register import StoreRegister, found
from kvserver.replication.vow import Vow
from kvserver.storage.origin import Origin, write_origin
from kvserver.storage.restore_record import RestoreRecord, create_restore_record
from kvserver.wal import format as fmt
from kvserver.wal.commit_record import DELETE, PUT, Effect, decode_commit, encode_commit
from kvserver.wal.reader import End, SegmentReader
from support.memfs import MemoryFileSystem
from support.memory_store import MemoryStore
from unit.docs.documents import Section, in_code, number, section

DOCUMENT = "docs/log_format.md"
TYPES = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}

CLUSTER_ID = bytes(range(0xA0, 0xB0))
HEADER = fmt.SegmentHeader(
    cluster_id=CLUSTER_ID,
    segment_id=0x1112131415161718,
    epoch=Epoch(3, 0x2122232425262728),
    branch=Position(Epoch(2, 0x3132333435363738), 41, bytes(range(0xC0, 0xD0))),
    first_revision=42,
    created_ms=1_800_000_000_000,
    previous_segment_id=0x5152535455565758,
    previous=Position(Epoch(2, 0x3132333435363738), 41, bytes(range(0xC0, 0xD0))),
)
SEED = fmt.crc_seed(HEADER.segment_id)
COMMITS = (
    [Effect(PUT, 1, b"greeting", b"hello")],
    [Effect(PUT, 1, b"counter", b"2", create_revision=17, version=2), Effect(DELETE, 1, b"greeting", b"")],
)
GROUP = b"".join(map(encode_commit, COMMITS))
FULL_EFFECT = Effect(PUT, 0x21222324, b"the key", b"the value", 0x3132333435363738, 0x4142434445464748, 0x5152535455565758)


def _frames() -> list[bytes]:
    """Return the frames of the example: a group, a mark, a seal."""
    chain, at, revision = HEADER.start_chain(), fmt.SEGMENT_HEADER_LENGTH, HEADER.first_revision - 1
    frames = []
    for kind, count, payload, time_ms in (
        (fmt.GROUP, 2, GROUP, HEADER.created_ms + 5),
        (fmt.MARK, 0, b"", HEADER.created_ms + 105),
        (fmt.SEAL, 0, fmt.SEAL_PAYLOAD.pack(43, 1, HEADER.created_ms + 60_000), HEADER.created_ms + 60_000),
    ):
        durable = (at, revision)
        frame, chain = fmt.build_frame(kind, HEADER.segment_id, SEED, revision + 1, count, durable, time_ms, chain, payload)
        frames.append(frame)
        at += len(frame)
        revision += count
    return frames


SEGMENT = fmt.encode_segment_header(HEADER) + b"".join(_frames())


def _fields(title: str) -> list[tuple[int, int, str, str]]:
    """Return offset, length, type and name of the fields that a section's first table lists."""
    rows = section(DOCUMENT, title).tables()[0]
    return [(number(row["offset"]), number(row["length"]), row["type"], "".join(in_code(row["field"]))) for row in rows]


def _plain(value: object) -> bytes | int:
    assert isinstance(value, bytes | int)
    return value


def _segment_header_values() -> dict[str, object]:
    values: dict[str, object] = {"magic": fmt.SEGMENT_MAGIC, "format_version": fmt.FORMAT_VERSION, "": bytes(3932)}
    values["header_length"] = fmt.SEGMENT_HEADER_LENGTH
    values["crc"] = fmt.crc32c(0, SEGMENT[:4092])
    for name in HEADER._fields:
        value = getattr(HEADER, name)
        if isinstance(value, Position):
            values |= {f"{name}.epoch.number": value.epoch.number, f"{name}.epoch.nonce": value.epoch.nonce}
            values |= {f"{name}.revision": value.revision, f"{name}.chain": value.chain}
        elif isinstance(value, Epoch):
            values |= {f"{name}.number": value.number, f"{name}.nonce": value.nonce}
        else:
            values[name] = value
    return values


def _frame_values(at: int) -> dict[str, object]:
    header = fmt.check_frame(SEGMENT, at, HEADER.segment_id, SEED)
    assert header is not None
    end = at + header.frame_length
    seeded = HEADER.segment_id.to_bytes(8, "little") + SEGMENT[at : at + 68] + SEGMENT[at + 72 : end]
    return {**header._asdict(), "crc": fmt.crc32c(0, seeded)}


def _seal_values() -> dict[str, object]:
    return {"last_revision": 43, "groups": 1, "time_ms": HEADER.created_ms + 60_000}


def _commit_values() -> dict[str, object]:
    return {"length": len(encode_commit(COMMITS[1])), "kind": 1, "flags": 0, "effects": 2}


def _effect_values() -> dict[str, object]:
    effect = FULL_EFFECT
    lengths = {"key_length": len(effect.key), "value_length": len(effect.value)}
    return {"op": PUT, "flags": 3, **lengths, "namespace": effect.namespace}


GROUP_AT = fmt.SEGMENT_HEADER_LENGTH
SEAL_AT = len(SEGMENT) - fmt.SEAL_FRAME_LENGTH
STRUCTURES: dict[str, tuple[Callable[[], bytes], Callable[[], dict[str, object]]]] = {
    "Segment header block": (lambda: SEGMENT[: fmt.SEGMENT_HEADER_LENGTH], _segment_header_values),
    "Frame header": (lambda: SEGMENT[GROUP_AT : GROUP_AT + fmt.FRAME_HEADER_LENGTH], lambda: _frame_values(GROUP_AT)),
    "Seal payload": (lambda: SEGMENT[SEAL_AT + fmt.FRAME_HEADER_LENGTH :], _seal_values),
    "Commit": (lambda: encode_commit(COMMITS[1])[:8], _commit_values),
    "Effect": (lambda: encode_commit([FULL_EFFECT])[8:20], _effect_values),
}


@pytest.mark.parametrize("title", STRUCTURES)
def test_every_field_is_where_the_document_says(title: str) -> None:
    data, values = STRUCTURES[title][0](), STRUCTURES[title][1]()
    expected_at = 0
    for offset, length, kind, name in _fields(title):
        assert offset == expected_at, f"{title}: {name} begins at {expected_at}"
        assert TYPES.get(kind, length) == length, f"{title}: a {kind} is {TYPES[kind]} bytes long"
        value = _plain(values.pop(name))
        found = data[offset : offset + length]
        assert found == (value if isinstance(value, bytes) else value.to_bytes(length, "little")), f"{title}: {name}"
        expected_at += length
    assert expected_at == len(data)
    assert not values, f"{title}: the document leaves out {sorted(values)}"


def test_the_optional_parts_of_an_effect_are_in_the_order_of_the_document() -> None:
    data, at = encode_commit([FULL_EFFECT]), 20
    for row in section(DOCUMENT, "Effect").tables()[1]:
        (name,) = in_code(row["part"])
        value = _plain(getattr(FULL_EFFECT, name))
        wanted = value if isinstance(value, bytes) else struct.pack("<Q", value)
        assert data[at : at + len(wanted)] == wanted, name
        at += len(wanted)
    assert at == len(data)


def test_the_struct_sizes_are_those_of_the_code() -> None:
    ends = {title: sum(length for _, length, _, _ in _fields(title)) for title in STRUCTURES}
    assert ends == {
        "Segment header block": fmt.SEGMENT_HEADER_LENGTH,
        "Frame header": fmt.FRAME_HEADER_LENGTH,
        "Seal payload": fmt.SEAL_PAYLOAD.size,
        "Commit": 8,
        "Effect": 12,
    }
    text = " ".join(section(DOCUMENT, "What it costs").lines)
    assert f"a group costs {fmt.FRAME_HEADER_LENGTH} bytes" in text.lower()
    assert f"commit of one put {len(encode_commit([Effect(PUT, 1, b'', b'')]))} bytes" in text
    assert f"a seal of {fmt.SEAL_FRAME_LENGTH}" in text


def test_the_kinds_of_frame_are_those_of_the_code() -> None:
    (row,) = (row for row in section(DOCUMENT, "Frame header").table() if row["field"] == "`kind`")
    assert tuple(kind.encode() for kind in in_code(row["meaning"])) == fmt.FRAME_TYPES


def test_the_chain_is_the_hash_that_the_document_says() -> None:
    h = fmt.chain_hash
    assert fmt.creation_chain(CLUSTER_ID) == h(b"kvserver store" + CLUSTER_ID)
    epoch, branch = HEADER.epoch, HEADER.branch
    numbers = struct.pack("<QQQQQ", *epoch, *branch.epoch, branch.revision)
    begun = h(b"kvserver epoch" + CLUSTER_ID + numbers + branch.chain)
    assert HEADER.start_chain() == begun
    body = GROUP + bytes(-len(GROUP) % 8)
    behind = h(begun + SEGMENT[GROUP_AT : GROUP_AT + 48] + body)
    reader = SegmentReader(Path("example"), SEGMENT)
    assert [frame.header.chain for frame in reader.frames()] == [behind, behind]
    assert reader.chain == behind


def test_names_are_those_of_the_code() -> None:
    paths = DataPaths(Path("/data"))
    segment = paths.segment(SegmentName(0xEEEEEEEE, 0xBBBBBBBBBBBBBBBB))
    names = [in_code(row["name"])[0] for row in section(DOCUMENT, "File names").table()]
    assert names == [
        segment.relative_to("/data").as_posix().replace("e", "E").replace("b", "R"),
        paths.prepared(7).relative_to("/data").as_posix().replace("7", "N"),
        f"wal/<segment name>.{paths.torn(segment, 0xAAAAAAAA).name.rpartition('.wal.')[2].replace('a', 'O')}",
    ]
    assert parse_segment(segment.name)
    assert is_prepared(paths.prepared(7).name)
    assert is_torn(paths.torn(segment, 1).name)


def test_the_small_files_have_the_fields_of_the_document() -> None:
    fs, paths = MemoryFileSystem(), DataPaths(Path("/data"))
    fs.make_dir(paths.root)
    create_identity(Environment(fs=fs, clock=SystemClock()), paths, "n", "local")
    register = LocalRegister(fs, paths)
    register.claim(Epoch(1, 7), NodeRecord("n", "id", ""), 0)
    register.record_branch(Epoch(1, 7), Position(NO_EPOCH, 1, bytes(16)))
    register.record_begun(Epoch(1, 7))
    position = Position(Epoch(1, 7), 9, bytes(16))
    origin = Origin(CLUSTER_ID, "n", position, [(Epoch(1, 7), position)], 0)
    write_origin(Environment(fs=fs, clock=SystemClock()), paths, origin)
    record = RestoreRecord("file:///srv/archive", CLUSTER_ID, 7, False, "/data", False, 0, {})
    create_restore_record(Environment(fs=fs, clock=SystemClock()), paths, record)
    Vow.open(Environment(fs=fs, clock=SystemClock()), paths).promise(Epoch(1, 7))
    _write_slots(fs, paths)
    fs.make_dir(paths.incoming)
    fs.make_dir(paths.incoming / "wal")
    begin_swap(Environment(fs=fs, clock=SystemClock()), paths, ["wal"])
    of_epochs = (paths.claim(1), paths.branch(1), paths.begun(1))
    written = (paths.identity, *of_epochs, paths.origin, paths.restore, paths.promise, paths.slots, paths.swap)
    rows = section(DOCUMENT, "Beside the log").tables()[0]
    for row, path in zip(rows, written, strict=True):
        fields = json.loads(fs.contents()[path])
        assert in_code(row["file"])[0].rpartition("/")[2] in (path.name, path.name.replace("00000001", "E" * 8))
        assert set(in_code(row["fields"])) | {"crc32c"} == set(fields), path.name
        if "store" in fields:
            assert f'("{fields["store"]}")' in row["fields"]
    assert f"of the data folder, {FOLDER_VERSION})" in rows[0]["fields"]
    fields = json.loads(fs.contents()[paths.origin])
    text = " ".join(line for line in section(DOCUMENT, "Beside the log").lines if not line.startswith("|"))
    (slot,) = json.loads(fs.contents()[paths.slots])["slots"]
    assert set(fields["position"]) | set(fields["epochs"][0]) | set(slot) <= set(in_code(text))


def _write_slots(fs: MemoryFileSystem, paths: DataPaths) -> None:
    """Have a follower's slot written down."""
    slots = Slots(fs, paths, SystemClock(), _HoldsNothing(), 1 << 30, ignore)
    slots.reserve(NodeIdentity(CLUSTER_ID, "n2", "id2", "127.0.0.1:1", "r"), 7)
    slots.write(slots.record())


class _HoldsNothing:
    def hold(self, name: str, revision: int) -> None:
        """Hold nothing."""

    def release_hold(self, name: str) -> None:
        """Let nothing go."""


def test_the_objects_of_the_register_have_the_fields_of_the_document() -> None:
    env = Environment(fs=MemoryFileSystem(), clock=SystemClock())
    store = MemoryStore()
    founded = found(store, env)
    register = StoreRegister(store, founded, env)
    node = NodeRecord("n", "id", "127.0.0.1:1")
    register.claim(Epoch(1, 7), node, 0)
    register.record_branch(Epoch(1, 7), Position(NO_EPOCH, 1, bytes(16)))
    register.record_begun(Epoch(1, 7))
    register.join(node)
    register.add_note(PolicyNote(1, Epoch(1, 7), "n", 0, True, "power"))
    names = (
        register_records.REGISTER,
        *(name(1) for name in (register_records.claim_name, register_records.branch_name, register_records.begun_name)),
        register_records.node_name("n"),
        register_records.note_name(1),
    )
    for row, name in zip(section(DOCUMENT, "The register").table(), names, strict=True):
        fields = json.loads(store.read(name, limit=register_records.MAX_RECORD_BYTES))
        assert in_code(row["object"])[0].partition("/")[0] == name.partition("/")[0]
        assert set(in_code(row["fields"])) | {"crc32c"} == set(fields), name


def _described(fields: list[tuple[int, int, str, str]], base: int, data: bytes, note: str = "") -> Iterator[str]:
    for offset, length, kind, name in fields:
        raw = data[offset : offset + length]
        if kind == "zeros":
            yield f"{base + offset:04x}  {'00 ...':<32}  {length} zero bytes"
            continue
        figure = "" if kind == "bytes" else f" = {int.from_bytes(raw, 'little')}"
        if kind == "bytes" and raw.isascii() and raw.decode().isprintable():
            figure = f' = "{raw.decode()}"'
        if name in ("crc", "segment_id", "previous_segment_id") or name.endswith("nonce"):
            figure = ""
        yield f"{base + offset:04x}  {raw.hex():<32}  {note}{name}{figure}"


def _described_commits(base: int) -> Iterator[str]:
    at = 0
    for effects in COMMITS:
        _, end = decode_commit(GROUP, at, len(GROUP))
        yield from _described(_fields("Commit"), base + at, GROUP[at:], "commit ")
        at += 8
        for effect in effects:
            yield from _described(_fields("Effect"), base + at, GROUP[at:], "effect ")
            at += 12
            if effect.version:
                for name in ("create_revision", "version"):
                    yield f"{base + at:04x}  {GROUP[at : at + 8].hex():<32}  effect {name} = {getattr(effect, name)}"
                    at += 8
            for name, part in (("key", effect.key), ("value", effect.value)):
                if part:
                    yield f'{base + at:04x}  {part.hex():<32}  effect {name} = "{part.decode()}"'
                    at += len(part)
        assert at == end


def example() -> list[str]:
    """Return the example segment, one line a field: offset, bytes, meaning."""
    lines = ["-- segment header block", *_described(_fields("Segment header block"), 0, SEGMENT)]
    at = fmt.SEGMENT_HEADER_LENGTH
    for title in ("group", "mark", "seal"):
        header = fmt.check_frame(SEGMENT, at, HEADER.segment_id, SEED)
        assert header is not None
        lines += [f"-- {title}", *_described(_fields("Frame header"), at, SEGMENT[at:])]
        body = at + fmt.FRAME_HEADER_LENGTH
        if header.kind == fmt.GROUP:
            lines += _described_commits(body)
        elif header.kind == fmt.SEAL:
            lines += _described(_fields("Seal payload"), body, SEGMENT[body:], "seal ")
        padding = header.frame_length - fmt.FRAME_HEADER_LENGTH - header.payload_length
        at += header.frame_length
        if padding:
            lines.append(f"{at - padding:04x}  {bytes(padding).hex():<32}  padding")
    return [*lines, f"{at:04x}  the file ends"]


def test_the_example_is_what_the_code_writes() -> None:
    lines = example()
    assert section(DOCUMENT, "Example").code_block() == lines, "the example should read:\n" + "\n".join(lines)


def test_the_example_is_a_segment_that_recovery_accepts() -> None:
    reader = SegmentReader(Path("example"), SEGMENT)
    assert [frame.header.kind for frame in reader.frames()] == [fmt.GROUP, fmt.MARK]
    assert reader.end is End.SEALED
    assert reader.revision == 43


def test_a_wrong_table_is_caught() -> None:
    rows = Section("", ["| offset | length | type | field |", "|---|---|---|---|", "| 4 | 4 | u32 | `x` |"]).table()
    assert rows == [{"offset": "4", "length": "4", "type": "u32", "field": "`x`"}]
    with pytest.raises(AssertionError, match="cells"):
        Section("", ["| a | b |", "|---|---|", "| 1 |"]).tables()
