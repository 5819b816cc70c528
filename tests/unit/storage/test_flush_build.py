"""The table of a flush against a model that resolves every version at once: the same state, cut into flushes however."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.base import failpoints
from kvserver.base.errors import Corruption
from kvserver.base.types import CREATION_REVISION
from kvserver.storage import flush_build, rows
from kvserver.storage.flush_build import build_table
from kvserver.storage.flush_job import FlushOutcome
from kvserver.storage.resolve import DROPPED_ROW
from kvserver.storage.rows import Statistics
from kvserver.wal.commit_record import DELETE, PUT, Effect, encode_put_run
from unit.storage.flush_scenes import (
    BUCKET,
    CLUSTER_ID,
    NOTHING,
    DictTables,
    ListWriter,
    Model,
    Store,
    delete,
    frame_of,
    job_of,
    position,
    put,
)

KEYS = [b"a", b"a\0", b"a\0\1", b"a\1", b"b", b"\xff"]
_effects = st.builds(
    Effect,
    op=st.sampled_from([PUT, PUT, PUT, DELETE]),
    namespace=st.sampled_from([0, 1, 1, 1, 2, 3]),
    key=st.sampled_from(KEYS),
    value=st.binary(max_size=3),
    create_revision=st.integers(2, 50),
    version=st.sampled_from([0, 0, 0, 0, 7]),
    lease=st.just(0),
)
_drops = st.sampled_from([2, 3]).map(lambda number: [put(DROPPED_ROW + number.to_bytes(4, "big"), b"name", 0)])
_commits = st.one_of(
    st.lists(_effects, min_size=1, max_size=1),
    st.lists(_effects, min_size=1, max_size=1),
    st.lists(_effects, min_size=2, max_size=5, unique_by=lambda effect: (effect.namespace, effect.key)),
    _drops,
)
_groups = st.lists(_commits, min_size=1, max_size=6)


def _clean(effect: Effect) -> Effect:
    """Make the fields fit together: a deletion has no value and no figures, a blind put no creation."""
    if effect.op == DELETE:
        return effect._replace(value=b"", create_revision=0, version=0)
    return effect if effect.version else effect._replace(create_revision=0)


def _carry_out(history: list[tuple[list[list[Effect]], bool, int]]) -> tuple[Model, Store]:
    """Apply groups to the model and the store; after some of them a flush, which gives up revisions."""
    model, store = Model(), Store()
    dropped: set[int] = set()
    for group, flush, give_up in history:
        commits: list[list[Effect]] = []
        for commit in group:
            effects = [_clean(effect) for effect in commit if effect.namespace not in dropped]
            for effect in effects:
                if effect.namespace == 0 and effect.key.startswith(DROPPED_ROW):
                    dropped.add(effect.key[-1])
            if effects:
                commits.append(effects)
                model.commit(effects)
        if commits:
            store.group(commits)
        store.dropped = dropped
        if flush and store.frames:
            store.flush(min(give_up, model.revision))
    if store.frames or not store.flushed:
        store.flush()
    return model, store


@given(st.lists(st.tuples(_groups, st.booleans(), st.integers(0, 30)), min_size=1, max_size=6))
def test_every_kept_revision_reads_as_the_model_has_it(history: list[tuple[list[list[Effect]], bool, int]]) -> None:
    model, store = _carry_out(history)
    for revision in range(max(store.keep_from, CREATION_REVISION), model.revision + 1):
        for namespace in {0, 1, 2, 3} - store.dropped:
            for key in KEYS:
                expected = model.states[revision].get((namespace, key))
                assert store.read(namespace, key, revision) == expected, (namespace, key, revision)
    if model.revision == CREATION_REVISION:
        return
    flushed = rows.decode_flushed(store.tables.rows_held[rows.FLUSHED_KEY])
    assert flushed.position == position(model.revision)
    for namespace in range(4):
        row = store.tables.rows_held.get(rows.statistics_key(namespace))
        statistics = NOTHING if namespace in store.dropped else model.statistics(namespace)
        assert (rows.decode_statistics(row) if row is not None else NOTHING) == statistics


@given(st.lists(st.tuples(_groups, st.booleans(), st.just(0)), min_size=1, max_size=6))
def test_one_flush_and_many_make_the_same_rows(history: list[tuple[list[list[Effect]], bool, int]]) -> None:
    _, cut = _carry_out(history)
    _, whole = _carry_out([(group, False, 0) for group, _, _ in history])
    left, right = (
        {
            key: row
            for key, row in store.tables.rows_held.items()
            # Each flush leaves its time, and the history of a namespace as it was before the flush that drops it.
            if key[:1] != rows.TIMES and not (key[:1] == rows.HISTORY and key[12] in store.dropped)
        }
        for store in (cut, whole)
    )
    assert left == right


def test_the_rows_of_one_flush_are_these() -> None:
    store = Store()
    store.group([[put(b"old", b"1")], [put(b"gone", b"22")]])  # 2, 3
    store.flush()
    store.group([[put(b"old", b"333")], [delete(b"gone")], [put(b"new", b"")], [put(b"new", b"4")], [put(b"brief")]])  # 4 to 8
    store.group([[delete(b"brief")], [put(b"system", b"s", 0)]])  # 9, 10
    outcome, writer = store.flush()
    encoded = rows.encode_version
    statistics = {0: Statistics(1, 6, 1), 1: Statistics(2, 6, 4)}
    assert outcome.statistics == statistics
    assert writer.rows == [
        (rows.data_key(0, b"system"), encoded(10, 10, 1, b"s")),
        (rows.data_key(1, b"gone"), None),
        (rows.data_key(1, b"new"), encoded(7, 6, 2, b"4")),
        (rows.data_key(1, b"old"), encoded(4, 2, 2, b"333")),
        (rows.history_key(1, 1, b"gone", 5), encoded(3, 3, 1, b"22")),
        (rows.history_key(1, 1, b"new", 7), encoded(6, 6, 1, b"")),
        (rows.history_key(1, 1, b"old", 4), encoded(2, 2, 1, b"1")),
        (rows.history_key(2, 1, b"brief", 9), encoded(8, 8, 1, b"v")),
        (rows.FLUSHED_KEY, rows.encode_flushed(rows.Flushed(CLUSTER_ID, position(10), 1010, BUCKET))),
        (rows.statistics_key(0), rows.encode_statistics(statistics[0])),
        (rows.statistics_key(1), rows.encode_statistics(statistics[1])),
        (rows.time_key(10), rows.encode_time(1010)),
    ]


ONCE, OFTEN = (b"once", 5), [(b"often", 3), (b"often", 4), (b"often", 5)]


@pytest.mark.parametrize(("keep_from", "kept"), [(2, [*OFTEN, ONCE]), (3, [*OFTEN[1:], ONCE]), (4, [OFTEN[2], ONCE]), (5, [])])
def test_versions_superseded_at_or_below_keep_from_are_not_kept(keep_from: int, kept: list[tuple[bytes, int]]) -> None:
    store = Store()
    store.group([[put(b"once"), put(b"often")]])  # 2
    store.flush()
    store.group([[put(b"often")], [put(b"often")], [put(b"once"), put(b"often")]])  # 3 to 5
    _, writer = store.flush(keep_from)
    history = [rows.parse_history_key(key)[2:] for key, _ in writer.rows if key[:1] == rows.HISTORY]
    assert sorted(history) == kept


def test_a_dropped_namespace_leaves_zeros_and_no_rows() -> None:
    store = Store()
    store.group([[put(b"k", namespace=2)], [put(b"k", namespace=3)]])
    store.flush()
    drop = [put(DROPPED_ROW + (2).to_bytes(4, "big"), b"name", 0)]
    store.group([[put(b"k", namespace=2)], [delete(b"k", 3)], [put(b"other", namespace=2)], drop])
    outcome, writer = store.flush()
    assert outcome.statistics == {0: Statistics(1, 12, 4), 2: NOTHING, 3: NOTHING}
    mentioned = {int.from_bytes(key[1:5], "big") for key, _ in writer.rows if key[:1] == rows.DATA}
    assert mentioned == {0, 3}
    assert {rows.parse_history_key(key)[1] for key, _ in writer.rows if key[:1] == rows.HISTORY} == {3}


def test_rows_beyond_what_is_kept_in_memory_are_fetched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def table() -> tuple[list[tuple[bytes, bytes | None]], list[int]]:
        store = Store()
        keys = [b"k%d" % number for number in range(9)]
        store.group([[put(key, bytes(10))] for key in keys])
        store.flush()
        store.tables.asked.clear()
        store.group([[put(key)] for key in keys])
        store.group([[put(key)] for key in keys[-2:]])
        return store.flush()[1].rows, store.tables.asked

    expected, once = table()
    monkeypatch.setattr(flush_build, "KEPT_BYTES", 4 * (10 + rows.VERSION_LENGTH))
    rows_written, twice = table()
    assert rows_written == expected
    assert sum(once) == 10  # and one of statistics
    assert sum(twice) == 10 + 5


def test_large_rows_are_fetched_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flush_build, "FETCH_BYTES", 1000)
    monkeypatch.setattr(flush_build, "FETCH_KEYS", 64)
    store = Store()
    keys = [b"%03d" % number for number in range(200)]
    store.group([[put(key, bytes(5 if number < 100 else 300))] for number, key in enumerate(keys)])
    store.flush()
    store.tables.asked.clear()
    store.group([[put(key)] for key in keys])
    store.flush()
    asked = store.tables.asked[1:]
    assert sum(asked) == 200
    assert asked[0] == 8, "nothing is known at first"
    assert max(asked) == 33, "small ones: as many as fit"
    assert asked[-20:-1] == [3] * 19, "large ones: as many as fit"


def test_frames_that_are_not_the_range_are_a_mistake() -> None:
    frame = frame_of(2, [encode_put_run(1, [b"k"], [b"v"])])
    with pytest.raises(ValueError, match="the groups end at revision 2, the job at 3"):
        build_table(job_of(1, 3), [frame], DictTables(), ListWriter())


@pytest.mark.parametrize(
    ("first_revision", "payload", "what"),
    [
        (3, encode_put_run(1, [b"k"], [b"v"]), "a group begins at revision 3, where 2 is the next"),
        (2, encode_put_run(1, [b"k"] * 2, [b"v"] * 2), "the group holds 2 commits, not 1"),
        (2, encode_put_run(1, [b"k"], [b"v"]) + b"\0\0\0", "has a rest"),
        (2, encode_put_run(1, [b"k"], [b"v"])[:-1], "which does not fit"),
        (2, b"", "the group holds 0 commits, not 1"),
    ],
)
def test_a_group_that_does_not_parse_is_corruption_of_its_file(first_revision: int, payload: bytes, what: str) -> None:
    frame = frame_of(first_revision, [payload])
    writer = ListWriter()
    with pytest.raises(Corruption, match=what) as caught:
        build_table(job_of(1, 2), [frame], DictTables(), writer)
    assert (caught.value.path, caught.value.offset) == (frame.path, 4096)
    assert writer.abandoned


@pytest.mark.parametrize(
    ("key", "row"),
    [
        (rows.data_key(1, b"k"), rows.encode_version(2, 2, 1, b"")[:-1]),
        (rows.data_key(1, b"k"), b"\1" + rows.encode_version(2, 2, 1, b"")[1:]),
        (rows.data_key(1, b"k"), rows.encode_version(3, 3, 1, b"")),
        (rows.statistics_key(1), bytes(23)),
    ],
)
def test_a_row_that_cannot_be_is_corruption(key: bytes, row: bytes) -> None:
    tables, writer = DictTables(), ListWriter()
    tables.rows_held[key] = row
    with pytest.raises(Corruption, match="tables"):
        build_table(job_of(2, 3), [frame_of(3, [encode_put_run(1, [b"k"], [b"v"])])], tables, writer)
    assert writer.abandoned


def test_a_failure_of_the_disk_is_passed_on_and_the_table_abandoned() -> None:
    class Full(ListWriter):
        def finish(self) -> int:
            raise OSError(28, "full")

        def abandon(self) -> None:
            super().abandon()
            raise OSError(5, "worse")

    writer = Full()
    with pytest.raises(OSError, match="full"):
        build_table(job_of(1, 2), [frame_of(2, [encode_put_run(1, [b"k"], [b"v"])])], DictTables(), writer)
    assert writer.abandoned


def test_the_places_of_the_campaigns_are_passed_in_order() -> None:
    passed: list[str] = []

    class Noting(ListWriter):
        def finish(self) -> int:
            passed.append("finish")
            return super().finish()

    for name in ("flush.build.before_finish", "flush.build.after_finish"):
        failpoints.arm(name, lambda name=name: passed.append(name))  # type: ignore[misc]
    try:
        build_table(job_of(1, 2), [frame_of(2, [encode_put_run(1, [b"k"], [b"v"])])], DictTables(), Noting())
    finally:
        failpoints.disarm_all()
    assert passed == ["flush.build.before_finish", "finish", "flush.build.after_finish"]


def test_the_outcome_says_how_long_it_took() -> None:
    class Ticking:
        def __init__(self) -> None:
            self.at = 5.0

        def now_ms(self) -> int:
            raise AssertionError("the time in rows is the job's")

        def monotonic(self) -> float:
            self.at += 2.5
            return self.at

        def wait(self, condition: object, timeout_s: float | None) -> bool:
            raise AssertionError("nothing waits")

    frame = frame_of(2, [encode_put_run(1, [b"k"], [b"v"])])
    outcome = build_table(job_of(1, 2), [frame], DictTables(), ListWriter(), Ticking())
    assert outcome == FlushOutcome(4, 0, 4, {1: Statistics(1, 1, 1)}, 2.5)
