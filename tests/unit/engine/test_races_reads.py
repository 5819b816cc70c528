"""Reads against flushes, drops and the end of history: exact at their revision, or refused by name, never in between."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from kvserver.base.errors import Code, KvError
from kvserver.base.types import Version
from kvserver.commit.requests import Batch, CompactHistory, CreateNamespace, Delete, DropNamespace, Put, PutRun
from kvserver.engine import scan
from kvserver.engine.database import Database
from kvserver.engine.scan import ScanChunk, ScanOptions
from kvserver.engine.upkeep import MAX_SCAN_PIN_S
from kvserver.storage.ranges import EVERYTHING
from support.fake_log import outcome
from support.stores import do, flush, peek, run_settling, settle, submit
from unit.engine.scene import Scene


@pytest.fixture
def scene() -> Scene:
    return Scene(history_ms=0, history_revisions=0, bucket_revisions=2)


def seen(versions: list[Version | None]) -> list[tuple[bytes, int, int] | None]:
    """Return value, mod_revision and version of each."""
    return [version and (version.value, version.mod_revision, version.version) for version in versions]


# Single reads


def test_rows_read_before_a_flush_and_used_after_it(scene: Scene) -> None:
    do(scene.db, PutRun(1, [b"a", b"b"], [b"1", b"1"]))
    flush(scene.db)
    do(scene.db, Put(1, b"b", b"2"))
    scene.begin_flush()
    before = scene.db.read(1, [b"a", b"b", b"c"], 4)
    do_not_tell = submit(scene.db, PutRun(1, [b"a", b"c"], [b"3", b"3"]))
    scene.end_flush()
    assert not before.done, "the flush was taken in first"
    scene.tables()
    between = scene.db.read(1, [b"a", b"b", b"c"], 4)
    flush(scene.db)
    assert outcome(do_not_tell).first_revision == 5
    for ticket in (before, between):
        assert seen(ticket.answer()) == [(b"1", 2, 1), (b"2", 4, 2), None]


def test_the_loop_hears_of_rows_only_after_the_flush_that_came_before_them(scene: Scene) -> None:
    do(scene.db, PutRun(1, [b"a", b"b"], [b"1", b"1"]))
    flush(scene.db)
    do(scene.db, Put(1, b"a", b"2"))
    scene.begin_flush()
    ticket = scene.db.read(1, [b"a", b"b"], 3)
    scene.tables()
    scene.tables()
    settle(scene.db)
    assert seen(ticket.answer()) == [(b"1", 2, 1), (b"1", 3, 1)]


def test_a_past_version_is_found_wherever_a_flush_puts_it_meanwhile(scene: Scene) -> None:
    for number in range(4):
        do(scene.db, PutRun(1, [b"a", b"b"], [b"%d" % number] * 2))
        flush(scene.db)
    do(scene.db, PutRun(1, [b"a", b"b"], [b"memory"] * 2))
    scene.begin_flush()
    tickets = {revision: scene.db.read(1, [b"a", b"b"], revision) for revision in range(1, 12)}
    scene.end_flush()
    settle(scene.db)
    for revision, ticket in tickets.items():
        newest_a = revision - revision % 2
        newest_b = revision - 1 + revision % 2
        wanted = [(number // 2, at) for number, at in ((newest_a, newest_a), (newest_b, newest_b)) if at > 1]
        assert [version and version.version for version in ticket.answer() if version] == [version for version, _ in wanted]
        assert [version.mod_revision for version in ticket.answer() if version] == [at for _, at in wanted]


def test_a_past_read_whose_history_is_given_up_half_way_is_refused_by_name(scene: Scene) -> None:
    for number in range(6):
        do(scene.db, Put(1, b"a", b"%d" % number))
        flush(scene.db)
    ticket = scene.db.read(1, [b"a"], 3)
    scene.tables()
    scene.loop.run()  # the newest row is too new: the past one is to be looked for
    assert not ticket.done
    submit(scene.db, CompactHistory(6))
    scene.log()
    scene.db.tick()
    assert scene.db._upkeep_worker.run_once(), "the rows go"
    settle(scene.db)
    error = outcome(ticket)
    assert isinstance(error, KvError)
    assert (error.code, error.details["oldest_readable_revision"]) == (Code.COMPACTED, "6")
    assert peek(scene.db, 1, b"a", 6) is not None


def test_a_past_read_in_a_namespace_whose_rows_go_half_way_is_exact_or_refused_by_name(scene: Scene) -> None:
    """The newest row was too new, so history is asked; meanwhile a drop has taken the newest rows."""
    number = do(scene.db, CreateNamespace("team")).namespace_id
    do(scene.db, Put(number, b"a", b"1"))
    flush(scene.db)
    do(scene.db, PutRun(number, [b"new", b"a"], [b"2"] * 2))
    flush(scene.db)
    tickets = [scene.db.read(number, [b"a", b"new"], revision) for revision in (3, 4, 5)]
    submit(scene.db, DropNamespace("team"))
    scene.begin_flush()
    scene.tables()  # the newest rows are read,
    scene.tables()  # then the flush that knows of the drop is taken in,
    scene.loop.run()  # and then the loop hears of both
    assert [ticket.done for ticket in tickets] == [False, False, True]
    assert scene.db._upkeep_worker.run_once(), "the rows go"
    settle(scene.db)
    assert seen(tickets[2].answer()) == [(b"2", 5, 2), (b"2", 4, 1)], "its rows were read in time"
    for ticket in tickets[:2]:
        error = outcome(ticket)
        assert isinstance(error, KvError)
        assert error.code is Code.UNKNOWN_NAMESPACE


# Scans


@pytest.fixture
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(scan, "SCAN_CHUNK_KEYS", 3)
    yield


KEYS = [b"%02d" % number for number in range(20)]


def chunk_of(scene: Scene, walk: AsyncIterator[ScanChunk]) -> ScanChunk:
    """Let everything move until the scan's next chunk is there."""

    async def take() -> ScanChunk:
        return await anext(walk)

    chunk = run_settling(scene.db, take())
    assert isinstance(chunk, ScanChunk)
    return chunk


