"""The archiver when the store misbehaves, when somebody else writes to the archive, and when it is told to end."""

from __future__ import annotations

import pytest

from kvserver.archive.archiver import ArchiverOptions
from kvserver.archive.failures import MAX_RETRY_MS, Failures
from kvserver.archive.store import StoreRefused, StoreUnavailable
from kvserver.base.archive_events import ArchiveFailing, ArchiveFencedOff, ArchiveRecovered
from kvserver.base.environment import Environment
from kvserver.engine.obsolete_files import ARCHIVE
from support.archiving import World
from support.clocks import ManualClock
from support.fault_store import (
    CALLS,
    REFUSED,
    SERVER_ERROR,
    UNAVAILABLE,
    Call,
    FaultStore,
    StoreFault,
    ambiguous,
    failing_store_calls,
    partial_upload,
    slow,
    spoiled,
    stale_listing,
)
from support.memory_store import MemoryStore


def retry(world: World, times: int = 12) -> None:
    """Let the archiver work, and time pass, until nothing fails any more."""
    for _ in range(times):
        world.archive()
        if not world.archiver.figures().error:
            return
        world.clock.advance_ms(MAX_RETRY_MS)


def ends_well(world: World) -> None:
    """Check that everything is archived and sound after all."""
    retry(world)
    assert world.archiver.figures().error == ""
    assert world.archived == world.database.sealed_segments()[-1].end.revision if world.database.sealed_segments() else True
    world.judge()


def faulty(*faults: StoreFault, segments: int = 3) -> tuple[World, FaultStore]:
    """Return a node with sealed and flushed segments, and its misbehaving store."""
    clock = ManualClock(auto_advance=True)
    store = FaultStore(MemoryStore(), faults, clock)
    world = World(store, clock=clock)
    world.segments(segments)
    world.flush()
    return world, store


# A store that cannot be reached


@pytest.mark.parametrize("error", [UNAVAILABLE, SERVER_ERROR, REFUSED], ids=["unavailable", "500", "credentials"])
def test_while_the_store_cannot_be_reached_the_log_is_kept_and_the_reason_told(error: object) -> None:
    world, store = faulty(StoreFault(error=error, forever=True))  # type: ignore[arg-type]
    for _ in range(5):
        world.archive()
        world.clock.advance_ms(MAX_RETRY_MS)
    assert world.on_disk() == [2, 4, 6, 8]
    assert dict(world.database.holds())[ARCHIVE] == 2
    figures = world.archiver.figures()
    assert (figures.unarchived_segments, figures.failures) == (3, 5)
    assert store.url in figures.error
    assert len(world.of(ArchiveFailing)) == 1, "told once, not each time"
    store.heal()
    ends_well(world)
    assert len(world.of(ArchiveRecovered)) == 1
    assert world.on_disk() == [8]


def test_nothing_goes_over_several_starts_without_the_store() -> None:
    world, store = faulty(StoreFault(forever=True))
    for _ in range(3):
        world.archive()
        world.restart()
        world.segments(1)
        world.flush()
    world.archive()
    assert min(world.on_disk()) == 2
    store.heal()
    ends_well(world)


def test_an_archive_that_cannot_be_opened_is_asked_again() -> None:
    world = World()
    world.segments(1)
    answers: list[object] = [StoreRefused("s3://bucket", "no", "do"), StoreUnavailable("s3://bucket", "gone"), world.store]

    def factory() -> object:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    world.archiver._store_factory = factory  # type: ignore[assignment]
    ends_well(world)
    told = [event.reason for event in world.of(ArchiveFailing)]
    assert told == ["the archive s3://bucket refuses: no; do", "the archive s3://bucket cannot be reached: gone"], "what helps"


def test_the_wait_grows_with_each_attempt_up_to_its_bound_and_is_not_the_same_for_all() -> None:
    world, store = faulty(StoreFault(forever=True))
    waits = []
    for _ in range(14):
        world.archive()
        rest_s = world.archiver._failures.rest_s()
        assert rest_s is not None
        waits.append(rest_s)
        assert not world.archiver.run_once(), "not before its time"
        world.clock.advance_ms(rest_s * 1000 + 1)
    for attempt, wait_s in enumerate(waits):
        bound_s = min(2**attempt, 60)
        assert bound_s / 2 <= wait_s <= bound_s
    assert len({round(wait_s, 3) for wait_s in waits[-8:]}) > 1
    assert store.counts.total() == 14


def test_whoever_asks_has_it_tried_at_once() -> None:
    world, store = faulty(StoreFault(forever=True))
    for _ in range(6):
        world.archive()
        world.clock.advance_ms(MAX_RETRY_MS / 2)
    world.archive()
    store.heal()
    assert not world.archiver.run_once()
    world.archiver.hurry()
    world.archive()
    assert world.archived == 7


