"""The records of an archive: what is written is read, and of what anybody else may have written only what is sound."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvserver.archive import records
from kvserver.archive.names import SegmentId, backup_id
from kvserver.archive.records import (
    MAX_RECORD_BYTES,
    BackupFile,
    BackupRecord,
    Closing,
    ClusterRecord,
    Gap,
    ManifestRecord,
    PointRecord,
    RetentionRecord,
    SegmentEntry,
    decode_backup,
    decode_cluster,
    decode_manifest,
    decode_point,
    decode_retention,
    encode_backup,
    encode_cluster,
    encode_manifest,
    encode_point,
    encode_retention,
)
from kvserver.base.errors import Corruption
from kvserver.base.record_file import encode_record
from kvserver.base.types import Epoch, Position

NAME = "the name"
CLUSTER = bytes(range(16))
U64 = st.integers(0, (1 << 64) - 1)
TEXTS = st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=20)
EPOCHS = st.builds(Epoch, st.integers(0, (1 << 32) - 1), U64)
POSITIONS = st.builds(Position, EPOCHS, U64, st.binary(min_size=16, max_size=16))
IDS, HASHES = st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32)
FILE_NAMES = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._ -]{0,40}", fullmatch=True)


@st.composite
def entries(draw: st.DrawFn) -> SegmentEntry:
    start = draw(POSITIONS.filter(lambda position: position.revision < (1 << 64) - 1))
    end = start._replace(revision=draw(st.integers(start.revision, (1 << 64) - 1)), chain=draw(IDS))
    id = SegmentId(start.epoch.number, start.revision + 1, end.revision, draw(IDS))
    numbers = [draw(U64) for _ in range(6)]
    return SegmentEntry(id, numbers[0], start, draw(POSITIONS), end, *numbers[1:])


MANIFESTS = st.builds(
    ManifestRecord,
    *(IDS, EPOCHS, POSITIONS, U64, st.one_of(st.just(b""), HASHES), st.lists(entries(), max_size=3)),
    *(st.none() | st.builds(Gap, POSITIONS, U64, U64), st.none() | st.builds(Closing, EPOCHS, POSITIONS), TEXTS, U64),
)
CLUSTERS = st.builds(ClusterRecord, IDS, st.one_of(st.just(b""), IDS), st.none() | POSITIONS, TEXTS, U64)
BACKUPS = st.builds(
    BackupRecord,
    *(st.builds(backup_id, U64, U64), IDS, IDS, POSITIONS, U64, st.lists(st.tuples(EPOCHS, POSITIONS), max_size=3), U64),
    *(st.lists(st.builds(BackupFile, FILE_NAMES, U64, HASHES), max_size=3), TEXTS, U64),
)
POINTS = st.builds(PointRecord, st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True), IDS, U64, U64, TEXTS, U64)
RETENTIONS = st.builds(RetentionRecord, IDS, U64, U64, TEXTS, U64)

HERE = Position(Epoch(3, 4), 41, bytes(range(16)))
ENTRY = SegmentEntry(SegmentId(3, 42, 50, bytes(16)), 7, HERE, HERE, HERE._replace(revision=50), 5000, 900, 1, 2, 0)
MANIFEST = ManifestRecord(
    CLUSTER, Epoch(3, 4), HERE, 0, b"", [ENTRY], Gap(HERE, 42, 43), Closing(Epoch(5, 6), HERE), "n1", 1_800_000_000_000
)
BACKUP = BackupRecord(
    backup_id(41, 9), CLUSTER, CLUSTER, HERE, 8, [(Epoch(3, 4), HERE)], 1, [BackupFile("000007.sst", 5, bytes(32))], "n1", 9
)

Codec = tuple[Any, Callable[[Any], bytes], Callable[[str, bytes], Any]]
CODECS: dict[str, Codec] = {
    "manifest": (MANIFEST, encode_manifest, decode_manifest),
    "cluster": (ClusterRecord(CLUSTER, CLUSTER, HERE, "n1", 9), encode_cluster, decode_cluster),
    "backup": (BACKUP, encode_backup, decode_backup),
    "point": (PointRecord("before-the-sale", CLUSTER, 41, 8, "why", 9), encode_point, decode_point),
    "retention": (RetentionRecord(CLUSTER, 41, 9, "a sweep", 8), encode_retention, decode_retention),
}
KINDS = pytest.mark.parametrize("kind", CODECS)


def refusal(kind: str, data: bytes) -> Corruption:
    with pytest.raises(Corruption) as refused:
        CODECS[kind][2](NAME, data)
    assert refused.value.path == NAME
    assert "kvctl archive verify" in refused.value.hint
    assert len(refused.value.message) < 2_000
    return refused.value


def fields_of(kind: str) -> dict[str, Any]:
    record, encode, _ = CODECS[kind]
    fields = json.loads(encode(record))
    fields.pop("crc32c")
    return fields  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("strategy", "kind"),
    [(MANIFESTS, "manifest"), (CLUSTERS, "cluster"), (BACKUPS, "backup"), (POINTS, "point"), (RETENTIONS, "retention")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_record_is_read_as_it_was_written(strategy: st.SearchStrategy[Any], kind: str) -> None:
    @settings(max_examples=40)
    @given(strategy)
    def comes_back(record: Any) -> None:
        data = CODECS[kind][1](record)
        assert CODECS[kind][2](NAME, data) == record
        assert CODECS[kind][1](record) == data

    comes_back()


@KINDS
def test_every_flipped_bit_and_every_truncation_is_found(kind: str) -> None:
    record, encode, decode = CODECS[kind]
    data = encode(record)
    for at in range(len(data)):
        for bit in (0, 5):
            damaged = data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]
            try:
                assert decode(NAME, damaged) == record  # white space exchanged for other white space
            except Corruption:
                continue
            assert data[at : at + 1].isspace()
        if data[at:].strip():
            refusal(kind, data[:at])


@KINDS
def test_a_record_of_another_kind_or_version_is_refused(kind: str) -> None:
    for other in CODECS:
        if other != kind:
            assert f"not a record of the kind {kind}" in refusal(kind, encode_record(fields_of(other))).what
    for version in (2, "1", None, [1] * 100_000):
        what = refusal(kind, encode_record({**fields_of(kind), "format_version": version})).what
        assert "it is of format version" in what
        assert "this software reads version 1" in what


def _places(fields: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return where every field lies, at whatever depth."""
    found: list[tuple[Any, ...]] = []
    for name, value in fields.items() if isinstance(fields, dict) else enumerate(fields):
        found.append((*path, name))
        if isinstance(value, dict | list):
            found += _places(value, (*path, name))
    return found


