"""A follower: the same bytes, the same content at every revision, nothing shown too early, and every step survives a crash."""

from __future__ import annotations

from typing import Any

import pytest

from kvserver.base.errors import Code, NotPrimary
from kvserver.base.options import TableOptions
from kvserver.base.paths import parse_segment
from kvserver.base.types import Role
from kvserver.commit.requests import (
    Batch,
    CompactHistory,
    CreateNamespace,
    Delete,
    DeleteSpan,
    DropNamespace,
    Put,
    PutRun,
    ReadRun,
    Request,
)
from kvserver.storage.ranges import EVERYTHING
from support.fake_log import outcome
from support.logs import PATHS
from support.memdisk import LOST
from support.memfs import MemoryFileSystem
from support.stores import content, do, flush, histories, run_settling, settle, submit
from unit.engine.followed import Node, Pair, chunks, seal, ship, take, write_history


def segments(disk: MemoryFileSystem) -> dict[str, bytes]:
    """Return the content of each segment of a node, by name."""
    return {path.name: data for path, data in disk.contents().items() if path.parent == PATHS.wal and parse_segment(path.name)}


def key_history(database: Any, key: bytes) -> list[tuple[int, bytes | None]]:
    ticket = database.key_history(1, key, 0, 0, 1 << 20)
    settle(database)
    return [(entry.revision, entry.version.value if entry.version else None) for entry in ticket.answer().entries]


# The same history


@pytest.mark.parametrize("most_bytes", [1, 4096, 5000, 1 << 20])
def test_content_scans_and_history_are_equal_at_every_revision(most_bytes: int) -> None:
    pair = Pair()
    write_history(pair.primary)
    pair.ship(most_bytes)
    assert histories(pair.follower) == histories(pair.primary)
    assert key_history(pair.follower, b"a") == key_history(pair.primary, b"a")
    assert pair.follower.namespaces() == pair.primary.namespaces()
    assert pair.follower.log_end() == pair.primary.log_end()
    assert pair.follower.history.epochs == pair.primary.history.epochs
    pair.follower.marks.check()


def test_the_log_is_the_primarys_byte_for_byte_also_after_a_clean_stop() -> None:
    pair = Pair()
    for _ in range(3):
        write_once = len(segments(pair.a.disk))
        do(pair.primary, Put(1, b"k%d" % write_once, b"v"))
        pair.ship()
        seal(pair.primary)
    do(pair.primary, Put(1, b"last", b"v"))
    pair.ship()
    pair.follower.close()
    ours, theirs = segments(pair.b.disk), segments(pair.a.disk)
    assert ours.keys() == theirs.keys()
    assert all(theirs[name].startswith(data.rstrip(b"\0")) for name, data in ours.items())
    assert pair.b.open(Role.FOLLOWER).log_end() == pair.primary.log_end()


def test_an_epoch_that_begins_is_part_of_the_followers_history() -> None:
    pair = Pair()
    do(pair.primary, Put(1, b"a", b"1"))
    pair.ship()
    pair.primary.close()
    pair.primary = pair.a.open(Role.PRIMARY)
    pair.ship()
    assert pair.follower.history.current.number == 2
    assert pair.follower.history.epochs == pair.primary.history.epochs
    pair.b.disk.kill()
    assert pair.b.open(Role.FOLLOWER).history.epochs == pair.primary.history.epochs


# What is shown


def test_nothing_is_shown_before_the_primary_was_heard_to_show_it() -> None:
    pair = Pair()
    do(pair.primary, PutRun(1, [b"a", b"b", b"c"], [b"1", b"2", b"3"]))
    ship(pair.primary, pair.follower)
    marks = pair.follower.marks
    assert (marks.durable, marks.applied, marks.visible) == (4, 4, 1)
    pair.follower.hear(3)
    assert marks.visible == 3
    assert set(content(pair.follower)) == {("", b"a"), ("", b"b")}
    pair.follower.hear(99)
    assert marks.visible == 4
    marks.check()


def test_a_mark_heard_in_an_earlier_connection_shows_nothing() -> None:
    pair = Pair()
    do(pair.primary, Put(1, b"a", b"1"))
    pair.follower.hear(50)
    pair.follower.contact_lost()
    ship(pair.primary, pair.follower)
    assert (pair.follower.marks.applied, pair.follower.marks.visible) == (2, 1)
    pair.follower.hear(2)
    assert pair.follower.marks.visible == 2


