"""The records of a register that several nodes see: their names, their fields, and the strict way back.

Below the register's address:

    REGISTER                which cluster it belongs to, and its own random id; created once
    epochs/<number>.claim   who claimed an epoch; created once
    epochs/<number>.branch  where in history it began; created once
    epochs/<number>.begun   its first segment is durable; created once
    nodes/<name>.json       where a node is spoken to; replaced
    notes/<number>.json     the policy's quorum was given up, or returned to; created once

Each is a JSON object with a checksum (``kvserver.base.record_file``). All carry the register's id, so that a record that was
copied from another register is found, and those that are created once a random ``token``, by which a writer recognizes its own
record after an answer that was lost. Numbers in names are eight lower-case hexadecimal digits. What bears another name is passed
over; what bears one of these and does not check is corruption.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from kvserver.archive.record_fields import Fields, checked_text
from kvserver.base.errors import Code, Corruption, InvalidRequest
from kvserver.base.record_file import decode_record, encode_record, position_fields
from kvserver.base.register import NodeRecord, PolicyNote
from kvserver.base.types import Epoch, Position

T = TypeVar("T")

REGISTER = "REGISTER"
EPOCHS = "epochs/"
NODES = "nodes/"
NOTES = "notes/"

MAX_RECORD_BYTES = 64 * 1024
"""A larger object is no record."""

MAX_NUMBER = (1 << 32) - 1
"""Of an epoch or a note: eight digits in a name."""

_STORE = "kvserver register"
_FORMAT_VERSION = 1
_ID_BYTES = 16
_TOKEN_BYTES = 8

_CLAIM = re.compile(r"epochs/([0-9a-f]{8})\.claim")
_NODE = re.compile(r"nodes/([A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)\.json")
_NOTE = re.compile(r"notes/([0-9a-f]{8})\.json")

_REMEDY = "put the object back as it was, from a copy of the register; until then no node becomes primary"


class Founded(NamedTuple):
    """What a register is, once and for all."""

    cluster_id: bytes
    id: str
    """Random; what the nodes of a cluster compare to know that they see the same register."""


class Claim(NamedTuple):
    """Who claimed an epoch."""

    epoch: Epoch
    node: NodeRecord
    claimed_ms: int


class _Fields(Fields):
    """Fields of a record of the register."""

    def __init__(self, fields: dict[str, Any], register_id: str, names: set[str]) -> None:
        super().__init__(fields)
        if fields.keys() != names | {"register"}:
            odd = sorted(fields.keys() ^ (names | {"register"}))[0]
            raise ValueError(f"the field {odd[:64]!r} is missing, or does not belong there")
        if register_id and self.text("register") != register_id:
            raise ValueError("it is a record of another register")
        if "token" in names:
            self.raw("token", _TOKEN_BYTES)

    def flag(self, name: str) -> bool:
        """Return a truth value."""
        value = self._fields.get(name)
        if not isinstance(value, bool):
            raise ValueError(f"{name} is neither true nor false")
        return value

    def node(self) -> NodeRecord:
        """Return who is named by name, id and address."""
        return NodeRecord(self.text("name"), self.text("node_id"), self.text("address"))

    def of_claim(self, epoch: Epoch, value: T) -> T:
        """Return the value. Raises ValueError where the record belongs to another claim."""
        if self.own_epoch("epoch") != epoch:
            raise ValueError("the record is of another claim to the same number")
        return value


# Names


def claim_name(number: int) -> str:
    """Return the name of an epoch's claim. Raises ValueError for what is no number of an epoch."""
    return f"{EPOCHS}{_digits(number)}.claim"


def branch_name(number: int) -> str:
    """Return the name of an epoch's branch record."""
    return f"{EPOCHS}{_digits(number)}.branch"


def begun_name(number: int) -> str:
    """Return the name of the record that an epoch's first segment is durable."""
    return f"{EPOCHS}{_digits(number)}.begun"