def test_the_answer_to_an_ask_is_why_its_own_attempt_failed_and_not_what_failed_before() -> None:
    failures = Failures(Environment(), 1000, lambda event: None)
    failures.begun("a")
    failures.failed("a", OSError("from before"))
    failures.begun("b")
    ask = failures.ask()
    failures.forget_all_but(())  # given up while it is under way
    failures.failed("b", OSError("began before"))
    assert failures.answer[0] < ask
    failures.begun("b")
    failures.failed("b", OSError("of its own"))
    assert (failures.answer, failures.total) == ((ask, "of its own"), 3)


def test_an_attempt_that_began_before_somebody_asked_does_not_count_and_is_tried_again_at_once() -> None:
    world, store = faulty(StoreFault(forever=True, action=lambda: asks.append(world.archiver.hurry())))
    asks: list[int] = []
    assert world.archiver.run_once()
    assert world.archiver.figures().answer[0] == 0 < asks[-1], "what failed had begun before"
    assert world.archiver.run_once(), "no time has passed"
    assert world.archiver.figures().answer[0] == asks[0]
    store.heal()
    world.archive()
    assert world.archived == 7


@pytest.mark.parametrize("error", [UNAVAILABLE, SERVER_ERROR, REFUSED], ids=["unavailable", "500", "credentials"])
def test_any_one_call_may_fail(error: object) -> None:
    for store in failing_store_calls(MemoryStore, StoreFault(error=error)):  # type: ignore[arg-type]
        run_over(store)


@pytest.mark.parametrize("took_effect", [True, False])
def test_any_change_may_be_made_or_not_without_anybody_hearing_of_it(took_effect: bool) -> None:
    for store in failing_store_calls(MemoryStore, ambiguous(took_effect)):
        run_over(store)


@pytest.mark.parametrize("parts", [0, 1, 2])
def test_any_upload_may_end_half_way(parts: int) -> None:
    for store in failing_store_calls(MemoryStore, partial_upload(parts)):
        run_over(store)


def run_over(store: FaultStore) -> None:
    """Archive two epochs through a store of which one call misbehaves; all is archived in the end, and each segment once."""
    world = World(store)
    world.segments(2)
    world.flush()
    retry(world)
    world.restart()
    world.segments(1)
    world.flush()
    ends_well(world)
    entries = world.entries()
    assert len(set(entries)) == len(entries) == len(world.raw)
    assert world.of(ArchiveFencedOff) == []


@pytest.mark.parametrize("call", sorted(CALLS))
def test_a_slow_store_is_only_slow(call: Call) -> None:
    world, _ = faulty(slow(30_000, calls={call}, forever=True))
    ends_well(world)


@pytest.mark.parametrize("changes", [1, 3, 100])
def test_a_listing_that_lags_behind_misleads_nobody(changes: int) -> None:
    world, _ = faulty(stale_listing(changes, forever=True))
    ends_well(world)
    for _ in range(2):
        world.restart()
        world.segments(1)
        ends_well(world)


# What is read back


def test_what_does_not_read_back_as_it_was_put_is_not_archived() -> None:
    """The object stays for people to look at; the log keeps the segment."""
    flip = spoiled(lambda data: bytes([data[0] ^ 1]) + data[1:], forever=True)
    world, store = faulty()
    store.add(StoreFault(1, None, {"stream"}, spoil=flip.spoil, forever=True))
    retry(world, 3)
    assert world.entries() == []
    assert "was just put" in world.archiver.figures().error or "damaged" in world.archiver.figures().error
    assert world.on_disk() == [2, 4, 6, 8]
    store.heal()
    ends_well(world)


@pytest.mark.parametrize("content", [b"", b"something else", None], ids=["empty", "foreign", "cut off"])
def test_something_else_under_the_name_of_a_segment_is_damage(content: bytes | None) -> None:
    sound = World()
    sound.segments(1)
    sound.archive()
    store = sound.sound_store()
    assert isinstance(store, MemoryStore)
    (name,) = (info.name for info in store.list(sound.names.segments))
    whole = store.objects[name]
    for manifest in [info.name for info in store.list(sound.names.manifests)]:
        store.delete(manifest)
    store.objects[name] = whole[:-100] if content is None else content
    sound.restart()
    sound.flush()
    retry(sound, 3)
    assert name in sound.archiver.figures().error
    assert sound.entries() == []
    assert 2 in sound.on_disk()
    store.objects[name] = whole
    ends_well(sound)


def test_the_same_segment_put_by_an_attempt_that_died_is_recognised_whatever_its_level() -> None:
    world = World(options=ArchiverOptions(level=1))
    world.segments(1)
    world.archive()
    store = world.sound_store()
    for info in list(store.list(world.names.manifests)):
        store.delete(info.name)
    (before,) = (info.length for info in store.list(world.names.segments))
    world.options = ArchiverOptions(level=19)
    world.restart()
    world.archive()
    assert world.entries()[0].stored_length == before
    world.judge()
