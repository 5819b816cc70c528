"""The archive across changes of the primary: another node, with another log, goes on where the one before it stopped.

A node writes four segments of three commits (revisions 2 to 4, 5 to 7, 8 to 10, 11 to 13) and two more commits, archives some of
it, and ships a part to another one that becomes primary. What it has and archived beyond that part is no history any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from kvserver.archive.catalog import read_catalog
from kvserver.archive.plan import RestoreTarget, make_plan
from kvserver.archive.retention import RetentionPolicy, retain
from kvserver.archive.verify import verify_archive
from kvserver.base.archive_events import ArchiveFencedOff, ArchiveGap, ArchiveNeedsBackup
from kvserver.base.environment import Environment
from kvserver.base.errors import RevisionError
from kvserver.engine.obsolete_files import ARCHIVE
from support.archive_members import ArchiveCluster, Member, judge, restored
from support.memory_store import MemoryStore
from support.stores import content, settle


def written(archived: int = 0, store: MemoryStore | None = None) -> tuple[ArchiveCluster, Member]:
    """Return a primary with four segments, of which so many are archived, and two commits more."""
    cluster = ArchiveCluster(store)
    a = cluster.primary("a")
    for number in range(4):
        a.segments(1, commits=3)
        if number < archived:
            a.archive()
    a.write(2)
    return cluster, a


def successor(cluster: ArchiveCluster, a: Member, upto: int, name: str = "b") -> Member:
    """Return a node that has the other's log up to a revision, and is primary now."""
    b = cluster.follower(name)
    b.follow(a, upto)
    b.promote()
    assert b.database.history.epochs[-1][1].revision == upto
    return b


def goes_on(node: Member) -> None:
    """Check that a node archives all that it has sealed."""
    node.archive()
    figures = node.archiver.figures()
    assert (figures.fenced, figures.error, figures.unarchived_segments) == ("", "", 0)


def is_fenced(node: Member) -> str:
    """Check that a node archives nothing any more, says so, and keeps its log; return why."""
    node.segments(1)
    node.flush()
    log = node.on_disk()
    before = list(node.sound_store().list(node.names.manifests))
    node.archive()
    assert node.archiver.figures().fenced
    assert len(node.of(ArchiveFencedOff)) == 1
    assert node.on_disk() == log
    assert list(node.sound_store().list(node.names.manifests)) == before
    return node.archiver.figures().fenced


# Where the archive goes on


@pytest.mark.parametrize("upto", [2, 3, 4, 5, 7, 10, 12, 13, 14, 15])
@pytest.mark.parametrize("archived", [0, 1, 2, 4])
def test_the_new_primary_goes_on_whether_less_or_more_than_its_log_is_archived(archived: int, upto: int) -> None:
    cluster, a = written(archived)
    b = successor(cluster, a, upto)
    goes_on(b)
    assert b.archived == upto
    catalog = read_catalog(cluster.store, b.names.cluster_id)
    assert catalog.epochs[0].closing is not None, "closed before anything of the new epoch is there"
    judge(cluster, b)
    b.segments(2)
    goes_on(b)
    judge(cluster, b)
    assert "epoch 1" in is_fenced(a)
    judge(cluster, b)


@pytest.mark.parametrize("archived", [0, 1, 4])
def test_it_goes_on_also_when_its_own_epoch_has_sealed_segments_already(archived: int) -> None:
    cluster, a = written(archived)
    b = successor(cluster, a, 7)
    b.segments(3)
    goes_on(b)
    judge(cluster, b)
    b.restart()
    b.segments(1)
    goes_on(b)
    judge(cluster, b)


class Between:
    """A store in front of which something happens once, before the first new record of an epoch's manifest is created."""

    def __init__(self, inner: Any, begin: str, happens: Callable[[], None]) -> None:
        self.inner = inner
        self._begin = begin
        self._happens: Callable[[], None] | None = happens

    def create(self, name: str, parts: Iterable[bytes]) -> None:
        is_new = name.startswith(self._begin) and name not in self.inner.objects
        if is_new and self._happens is not None:
            happens, self._happens = self._happens, None
            happens()
        self.inner.create(name, parts)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@pytest.mark.parametrize("upto", [5, 7, 8, 10])
@pytest.mark.parametrize("archived", [0, 1, 2, 4])
def test_an_old_primary_that_still_archives_meanwhile_is_no_reason_to_stop(archived: int, upto: int) -> None:
    """It does not know of the new epoch yet, and may come first to a record of its own one; from its closing on it is fenced."""
    cluster, a = written(archived)
    b = successor(cluster, a, upto)
    a.segments(2)
    between = Between(b.store, b.names.epoch_manifest(1), lambda: goes_on(a))
    b.store = between  # type: ignore[assignment]
    b.segments(1)
    goes_on(b)
    assert between._happens is None
    judge(cluster, b)
    is_fenced(a)