def begin_scan(scene: Scene, namespace: int, revision: int, **options: Any) -> AsyncIterator[ScanChunk]:
    return scene.db.scan(namespace, EVERYTHING, revision, ScanOptions(**options))


@pytest.mark.usefixtures("_small_chunks")
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("in_tables", [False, True])
async def test_a_scan_across_flushes_is_of_one_revision(scene: Scene, in_tables: bool, reverse: bool) -> None:
    do(scene.db, PutRun(1, KEYS[::2], [b"old"] * 10))
    if in_tables:
        flush(scene.db)
    do(scene.db, PutRun(1, KEYS, [b"scanned"] * 20))
    revision = do(scene.db, Batch([Delete(1, KEYS[7]), Delete(1, KEYS[15])])).revision
    walk = begin_scan(scene, 1, revision, reverse=reverse)
    found: list[Version] = []
    chunks = 0
    while True:
        chunk = chunk_of(scene, walk)
        found.extend(chunk.versions)
        chunks += 1
        if chunk.done:
            break
        do(scene.db, PutRun(1, [*KEYS[chunks::3], b"%02d-new" % chunks], [b"newer"] * (len(KEYS[chunks::3]) + 1)))
        do(scene.db, Batch([Delete(1, key) for key in KEYS[chunks + 1 :: 4]]))
        if chunks % 3:
            flush(scene.db)
        if chunks == 3:
            scene.db.flusher._freeze()
    assert chunks > 4
    wanted = [key for number, key in enumerate(KEYS) if number not in (7, 15)]
    assert [version.key for version in found] == (wanted[::-1] if reverse else wanted)
    assert {version.value for version in found} == {b"scanned"}
    assert [version.version for version in found] == [2 - KEYS.index(version.key) % 2 for version in found]


