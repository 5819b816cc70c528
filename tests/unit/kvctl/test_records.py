"""Records as lines: parsing, cutting, compression, and files that appear whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from kvctl import records
from kvctl.failures import CtlError


@given(st.binary(), st.binary())
def test_a_record_survives_any_bytes(key: bytes, value: bytes) -> None:
    line = records.encode(key, value)
    assert line.count(b"\n") == 1
    assert records.parse(line) == (key, value)


def test_text_stays_readable() -> None:
    assert records.encode("ä".encode(), b'{"a": 1}') == '{"key": "ä", "value": "{\\"a\\": 1}"}\n'.encode()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"", "not JSON"),
        (b"hello", "not JSON"),
        (b'{"key": "a", "value": "b"} {}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff", "not UTF-8"),
        (b"[]", "not a JSON object"),
        (b'{"key": "a"}', '"value" or "value_b64"'),
        (b'{"value": "a"}', '"key" or "key_b64"'),
        (b'{"key": "a", "key_b64": "YQ==", "value": "b"}', '"key" or "key_b64"'),
        (b'{"key": 1, "value": "b"}', '"key" must be a string'),
        (b'{"key": "a", "value": {"b": 1}}', '"value" must be a string'),
        (b'{"key": "a", "value_b64": 7}', '"value_b64" must be a string'),
        (b'{"key": "a", "value_b64": "***"}', "not base64"),
        (b'{"key": "a", "value_b64": "YQ"}', "not base64"),
        ('{"key": "a", "value_b64": "ä"}'.encode(), "not base64"),
        (rb'{"key": "\ud800", "value": "b"}', "surrogate"),
    ],
)
def test_bad_lines_say_what_is_wrong(line: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        records.parse(line)


def test_other_fields_are_ignored() -> None:
    assert records.parse(b'{"key": "a", "value": "b", "version": 3}') == (b"a", b"b")


@given(st.lists(st.binary(max_size=6).map(lambda line: line.replace(b"\n", b"")), max_size=12), st.integers(1, 9))
def test_lines_are_cut_alike_however_the_chunks_fall(lines: list[bytes], size: int) -> None:
    data = b"\n".join(lines)
    chunks = [data[place : place + size] for place in range(0, len(data), size)]
    cut: list[bytes] = []
    for first, some in records.split_lines(iter(chunks)):
        assert first == len(cut) + 1
        cut.extend(some)
    assert cut == (lines[:-1] if lines and not lines[-1] else lines)


def test_a_line_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_LINE_BYTES", 10)
    with pytest.raises(CtlError, match="line 2 is longer"):
        list(records.split_lines(iter([b"a\n", b"b" * 6, b"b" * 6])))


def content(path: Path) -> bytes:
    source = records.InputFile(str(path))
    try:
        return b"".join(source.chunks())
    finally:
        source.close()


def test_input_plain_compressed_and_in_several_frames(tmp_path: Path) -> None:
    data = os.urandom(300_000)
    path = tmp_path / "in"
    for stored in (
        data,
        zstandard.compress(data),
        zstandard.compress(data[:1000]) + zstandard.compress(b"") + zstandard.compress(data[1000:]),
    ):
        path.write_bytes(stored)
        assert content(path) == data
    for short in (b"", b"{", b"ab\n"):
        path.write_bytes(short)
        assert content(path) == short


@pytest.mark.parametrize("cut", [1, 5, 100, 1000])
def test_cut_compressed_input_is_an_error(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "in.zst"
    path.write_bytes(zstandard.compress(os.urandom(5_000))[:-cut])
    with pytest.raises(CtlError, match="it is not whole"):
        content(path)


def test_damaged_compressed_input_is_an_error(tmp_path: Path) -> None:
    compressor = zstandard.ZstdCompressor(write_checksum=True)
    stored = bytearray(compressor.compress(b"hello " * 1000))
    stored[-1] ^= 1
    path = tmp_path / "in.zst"
    for bad in (bytes(stored), zstandard.compress(b"x") + b"garbage"):
        path.write_bytes(bad)
        with pytest.raises(CtlError, match="damaged zstd data"):
            content(path)
    path.write_bytes(b"not compressed\n")
    with pytest.raises(CtlError, match="not compressed with zstd"):
        content(path)


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.zst"])
def test_output_appears_whole(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"before")
    with records.OutputFile(str(path)) as sink:
        for number in range(1000):
            sink.write(records.encode(b"%d" % number, b"v"))
        assert path.read_bytes() == b"before"
    assert [json.loads(line)["key"] for line in content(path).splitlines()] == [str(number) for number in range(1000)]
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    if name.endswith(".zst"):
        assert zstandard.get_frame_parameters(path.read_bytes()).has_checksum


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.zst"])
def test_output_that_fails_leaves_nothing_behind(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"before")
    with pytest.raises(RuntimeError), records.OutputFile(str(path)) as sink:
        sink.write(b"part\n")
        raise RuntimeError
    assert path.read_bytes() == b"before"
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
