"""Bytes as text and as digits, on the command line and in JSON."""

from __future__ import annotations

import os
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvctl.bytes_form import HEX, TEXT, BytesForm, bytes_of, printable


@given(st.binary(), st.sampled_from([TEXT, HEX]))
def test_json_fields_are_read_back(data: bytes, form: BytesForm) -> None:
    fields = form.fields("key", data)
    assert len(fields) == 1
    assert bytes_of(fields, "key") == data


@given(st.binary().filter(lambda data: b"\0" not in data))
def test_arguments_are_bytes(data: bytes) -> None:
    assert TEXT.parse(os.fsdecode(data), "KEY") == data
    assert HEX.parse(data.hex().upper(), "KEY") == data


@given(st.binary())
def test_what_is_shown_can_be_printed(data: bytes) -> None:
    assert all(mark.isprintable() for mark in printable(data))
    assert bytes.fromhex(HEX.shown(data)) == data
    assert TEXT.raw(data) == data
    assert HEX.raw(data) == data.hex().encode()


@pytest.mark.parametrize("text", ["0", "0g", "é0", "0x00"])
def test_digits_that_are_none(text: str) -> None:
    with pytest.raises(click.UsageError, match="--prefix must be hexadecimal digits"):
        HEX.parse(text, "--prefix")


def test_keys_have_a_byte_and_ranges_have_keys() -> None:
    with pytest.raises(click.UsageError, match="KEY is empty"):
        TEXT.parse_key("")
    assert TEXT.parse_range("", "", ("A", "B")) == (b"", b"")
    assert TEXT.parse_range("b", "", ("A", "B")) == (b"b", b"")
    for start, end in (("b", "a"), ("a", "a")):
        with pytest.raises(click.UsageError, match="the range is empty"):
            TEXT.parse_range(start, end, ("A", "B"))


@pytest.mark.parametrize("record", [{}, {"key": "a", "key_hex": "61"}, {"key_b64": "YQ==", "key_hex": "61"}, {"key": None}])
def test_a_field_has_one_form(record: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="key"):
        bytes_of(record, "key")