def test_after_a_restart_only_what_is_in_tables_is_shown_until_the_primary_was_heard() -> None:
    pair = Pair()
    do(pair.primary, Put(1, b"a", b"1"))
    pair.ship()
    assert flush(pair.follower) == 2
    do(pair.primary, Put(1, b"b", b"2"))
    pair.ship()
    pair.b.disk.kill()
    again = pair.b.open(Role.FOLLOWER)
    assert (again.marks.durable, again.marks.applied, again.marks.visible) == (3, 3, 2)
    reading = again.reading_at(0, None)
    assert not reading.done
    assert again.reading_at(2, None).answer() == 2
    again.hear(3)
    assert reading.answer() == 3


# Writes


WRITES: list[Request] = [
    Put(1, b"k", b"v"),
    Put(1, b"k", b"v", if_revision=0),
    PutRun(1, [b"k"], [b"v"]),
    Delete(1, b"k"),
    DeleteSpan(1, EVERYTHING),
    Batch([Put(1, b"k", b"v"), Delete(1, b"a")]),
    CreateNamespace("new"),
    DropNamespace("orders"),
    CompactHistory(0),
]


@pytest.mark.parametrize("request_", WRITES, ids=lambda request: type(request).__name__)
@pytest.mark.parametrize("memory", [False, True])
def test_every_kind_of_write_is_refused_with_the_primarys_address(request_: Request, memory: bool) -> None:
    pair = Pair()
    write_history(pair.primary)
    pair.ship()
    flush(pair.follower)
    before = pair.follower.log_end()
    pair.follower.pipeline.primary = "a:7400"
    error = outcome(submit(pair.follower, request_, memory))
    assert isinstance(error, NotPrimary)
    assert (error.code, error.details) == (Code.NOT_PRIMARY, {"primary": "a:7400"})
    pin = run_settling(pair.follower, pair.follower.prepare([request_]))
    assert isinstance(outcome(pair.follower.submit(request_, lambda done: done, memory, pin)), NotPrimary)
    assert isinstance(outcome(pair.follower.seal()), NotPrimary)
    settle(pair.follower)
    assert pair.follower.log_end() == before
    assert pair.follower.pipeline.refused >= 2


def test_reads_within_a_stream_are_answered_at_what_is_visible() -> None:
    pair = Pair()
    do(pair.primary, PutRun(1, [b"a", b"a"], [b"1", b"2"]))
    ship(pair.primary, pair.follower)
    pair.follower.hear(2)
    for found in (
        submit(pair.follower, ReadRun(1, [b"a", b"b"])),
        pair.follower.pipeline.read_now(ReadRun(1, [b"a", b"b"]), lambda one: one),
    ):
        settle(pair.follower)
        versions, depends_on = found.answer()
        assert (versions[0].value, versions[1], depends_on) == (b"1", None, 2)


# Flushes


def test_nothing_is_flushed_before_it_is_visible() -> None:
    pair = Pair()
    write_history(pair.primary)
    ship(pair.primary, pair.follower)
    pair.follower.hear(5)
    flushing = pair.follower.flush()
    settle(pair.follower)
    assert not flushing.done
    assert pair.follower.marks.flushed == 1
    pair.hear()
    assert flushing.answer() == pair.primary.marks.visible == pair.follower.marks.flushed
    assert histories(pair.follower) == histories(pair.primary)


@pytest.mark.parametrize("heard", range(1, 13))
def test_a_follower_that_flushes_all_the_time_has_the_same_content_after_a_crash(heard: int) -> None:
    pair = Pair(tables=TableOptions(memtable_keys=1))
    write_history(pair.primary)
    for chunk in chunks(pair.primary, pair.follower.log_end(), 1):
        take(pair.follower, *chunk)
        pair.follower.hear(min(heard, pair.follower.marks.durable))
        settle(pair.follower)
        assert pair.follower.marks.flushed <= pair.follower.marks.visible <= heard
        pair.follower.marks.check()
    pair.b.disk = pair.b.disk.power_loss(lambda _: LOST)
    pair.follower = pair.b.open(Role.FOLLOWER, tables=TableOptions(memtable_keys=1))
    pair.ship()
    assert pair.follower.marks.flushed > 1
    assert content(pair.follower) == content(pair.primary)
    assert pair.follower.log_end() == pair.primary.log_end()


