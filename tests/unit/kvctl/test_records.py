"""Records as lines: parsing, writing, cutting, and what is wrong with a line named by its number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvclient import Entry
from kvctl import records
from kvctl.bytes_form import HEX, TEXT, BytesForm
from kvctl.failures import CtlError


def written(key: bytes, value: bytes, form: BytesForm = TEXT, *, with_revisions: bool = False) -> bytes:
    lines: list[bytes] = []
    writer = records.LineWriter(lines.append, form, with_revisions=with_revisions)
    writer.add(Entry(key, value, 2, 3, 4))
    writer.finish()
    return b"".join(lines)


@given(st.binary(), st.binary(), st.sampled_from([TEXT, HEX]), st.booleans())
def test_a_record_survives_any_bytes(key: bytes, value: bytes, form: BytesForm, with_revisions: bool) -> None:
    line = written(key, value, form, with_revisions=with_revisions)
    assert line.count(b"\n") == 1
    assert records.parse(line) == (key, value)


def test_text_stays_readable() -> None:
    assert written("ä".encode(), b'{"a": 1}') == '{"key": "ä", "value": "{\\"a\\": 1}"}\n'.encode()
    assert written(b"k", b"v", HEX) == b'{"key_hex": "6b", "value_hex": "76"}\n'
    expected = b'{"key": "k", "value": "v", "create_revision": 2, "mod_revision": 3, "version": 4}\n'
    assert written(b"k", b"v", with_revisions=True) == expected


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"", "not JSON"),
        (b"hello", "not JSON"),
        (b'{"key": "a", "value": "b"} {}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"key": "a", "value": ' + b"1" * 10_000 + b"}", "not JSON that can be read"),
        (b"\xff", "not UTF-8"),
        (b"[]", "not a JSON object"),
        (b'{"key": "a"}', '"value" or "value_b64" or "value_hex"'),
        (b'{"value": "a"}', '"key" or "key_b64" or "key_hex"'),
        (b'{"key": "a", "key_b64": "YQ==", "value": "b"}', '"key" or "key_b64"'),
        (b'{"key": "a", "key_hex": "61", "value": "b"}', '"key" or "key_b64"'),
        (b'{"key": 1, "value": "b"}', '"key" must be a string'),
        (b'{"key": "a", "value": {"b": 1}}', '"value" must be a string'),
        (b'{"key": "a", "value_b64": 7}', '"value_b64" must be a string'),
        (b'{"key": "a", "value_b64": "***"}', "not base64"),
        (b'{"key": "a", "value_b64": "YQ"}', "not base64"),
        ('{"key": "a", "value_b64": "ä"}'.encode(), "not base64"),
        (b'{"key": "a", "value_hex": "6"}', "hexadecimal digits"),
        (b'{"key": "a", "value_hex": "xx"}', "hexadecimal digits"),
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


def test_batches_name_faults_by_their_lines() -> None:
    lines = [written(b"a", b"1"), b"\n", b"nonsense\n", written(b"b", b"2"), written(b"", b"3"), written(b"c", b"4")]
    (batch,) = records.read_lines(iter([b"".join(lines)]), skip=0)
    assert (batch.numbers, batch.keys, batch.values, batch.last) == ([1, 4, 6], [b"a", b"b", b"c"], [b"1", b"2", b"4"], 6)
    assert [(fault.number, fault.records, fault.code) for fault in batch.faults] == [(3, 1, "BAD_INPUT"), (5, 1, "EMPTY_KEY")]
    assert batch.before(3).keys == [b"a"]
    (batch,) = records.read_lines(iter([b"".join(lines)]), skip=3)
    assert (batch.numbers, [fault.number for fault in batch.faults]) == ([4, 6], [5])