def _with(fields: dict[str, Any], path: tuple[Any, ...], *value: Any) -> dict[str, Any]:
    """Return the fields with one exchanged, or left out."""
    copy: Any = json.loads(json.dumps(fields))
    inner = copy
    for name in path[:-1]:
        inner = inner[name]
    if value:
        inner[path[-1]] = value[0]
    else:
        del inner[path[-1]]
    return copy  # type: ignore[no-any-return]


OPTIONAL = {("gap",), ("closing",), ("parent",)}


@KINDS
def test_no_field_may_be_missing(kind: str) -> None:
    fields = fields_of(kind)
    for path in _places(fields):
        if path in OPTIONAL or isinstance(path[-1], int):
            continue
        refusal(kind, encode_record(_with(fields, path)))


WRONG: list[Any] = [
    None,
    True,
    -1,
    1 << 64,
    1.5,
    "x" * 33,
    "../../etc/passwd",
    "\0",
    "\x1b[2J",
    "é" * 2000,
    [],
    {},
    [[]],
    [1],
    {"a": 1},
]


@KINDS
def test_no_field_may_be_of_another_kind_or_beyond_its_bounds(kind: str) -> None:
    fields = fields_of(kind)
    decode = CODECS[kind][2]
    for path in _places(fields):
        for wrong in WRONG:
            data = encode_record(_with(fields, path, wrong))
            try:
                read = decode(NAME, data)
            except Corruption as error:
                assert error.path == NAME
                continue
            text = isinstance(wrong, str) and wrong.isprintable() and len(wrong) < 1025
            allowed = path[-1] in ("node_name", "note", "sweep") and text
            allowed = allowed or (path[-1] in ("path", "name") and wrong == "x" * 33)
            allowed = allowed or (path[-1] in ("segments", "files", "epochs") and wrong == [])
            assert allowed, (path, wrong, read)