def test_what_recovery_froze_is_not_flushed_before_it_is_visible() -> None:
    pair = Pair()
    write_history(pair.primary)
    ship(pair.primary, pair.follower)
    pair.b.disk.kill()
    pair.follower = pair.b.open(Role.FOLLOWER, tables=TableOptions(memtable_keys=1))
    assert pair.follower.state.view.frozen
    pair.follower.tick()
    settle(pair.follower)
    assert pair.follower.marks.flushed == 1
    pair.hear()
    pair.follower.tick()
    settle(pair.follower)
    assert pair.follower.marks.flushed > 1
    assert content(pair.follower) == content(pair.primary)


# Restarts


@pytest.mark.parametrize("kill", ["kill", "power loss"])
def test_a_follower_that_is_stopped_after_every_chunk_goes_on_where_it_was(kill: str) -> None:
    pair = Pair()
    write_history(pair.primary)
    seal(pair.primary)
    write_more = [b"k%d" % number for number in range(4)]
    do(pair.primary, PutRun(1, write_more, write_more))
    steps = 0
    while True:
        chunk = next(chunks(pair.primary, pair.follower.log_end(), 1), None)
        if chunk is None:
            break
        end = take(pair.follower, *chunk)
        steps += 1
        if kill == "kill":
            pair.b.disk.kill()
        else:
            pair.b.disk = pair.b.disk.power_loss(lambda _: LOST)
        pair.follower = pair.b.open(Role.FOLLOWER)
        assert pair.follower.log_end() == end, "what was answered is durable"
    assert steps > 10
    pair.hear()
    assert histories(pair.follower) == histories(pair.primary)


def test_a_chunk_that_was_not_answered_may_be_lost_and_is_asked_for_again() -> None:
    pair = Pair()
    write_history(pair.primary)
    pair.ship()
    end = pair.follower.log_end()
    do(pair.primary, Put(1, b"late", b"v"))
    (chunk,) = chunks(pair.primary, end)
    pair.follower._log.take(*chunk)  # written, and the machine stops before the sync
    pair.b.disk = pair.b.disk.power_loss(lambda _: LOST)
    pair.follower = pair.b.open(Role.FOLLOWER)
    assert pair.follower.log_end() == end
    pair.ship()
    assert content(pair.follower) == content(pair.primary)


# Another role


def test_a_follower_becomes_primary_under_a_claimed_epoch_with_all_its_data() -> None:
    pair = Pair()
    write_history(pair.primary)
    pair.ship()
    flush(pair.follower)
    do(pair.primary, Put(1, b"late", b"v"))
    ship(pair.primary, pair.follower)  # received, and never shown
    before, old = content(pair.primary), pair.primary.history.epochs
    branch = pair.follower.log_end().position
    claimed = pair.b.claim()
    pair.follower.close()
    promoted = pair.b.open(Role.PRIMARY, claimed=claimed)
    assert content(promoted) == before
    assert promoted.history.epochs == [*old, (claimed, branch)]
    assert pair.register.held[claimed.number].branch == branch
    assert pair.register.held[claimed.number].begun
    assert do(promoted, Put(1, b"new", b"w")).revision == branch.revision + 1
    assert promoted.reading_at(0, (1, branch.revision)).answer() == branch.revision + 1


def test_the_old_primary_follows_and_its_own_segment_is_gone_on_with() -> None:
    pair = Pair()
    write_history(pair.primary)
    pair.ship()
    claimed = pair.b.claim()
    pair.follower.close()
    pair.a.disk = pair.a.disk.power_loss(lambda _: LOST)
    promoted = pair.b.open(Role.PRIMARY, claimed=claimed)
    do(promoted, Put(1, b"new", b"w"))
    own = set(segments(pair.a.disk))
    demoted = pair.a.open(Role.FOLLOWER)
    assert demoted.marks.applied == pair.primary.marks.durable
    ship(promoted, demoted)
    demoted.hear(promoted.marks.visible)
    assert len(segments(pair.a.disk)) == len(own) + 1
    assert histories(demoted) == histories(promoted)
    assert demoted.history.epochs == promoted.history.epochs
    pair.a.disk.kill()
    again = pair.a.open(Role.FOLLOWER)
    again.hear(promoted.marks.visible)
    assert histories(again) == histories(promoted)


def test_a_follower_of_a_follower_has_the_same() -> None:
    pair = Pair()
    write_history(pair.primary)
    pair.ship()
    third = Node("c", pair.register).open(Role.FOLLOWER, pair.cluster_id)
    ship(pair.follower, third)
    third.hear(pair.follower.marks.visible, source_lag_ms=70)
    assert histories(third) == histories(pair.primary)
    assert third.lag_ms() == 70
