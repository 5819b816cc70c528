"""Where a copy of a store comes from: the record in every checkpoint, and in every store that was opened from one.

A checkpoint that is opened becomes a store of its own, a fork: with a new cluster id, and with this record to say of which
store, at which position. Its history up to there is the other store's.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from kvserver.base.environment import Environment
from kvserver.base.errors import Corruption
from kvserver.base.fs import create_once, read_file
from kvserver.base.paths import DataPaths
from kvserver.base.record_file import decode_record, encode_record, position_fields
from kvserver.base.types import Epoch, Position

_STORE = "kvserver checkpoint"


class Origin(NamedTuple):
    """The store that was copied, and how far it was."""

    cluster_id: bytes
    node_name: str
    position: Position
    epochs: list[tuple[Epoch, Position]]
    """Each of its epochs with the position at which it began, oldest first."""
    made_ms: int


def write_origin(env: Environment, paths: DataPaths, origin: Origin) -> None:
    """Write the record of a checkpoint, which makes it whole. Durable on return. Raises OSError."""
    fields = {
        "store": _STORE,
        "cluster_id": origin.cluster_id.hex(),
        "node_name": origin.node_name,
        "position": position_fields(origin.position),
        "epochs": [
            {"number": epoch.number, "nonce": epoch.nonce, "began": position_fields(began)} for epoch, began in origin.epochs
        ],
        "made_ms": origin.made_ms,
    }
    create_once(env.fs, paths.origin, paths.origin_temporary, encode_record(fields))


def read_origin(env: Environment, paths: DataPaths) -> Origin | None:
    """Return the record of a folder; None where it is no copy. Raises Corruption."""
    if not env.fs.exists(paths.origin):
        return None
    fields = decode_record(paths.origin, read_file(env.fs, paths.origin))
    if fields.get("store") != _STORE:
        raise Corruption(paths.origin, 0, "it is not the record of a checkpoint")
    try:
        return Origin(
            cluster_id=bytes.fromhex(fields["cluster_id"]),
            node_name=fields["node_name"],
            position=_position(fields["position"]),
            epochs=[(Epoch(one["number"], one["nonce"]), _position(one["began"])) for one in fields["epochs"]],
            made_ms=fields["made_ms"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Corruption(paths.origin, 0, f"a field is missing or of another kind: {error}") from error


def _position(fields: dict[str, Any]) -> Position:
    return Position(Epoch(fields["epoch"], fields["nonce"]), fields["revision"], bytes.fromhex(fields["chain"]))
