"""Named points: revisions that somebody gave a name, so that retention keeps what restoring them needs."""

from __future__ import annotations

from kvserver.archive.errors import no_plan
from kvserver.archive.manifest_chain import given_up_below
from kvserver.archive.names import POINT_NAME, ArchiveNames
from kvserver.archive.plan import RestoreTarget, make_plan
from kvserver.archive.records import MAX_RECORD_BYTES, PointRecord, decode_point, encode_point
from kvserver.archive.store import ObjectExists, ObjectMissing, Store, StoreUnavailable
from kvserver.base.clock import Clock
from kvserver.base.errors import Code, InvalidRequest, RevisionError

MAX_NOTE_LENGTH = 1000
"""Characters of a note."""


def create_point(store: Store, cluster_id: bytes, name: str, target: RestoreTarget, note: str, clock: Clock) -> PointRecord:
    """Give a name to what a target means now; durable on return. The same name for the same revision again does no harm.

    Raises InvalidRequest for a name or note that cannot be one, and for a name that another revision has, RevisionError
    (NO_RESTORE_PLAN) for a target that cannot be restored, Corruption, StoreError.
    """
    if not POINT_NAME.fullmatch(name):
        what = f"{name[:64]!r} is no name of a point"
        raise InvalidRequest(Code.INVALID_FIELD, what, "take up to 63 of a-z, 0-9, '.', '_', '-', a letter or digit first")
    if len(note) > MAX_NOTE_LENGTH or not note.isprintable():
        what = f"a note is one line of at most {MAX_NOTE_LENGTH} characters that can be printed"
        raise InvalidRequest(Code.INVALID_FIELD, what, "shorten it")
    plan = make_plan(store, cluster_id, target)
    _check_promised(store, cluster_id, plan.revision)
    record = PointRecord(name, cluster_id, plan.revision, plan.time_ms, note, clock.now_ms())
    try:
        store.create(ArchiveNames(cluster_id).point(name), [encode_point(record)])
    except (ObjectExists, StoreUnavailable) as error:
        try:
            found = read_point(store, cluster_id, name)
        except InvalidRequest:
            raise error from None
        if found.revision != record.revision:
            raise InvalidRequest(
                Code.INVALID_FIELD,
                f"there is a point {name} already, at revision {found.revision}",
                f"take another name, or delete that one with: kvctl archive point delete {name}",
            ) from None
        if found != record:
            return found  # it was there before; else the answer was lost on the way, and this is ours
    try:
        _check_promised(store, cluster_id, plan.revision)  # retention may have begun meanwhile, and not have seen the point
    except RevisionError:
        store.delete(ArchiveNames(cluster_id).point(name))
        raise
    return record


def read_point(store: Store, cluster_id: bytes, name: str) -> PointRecord:
    """Return a point. Raises InvalidRequest where there is none of the name, Corruption, StoreError."""
    if POINT_NAME.fullmatch(name):
        object_name = ArchiveNames(cluster_id).point(name)
        try:
            return decode_point(object_name, store.read(object_name, limit=MAX_RECORD_BYTES))
        except ObjectMissing:
            pass
    what = f"the archive {store.url} holds no point {name[:64]!r}"
    raise InvalidRequest(Code.INVALID_FIELD, what, "list them with: kvctl archive list")


def delete_point(store: Store, cluster_id: bytes, name: str) -> PointRecord:
    """Delete a point, and return what it was: retention no longer keeps anything for it. Raises as ``read_point``."""
    record = read_point(store, cluster_id, name)
    store.delete(ArchiveNames(cluster_id).point(name))
    return record


def _check_promised(store: Store, cluster_id: bytes, revision: int) -> None:
    """Check that retention does not remove what the revision needs, perhaps at this moment. Raises RevisionError, Corruption."""
    floor = given_up_below(store, ArchiveNames(cluster_id))
    if revision + 1 < floor:
        what = f"revision {revision} was given up by retention, which promises revisions from {floor - 1} on"
        raise no_plan(what, "restore it now, if that is still possible, and keep what was restored")
