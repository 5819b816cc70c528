"""Records of the shared register that do not check are corruption: none is skipped, each is named with what to do."""

from __future__ import annotations

import random

import pytest

from kvserver.base.environment import Environment
from kvserver.base.errors import Corruption
from kvserver.base.record_file import decode_record, encode_record
from kvserver.base.register import NodeRecord, PolicyNote
from kvserver.base.types import NO_EPOCH, Epoch, Position
from kvserver.replication import register_records
from kvserver.replication.store_register import StoreRegister, found
from support.clocks import ManualClock
from support.memfs import MemoryFileSystem
from support.memory_store import MemoryStore

CLUSTER = bytes(range(16))
ONE = Epoch(1, 0xFEDCBA9876543210)
NODE = NodeRecord("n1", "id-1", "host:1")
BRANCH = Position(NO_EPOCH, 1, bytes(range(16)))
NOTE = PolicyNote(1, ONE, "n1", 5, True, "because")


def environment(seed: int = 0) -> Environment:
    return Environment(MemoryFileSystem(), ManualClock(), random.Random(seed).randbytes)


def state(register: StoreRegister) -> object:
    return register.records(), register.nodes(), register.notes()


NAMES = [
    "REGISTER",
    "epochs/00000001.claim",
    "epochs/00000001.branch",
    "epochs/00000001.begun",
    "nodes/n1.json",
    "notes/00000001.json",
]


def full() -> tuple[MemoryStore, StoreRegister]:
    inner = MemoryStore()
    register = StoreRegister(inner, found(inner, environment(), CLUSTER), environment(1))
    register.claim(ONE, NODE, 1)
    register.record_branch(ONE, BRANCH)
    register.record_begun(ONE)
    register.join(NODE)
    register.add_note(NOTE)
    assert sorted(inner.objects) == sorted(NAMES)
    return inner, register


def damaged(store: MemoryStore, register: StoreRegister, name: str) -> Corruption:
    with pytest.raises(Corruption) as caught:
        state(StoreRegister(store, register.founded, environment()))
    assert str(caught.value.path) == f"{store.url}/{name}" and "copy of the register" in caught.value.hint
    return caught.value


@pytest.mark.parametrize("name", NAMES)
def test_every_flipped_byte_and_every_cut_of_a_record_is_found(name: str) -> None:
    store, register = full()
    data = store.objects[name]
    for place in range(len(data)):
        store.objects[name] = data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :]
        damaged(store, register, name)
        if place < len(data) - 1:  # the newline at the end says nothing
            store.objects[name] = data[:place]
            damaged(store, register, name)


@pytest.mark.parametrize("name", NAMES[1:])
def test_every_field_is_checked(name: str) -> None:
    store, register = full()
    fields = decode_record(name, store.objects[name])
    for field, value in fields.items():
        if field in ("name", "node_id", "address", "reason", "node", "claimed_ms", "time_ms"):
            wrong: list[object] = [None, [], {}, "x" * 2000, "two\nlines", -1, 1 << 64, 1.5, True]
        elif field == "degraded":
            wrong = [None, 1, "true"]
        else:
            wrong = [None, [], "", "zz", "A" * 32, -1, 1 << 64, True, {"number": 1}]
        for one in wrong:
            if one == value:
                continue
            store.objects[name] = encode_record({**fields, field: one})
            assert damaged(store, register, name).what
        store.objects[name] = encode_record({other: fields[other] for other in fields if other != field})
        assert field in damaged(store, register, name).what
    store.objects[name] = encode_record({**fields, "more": 1})
    assert "more" in damaged(store, register, name).what
    store.objects[name] = b" " * (register_records.MAX_RECORD_BYTES + 1)
    damaged(store, register, name)


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_record_of_another_register_is_found(name: str) -> None:
    store, register = full()
    strange = MemoryStore()
    other = StoreRegister(strange, found(strange, environment(70), CLUSTER), environment(71))
    other.claim(ONE, NODE, 1)
    other.record_branch(ONE, BRANCH)
    other.record_begun(ONE)
    other.join(NODE)
    other.add_note(NOTE)
    store.objects[name] = strange.objects[name]
    assert "another register" in damaged(store, register, name).what


@pytest.mark.parametrize("kind", ["branch", "begun"])
def test_a_record_of_another_claim_is_found(kind: str) -> None:
    store, register = full()
    name = f"epochs/00000001.{kind}"
    fields = decode_record(name, store.objects[name])
    store.objects[name] = encode_record({**fields, "nonce": 7})
    assert "another claim" in damaged(store, register, name).what


def test_a_record_under_another_name_is_found() -> None:
    for old, new in (("epochs/00000001.claim", "epochs/00000002.claim"), ("nodes/n1.json", "nodes/n2.json")):
        store, register = full()
        store.objects[new] = store.objects[old]
        damaged(store, register, new)
    store, register = full()
    store.objects["notes/00000002.json"] = store.objects["notes/00000001.json"]
    damaged(store, register, "notes/00000002.json")


def test_an_epoch_that_began_without_a_branch_is_damage() -> None:
    store, register = full()
    del store.objects["epochs/00000001.branch"]
    damaged(store, register, "epochs/00000001.branch")
