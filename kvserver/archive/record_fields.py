"""The fields of an archive's records, each taken by its kind and within its bounds, because anybody may have written them."""

from __future__ import annotations

from typing import Any

from kvserver.base.types import CHAIN_LENGTH, Epoch, Position

_MAX_NUMBER = (1 << 64) - 1
_MAX_EPOCH_NUMBER = (1 << 32) - 1  # eight digits in the names of files and objects
_MAX_TEXT = 1024
_MAX_FILE_NAME = 255


class Fields:
    """The fields of a JSON object, each taken by its kind. Raises ValueError, which names the field."""

    def __init__(self, fields: Any) -> None:
        if not isinstance(fields, dict):
            raise ValueError("a list holds something else than objects")
        self._fields = fields

    def has(self, name: str) -> bool:
        """Say whether there is such a field."""
        return name in self._fields

    def number(self, name: str) -> int:
        """Return a number of 64 bits."""
        value = self._fields.get(name)
        if type(value) is not int or not 0 <= value <= _MAX_NUMBER:
            raise ValueError(f"{name} is no number of 64 bits")
        return value

    def text(self, name: str) -> str:
        """Return a text: one line that can be shown to people as it is."""
        value = self._fields.get(name)
        if not isinstance(value, str):
            raise ValueError(f"{name} is no text")
        return checked_text(name, value)

    def raw(self, name: str, *lengths: int) -> bytes:
        """Return bytes given in hexadecimal, of one of these lengths."""
        text = self.text(name)
        value = bytes.fromhex(text)
        if value.hex() != text:
            raise ValueError(f"{name} is not written in lower-case hexadecimal digits alone")
        if len(value) not in lengths:
            raise ValueError(f"{name} has {len(value)} bytes")
        return value

    def several(self, name: str) -> list[Fields]:
        """Return the objects of a list."""
        value = self._fields.get(name)
        if not isinstance(value, list):
            raise ValueError(f"{name} is no list")
        return [Fields(one) for one in value]

    def optional(self, name: str) -> Fields | None:
        """Return an object, None where there is no such field."""
        return Fields(self._fields[name]) if name in self._fields else None

    def inner(self, name: str) -> Fields:
        """Return an object."""
        return Fields(self._fields.get(name))

    def epoch(self, name: str) -> Epoch:
        """Return an epoch."""
        return self.inner(name).own_epoch()

    def position(self, name: str) -> Position:
        """Return a position."""
        inner = self.inner(name)
        epoch = inner.own_epoch("epoch")
        return Position(epoch, inner.number("revision"), inner.raw("chain", CHAIN_LENGTH))

    def own_epoch(self, number: str = "number") -> Epoch:
        """Return the epoch whose number, called so, and nonce are among these fields."""
        epoch = Epoch(self.number(number), self.number("nonce"))
        if epoch.number > _MAX_EPOCH_NUMBER:
            raise ValueError(f"{epoch.number} is not the number of an epoch")
        return epoch

    def file_name(self, name: str) -> str:
        """Return the name of a file: printable ASCII, one name without folders, not hidden."""
        value = self.text(name)
        usable = value.isascii() and value.isprintable() and 0 < len(value) <= _MAX_FILE_NAME
        if not usable or "/" in value or "\\" in value or value.startswith("."):
            raise ValueError(f"{name}: {value[:64]!r} is not the name of a file of the tables")
        return value


def checked_text(name: str, value: str) -> str:
    """Return a text as it is. Raises ValueError for one that is too long, or has what cannot be shown, such as line ends."""
    if len(value) > _MAX_TEXT or not value.isprintable():
        raise ValueError(f"{name} is longer than {_MAX_TEXT} characters, or has some that cannot be shown")
    return value


def epoch_fields(epoch: Epoch) -> dict[str, Any]:
    """Return the fields of an epoch."""
    return {"number": epoch.number, "nonce": epoch.nonce}