def test_a_new_primary_that_shows_less_than_is_archived_tells_its_log_later() -> None:
    """Under a policy it shows nothing of what it recovered until a quorum has it; the archive may have it for long."""
    cluster, a = written(archived=2)
    b = successor(cluster, a, 7)
    marks = b.database.marks
    marks.visible, marks.replicated = 1, 0
    b.archive()
    assert b.archived == 7
    assert (b.log.archived, marks.archived) == ([], 0)
    marks.move_replicated(7)
    b.archive()
    assert marks.archived == 7
    marks.check()


def test_a_node_set_back_to_an_old_copy_of_its_folder_is_fenced_in_a_cluster_too() -> None:
    """It was primary in both epochs: nobody but itself has lost what the archive has."""
    _, a = written()
    old = a.disk.clone()
    a.segments(1)
    goes_on(a)
    a.database.close()
    old.kill()
    a.disk = a.node.disk = old.clone()
    a.open()
    assert "set back" in is_fenced(a)


# Coming back


@pytest.mark.parametrize("archived", [0, 2, 4])
@pytest.mark.parametrize("second_archives", [True, False])
def test_a_node_that_is_primary_again_after_another_one_goes_on(archived: int, second_archives: bool) -> None:
    cluster, a = written(archived)
    b = cluster.follower("b")
    b.follow(a)
    b.promote()
    a.die_and_follow()
    b.segments(2)
    if second_archives:
        goes_on(b)
    b.write(1)
    a.follow(b, archived=0)
    a.promote()
    assert [epoch.number for epoch, _ in a.database.history.epochs] == [1, 2, 3]
    goes_on(a)
    a.segments(1)
    goes_on(a)
    judge(cluster, a)
    assert is_fenced(b)
    judge(cluster, a)


def test_a_rewound_node_that_is_primary_again_lets_its_own_lost_segments_be() -> None:
    cluster, a = written(archived=4)
    b = successor(cluster, a, 8)
    b.segments(2)
    again = cluster.follower("a2")
    again.follow(b)
    again.promote()
    again.segments(1)
    goes_on(again)
    judge(cluster, again)
    assert is_fenced(a)


def test_an_epoch_that_history_went_on_without_stops_nobody() -> None:
    """Another node was primary, closed the epoch before, and is gone; a third one that never heard of it goes on."""
    cluster, a = written(archived=4)
    b = successor(cluster, a, 10)
    b.segments(2)
    goes_on(b)
    c = successor(cluster, a, 8, "c")
    assert [epoch.number for epoch, _ in c.database.history.epochs] == [1, 3]
    goes_on(c)
    c.segments(2)
    goes_on(c)
    judge(cluster, c)
    assert read_catalog(cluster.store, c.names.cluster_id).abandoned == (b.database.history.current,)
    c.restart()
    c.segments(1)
    goes_on(c)
    judge(cluster, c)


def test_what_an_epoch_that_was_given_up_has_kept_out_of_the_archive_is_not_lost_silently() -> None:
    """It has closed the manifest before the place where the third node's log left it: nothing can be listed there any more."""
    cluster, a = written(archived=1)
    b = successor(cluster, a, 5)
    goes_on(b)
    c = successor(cluster, a, 13, "c")
    assert "it ends at (epoch 1, revision 5" in is_fenced(c)


# What is read


def test_every_revision_and_time_is_that_of_the_history_that_counts() -> None:
    cluster, a = written(archived=4)
    times: dict[int, int] = {}
    cluster.clock.advance_ms(1000)
    b = successor(cluster, a, 8)
    lost_ms = cluster.clock.now_ms()
    for _ in range(5):
        cluster.clock.advance_ms(1000)
        b.write(1)
        times[b.database.marks.visible] = cluster.clock.now_ms()
    b.seal()
    goes_on(b)
    for revision in range(2, 14):
        copy = restored(cluster, revision)
        assert copy.marks.visible == revision
        assert content(copy) == content(b.database, revision)
        assert copy.history.epochs[0][0] == a.database.history.current
    for revision, time_ms in times.items():
        assert restored(cluster, time_ms=time_ms).marks.visible == revision
    assert restored(cluster, time_ms=lost_ms).marks.visible == 8, "what came later in the old epoch was never"
    with pytest.raises(RevisionError):
        make_plan(cluster.store, b.names.cluster_id, RestoreTarget(14))


