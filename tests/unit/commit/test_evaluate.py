"""Requests into effects: conditions, version figures, spans, limits, and what each negative answer shows."""

from __future__ import annotations

import pytest

from kvserver.base.errors import Code, ConditionFailed, InvalidRequest, KvError, NamespaceExists, UnknownNamespace
from kvserver.base.limits import MAX_COMMIT_BYTES, MAX_COMMIT_MUTATIONS
from kvserver.base.types import FIRST_NAMESPACE, SYSTEM_NAMESPACE, Version
from kvserver.commit.evaluate import Evaluated, evaluate
from kvserver.commit.requests import (
    Batch,
    CompactHistory,
    CreateNamespace,
    Delete,
    DeleteSpan,
    DropNamespace,
    Mutation,
    Put,
    PutRun,
    Request,
    Single,
    judged_keys,
)
from kvserver.commit.state import State
from kvserver.storage.ranges import EVERYTHING, KeySpan, prefix_span
from kvserver.wal.commit_record import DELETE, PUT, Effect


class Store:
    """A state, and commits made in it one after the other."""

    def __init__(self) -> None:
        self.state = State()
        self.assigned = 1

    def evaluate(self, request: Single) -> Evaluated:
        return evaluate(request, self.state, self.assigned)

    def commit(self, request: Single) -> int:
        """Carry the request out; return its revision."""
        done = self.evaluate(request)
        assert done.effects
        self.assigned += 1
        self.state.apply(done.effects, self.assigned)
        return self.assigned

    def put(self, key: bytes, value: bytes = b"value", if_revision: int | None = None) -> int:
        return self.commit(Put(1, key, value, if_revision))

    def delete(self, key: bytes) -> int:
        return self.commit(Delete(1, key))

    def get(self, key: bytes) -> Version | None:
        return self.state.memtable.get(1, key, self.assigned)

    def refusal(self, request: Single) -> KvError:
        """Return the refusal of a request."""
        with pytest.raises(KvError) as refused:
            self.evaluate(request)
        return refused.value


@pytest.fixture
def store() -> Store:
    return Store()


# Conditions of puts


def test_a_blind_put_looks_at_nothing_and_says_so(store: Store) -> None:
    store.put(b"a")
    assert store.evaluate(Put(1, b"a", b"2")) == Evaluated([Effect(PUT, 1, b"a", b"2")], 0, put=1)


def test_a_put_if_absent_makes_the_first_version(store: Store) -> None:
    done = store.evaluate(Put(1, b"a", b"1", if_revision=0))
    assert done == Evaluated([Effect(PUT, 1, b"a", b"1", create_revision=2, version=1)], 0, put=1)


def test_a_put_at_a_revision_makes_one_version_more_than_what_was_there(store: Store) -> None:
    """It knows the revision, but not which version that was: the figures may lie in a table, which it does not read."""
    created = store.put(b"a")
    store.put(b"other")
    newest = store.put(b"a")
    store.put(b"other")
    done = store.evaluate(Put(1, b"a", b"3", if_revision=newest))
    assert done.effects == [Effect(PUT, 1, b"a", b"3")]
    last = store.put(b"a", b"3", if_revision=newest)
    assert store.get(b"a") == Version(b"a", b"3", created, last, 3)


def test_figures_of_conditional_puts_are_those_that_a_blind_put_would_come_to(store: Store) -> None:
    twin = Store()
    last = 0
    for number in range(6):
        if number == 3:
            twin.delete(b"a")
            store.delete(b"a")
            last = 0
        last = store.put(b"a", b"%d" % number, if_revision=last)
        twin.put(b"a", b"%d" % number)
        assert store.get(b"a") == twin.get(b"a")
    assert store.get(b"a") == Version(b"a", b"5", 6, 8, 3)


@pytest.mark.parametrize("make", [Put, Delete])
def test_a_condition_that_does_not_hold_names_key_and_newest_revision(store: Store, make: type[Put]) -> None:
    def request(wanted: int) -> Single:
        return Put(1, b"a", b"x", wanted) if make is Put else Delete(1, b"a", wanted)

    revision = store.put(b"a")
    store.put(b"b")
    for wanted, said in ((0, "if_absent"), (revision + 1, f"if_revision={revision + 1}"), (revision - 1, "if_revision=1")):
        error = store.refusal(request(wanted))
        assert isinstance(error, ConditionFailed)
        assert (error.code, error.key, error.mod_revision) == (Code.CONDITION_FAILED, b"a", revision)
        assert said in error.message
        assert f"its newest version is of revision {revision}" in error.message
        assert error.depends_on == revision
    store.evaluate(request(revision))


