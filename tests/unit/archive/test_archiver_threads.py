"""The archiver on its own threads: who waits is told, and an end is an end whatever the store does."""

from __future__ import annotations

import threading

from kvserver.archive.archiver import ArchiverOptions
from kvserver.archive.crew import Crew, Job
from kvserver.base.archive_events import ArchiveFailing, ArchiveRecovered, SegmentArchived
from kvserver.base.clock import SystemClock
from support.archiving import World
from support.clocks import ManualClock
from support.fault_store import (
    FaultStore,
    StoreFault,
)
from support.memory_store import MemoryStore


def faulty(*faults: StoreFault, segments: int = 3) -> tuple[World, FaultStore]:
    """Return a node with sealed and flushed segments, and its misbehaving store."""
    clock = ManualClock(auto_advance=True)
    store = FaultStore(MemoryStore(), faults, clock)
    world = World(store, clock=clock)
    world.segments(segments)
    world.flush()
    return world, store


def threaded(segments: int, commits: int = 2, **options: int) -> World:
    """Return a node with sealed segments and an archiver whose clock is the machine's, for threads."""
    world = World(options=ArchiverOptions(**options))
    world.segments(segments, commits)
    world.archiver = world.make_archiver(clock=SystemClock())
    return world


def test_a_stopped_archiver_has_archived_what_was_sealed() -> None:
    world = threaded(3)
    run_threads(world, lambda: None)
    assert world.archived == 7
    world.judge()


def test_a_store_that_hangs_holds_up_neither_the_ladder_nor_the_end() -> None:
    entered, released = threading.Event(), threading.Event()

    def hang() -> None:
        entered.set()
        released.wait(60)

    world, _ = faulty(StoreFault(error=None, action=hang, calls={"create"}, where=lambda name: name.endswith(".kva")))
    world.archiver = world.make_archiver(clock=SystemClock())

    def meanwhile() -> None:
        assert entered.wait(60)
        world.archiver.wake()
        assert world.archiver.figures().workers_busy >= 1

    run_threads(world, meanwhile, stop_s=0.01)
    assert world.archived < 7
    released.set()


def test_an_end_waits_once_however_many_threads_hang() -> None:
    class Hanging:
        def join(self, timeout_s: float) -> None:
            waited.append(timeout_s)

        def is_alive(self) -> bool:
            return True

    waited: list[float] = []
    crew = Crew("hanging", 0, lambda: None)
    crew._threads = [Hanging() for _ in range(64)]  # type: ignore[misc]
    assert not crew.stop(0.2)
    assert (len(waited), sum(waited)) == (64, 0.2)


def test_an_end_does_not_wait_for_what_fails() -> None:
    world, store = faulty(StoreFault(forever=True))
    world.archiver = world.make_archiver(clock=SystemClock())
    run_threads(world, lambda: None, stop_s=60)
    assert store.counts.total() <= 2


def test_an_end_does_not_wait_for_the_rate() -> None:
    world = World(options=ArchiverOptions(rate_bytes_per_s=1))
    world.segments(6)
    world.archiver = world.make_archiver(clock=SystemClock())
    begun = threading.Event()
    take = world.archiver._limiter.take

    def taking(length: int) -> None:
        begun.set()
        take(length)

    world.archiver._limiter.take = taking  # type: ignore[method-assign]
    run_threads(world, lambda: begun.wait(60), stop_s=0.01)
    assert world.archived < 13


def test_many_segments_on_several_threads_are_listed_in_order() -> None:
    world = threaded(40, commits=1, workers=4)
    run_threads(world, lambda: None)
    assert world.archived == 41
    revisions = [event.last_revision for event in world.of(SegmentArchived)]
    assert revisions == sorted(revisions)
    world.judge()


def test_an_error_of_the_log_itself_does_not_end_the_thread() -> None:
    world = threaded(2)
    answers, answered = [RuntimeError("not now")], threading.Event()
    sealed = world.log.sealed

    def once() -> object:
        if answers:
            raise answers.pop()
        answered.set()
        return sealed()

    world.log.sealed = once  # type: ignore[method-assign, assignment]
    run_threads(world, answered.wait)
    assert world.archived == 5
    assert [event.reason for event in world.of(ArchiveFailing)] == ["not now"]
    assert len(world.of(ArchiveRecovered)) == 1


def run_threads(world: World, meanwhile: object, stop_s: float = 60.0) -> None:
    """Run the archiver on its threads beside a function, and end it."""
    archiver = world.archiver
    archiver.start()
    try:
        meanwhile()  # type: ignore[operator]
    finally:
        archiver.stop(stop_s)


class Panic(BaseException):
    """What a library written in another language raises; no Exception."""


def test_a_panic_is_a_failure_like_any_other_and_the_thread_goes_on() -> None:
    told = threading.Semaphore(0)
    crew = Crew("crew", 1, told.release)
    crew.start()

    def panic() -> None:
        raise Panic("at line 7")

    for work in (panic, lambda: None):
        crew.do(Job("a job", work, lambda result: None, lambda: None))
        assert told.acquire(timeout=60)
    first, second = (done.result for done in crew.results)
    assert isinstance(first, Exception)
    assert "Panic: at line 7" in str(first)
    assert second is None
    assert crew.stop(60)