def note_name(number: int) -> str:
    """Return the name of a note. Raises ValueError for what is no number of one."""
    return f"{NOTES}{_digits(number)}.json"


def node_name(name: str) -> str:
    """Return the name of a node's record. Raises InvalidRequest for a name that a node cannot have."""
    named = f"{NODES}{name}.json"
    if not _NODE.fullmatch(named):
        what = f"{name[:64]!r} is no name of a node: 1 to 63 letters, digits and . _ -, not beginning or ending with one of these"
        raise InvalidRequest(Code.INVALID_FIELD, what, "give the node another name")
    return named


def parse_claim_name(name: str) -> int | None:
    """Return the number of the epoch whose claim has this name; None for any other name."""
    match = _CLAIM.fullmatch(name)
    return int(match[1], 16) or None if match else None


def parse_node_name(name: str) -> str | None:
    """Return the node whose record has this name; None for any other name."""
    match = _NODE.fullmatch(name)
    return match[1] if match else None


def parse_note_name(name: str) -> int | None:
    """Return the number of the note of this name; None for any other name."""
    match = _NOTE.fullmatch(name)
    return int(match[1], 16) or None if match else None


# What they hold


def encode_founded(founded: Founded, token: bytes) -> bytes:
    """Return the record that makes a store a register."""
    fields = {"store": _STORE, "format_version": _FORMAT_VERSION, "cluster_id": founded.cluster_id.hex(), "register": founded.id}
    return encode_record({**fields, "token": token.hex()})


def parse_founded(where: str, data: bytes) -> Founded:
    """Return what a register is. Raises Corruption; also for a register of a later format, which this software cannot judge."""

    def parse(fields: _Fields) -> Founded:
        if fields.text("store") != _STORE or fields.number("format_version") != _FORMAT_VERSION:
            raise ValueError("it is no register, or one that a newer software made")
        return Founded(fields.raw("cluster_id", 16), fields.raw("register", _ID_BYTES).hex())

    return _parsed(where, data, "", {"store", "format_version", "cluster_id", "token"}, parse)


def encode_claim(register_id: str, claim: Claim, token: bytes) -> bytes:
    """Return an epoch's claim. Raises InvalidRequest for text that no record may hold."""
    return _created(
        register_id, token, {**_epoch_fields(claim.epoch), **_node_fields(claim.node), "claimed_ms": claim.claimed_ms}
    )


def parse_claim(where: str, data: bytes, register_id: str, number: int) -> Claim:
    """Return the claim to an epoch. Raises Corruption."""

    def parse(fields: _Fields) -> Claim:
        epoch = fields.own_epoch("epoch")
        if epoch.number != number:
            raise ValueError(f"the claim is to epoch {epoch.number}")
        return Claim(epoch, fields.node(), fields.number("claimed_ms"))

    return _parsed(where, data, register_id, {"epoch", "nonce", "name", "node_id", "address", "claimed_ms", "token"}, parse)


def encode_branch(register_id: str, epoch: Epoch, branch: Position, token: bytes) -> bytes:
    """Return the record of where an epoch begins."""
    return _created(register_id, token, {**_epoch_fields(epoch), "branch": position_fields(branch)})


def parse_branch(where: str, data: bytes, register_id: str, epoch: Epoch) -> Position:
    """Return where a claimed epoch begins. Raises Corruption, also where the record is of another claim to the number."""

    def parse(fields: _Fields) -> Position:
        branch = fields.position("branch")
        if branch.epoch.number >= epoch.number:
            raise ValueError(f"epoch {epoch.number} cannot begin in epoch {branch.epoch.number}")
        return fields.of_claim(epoch, branch)

    return _parsed(where, data, register_id, {"epoch", "nonce", "branch", "token"}, parse)


def encode_begun(register_id: str, epoch: Epoch, token: bytes) -> bytes:
    """Return the record that an epoch's first segment is durable."""
    return _created(register_id, token, _epoch_fields(epoch))


