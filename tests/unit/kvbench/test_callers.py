"""Callers on a client that does as the test says: every operation once, latency from the intended moment, errors by code."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import kvclient
from kvbench import callers, histogram, threaded, workload
from kvbench.callers import AsyncCallers
from kvbench.options import RunOptions
from kvbench.recording import PhaseResult
from kvbench.threaded import ThreadCallers

Options = Callable[..., RunOptions]
START_NS = 10**9
MS = 10**6
REFUSED = kvclient.NotWritten("DISK_FULL", "no room")


class _Clock:
    """A clock that the client moves."""

    def __init__(self) -> None:
        self.now_ns = START_NS

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    found = _Clock()
    monkeypatch.setattr(callers, "clock", found)
    monkeypatch.setattr(threaded, "clock", found)
    monkeypatch.setattr(callers, "ERROR_PAUSE_S", 0.0)
    monkeypatch.setattr(threaded, "ERROR_PAUSE_S", 0.0)
    return found


@dataclasses.dataclass
class _FakeClient:
    """Takes as long over each operation as the test says, and fails where it says so."""

    clock: _Clock
    takes_ms: list[int] = dataclasses.field(default_factory=list)
    fails: dict[int, Exception] = dataclasses.field(default_factory=dict)
    missing: frozenset[bytes] = frozenset()
    calls: list[tuple[str, bytes, Any]] = dataclasses.field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    def carry_out(self, name: str, key: bytes, detail: Any = None) -> None:
        number = len(self.calls)
        self.calls.append((name, key, detail))
        self.clock.now_ns += (self.takes_ms[number] if number < len(self.takes_ms) else 1) * MS
        if number in self.fails:
            raise self.fails[number]

    def found(self, key: bytes) -> kvclient.Entry | None:
        return None if key in self.missing else kvclient.Entry(key, b"v", 2, 2, 1)

    def entries(self, start: bytes, limit: int) -> list[kvclient.Entry]:
        return [kvclient.Entry(start, b"v", 2, 2, 1)] * (limit - 1 if start in self.missing else limit)


class _FakeAsync(_FakeClient):
    async def get(self, key: bytes) -> kvclient.Entry | None:
        self.carry_out("get", key)
        return self.found(key)

    async def put(self, key: bytes, value: bytes, **more: Any) -> object:
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        self.carry_out("put", key, more)
        return object()

    async def scan(self, *, start: bytes, end: bytes, limit: int) -> AsyncIterator[kvclient.Entry]:
        self.carry_out("scan", start, (end, limit))
        for entry in self.entries(start, limit):
            yield entry


class _FakeBlocking(_FakeClient):
    def get(self, key: bytes) -> kvclient.Entry | None:
        self.carry_out("get", key)
        return self.found(key)

    def put(self, key: bytes, value: bytes, **more: Any) -> object:
        self.carry_out("put", key, more)
        return object()

    def scan(self, *, start: bytes, end: bytes, limit: int) -> Iterator[kvclient.Entry]:
        self.carry_out("scan", start, (end, limit))
        yield from self.entries(start, limit)


Run = Callable[..., tuple[PhaseResult, _FakeClient]]


@pytest.fixture(params=["async", "blocking"])
def carried_out(request: pytest.FixtureRequest, clock: _Clock) -> Run:
    """Carries out a phase on a fake client of either kind; one caller, so that the order of the calls is known."""

    def run(options: RunOptions, phase: workload.Phase, **client: Any) -> tuple[PhaseResult, _FakeClient]:
        plan = workload.Plan(options, 0)
        if request.param == "async":
            tasks = _FakeAsync(clock, **client)
            return asyncio.run(AsyncCallers(options, plan, tasks, options.clients).run(phase, lambda _: None)), tasks  # type: ignore[arg-type]
        threads = _FakeBlocking(clock, **client)
        return ThreadCallers(options, plan, threads, options.clients).run(phase, lambda _: None), threads  # type: ignore[arg-type]

    return run


def _phase(total: int | None = None, duration_ms: int | None = None, rate: float | None = None) -> workload.Phase:
    return workload.Phase(START_NS, total, None if duration_ms is None else duration_ms * MS, rate)


def _latencies_ms(result: PhaseResult, kind: str) -> Counter[int]:
    """Return how often there was each latency, in whole milliseconds."""
    found: Counter[int] = Counter()
    for tick in result.ticks:  # a bucket's end is up to a thousandth above the latency
        if kind in tick.latencies:
            part = tick.latencies[kind]
            for bucket, count in zip(part.buckets, part.counts, strict=True):
                found[round(histogram.highest_ns(int(bucket)) / MS - 0.3)] += int(count)
    return found


def test_every_operation_is_carried_out_once(carried_out: Run, options: Options) -> None:
    given = options(total=40, clients=1)
    result, client = carried_out(given, _phase(total=40), takes_ms=[5, 9])
    expected = [("put", key) for _, _, key, _ in workload.Plan(given, 0).operations(_phase(total=40))]
    assert [(name, key) for name, key, _ in client.calls] == expected
    assert _latencies_ms(result, "put") == {5: 1, 9: 1, 1: 38}
    assert (result.began_ns, result.ended_ns) == (START_NS, START_NS + 52 * MS)
    assert result.not_sent == 0


def test_reads_and_writes_are_noted_by_kind(carried_out: Run, options: Options) -> None:
    result, client = carried_out(options(workload="ycsb-a", total=60, clients=1), _phase(total=60))
    names = Counter(name for name, *_ in client.calls)
    assert _latencies_ms(result, "get").total() == names["get"] > 10
    assert _latencies_ms(result, "put").total() == names["put"] > 10


def test_latency_counts_from_the_intended_moment(carried_out: Run, options: Options) -> None:
    """One operation that takes a second holds up those behind it; each of them is as late as the schedule says."""
    given = options(total=12, clients=1, rate=100.0)
    result, _ = carried_out(given, _phase(total=12, rate=100.0), takes_ms=[1_000])
    # The n-th was due at 10 n ms. It was sent n - 1 ms after the first had been answered, and took 1 ms.
    assert _latencies_ms(result, "put") == Counter([1_000, *(1_000 + number - 10 * number for number in range(1, 12))])
    assert result.lags[0].most_ns == 990 * MS
    assert result.late == 12, "no operation was sent before its time, and for the first there was no time left to wait"


def test_a_run_by_time_begins_nothing_after_its_end(carried_out: Run, options: Options) -> None:
    result, client = carried_out(options(duration_s=0.01, clients=1), _phase(duration_ms=10), takes_ms=[4, 4, 4, 4, 4])
    assert len(client.calls) == 3, "at 0, 4 and 8 ms"
    assert result.ended_ns == START_NS + 12 * MS


def test_a_schedule_that_is_not_kept_ends_and_says_what_it_left_out(carried_out: Run, options: Options) -> None:
    given = options(total=100, clients=1, rate=1_000.0, timeout_s=0.5)
    result, client = carried_out(given, _phase(total=100, rate=1_000.0), takes_ms=[100] * 100)
    assert len(client.calls) == 6, "the schedule lasts 100 ms, and half a second is an operation's own limit"
    assert result.not_sent == 94


def test_errors_are_counted_by_code_and_are_no_latencies(carried_out: Run, options: Options) -> None:
    unknown = kvclient.OutcomeUnknown("OUTCOME_UNKNOWN", "gone")
    result, client = carried_out(options(total=10, clients=1), _phase(total=10), fails={2: REFUSED, 3: unknown, 7: REFUSED})
    errors: Counter[str] = Counter()
    for tick in result.ticks:
        errors.update(tick.errors)
    assert errors == {"DISK_FULL": 2, "OUTCOME_UNKNOWN": 1}
    assert result.error_examples == {"DISK_FULL": "no room", "OUTCOME_UNKNOWN": "gone"}
    assert _latencies_ms(result, "put").total() == 7
    assert len(client.calls) == 10, "a failed operation is not sent again"


def test_a_fault_of_the_client_ends_the_run(carried_out: Run, options: Options) -> None:
    with pytest.raises((ZeroDivisionError, BaseExceptionGroup)) as raised:
        carried_out(options(duration_s=1.0, clients=3), _phase(duration_ms=10**9), fails={4: ZeroDivisionError()})
    assert raised.value.__class__ is ZeroDivisionError or raised.group_contains(ZeroDivisionError)


def test_scans_count_the_keys_and_miss_those_that_are_not_there(carried_out: Run, options: Options) -> None:
    given = options(workload="scan", total=20, clients=1, scan_length=10)
    first = next(iter(workload.Plan(given, 0).operations(_phase(total=20))))[2]
    result, client = carried_out(given, _phase(total=20), missing=frozenset([first]))
    short = sum(1 for _, key, _ in client.calls if key == first)
    assert {detail for *_, detail in client.calls} == {(workload.KEYS_END, 10)}
    assert _latencies_ms(result, "scan").total() == 20
    assert result.keys_read == 200 - short
    assert result.not_found == short > 0


def test_reads_that_find_nothing_are_told(carried_out: Run, options: Options) -> None:
    given = options(workload="get", total=20, clients=1, keys=1)
    result, _ = carried_out(given, _phase(total=20), missing=frozenset([workload.FIRST_KEY]))
    assert result.not_found == 20
    assert _latencies_ms(result, "get").total() == 20


@pytest.mark.parametrize(("durability", "passed"), [("policy", {}), ("memory", {"durability": kvclient.Durability.MEMORY})])
def test_durability_is_passed_on_where_it_is_not_the_usual(
    carried_out: Run, options: Options, durability: str, passed: dict[str, Any]
) -> None:
    _, client = carried_out(options(total=3, clients=1, durability=durability), _phase(total=3))
    assert [detail for *_, detail in client.calls] == [passed] * 3


def test_callers_share_one_client_at_the_same_time(clock: _Clock, options: Options) -> None:
    given, client = options(total=100, clients=10), _FakeAsync(clock)
    asyncio.run(AsyncCallers(given, workload.Plan(given, 0), client, 10).run(_phase(total=100), lambda _: None))  # type: ignore[arg-type]
    assert client.most_at_once == 10
    assert len(client.calls) == 100


def test_a_run_that_was_given_up_stops(carried_out: Run, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    def give_up(recorder: Any, code: str, message: str) -> None:
        recorder.result.gave_up = True
        recorder.failed += 1

    monkeypatch.setattr("kvbench.recording.Recorder.error", give_up)
    result, client = carried_out(options(total=50, clients=1), _phase(total=50), fails={3: REFUSED})
    assert len(client.calls) == 4
    assert result.not_sent == 46