@pytest.mark.parametrize(
    "text", ["AA" * 16, "aa " * 16, " " + "aa" * 16, "aa" * 15, "aa" * 17, "gg" * 16, "０" * 32, "aa" * 16 + "\n"]
)
def test_hexadecimal_has_one_form(text: str) -> None:
    refusal("retention", encode_record({**fields_of("retention"), "cluster_id": text}))


@pytest.mark.parametrize("number", [1 << 32, (1 << 64) - 1])
def test_an_epoch_whose_number_does_not_fit_a_name_is_refused(number: int) -> None:
    for path in (("epoch", "number"), ("branch", "epoch"), ("closing", "by", "number"), ("segments", 0, "start", "epoch")):
        refusal("manifest", encode_record(_with(fields_of("manifest"), path, number)))


def test_a_segment_that_ends_before_it_begins_or_elsewhere_is_refused() -> None:
    for path, wrong in ((("end", "revision"), 40), (("end", "epoch"), 4), (("end", "nonce"), 5)):
        what = refusal("manifest", encode_record(_with(fields_of("manifest"), ("segments", 0, *path), wrong))).what
        assert "ends before it begins, or in another epoch" in what
    last = (1 << 64) - 1
    fields = _with(
        _with(fields_of("manifest"), ("segments", 0, "end", "revision"), last), ("segments", 0, "start", "revision"), last
    )
    assert "behind the last revision" in refusal("manifest", encode_record(fields)).what


def test_the_id_of_a_segment_follows_from_its_positions_alone() -> None:
    fields = _with(fields_of("manifest"), ("segments", 0, "start", "revision"), 43)
    assert decode_manifest(NAME, encode_record(fields)).entries[0].id[:3] == (3, 44, 50)


@pytest.mark.parametrize(
    "path",
    ["", ".", "..", "../x", "a/b", "/etc/passwd", "a\\b", ".hidden", "a\0b", "a\nb", "é", "x" * 256, "\u202egnp.exe", "C:\\x"],
)
def test_a_file_of_a_backup_has_one_plain_name(path: str) -> None:
    what = refusal("backup", encode_record(_with(fields_of("backup"), ("files", 0, "path"), path))).what
    assert "path" in what


@pytest.mark.parametrize("id", ["", "..", "x", "0" * 33, f"{'0' * 16}-{'0' * 15}", f"{'A' * 16}-{'0' * 16}", f"../{'0' * 30}"])
def test_a_backup_has_an_id_of_one_form(id: str) -> None:
    refusal("backup", encode_record({**fields_of("backup"), "id": id}))


@pytest.mark.parametrize("name", ["", "..", ".a", "A", "a/b", "a b", "a\0", "é", "a" * 64, "a\n"])
def test_a_point_has_a_name_of_one_form(name: str) -> None:
    refusal("point", encode_record({**fields_of("point"), "name": name}))


@pytest.mark.parametrize("note", ["a\nb", "\x1b[31m", "x" * 1025, "\ud800", "\0"])
def test_a_note_that_no_reader_would_take_is_not_written(note: str) -> None:
    with pytest.raises(ValueError, match="note"):
        encode_point(CODECS["point"][0]._replace(note=note))
    refusal("point", encode_record({**fields_of("point"), "note": note}))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"1",
        b'"text"',
        b"{" * 1000,
        b"[" * 1_000_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b"9" * 100_000,
        b"\xc0\xaf",
        b"\xff\xfe{\0}\0",
        b'{"crc32c": "00000000"}',
        b'{"crc32c": 0}',
        b'{"crc32c": null, "a": NaN, "b": Infinity}',
        bytes(1000),
        b"\x28\xb5\x2f\xfd",
        b'{"\\ud800": 1}',
    ],
    ids=lambda data: repr(data[:12]),
)
@KINDS
def test_what_is_no_record_is_refused(kind: str, data: bytes) -> None:
    refusal(kind, data)


@KINDS
def test_a_record_that_is_too_large_is_refused_before_it_is_parsed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(*_: object) -> None:
        raise AssertionError("it was parsed")

    monkeypatch.setattr(records, "decode_record", parse)
    assert f"no record has more than {MAX_RECORD_BYTES}" in refusal(kind, bytes(MAX_RECORD_BYTES + 1)).what


def test_the_length_of_a_backup_is_that_of_all_its_files() -> None:
    files = [BackupFile(f"{number}.sst", number * 10, bytes(32)) for number in range(4)]
    assert BACKUP._replace(files=files).length == 60