@pytest.mark.usefixtures("_small_chunks")
@pytest.mark.parametrize("in_tables", [False, True])
async def test_a_scan_of_a_namespace_that_is_dropped_ends_by_name_when_the_drop_is_visible(scene: Scene, in_tables: bool) -> None:
    number = do(scene.db, CreateNamespace("team")).namespace_id
    revision = do(scene.db, PutRun(number, KEYS, [b""] * 20)).first_revision + 19
    if in_tables:
        flush(scene.db)
    walk = begin_scan(scene, number, revision)
    assert chunk_of(scene, walk).versions
    submit(scene.db, DropNamespace("team"))

    async def take() -> ScanChunk:
        return await anext(walk)

    def read_tables(db: Database) -> None:
        db._beside.run_once()
        scene.loop.run()

    chunk = run_settling(scene.db, take(), read_tables)
    assert chunk.versions, "nobody knows of the drop yet, and a crash may take it back"
    settle(scene.db)
    scene.db.tick()
    settle(scene.db)
    with pytest.raises(KvError) as refused:
        chunk_of(scene, walk)
    assert refused.value.code is Code.UNKNOWN_NAMESPACE


@pytest.mark.usefixtures("_small_chunks")
@pytest.mark.parametrize("in_tables", [False, True])
async def test_a_scan_whose_revision_is_given_up_ends_by_name(scene: Scene, in_tables: bool) -> None:
    do(scene.db, PutRun(1, KEYS, [b"1"] * 20))
    revision = scene.db.marks.visible
    if in_tables:
        flush(scene.db)
    walk = begin_scan(scene, 1, revision)
    assert len(chunk_of(scene, walk).versions) == 3
    do(scene.db, PutRun(1, KEYS, [b"2"] * 20))
    do(scene.db, CompactHistory(0))
    with pytest.raises(KvError) as refused:
        chunk_of(scene, walk)
    assert refused.value.code is Code.COMPACTED
    assert f"revision {revision}" in refused.value.message


@pytest.mark.usefixtures("_small_chunks")
async def test_the_window_waits_for_a_running_scan_but_not_for_ever() -> None:
    scene = Scene(history_ms=0, history_revisions=5, bucket_revisions=1)
    do(scene.db, PutRun(1, KEYS, [b"1"] * 20))
    revision = scene.db.marks.visible
    walk = begin_scan(scene, 1, revision)
    chunk_of(scene, walk)
    do(scene.db, PutRun(1, KEYS, [b"2"] * 20))
    scene.db.tick()
    flush(scene.db)
    assert scene.db.oldest_readable == revision
    assert {version.value for version in chunk_of(scene, walk).versions} == {b"1"}
    scene.clock.advance_ms(1000 * MAX_SCAN_PIN_S)
    scene.db.tick()
    settle(scene.db)
    assert scene.db.oldest_readable > revision
    with pytest.raises(KvError) as refused:
        chunk_of(scene, walk)
    assert refused.value.code is Code.COMPACTED


@pytest.mark.usefixtures("_small_chunks")
async def test_a_scan_that_ended_holds_the_window_no_longer() -> None:
    scene = Scene(history_ms=0, history_revisions=5, bucket_revisions=1)
    do(scene.db, PutRun(1, KEYS, [b"1"] * 20))
    walk = begin_scan(scene, 1, scene.db.marks.visible)
    chunk_of(scene, walk)
    await walk.aclose()  # type: ignore[attr-defined]
    del walk
    do(scene.db, PutRun(1, KEYS, [b"2"] * 20))
    scene.db.tick()
    settle(scene.db)
    assert scene.db.oldest_readable == scene.db.marks.visible - 5


# Histories


def test_the_history_of_a_key_across_a_flush_has_each_version_once(scene: Scene) -> None:
    for number in range(3):
        do(scene.db, Put(1, b"a", b"%d" % number))
        flush(scene.db)
    do(scene.db, Delete(1, b"a"))
    do(scene.db, PutRun(1, [b"a", b"a"], [b"3", b"4"]))
    scene.begin_flush()
    ticket = scene.db.key_history(1, b"a", 0, 0, 1 << 20)
    submit(scene.db, Put(1, b"a", b"not visible"))
    scene.end_flush()
    settle(scene.db)
    assert [(entry.revision, entry.version and entry.version.version) for entry in ticket.answer().entries] == [
        (7, 2),
        (6, 1),
        (5, None),
        (4, 3),
        (3, 2),
        (2, 1),
    ]
