"""From the notes of all processes to one result: the JSON document that ``kvbench run`` writes."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from kvbench.files import FORMAT
from kvbench.histogram import Histogram, Sparse
from kvbench.options import ASYNC, SCAN, RunOptions
from kvbench.recording import PhaseResult, Tick
from kvbench.worker import loop_factory

MOST_POINTS = 600
_STEPS_S = (0.1, 0.2, 0.5, 1.0)
_BUSY_SHARE = 0.9
_CORE_WAIT_SHARE = 0.2
_LAG_MS = 1.0
_LATE_SHARE = 0.01
_RATE_SHARE = 0.95


def document(options: RunOptions, results: list[PhaseResult], surroundings: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a run; ``surroundings`` is what is known of command, machine, disk and versions."""
    began_ns = min(result.began_ns for result in results)
    elapsed_s = max((max(result.ended_ns for result in results) - began_ns) / 1e9, 1e-9)
    kinds = {kind: _histogram(results, kind) for kind in _kinds(results)}
    together = Histogram()
    for one in kinds.values():
        together.merge(one)
    errors = Counter[str]()
    for result in results:
        for tick in result.ticks:
            errors.update(tick.errors)
    found: dict[str, Any] = {
        "kvbench": FORMAT,
        **surroundings,
        "options": dataclasses.asdict(options),
        "operations": together.count,
        "elapsed_s": round(elapsed_s, 6),
        "ops_per_s": round(together.count / elapsed_s, 3),
        "latency_ms": together.summary_ms(),
        "errors": dict(errors.most_common()),
        "error_examples": _examples(results),
        "not_sent": sum(result.not_sent for result in results),
        "not_found": sum(result.not_found for result in results),
        "by_operation": {
            kind: {
                "operations": one.count,
                "ops_per_s": round(one.count / elapsed_s, 3),
                "latency_ms": one.summary_ms(),
            }
            for kind, one in kinds.items()
        },
        "client": _client(options, results, together.count + errors.total()),
        "schedule": None if options.rate is None else _schedule(options, results, together.count / elapsed_s),
        "timeline": _timeline(results, began_ns, elapsed_s),
        "curve": [[round(share, 9), round(value, 6)] for share, value in together.curve()],
        "histogram": together.document(),
    }
    if options.workload == SCAN:
        keys_read = sum(result.keys_read for result in results)
        found |= {"keys_read": keys_read, "keys_per_s": round(keys_read / elapsed_s, 3)}
    found["ended_early"] = any(result.gave_up for result in results)
    found["warnings"] = warnings(found)
    return found


def _kinds(results: list[PhaseResult]) -> list[str]:
    return sorted({kind for result in results for tick in result.ticks for kind in tick.latencies})


def _histogram(results: list[PhaseResult], kind: str) -> Histogram:
    return _sum(tick.latencies[kind] for result in results for tick in result.ticks if kind in tick.latencies)


def _sum(parts: Iterable[Sparse]) -> Histogram:
    whole = Histogram()
    for part in parts:
        whole.add(part)
    return whole


def _examples(results: list[PhaseResult]) -> dict[str, str]:
    examples: dict[str, str] = {}
    for result in results:
        examples = result.error_examples | examples
    return examples


def _client(options: RunOptions, results: list[PhaseResult], operations: int) -> dict[str, Any]:
    """Return what the client processes used: a share of 1 is one core busy all the time."""
    shares = [round(result.cpu_s / max((result.ended_ns - result.began_ns) / 1e9, 1e-9), 3) for result in results]
    cpu_s = sum(result.cpu_s for result in results)
    lags = [lag for result in results for lag in result.tick_lags_ns] or [0]
    loop = loop_factory()
    return {
        "kind": options.client,
        "event_loop": "none" if options.client != "async" else "asyncio" if loop is None else "uvloop",
        "processes": len(results),
        "cpu_s": round(cpu_s, 4),
        "cpu_us_per_operation": round(cpu_s * 1e6 / operations, 3) if operations else None,
        "cpu_shares": shares,
        "core_wait_share": _core_wait_share(options, results),
        "tick_lag_ms": {"p50": round(float(np.median(lags)) / 1e6, 3), "max": round(max(lags) / 1e6, 3)},
        "peak_memory_bytes": max(result.peak_memory_bytes for result in results),
    }


def _core_wait_share(options: RunOptions, results: list[PhaseResult]) -> float | None:
    """Return the largest share of its time that an event loop waited for a core; None for threads, and where nobody knows."""
    shares = [
        result.core_wait_s / max((result.ended_ns - result.began_ns) / 1e9, 1e-9)
        for result in results
        if result.core_wait_s is not None
    ]
    return round(max(shares), 3) if shares and options.client == ASYNC else None


def _schedule(options: RunOptions, results: list[PhaseResult], ops_per_s: float) -> dict[str, Any]:
    lags = _sum(part for result in results for part in result.lags)
    late = sum(result.late for result in results)
    return {
        "rate": options.rate,
        "reached": round(ops_per_s, 3),
        "late_share": round(late / lags.count, 6) if lags.count else 0.0,
        "lag_ms": lags.summary_ms(),
    }


