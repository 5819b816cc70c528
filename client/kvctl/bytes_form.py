"""Bytes as people and programs write them: keys and values on the command line, in tables, and in JSON.

On the command line and in plain output they are text or, with ``--hex``, hexadecimal digits. In JSON a field's name says
which form it holds: ``key`` text, ``key_b64`` base64, ``key_hex`` hexadecimal digits. Exactly one of them is there.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import click


class BytesForm(NamedTuple):
    """Text, or hexadecimal digits: the form in which one run takes and prints bytes."""

    in_hex: bool

    def parse(self, text: str, what: str) -> bytes:
        """Return the bytes that an argument stands for; raise a usage error that names it (``what``)."""
        if not self.in_hex:
            return os.fsencode(text)
        try:
            return bytes.fromhex(text)
        except ValueError as error:
            raise click.UsageError(
                f"{what} must be hexadecimal digits, two a byte, as --hex was given: {printable(os.fsencode(text))!r}"
            ) from error

    def parse_key(self, text: str, what: str = "KEY") -> bytes:
        """Return the key that an argument stands for; raise a usage error where it is empty."""
        key = self.parse(text, what)
        if not key:
            raise click.UsageError(f"{what} is empty; a key has at least one byte")
        return key

    def parse_range(self, start: str, end: str, names: tuple[str, str]) -> tuple[bytes, bytes]:
        """Return the bounds of a range of keys, of which an empty one is open; raise a usage error where it holds no key."""
        first, bound = self.parse(start, names[0]), self.parse(end, names[1])
        if bound and first >= bound:
            raise click.UsageError(
                f"the range is empty: {names[0]} '{self.shown(first)}' does not come before {names[1]} '{self.shown(bound)}'"
            )
        return first, bound

    def fields(self, name: str, data: bytes) -> dict[str, str]:
        """Return bytes as a JSON field: ``name`` with text where they are UTF-8, else ``name_b64``; or ``name_hex``."""
        if self.in_hex:
            return {f"{name}_hex": data.hex()}
        try:
            return {name: data.decode()}
        except UnicodeDecodeError:
            return {f"{name}_b64": base64.b64encode(data).decode()}

    def shown(self, data: bytes) -> str:
        """Return bytes as text for a table."""
        return data.hex() if self.in_hex else printable(data)

    def raw(self, data: bytes) -> bytes:
        """Return bytes for raw output: as they are, or as digits."""
        return data.hex().encode() if self.in_hex else data


TEXT = BytesForm(in_hex=False)
HEX = BytesForm(in_hex=True)


def printable(data: bytes) -> str:
    """Return bytes as text for a table: what is not printable UTF-8 becomes ``\\xNN``, a backslash is doubled."""
    text = data.decode(errors="surrogateescape")
    return "".join(_printable_mark(mark) for mark in text)


def _printable_mark(mark: str) -> str:
    if mark == "\\":
        return "\\\\"
    if mark.isprintable():
        return mark
    return "".join(f"\\x{byte:02x}" for byte in mark.encode(errors="surrogateescape"))


def bytes_of(record: Mapping[str, Any], name: str) -> bytes:
    """Return the bytes that a JSON object holds under a name, in whichever form; raise ValueError that says what is wrong."""
    if name in record:  # by far the most frequent form comes first: files of millions of lines go through here
        text = record[name]
        if isinstance(text, str) and f"{name}_b64" not in record and f"{name}_hex" not in record:
            try:
                return text.encode()
            except UnicodeEncodeError as error:
                raise ValueError(f'"{name}" holds half a surrogate pair') from error
    forms = [form for form in (name, f"{name}_b64", f"{name}_hex") if form in record]
    if len(forms) != 1:
        raise ValueError(f'it must have either "{name}" or "{name}_b64" or "{name}_hex"')
    text = record[forms[0]]
    if not isinstance(text, str):
        raise ValueError(f'"{forms[0]}" must be a string')
    if forms[0].endswith("_hex"):
        return _decoded_hex(forms[0], text)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f'"{forms[0]}" is not base64') from error


def _decoded_hex(name: str, text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise ValueError(f'"{name}" is not made of hexadecimal digits, two a byte') from error