def test_backups_of_the_old_primary_count_up_to_the_branch() -> None:
    cluster, a = written(archived=2)
    b = cluster.follower("b")
    b.follow(a, 14)
    before = a.backup()
    a.write(3)
    after_branch = a.backup()
    b.follow(a, 15)
    b.promote()
    b.segments(2)
    goes_on(b)
    catalog = read_catalog(cluster.store, b.names.cluster_id)
    assert before.position.revision == 15
    assert catalog.bases() == [before]
    assert "no part of history" in catalog.misfit(after_branch)
    assert make_plan(cluster.store, b.names.cluster_id, RestoreTarget()).base == before
    a.write(5)
    late = a.backup()
    newest = b.backup()
    assert read_catalog(cluster.store, b.names.cluster_id).bases() == [before, newest]
    assert late.position.revision > newest.position.revision, "though its revision is the highest there is"
    judge(cluster, b)


@pytest.mark.parametrize("upto", [8, 13])
def test_retention_across_the_branch_keeps_what_is_restored_from(upto: int) -> None:
    cluster, a = written(archived=4)
    b = cluster.follower("b")
    b.follow(a, upto)
    a.backup()
    b.promote()
    b.segments(1)
    goes_on(b)
    kept = b.backup()
    b.segments(2)
    goes_on(b)
    env = Environment(b.disk, cluster.clock, lambda length: bytes(length))
    retain(env, cluster.store, b.names.cluster_id, RetentionPolicy(1, 0))
    assert read_catalog(cluster.store, b.names.cluster_id).bases() == [kept]
    report = verify_archive(cluster.store, b.names.cluster_id, workers=1)
    assert report.is_whole, (report.damaged, report.problems)
    assert content(restored(cluster)) == b.contents()
    b.restart()
    b.segments(1)
    goes_on(b)
    assert content(restored(cluster)) == b.contents()


# What a follower holds


def test_a_follower_keeps_what_the_primary_has_not_archived() -> None:
    cluster, a = written(archived=2)
    b = cluster.follower("b")
    b.follow(a)
    assert a.database.marks.archived == 7
    b.flush()
    assert dict(b.database.holds())[ARCHIVE] == 8
    assert b.on_disk()[0] == 8
    a.archive()
    b.promote()
    b.segments(1)
    goes_on(b)
    judge(cluster, b)


@pytest.mark.parametrize("archived", [0, 4])
def test_a_follower_that_never_heard_how_much_is_archived_keeps_everything(archived: int) -> None:
    cluster, a = written(archived)
    b = cluster.follower("b")
    b.follow(a, archived=0)
    b.flush()
    assert b.on_disk()[0] == 2
    b.promote()
    goes_on(b)
    judge(cluster, b)


def test_a_follower_holds_what_is_not_here_yet_whatever_was_said_of_it() -> None:
    """The primary before has archived more than it had shipped; the next one gives the same revisions to other commits."""
    cluster, a = written(archived=4)
    b, c = cluster.follower("b"), cluster.follower("c")
    b.follow(a, 7)
    c.follow(a, 7)
    c.database.hear(7, 13)
    settle(c.database)
    assert dict(c.database.holds())[ARCHIVE] == 8
    b.promote()
    b.segments(2)
    c.follow(b)
    c.flush()
    assert c.on_disk()[0] == 8, "nothing of the new epoch is archived yet"
    c.promote()
    c.segments(1)
    goes_on(c)
    judge(cluster, c)


def test_a_new_primary_whose_log_lacks_what_the_archive_lacks_says_so() -> None:
    cluster, a = written(archived=1)
    b = cluster.follower("b")
    b.hold_archive = False
    b.restart()
    b.follow(a, archived=0)
    b.write = lambda *args: None  # type: ignore[method-assign]
    b.flush()
    assert b.on_disk()[0] > 5
    b.hold_archive = True
    b.promote()
    del b.__dict__["write"]
    b.segments(1)
    goes_on(b)
    (gap,) = b.of(ArchiveGap)
    assert (gap.first_revision, gap.last_revision) == (5, 13)
    assert b.of(ArchiveNeedsBackup) == []
    catalog = read_catalog(cluster.store, b.names.cluster_id)
    assert catalog.problems == ()
    assert len(catalog.runs) == 2
    with pytest.raises(RevisionError, match="behind revision 4 log is missing"):
        make_plan(cluster.store, b.names.cluster_id, RestoreTarget())
    b.backup()
    assert content(restored(cluster)) == b.contents()
