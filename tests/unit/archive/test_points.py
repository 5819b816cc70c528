"""Named points: made of what can be restored, found again by name, and never against what retention does at the same time."""

from __future__ import annotations

import contextlib

import pytest

from kvserver.archive.catalog import read_catalog
from kvserver.archive.plan import RestoreTarget
from kvserver.archive.points import MAX_NOTE_LENGTH, create_point, delete_point, read_point
from kvserver.archive.records import PointRecord
from kvserver.archive.retention import RetentionPolicy, retain
from kvserver.archive.store import Store, StoreUnavailable
from kvserver.base.errors import InvalidRequest, KvError, RevisionError
from support.archives import ArchiveScene
from support.fault_store import FaultStore, StoreFault, ambiguous
from support.retaining import check_whole, environment, long_lived, possible


def made(scene: ArchiveScene, name: str, revision: int | None = None, note: str = "", store: Store | None = None) -> PointRecord:
    store = store if store is not None else scene.store
    return create_point(store, scene.cluster_id, name, RestoreTarget(revision), note, scene.clock)


def test_a_point_is_what_its_target_means_now() -> None:
    scene = long_lived(1)
    point = made(scene, "v1.0", 5, "before the release")
    assert point == read_point(scene.store, scene.cluster_id, "v1.0")
    assert (point.revision, point.time_ms, point.note) == (5, scene.time_of[5], "before the release")
    newest = made(scene, "end")
    at_time = create_point(scene.store, scene.cluster_id, "then", RestoreTarget(time_ms=scene.time_of[4]), "", scene.clock)
    assert (newest.revision, at_time.revision) == (7, 4)
    assert [one.name for one in read_catalog(scene.store, scene.cluster_id).points] == ["then", "v1.0", "end"]
    assert delete_point(scene.store, scene.cluster_id, "v1.0") == point
    with pytest.raises(InvalidRequest, match=r"holds no point 'v1\.0'"):
        read_point(scene.store, scene.cluster_id, "v1.0")


def test_the_same_again_does_no_harm_and_another_revision_is_refused() -> None:
    scene = long_lived(1)
    first = made(scene, "p", 5)
    scene.clock.advance_ms(1)
    assert made(scene, "p", 5) == first
    with pytest.raises(InvalidRequest, match="there is a point p already, at revision 5") as caught:
        made(scene, "p", 6)
    assert "kvctl archive point delete p" in caught.value.hint


@pytest.mark.parametrize("name", ["", "../x", "a/b", "A", "é", "x" * 64, "a\0", ".hidden", " ", "a\n"])
def test_names_that_are_none_are_refused(name: str) -> None:
    scene = long_lived(1)
    before = dict(scene.objects)
    with pytest.raises(InvalidRequest, match="is no name of a point"):
        made(scene, name)
    for ask in (read_point, delete_point):
        with pytest.raises(InvalidRequest, match="holds no point"):
            ask(scene.store, scene.cluster_id, name)
    assert scene.objects == before


@pytest.mark.parametrize("note", ["x" * (MAX_NOTE_LENGTH + 1), "two\nlines", "\x1b[31m", "\ud800"])
def test_notes_that_cannot_be_shown_are_refused(note: str) -> None:
    with pytest.raises(InvalidRequest, match="a note is one line"):
        made(long_lived(1), "p", note=note)


def test_what_cannot_be_restored_gets_no_name() -> None:
    scene = long_lived(3)
    with pytest.raises(RevisionError, match="after the newest"):
        made(scene, "p", 500)
    retain(environment(scene), scene.store, scene.cluster_id, RetentionPolicy(keep_backups=1))
    with pytest.raises(RevisionError, match="was given up by retention"):
        made(scene, "p", 3)
    assert read_catalog(scene.store, scene.cluster_id).points == ()


def test_what_retention_no_longer_promises_gets_no_name_though_it_is_still_there() -> None:
    scene = long_lived(3)
    made(scene, "kept", 6)
    retain(environment(scene), scene.store, scene.cluster_id, RetentionPolicy(keep_backups=1))
    assert 5 in possible(scene)
    with pytest.raises(RevisionError, match="revision 5 was given up by retention"):
        made(scene, "p", 5)
    assert [one.name for one in read_catalog(scene.store, scene.cluster_id).points] == ["kept"]


def test_an_answer_that_was_lost_is_settled() -> None:
    scene = long_lived(1)
    store = FaultStore(scene.store, [ambiguous(took_effect=True)])
    assert made(scene, "p", 5, store=store) == read_point(scene.store, scene.cluster_id, "p")
    store = FaultStore(scene.store, [ambiguous(took_effect=False)])
    with pytest.raises(StoreUnavailable):
        made(scene, "q", 5, store=store)


@pytest.mark.parametrize("at", range(1, 60))
def test_retention_at_any_moment_takes_nothing_from_a_point_that_was_made(at: int) -> None:
    scene = long_lived(3)
    policy = RetentionPolicy(keep_backups=1)
    store = FaultStore(
        scene.store,
        [StoreFault(at=at, error=None, action=lambda: retain(environment(scene), scene.store, scene.cluster_id, policy))],
    )
    with contextlib.suppress(KvError):
        made(scene, "p", 6, store=store)
    check_whole(scene)
    assert {point.revision for point in read_catalog(scene.store, scene.cluster_id).points} <= set(possible(scene))


@pytest.mark.parametrize("at", range(1, 60))
def test_a_point_at_any_moment_of_retention_keeps_what_it_needs_or_is_refused(at: int) -> None:
    scene = long_lived(3)

    def name_it() -> None:
        with contextlib.suppress(KvError):
            made(scene, "p", 6)

    store = FaultStore(scene.store, [StoreFault(at=at, error=None, action=name_it)])
    retain(environment(scene), store, scene.cluster_id, RetentionPolicy(keep_backups=1))
    assert {point.revision for point in read_catalog(scene.store, scene.cluster_id).points} <= set(possible(scene))
    check_whole(scene)


@pytest.mark.parametrize("at", range(1, 60))
def test_a_point_whose_answer_was_lost_is_checked_like_any_other(at: int) -> None:
    scene = long_lived(3)
    policy = RetentionPolicy(keep_backups=1)
    retaining = StoreFault(at=at, error=None, action=lambda: retain(environment(scene), scene.store, scene.cluster_id, policy))
    store = FaultStore(scene.store, [retaining, ambiguous(took_effect=True)])
    with contextlib.suppress(KvError):
        made(scene, "p", 6, store=store)
    assert {point.revision for point in read_catalog(scene.store, scene.cluster_id).points} <= set(possible(scene))
