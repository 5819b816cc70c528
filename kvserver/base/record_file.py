"""Small files of one JSON object, readable by people and checked by machines: identity, claims, branch records."""

from __future__ import annotations

import json
from typing import Any

from kvserver.base.coding import crc32c
from kvserver.base.errors import Corruption
from kvserver.base.types import Position

_CRC = "crc32c"


def encode_record(fields: dict[str, Any]) -> bytes:
    """Return the file's content: the fields and a checksum over them."""
    crc = crc32c(0, _canonical(fields))
    return json.dumps({**fields, _CRC: f"{crc:08x}"}, indent=2, sort_keys=True).encode() + b"\n"


def decode_record(path: object, data: bytes) -> dict[str, Any]:
    """Return the fields of a file's content. Raises Corruption."""
    try:
        fields: dict[str, Any] = json.loads(data)
        matches = isinstance(fields, dict) and fields.pop(_CRC, None) == f"{crc32c(0, _canonical(fields)):08x}"
    except (ValueError, RecursionError) as error:
        raise Corruption(path, 0, f"it is not a JSON object: {error}") from error
    if not matches:
        raise Corruption(path, 0, "the checksum does not match the fields")
    return fields


def position_fields(position: Position) -> dict[str, Any]:
    """Return the fields by which records name a position."""
    epoch = position.epoch
    return {"epoch": epoch.number, "nonce": epoch.nonce, "revision": position.revision, "chain": position.chain.hex()}


def _canonical(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
