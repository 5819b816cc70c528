"""The small values that nodes tell each other, as messages and back: epochs, positions, ends of logs, who a node is.

On the way in everything is checked, because whoever speaks may be anybody who can reach the port.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kvproto.v1 import replication_pb2 as pb
from kvserver.base.types import CHAIN_LENGTH, NO_EPOCH, Epoch, LogEnd, Position
from kvserver.replication.messages import EpochBegin, NodeIdentity
from kvserver.service.validation import invalid_field

CLUSTER_ID_LENGTH = 16
SHA256_LENGTH = 32
MAX_TEXT = 255
MAX_EPOCH_NUMBER = 0xFFFFFFFF
MAX_REVISION = (1 << 63) - 1
MAX_SEGMENT_BYTES = (1 << 32) - 1


def to_epoch(epoch: Epoch) -> pb.EpochId:
    """Return an epoch as a message."""
    return pb.EpochId(number=epoch.number, nonce=epoch.nonce)


def from_epoch(message: pb.EpochId, name: str) -> Epoch:
    """Return the epoch of a message; NO_EPOCH where it is empty."""
    if message.number > MAX_EPOCH_NUMBER:
        raise invalid_field(f"{name}.number", f"is {message.number}; no epoch has a number above {MAX_EPOCH_NUMBER}")
    if bool(message.number) != bool(message.nonce):
        raise invalid_field(name, "has a number without a nonce, or a nonce without a number")
    return Epoch(message.number, message.nonce)


def to_position(position: Position) -> pb.LogPosition:
    """Return a position as a message."""
    return pb.LogPosition(epoch=to_epoch(position.epoch), revision=position.revision, chain=position.chain)


def from_position(message: pb.LogPosition, name: str) -> Position:
    """Return the position of a message. A node without a store is at revision 0, and only there a chain can be missing."""
    epoch = from_epoch(message.epoch, f"{name}.epoch")
    nowhere = not message.revision and epoch == NO_EPOCH and not message.chain
    if len(message.chain) != CHAIN_LENGTH and not nowhere:
        raise invalid_field(f"{name}.chain", f"has {len(message.chain)} bytes; a chain hash has {CHAIN_LENGTH}")
    return Position(epoch, revision(message.revision, f"{name}.revision"), message.chain)


def to_end(end: LogEnd) -> pb.LogEnd:
    """Return the end of a log as a message."""
    return pb.LogEnd(position=to_position(end.position), segment_id=end.segment_id, offset=end.offset)


def from_end(message: pb.LogEnd, name: str) -> LogEnd:
    """Return the end of a log of a message."""
    require(message, "position", name)
    check_place(message.segment_id, message.offset, name)
    return LogEnd(from_position(message.position, f"{name}.position"), message.segment_id, message.offset)


def to_epochs(epochs: Iterable[EpochBegin]) -> list[pb.EpochBegin]:
    """Return epochs as messages."""
    return [pb.EpochBegin(epoch=to_epoch(epoch), began=to_position(began)) for epoch, began in epochs]


def from_epochs(messages: Iterable[pb.EpochBegin], name: str) -> list[EpochBegin]:
    """Return the epochs of messages, which must be in order."""
    found: list[EpochBegin] = []
    for message in messages:
        require(message, "epoch", name)
        require(message, "began", name)
        epoch = from_epoch(message.epoch, f"{name}.epoch")
        began = from_position(message.began, f"{name}.began")
        if found and (epoch.number <= found[-1][0].number or began.revision < found[-1][1].revision):
            raise invalid_field(name, f"are not in order: epoch {epoch.number} comes behind epoch {found[-1][0].number}")
        found.append((epoch, began))
    return found


def to_identity(identity: NodeIdentity) -> pb.NodeIdentity:
    """Return who a node is as a message."""
    return pb.NodeIdentity(**identity._asdict())


def from_identity(message: pb.NodeIdentity, name: str) -> NodeIdentity:
    """Return who a node is, of a message."""
    if len(message.cluster_id) not in (0, CLUSTER_ID_LENGTH):
        raise invalid_field(f"{name}.cluster_id", f"has {len(message.cluster_id)} bytes; it has {CLUSTER_ID_LENGTH}, or none")
    texts = {field: text(getattr(message, field), f"{name}.{field}") for field in NodeIdentity._fields[1:]}
    return NodeIdentity(message.cluster_id, **texts)


def require(message: Any, field: str, name: str) -> None:
    """Refuse a message without a submessage."""
    if not message.HasField(field):
        raise invalid_field(f"{name}.{field}", "is missing")


def revision(value: int, name: str) -> int:
    """Return a count of something; refuse one that cannot be."""
    if value > MAX_REVISION:
        raise invalid_field(name, f"is {value}; nothing is above {MAX_REVISION}")
    return value


def check_place(segment_id: int, offset: int, name: str) -> None:
    """Refuse a place that no segment has."""
    if offset > MAX_SEGMENT_BYTES or (offset and not segment_id):
        raise invalid_field(f"{name}.offset", f"is {offset} in segment {segment_id:016x}; no segment has that place")


def text(value: str, name: str, most: int = MAX_TEXT) -> str:
    """Return a text; refuse one that is too long, or cannot be printed in one line."""
    if len(value) > most or not value.isprintable():
        raise invalid_field(name, f"has {len(value)} characters, or some that cannot be printed; at most {most} are allowed")
    return value


def sha256(value: bytes, name: str) -> bytes:
    """Return a hash; refuse what has another length."""
    if len(value) != SHA256_LENGTH:
        raise invalid_field(name, f"has {len(value)} bytes; a SHA-256 has {SHA256_LENGTH}")
    return value


def shown(value: str, most: int) -> str:
    """Return a text for people in one line, cut to a length."""
    return "".join(character if character.isprintable() else " " for character in value[:most])
