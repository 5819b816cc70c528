"""The register in a store: lost answers, two writers, the wrong place, listings that lag, and damage."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from kvserver.base.environment import Environment
from kvserver.base.errors import Code, InvalidRequest, KvError, OpenRefused, ReplicationError
from kvserver.base.identity_file import create_identity
from kvserver.base.paths import DataPaths
from kvserver.base.register import EpochRecord, NodeRecord, PolicyNote
from kvserver.base.types import NO_EPOCH, Epoch, Position
from kvserver.replication.open_register import find_register, open_register
from kvserver.replication.register_records import Founded
from kvserver.replication.store_register import StoreRegister, check_same, found, kind_of, look
from support.clocks import ManualClock
from support.fault_store import (
    REFUSED,
    UNAVAILABLE,
    FaultStore,
    StoreFault,
    ambiguous,
    failing_store_calls,
    quicker_writer,
    stale_listing,
)
from support.faultfs import ProcessKilled
from support.memfs import MemoryFileSystem
from support.memory_store import MemoryStore

CLUSTER = bytes(range(16))
ONE, TWO = Epoch(1, 0xFEDCBA9876543210), Epoch(2, 22)
NODE, OTHER = NodeRecord("n1", "id-1", "host:1"), NodeRecord("n2", "id-2", "host:2")
BRANCH = Position(NO_EPOCH, 1, bytes(range(16)))
NOTE = PolicyNote(1, ONE, "n1", 5, True, "because")
PATHS = DataPaths(Path("/data"))


def environment(seed: int = 0) -> Environment:
    return Environment(MemoryFileSystem(), ManualClock(), random.Random(seed).randbytes)


def made(seed: int = 0) -> tuple[FaultStore, StoreRegister]:
    store = FaultStore(MemoryStore())
    return store, StoreRegister(store, found(store, environment(seed), CLUSTER), environment(seed + 1))


def beside(register: StoreRegister, store: FaultStore, seed: int = 99) -> StoreRegister:
    """Open the same register as another process without faults would."""
    return StoreRegister(store.inner, register.founded, environment(seed))


CALLS: dict[str, Callable[[StoreRegister], None]] = {
    "claim": lambda register: register.claim(TWO, NODE, 7),
    "branch": lambda register: register.record_branch(ONE, BRANCH),
    "begun": lambda register: register.record_begun(ONE),
    "note": lambda register: register.add_note(NOTE),
    "join": lambda register: register.join(NODE),
}


def prepare(register: StoreRegister, call: str) -> None:
    register.claim(ONE, NODE, 1)
    if call == "begun":
        register.record_branch(ONE, BRANCH)


def state(register: StoreRegister) -> object:
    return register.records(), register.nodes(), register.notes()


# Founding


def test_a_register_is_founded_once_and_stays_what_it_is() -> None:
    store = MemoryStore()
    assert look(store) is None
    founded = found(store, environment(1), CLUSTER)
    assert founded.cluster_id == CLUSTER
    assert found(store, environment(2), bytes(16)) == found(store, environment(3)) == look(store) == founded
    assert kind_of(founded) == f"store:{founded.id}"


def test_a_register_may_bring_a_new_cluster_and_no_two_are_alike() -> None:
    founded = [found(MemoryStore(), environment(seed)) for seed in range(4)]
    assert len({one.cluster_id for one in founded}) == len({one.id for one in founded}) == 4


def test_of_two_that_found_a_register_at_once_one_wins_and_both_know() -> None:
    store = FaultStore(MemoryStore())
    first: list[Founded] = []
    store.add(quicker_writer(lambda: first.append(found(store.inner, environment(1))), calls={"create"}))
    assert found(store, environment(2), CLUSTER) == first[0] == look(store)


@pytest.mark.parametrize("took_effect", [True, False])
def test_founding_comes_through_answers_that_are_lost(took_effect: bool) -> None:
    store = FaultStore(MemoryStore(), [ambiguous(took_effect, at) for at in (1, 2)])
    assert found(store, environment(), CLUSTER) == look(store)


def test_a_node_and_a_register_of_different_clusters_are_refused() -> None:
    env = environment()
    env.fs.make_dir(PATHS.root)
    founded = found(MemoryStore(), env, CLUSTER)
    same = create_identity(env, PATHS, "n", kind_of(founded), CLUSTER)
    check_same(same, founded)
    with pytest.raises(OpenRefused, match="belongs to cluster") as refused:
        check_same(same, founded._replace(cluster_id=bytes(16)))
    assert CLUSTER.hex() in refused.value.message and bytes(16).hex() in refused.value.message and refused.value.hint
    with pytest.raises(OpenRefused, match="this one is"):
        check_same(same, founded._replace(id="0" * 32))


# Lost answers and competing writers


@pytest.mark.parametrize("took_effect", [True, False], ids=["done", "not done"])
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("call", CALLS)
def test_an_answer_that_is_lost_is_settled(call: str, times: int, took_effect: bool) -> None:
    store, register = made()
    _, want = made()
    for one in (register, want):
        prepare(one, call)
    CALLS[call](want)
    for at in range(1, times + 1):
        store.add(ambiguous(took_effect, at))
    CALLS[call](register)
    assert store.fired == times or took_effect
    assert state(register) == state(want)
    if call != "join":
        with pytest.raises(FileExistsError):
            CALLS[call](register)


@pytest.mark.parametrize("call", CALLS)
def test_every_call_that_fails_once_is_an_error_or_is_settled_and_never_half_done(call: str) -> None:
    before, after = set(), set()
    inner = MemoryStore()
    register = StoreRegister(inner, found(inner, environment(), CLUSTER), environment(1))
    prepare(register, call)
    begin = repr(state(register))
    for performed in (False, True):
        for store in failing_store_calls(inner.copy, StoreFault(performed=performed)):
            failing = StoreRegister(store, register.founded, environment(2))
            try:
                CALLS[call](failing)
            except ReplicationError as error:
                assert error.code is Code.REGISTER_UNAVAILABLE and error.hint and "the archive" not in error.message
                before.add(repr(state(beside(register, store))))
            else:
                after.add(repr(state(beside(register, store))))
    assert len(after) == 1 and before <= {begin}


@pytest.mark.parametrize("call", CALLS)
def test_a_register_that_is_away_says_so_by_its_own_name(call: str) -> None:
    for error in (UNAVAILABLE, REFUSED):
        store, register = made()
        store.add(StoreFault(error=error, forever=True))
        for broken in (CALLS[call], StoreRegister.records, StoreRegister.nodes, StoreRegister.notes):
            with pytest.raises(ReplicationError) as caught:
                broken(register)
            assert caught.value.code is Code.REGISTER_UNAVAILABLE
            assert caught.value.message.startswith(f"the register {store.url} cannot be used: ") and caught.value.hint


@pytest.mark.parametrize("lost", [False, True], ids=["told", "answer lost"])
def test_of_two_that_race_for_a_number_the_quicker_wins(lost: bool) -> None:
    store, register = made()
    quicker = beside(register, store)
    store.add(quicker_writer(lambda: quicker.claim(ONE, OTHER, 2), calls={"create"}))
    if lost:
        store.add(ambiguous(False, 2, {"create"}))
    with pytest.raises(FileExistsError):
        register.claim(ONE, NODE, 1)
    assert register.records() == [EpochRecord(ONE, "id-2", 2, None, False, "n2")]


def test_a_claim_that_says_the_same_is_not_taken_for_ones_own() -> None:
    """Two processes with the folder of one node, copied together with the state of its chance."""
    store, register = made()
    quicker = beside(register, store)
    store.add(quicker_writer(lambda: quicker.claim(ONE, NODE, 1), calls={"create"}))
    with pytest.raises(FileExistsError):
        register.claim(ONE, NODE, 1)


def test_a_process_that_dies_while_it_claims_leaves_a_claim_or_none() -> None:
    for performed in (False, True):
        store, register = made()
        store.add(StoreFault(calls={"create"}, kills=True, performed=performed))
        with pytest.raises(ProcessKilled):
            register.claim(ONE, NODE, 1)
        after = beside(register, store)
        assert [record.epoch for record in after.records()] == [ONE] * performed
        after.claim(Epoch(1 + performed, 5), OTHER, 2)


def test_joining_gives_way_to_another_writer_and_goes_on() -> None:
    store, register = made()
    quicker = beside(register, store)
    store.add(quicker_writer(lambda: quicker.join(NODE._replace(address="old:1")), calls={"replace"}))
    register.join(NODE)
    assert register.nodes() == [NODE]


def test_joining_again_writes_nothing() -> None:
    store, register = made()
    register.join(NODE)
    count = store.counts["replace"]
    register.join(NODE)
    assert store.counts["replace"] == count


# The wrong place


@pytest.mark.parametrize("call", [*CALLS, "records"])
def test_nothing_is_written_where_the_register_is_not(call: str) -> None:
    _, register = made()
    wrong = StoreRegister(MemoryStore(), register.founded, environment())
    write = CALLS.get(call) or StoreRegister.records
    with pytest.raises(KvError) as caught:
        write(wrong)
    if call in ("branch", "begun"):  # looks for its claim first
        assert caught.value.code is Code.CORRUPTION
    else:
        assert caught.value.code is Code.REGISTER_UNAVAILABLE and "mounted" in caught.value.message
    assert look(wrong._store) is None


@pytest.mark.parametrize("other", [CLUSTER, bytes(16)], ids=["the same cluster", "another cluster"])
def test_a_register_that_is_another_one_is_refused(other: bytes) -> None:
    _, register = made()
    strange = MemoryStore()
    found(strange, environment(50), other)
    wrong = StoreRegister(strange, register.founded, environment())
    for write in (CALLS["claim"], CALLS["join"], CALLS["note"], StoreRegister.records):
        with pytest.raises(ReplicationError, match="lies the register") as caught:
            write(wrong)
        assert caught.value.code is Code.REGISTER_UNAVAILABLE
    assert sorted(strange.objects) == ["REGISTER"]


# Listings that lag


@pytest.mark.parametrize("changes", range(1, 8))
def test_a_listing_that_lags_hides_no_epoch(changes: int) -> None:
    store, register = made()
    for epoch in (ONE, TWO, Epoch(3, 3)):
        register.claim(epoch, NODE, 1)
        register.record_branch(epoch, BRANCH)
        register.record_begun(epoch)
    want = register.records()
    store.add(stale_listing(changes, forever=True))
    assert StoreRegister(store, register.founded, environment()).records() == want


def test_what_others_put_there_is_passed_over() -> None:
    store, register = made()
    register.claim(ONE, NODE, 1)
    names = ("epochs/1.claim", "epochs/0000000g.claim", "epochs/00000000.claim", "epochs/00000007.claims", "notes/x.json")
    for name in (*names, "nodes/a-.json", "nodes/a.txt", "nodes/deep/b.json", "README"):
        store.inner.create(name, [b"x"])
    assert [record.epoch for record in register.records()] == [ONE]
    assert (register.nodes(), register.notes()) == ([], [])


# What may be said


@pytest.mark.parametrize("name", ["", "a/b", "..", ".a", "a-", "ü", "a" * 64, "a b"])
def test_a_name_that_no_node_can_have_is_refused(name: str) -> None:
    _, register = made()
    with pytest.raises(InvalidRequest):
        register.join(NODE._replace(name=name))


@pytest.mark.parametrize("reason", ["two\nlines", "x" * 1025])
def test_a_reason_that_cannot_be_shown_is_refused(reason: str) -> None:
    _, register = made()
    with pytest.raises(InvalidRequest, match="reason"):
        register.add_note(NOTE._replace(reason=reason))
    assert register.notes() == []


@pytest.mark.parametrize("number", [0, -1, 1 << 32])
def test_a_number_that_has_no_name_is_refused(number: int) -> None:
    _, register = made()
    with pytest.raises(ValueError, match="no number"):
        register.claim(Epoch(number, 1), NODE, 0)


# Opening by address


def test_a_register_is_opened_by_its_address() -> None:
    env = environment()
    url = "file:///srv/register"
    assert find_register(url, env) is None
    register = open_register(url, env, CLUSTER)
    assert (register.url, register.founded.cluster_id, register.kind) == (url, CLUSTER, f"store:{register.id}")
    again = find_register(url, env)
    assert again is not None and again.founded == open_register(url, env).founded == register.founded
    register.close()


@pytest.mark.parametrize("url", ["", "register", "http://x/y", "file://host/x", "s3://u:p@b/x"])
def test_an_address_that_cannot_be_one_is_refused(url: str) -> None:
    with pytest.raises(ReplicationError) as caught:
        open_register(url, environment())
    assert caught.value.code is Code.REGISTER_UNAVAILABLE and caught.value.hint and "archive" not in caught.value.message