def test_a_condition_on_a_key_that_never_was_shows_nothing(store: Store) -> None:
    store.put(b"b")
    error = store.refusal(Put(1, b"a", b"x", if_revision=7))
    assert isinstance(error, ConditionFailed)
    assert (error.mod_revision, error.depends_on) == (0, 0)
    assert "it does not exist" in error.message


def test_after_a_deletion_a_key_is_absent_and_the_deletion_is_shown(store: Store) -> None:
    created = store.put(b"a")
    deleted = store.delete(b"a")
    for wanted in (created, deleted):
        error = store.refusal(Put(1, b"a", b"x", if_revision=wanted))
        assert isinstance(error, ConditionFailed)
        assert (error.mod_revision, error.depends_on) == (0, deleted)
    done = store.evaluate(Put(1, b"a", b"x", if_revision=0))
    assert done.effects == [Effect(PUT, 1, b"a", b"x", create_revision=deleted + 1, version=1)]


def test_versions_restart_after_a_deletion_whatever_kind_of_put_follows(store: Store) -> None:
    store.put(b"a")
    store.put(b"a")
    store.delete(b"a")
    blind = store.put(b"a")
    assert store.get(b"a") == Version(b"a", b"value", blind, blind, 1)
    store.delete(b"a")
    conditional = store.put(b"a", if_revision=0)
    assert store.get(b"a") == Version(b"a", b"value", conditional, conditional, 1)


# Deletes


def test_a_delete_of_what_exists_is_an_effect(store: Store) -> None:
    store.put(b"a")
    assert store.evaluate(Delete(1, b"a")) == Evaluated([Effect(DELETE, 1, b"a", b"")], 0, deleted=1)


def test_a_delete_of_what_never_was_shows_nothing(store: Store) -> None:
    store.put(b"b")
    assert store.evaluate(Delete(1, b"a")) == Evaluated([], 0)
    assert store.evaluate(Delete(1, b"a", if_revision=0)) == Evaluated([], 0)


def test_a_delete_of_what_was_deleted_shows_the_deletion(store: Store) -> None:
    store.put(b"a")
    deleted = store.delete(b"a")
    store.put(b"b")
    assert store.evaluate(Delete(1, b"a")) == Evaluated([], deleted)
    assert store.evaluate(Delete(1, b"a", if_revision=0)) == Evaluated([], deleted)


# Spans


def test_a_span_is_deleted_key_by_key_without_what_is_deleted_already(store: Store) -> None:
    for key in (b"a", b"b", b"c", b"d"):
        store.put(key)
    store.delete(b"c")
    store.commit(Put(2, b"b", b"another namespace"))
    done = store.evaluate(DeleteSpan(1, KeySpan(b"b", b"d")))
    assert done.effects == [Effect(DELETE, 1, b"b", b"")]
    assert (done.put, done.deleted) == (0, 1)
    done = store.evaluate(DeleteSpan(1, EVERYTHING))
    assert [effect.key for effect in done.effects] == [b"a", b"b", b"d"]


@pytest.mark.parametrize("span", [KeySpan(b"x", b"y"), KeySpan(b"b", b"a"), prefix_span(b"ab")])
def test_a_span_that_holds_nothing_depends_on_everything(store: Store, span: KeySpan) -> None:
    store.put(b"a")
    assert store.evaluate(DeleteSpan(1, span)) == Evaluated([], store.assigned)


def test_a_span_of_too_many_keys_is_refused_whole(store: Store) -> None:
    keys = [b"%06d" % number for number in range(MAX_COMMIT_MUTATIONS + 1)]
    store.state.memtable.put_run(1, keys, [b""] * len(keys), 2)
    store.assigned = len(keys) + 1
    error = store.refusal(DeleteSpan(1, EVERYTHING))
    assert isinstance(error, InvalidRequest)
    assert (error.code, error.depends_on) == (Code.RANGE_TOO_LARGE, store.assigned)
    assert "in parts" in error.hint
    assert len(store.evaluate(DeleteSpan(1, KeySpan(keys[0], keys[-1]))).effects) == MAX_COMMIT_MUTATIONS