def _timeline(results: list[PhaseResult], began_ns: int, elapsed_s: float) -> dict[str, Any]:
    """Return throughput, latency and errors over time, on one grid for all processes.

    A tick comes when the event loop has time for it. What it brought is spread evenly over the time since the one before.
    """
    step_s = next((step for step in _STEPS_S if elapsed_s / step <= MOST_POINTS), _STEPS_S[-1])
    points = max(round(elapsed_s / step_s), 1)
    edges_s = np.append(np.arange(points) * step_s, elapsed_s)  # the last one takes what is left: half a step to one and a half
    widths_s = np.diff(edges_s)
    operations = np.zeros(points)
    errors: dict[str, Any] = {}
    parts: list[list[Sparse]] = [[] for _ in range(points)]
    for result in results:
        times_s = np.array([0.0, *((tick.at_ns - began_ns) / 1e9 for tick in result.ticks)])
        operations += _spread(times_s, [_completed(tick) for tick in result.ticks], edges_s)
        for code in sorted({code for tick in result.ticks for code in tick.errors}):
            spread = _spread(times_s, [tick.errors.get(code, 0) for tick in result.ticks], edges_s)
            errors[code] = errors.get(code, 0) + spread
        before_s = 0.0
        for tick, at_s in zip(result.ticks, times_s[1:], strict=True):
            middle = min(int((before_s + at_s) / 2 / step_s), points - 1)
            parts[middle].extend(tick.latencies.values())
            before_s = at_s
    percentiles = [[None, None] if not part else _sum(part).percentiles_ns([0.5, 0.99]) for part in parts]
    return {
        "interval_s": step_s,
        "ops_per_s": [round(float(value), 1) for value in operations / widths_s],
        "p50_ms": [None if middle is None else round(middle / 1e6, 4) for middle, _ in percentiles],
        "p99_ms": [None if most is None else round(most / 1e6, 4) for _, most in percentiles],
        "errors_per_s": {code: [round(float(value), 1) for value in spread / widths_s] for code, spread in errors.items()},
    }


def _completed(tick: Tick) -> int:
    return sum(part.count for part in tick.latencies.values())


def _spread(times_s: Any, amounts: list[int], edges_s: Any) -> Any:
    """Return how much of what came until given times fell between each two edges."""
    cumulated = np.concatenate([[0.0], np.cumsum(amounts)])
    return np.diff(np.interp(edges_s, times_s, cumulated))


def warnings(found: dict[str, Any]) -> list[str]:
    """Return what a reader of the figures has to know, each a sentence."""
    told = []
    shares = found["client"]["cpu_shares"]
    if max(shares) >= _BUSY_SHARE:
        told.append(
            f"The client is the bottleneck: a client process kept {max(shares):.2f} of a core busy, and Python uses little "
            "more than one. The server may be able to do more; give more --processes, or take this as the client's limit."
        )
    waited = found["client"]["core_wait_share"]
    if waited is not None and waited >= _CORE_WAIT_SHARE:
        told.append(
            f"The machine is the bottleneck: the client waited {waited:.0%} of the time for a core. Something else uses them, "
            "the server perhaps; run the client on another machine, or keep this one quiet."
        )
    schedule = found["schedule"]
    if schedule is not None:
        told += _schedule_warnings(schedule)
    failed = sum(found["errors"].values())
    if failed:
        share = failed / (failed + found["operations"])
        told.append(f"{failed:,} operations failed, {share:.2%} of all; their time is in no latency.")
    if found["not_sent"]:
        told.append(
            f"{found['not_sent']:,} operations were not sent, because the run was over long since; "
            "with them the latencies would be longer than they are told here."
        )
    if found["not_found"]:
        told.append(
            f"{found['not_found']:,} reads found nothing, or less than they asked for; the keys may not be there: give --load."
        )
    if found["ended_early"]:
        told.append("The run was ended early, because nothing had succeeded for 30 s.")
    if found["elapsed_s"] < 1 and found["operations"]:
        told.append("The run took less than a second, which says little; give a larger --total, or --duration 10s.")
    return told


def _schedule_warnings(schedule: dict[str, Any]) -> list[str]:
    told = []
    if schedule["reached"] < schedule["rate"] * _RATE_SHARE:
        told.append(
            f"The rate was not reached: {schedule['reached']:,.0f} instead of {schedule['rate']:,.0f} operations a second."
        )
    lag_ms = schedule["lag_ms"]["p99"]
    if schedule["late_share"] > _LATE_SHARE:
        told.append(
            f"{schedule['late_share']:.1%} of the operations found every caller busy at their time. Their latency counts from "
            "that time all the same. The server cannot keep to the rate, or --clients are too few for it."
        )
    elif lag_ms is not None and lag_ms > _LAG_MS:
        told.append(
            f"The client is the bottleneck: it sent operations up to {lag_ms:.1f} ms (p99) after their time, though callers were "
            "free. That is part of the latencies; give more --processes or a lower --rate."
        )
    return told
