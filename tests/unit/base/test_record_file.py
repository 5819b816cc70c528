"""Small files of one checked JSON object."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.base.errors import Corruption
from kvserver.base.record_file import decode_record, encode_record

PATH = Path("/data/IDENTITY")
plain = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64), st.text(max_size=10))
records = st.dictionaries(st.text(max_size=8).filter(lambda name: name != "crc32c"), plain, max_size=5)


@given(records)
def test_a_record_comes_back_as_it_was(fields: dict[str, Any]) -> None:
    assert decode_record(PATH, encode_record(fields)) == fields


def test_a_record_is_this_text() -> None:
    text = b'{\n  "crc32c": "fb286571",\n  "node": "\\u00dcbung",\n  "version": 1\n}\n'
    assert encode_record({"version": 1, "node": "Übung"}) == text


def test_the_order_of_the_fields_and_the_spaces_do_not_matter() -> None:
    fields = {"a": 1, "b": "two"}
    turned = dict(reversed(json.loads(encode_record(fields)).items()))
    assert decode_record(PATH, json.dumps(turned, indent=7).encode()) == fields


def test_every_flipped_bit_is_found() -> None:
    data = encode_record({"store": "kvserver", "format_version": 1, "cluster_id": "00ff" * 8, "node_name": "n1"})
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Corruption) as refused:
            decode_record(PATH, bytes(damaged))
        assert (refused.value.path, refused.value.offset) == (PATH, 0)


NO_RECORDS = [b"", b"{", b"[]", b'"text"', b"7", b"null", b"{}", b'{"a": 1}', b'{"a": 1, "crc32c": 5}', b"\xff"]


@pytest.mark.parametrize("data", NO_RECORDS)
def test_what_is_no_record_is_corruption(data: bytes) -> None:
    with pytest.raises(Corruption, match=r"not a JSON object|checksum does not match"):
        decode_record(PATH, data)


def test_nesting_of_any_depth_is_corruption_and_nothing_else() -> None:
    """Reading takes less of the stack than writing, which the checksum needs."""
    for depth in range(900, 1010):
        with pytest.raises(Corruption):
            decode_record(PATH, b'{"a":' + b'{"b":' * depth + b"1" + b"}" * depth + b"}")


@given(st.binary(max_size=40))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    with pytest.raises(Corruption):
        decode_record(PATH, data)