def test_a_span_of_too_many_bytes_is_refused(store: Store) -> None:
    keys = [b"%04d" % number + bytes(8000) for number in range(MAX_COMMIT_BYTES // 8016 + 1)]
    store.state.memtable.put_run(1, keys, [b""] * len(keys), 2)
    assert store.refusal(DeleteSpan(1, EVERYTHING)).code is Code.RANGE_TOO_LARGE
    assert store.evaluate(DeleteSpan(1, KeySpan(keys[1], b""))).deleted == len(keys) - 1


# Batches


def test_a_batch_is_one_commit_of_all_its_effects(store: Store) -> None:
    store.put(b"b")
    newest = store.put(b"c")
    request = Batch([Put(1, b"a", b"1"), Delete(1, b"b"), Put(2, b"a", b"2", 0), Put(1, b"c", b"3", newest), Delete(1, b"x")])
    done = store.evaluate(request)
    assert done.effects == [
        Effect(PUT, 1, b"a", b"1"),
        Effect(DELETE, 1, b"b", b""),
        Effect(PUT, 2, b"a", b"2", 4, 1),
        Effect(PUT, 1, b"c", b"3"),
    ]
    assert (done.put, done.deleted) == (3, 1)


def test_conditions_and_spans_of_a_batch_see_the_state_before_it(store: Store) -> None:
    store.put(b"p1")
    request = Batch([Put(1, b"p2", b""), DeleteSpan(1, prefix_span(b"p")), Delete(1, b"q"), Put(1, b"r", b"", if_revision=0)])
    done = store.evaluate(request)
    assert [(effect.op, effect.key) for effect in done.effects] == [(PUT, b"p2"), (DELETE, b"p1"), (PUT, b"r")]


DUPLICATES: list[list[Mutation]] = [
    [Put(1, b"a", b"1"), Put(1, b"a", b"2")],
    [Put(1, b"a", b"1"), Delete(1, b"a")],
    [Delete(1, b"a"), DeleteSpan(1, EVERYTHING)],
    [DeleteSpan(1, prefix_span(b"a")), DeleteSpan(1, EVERYTHING)],
]


@pytest.mark.parametrize("mutations", DUPLICATES, ids=["put put", "put delete", "delete span", "span span"])
def test_a_key_named_twice_is_refused(store: Store, mutations: list[Mutation]) -> None:
    store.put(b"a")
    store.put(b"b")
    error = store.refusal(Batch(mutations))
    assert (error.code, error.depends_on) == (Code.DUPLICATE_KEY, store.assigned)
    assert "b'a'" in error.message


def test_the_same_key_in_two_namespaces_is_not_the_same_key(store: Store) -> None:
    assert len(store.evaluate(Batch([Put(1, b"a", b""), Put(2, b"a", b"")])).effects) == 2


def test_a_batch_with_nothing_to_do_shows_the_newest_deletion_it_met(store: Store) -> None:
    for key in (b"a", b"b"):
        store.put(key)
    store.delete(b"b")
    newest = store.delete(b"a")
    store.put(b"c")
    assert store.evaluate(Batch([Delete(1, b"a"), Delete(1, b"b"), Delete(1, b"x")])) == Evaluated([], newest)
    assert store.evaluate(Batch([])) == Evaluated([], 0)


def test_a_condition_that_fails_in_a_batch_shows_that_those_before_it_held(store: Store) -> None:
    old = store.put(b"old")
    newest = store.put(b"new")
    error = store.refusal(Batch([Put(1, b"new", b"x", if_revision=newest), Put(1, b"old", b"x", if_revision=0)]))
    assert isinstance(error, ConditionFailed)
    assert (error.key, error.mod_revision) == (b"old", old)
    assert error.depends_on >= newest


def test_a_batch_of_too_many_mutations_is_refused(store: Store) -> None:
    puts: list[Mutation] = [Put(1, b"%06d" % number, b"") for number in range(MAX_COMMIT_MUTATIONS + 1)]
    error = store.refusal(Batch(puts))
    assert (error.code, error.depends_on) == (Code.COMMIT_TOO_LARGE, store.assigned)
    assert len(store.evaluate(Batch(puts[1:])).effects) == MAX_COMMIT_MUTATIONS


def test_a_batch_of_too_many_bytes_is_refused(store: Store) -> None:
    puts: list[Mutation] = [Put(1, b"%d" % number, bytes(1 << 20)) for number in range(3)]
    error = store.refusal(Batch(puts))
    assert error.code is Code.COMMIT_TOO_LARGE
    assert "split it" in error.hint
    store.evaluate(Batch(puts[1:]))


# Namespaces


def test_creating_a_namespace_writes_its_row_and_the_next_id(store: Store) -> None:
    done = store.evaluate(CreateNamespace("orders"))
    assert {effect.namespace for effect in done.effects} == {SYSTEM_NAMESPACE}
    assert (len(done.effects), done.namespace_id, done.put) == (2, FIRST_NAMESPACE, 1)
    store.commit(CreateNamespace("orders"))
    assert store.evaluate(CreateNamespace("other")).namespace_id == FIRST_NAMESPACE + 1


def test_a_namespace_that_exists_shows_its_creation(store: Store) -> None:
    created = store.commit(CreateNamespace("orders"))
    store.put(b"a")
    error = store.refusal(CreateNamespace("orders"))
    assert isinstance(error, NamespaceExists)
    assert error.depends_on == created
    assert store.refusal(CreateNamespace("")).depends_on == 1


def test_dropping_a_namespace_takes_its_row_away_and_leaves_a_mark(store: Store) -> None:
    number = store.state.next_namespace_id
    store.commit(CreateNamespace("orders"))
    done = store.evaluate(DropNamespace("orders"))
    assert [(effect.op, effect.namespace) for effect in done.effects] == [(DELETE, SYSTEM_NAMESPACE), (PUT, SYSTEM_NAMESPACE)]
    assert (done.deleted, done.namespace_id) == (1, number)
    dropped = store.commit(DropNamespace("orders"))
    assert store.state.dropped[number].drop_revision == dropped
    again = store.evaluate(CreateNamespace("orders"))
    assert again.namespace_id == number + 1, "its number is never used again"


def test_what_does_not_exist_cannot_be_dropped_nor_the_default_namespace(store: Store) -> None:
    store.put(b"a")
    error = store.refusal(DropNamespace("orders"))
    assert isinstance(error, UnknownNamespace)
    assert error.depends_on == store.assigned, "that there is none shows all that was done"
    error = store.refusal(DropNamespace(""))
    assert (error.code, "kvctl delete" in error.hint) == (Code.INVALID_NAMESPACE_NAME, True)


def test_every_write_to_a_dropped_namespace_is_refused_and_shows_the_drop(store: Store) -> None:
    number = store.state.next_namespace_id
    store.commit(CreateNamespace("orders"))
    dropped = store.commit(DropNamespace("orders"))
    store.put(b"a")
    requests: list[Single] = [
        Put(number, b"a", b""),
        Put(number, b"a", b"", 0),
        Delete(number, b"a"),
        DeleteSpan(number, EVERYTHING),
        Batch([Put(1, b"a", b""), Delete(number, b"a")]),
    ]
    for request in requests:
        error = store.refusal(request)
        assert (error.code, error.depends_on) == (Code.UNKNOWN_NAMESPACE, dropped)


# History


def test_history_is_given_up_by_a_commit_that_only_moves_forward(store: Store) -> None:
    for _ in range(5):
        store.put(b"a")
    commit = store.commit(CompactHistory(4))
    assert (store.state.oldest_readable(commit - 1), store.state.oldest_readable(commit)) == (1, 4)
    for already in (1, 3, 4):
        assert store.evaluate(CompactHistory(already)) == Evaluated([], commit), "it shows the commit that did it"
    store.commit(CompactHistory(0))
    assert store.state.oldest_readable(store.assigned) == store.assigned - 1, "none named: the newest one"


def test_history_that_does_not_exist_yet_cannot_be_given_up(store: Store) -> None:
    store.put(b"a")
    error = store.refusal(CompactHistory(3))
    assert (error.code, error.depends_on) == (Code.FUTURE_REVISION, 2)
    assert error.hint


# What has to be read before a request can be judged


@pytest.mark.parametrize(
    ("request_", "keys"),
    [
        (Put(1, b"a", b""), []),
        (Put(1, b"a", b"", 0), [(1, b"a")]),
        (Put(1, b"a", b"", 7), [(1, b"a")]),
        (Delete(1, b"a"), [(1, b"a")]),
        (PutRun(1, [b"a"], [b""]), []),
        (Batch([Put(1, b"a", b""), Delete(2, b"b"), Put(1, b"c", b"", 3)]), [(2, b"b"), (1, b"c")]),
        (DeleteSpan(1, EVERYTHING), []),
        (CreateNamespace("orders"), []),
    ],
    ids=lambda value: type(value).__name__,
)
def test_blind_writes_read_nothing_and_others_only_their_own_keys(request_: Request, keys: list[tuple[int, bytes]]) -> None:
    assert judged_keys(request_) == keys