def parse_begun(where: str, data: bytes, register_id: str, epoch: Epoch) -> bool:
    """Return True: a claimed epoch has begun. Raises Corruption, also where the record is of another claim to the number."""
    return _parsed(where, data, register_id, {"epoch", "nonce", "token"}, lambda fields: fields.of_claim(epoch, True))


def encode_node(register_id: str, node: NodeRecord) -> bytes:
    """Return a node's record. Raises InvalidRequest for text that no record may hold."""
    return encode_record({"register": register_id, **_node_fields(node)})


def parse_node(where: str, data: bytes, register_id: str, name: str) -> NodeRecord:
    """Return a node's record. Raises Corruption."""

    def parse(fields: _Fields) -> NodeRecord:
        node = fields.node()
        if node.name != name:
            raise ValueError(f"it is the record of {node.name!r}")
        return node

    return _parsed(where, data, register_id, {"name", "node_id", "address"}, parse)


def encode_note(register_id: str, note: PolicyNote, token: bytes) -> bytes:
    """Return a note. Raises InvalidRequest for text that no record may hold."""
    fields: dict[str, Any] = {"number": note.number, **_epoch_fields(note.epoch), "node": text("node", note.node)}
    fields |= {"time_ms": note.time_ms, "degraded": note.degraded, "reason": text("reason", note.reason)}
    return _created(register_id, token, fields)


def parse_note(where: str, data: bytes, register_id: str, number: int) -> PolicyNote:
    """Return a note. Raises Corruption."""

    def parse(fields: _Fields) -> PolicyNote:
        if fields.number("number") != number:
            raise ValueError(f"it is note {fields.number('number')}")
        degraded = fields.flag("degraded")
        epoch, node, time_ms = fields.own_epoch("epoch"), fields.text("node"), fields.number("time_ms")
        return PolicyNote(number, epoch, node, time_ms, degraded, fields.text("reason"))

    names = {"number", "epoch", "nonce", "node", "time_ms", "degraded", "reason", "token"}
    return _parsed(where, data, register_id, names, parse)


def text(name: str, value: str) -> str:
    """Return a text that a record may hold. Raises InvalidRequest for one that is too long or cannot be shown."""
    try:
        return checked_text(name, value)
    except ValueError as error:
        raise InvalidRequest(Code.INVALID_FIELD, str(error), "say it in one line of at most 1,024 characters") from None


def new_token(random_bytes: Callable[[int], bytes]) -> bytes:
    """Return what marks a record as written by this very call."""
    return random_bytes(_TOKEN_BYTES)


def new_id(random_bytes: Callable[[int], bytes]) -> str:
    """Return the id of a new register."""
    return random_bytes(_ID_BYTES).hex()


def damaged(where: str, what: str) -> Corruption:
    """Return the error that a record of the register does not check."""
    return Corruption(where, 0, what, _REMEDY)


def _created(register_id: str, token: bytes, fields: dict[str, Any]) -> bytes:
    return encode_record({"register": register_id, **fields, "token": token.hex()})


def _parsed(where: str, data: bytes, register_id: str, names: set[str], parse: Callable[[_Fields], T]) -> T:
    """Return what a record says. Raises Corruption; where no id is given, that of the register is not compared."""
    try:
        return parse(_Fields(decode_record(where, data), register_id, names))
    except ValueError as error:
        raise damaged(where, str(error)) from None
    except Corruption as error:
        raise damaged(where, error.what) from None


def _digits(number: int) -> str:
    if not 0 < number <= MAX_NUMBER:
        raise ValueError(f"{number} is no number of an epoch or a note")
    return f"{number:08x}"


def _epoch_fields(epoch: Epoch) -> dict[str, Any]:
    return {"epoch": epoch.number, "nonce": epoch.nonce}


def _node_fields(node: NodeRecord) -> dict[str, Any]:
    return {name: text(name, value) for name, value in node._asdict().items()}
