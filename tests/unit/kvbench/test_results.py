"""From notes to a result: what the processes noted adds up, over time as well, and what a reader must know is said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kvbench import results
from unit.kvbench.made import part, phase_result, tick

Result = Callable[..., dict[str, Any]]


def test_processes_are_added_up(result: Result) -> None:
    first = phase_result(tick(1, put=[1.0] * 30), tick(2, put=[2.0] * 10), ended_s=2)
    second = phase_result(tick(1, put=[3.0] * 20), tick(4, put=[9.0] * 20), ended_s=4)
    found = result(first, second, processes=2)
    assert found["operations"] == 80
    assert found["elapsed_s"] == 4.0
    assert found["ops_per_s"] == 20.0
    latency = found["latency_ms"]
    assert (latency["min"], latency["max"]) == (1.0, 9.0)
    assert latency["mean"] == pytest.approx((30 * 1 + 10 * 2 + 20 * 3 + 20 * 9) / 80)
    assert latency["p50"] == pytest.approx(2.0, rel=0.001)
    assert latency["p99"] == pytest.approx(9.0, rel=0.001)
    assert {"p50", "p99", "p999"} <= latency.keys()
    assert found["kvbench"] == 1
    assert sum(found["histogram"]["counts"]) == 80


def test_kinds_of_operations_are_told_apart(result: Result) -> None:
    found = result(phase_result(tick(1, get=[1.0] * 3, put=[5.0]), ended_s=2), workload="mixed")
    assert found["operations"] == 4
    parts = found["by_operation"]
    assert {kind: (one["operations"], one["ops_per_s"], one["latency_ms"]["max"]) for kind, one in parts.items()} == {
        "get": (3, 1.5, 1.0),
        "put": (1, 0.5, 5.0),
    }


def test_errors_are_counted_by_code(result: Result) -> None:
    first = phase_result(tick(1, {"DISK_FULL": 2}, put=[1.0]), ended_s=2, error_examples={"DISK_FULL": "no room"})
    second = phase_result(tick(1, {"DISK_FULL": 1, "OUTCOME_UNKNOWN": 1}), ended_s=2, error_examples={"OUTCOME_UNKNOWN": "gone"})
    found = result(first, second)
    assert found["errors"] == {"DISK_FULL": 3, "OUTCOME_UNKNOWN": 1}
    assert found["error_examples"] == {"DISK_FULL": "no room", "OUTCOME_UNKNOWN": "gone"}
    assert any(warning.startswith("4 operations failed, 80.00% of all") for warning in found["warnings"])


def test_a_run_without_errors_says_so(result: Result) -> None:
    assert result()["errors"] == {}
    assert result()["warnings"] == []


def test_a_run_without_operations_has_no_latencies(result: Result) -> None:
    found = result(phase_result(tick(1, {"UNAVAILABLE": 5}), ended_s=2, gave_up=True))
    assert (found["operations"], found["ops_per_s"]) == (0, 0)
    assert set(found["latency_ms"].values()) == {None}
    assert found["curve"] == []
    assert found["timeline"]["p50_ms"] == [None] * len(found["timeline"]["p50_ms"])
    assert found["ended_early"] is True
    assert any("ended early" in warning for warning in found["warnings"])


def test_the_timeline_adds_up_to_all_operations(result: Result) -> None:
    """Ticks of two processes come at odd times; what they brought is spread over the time since the one before."""
    first = phase_result(*(tick(0.13 * number, put=[1.0] * 10) for number in range(1, 20)), ended_s=2.6)
    second = phase_result(*(tick(0.11 * number, {"X": 2}, put=[4.0] * 7) for number in range(1, 20)), ended_s=2.6)
    timeline = result(first, second)["timeline"]
    assert timeline["interval_s"] == 0.1
    assert len(timeline["ops_per_s"]) == len(timeline["p50_ms"]) == len(timeline["p99_ms"]) == 26
    assert sum(timeline["ops_per_s"]) * 0.1 == pytest.approx(19 * 10 + 19 * 7, rel=0.001)
    assert sum(timeline["errors_per_s"]["X"]) * 0.1 == pytest.approx(38, rel=0.01)
    assert timeline["ops_per_s"][5] == pytest.approx(10 / 0.13 + 7 / 0.11, rel=0.01)
    assert max(value for value in timeline["p99_ms"] if value is not None) == pytest.approx(4.0, rel=0.001)


def test_the_end_of_a_timeline_is_no_sliver(result: Result) -> None:
    found = result(phase_result(tick(0.5, put=[1.0] * 50), tick(0.51, put=[1.0]), ended_s=0.51))
    assert len(found["timeline"]["ops_per_s"]) == 5
    assert sum(
        rate * width for rate, width in zip(found["timeline"]["ops_per_s"], [0.1] * 4 + [0.11], strict=True)
    ) == pytest.approx(51, rel=0.001)


def test_long_runs_have_a_point_a_second(result: Result) -> None:
    ticks = [tick(float(second), put=[1.0]) for second in range(1, 1_001)]
    timeline = result(phase_result(*ticks, ended_s=1_000))["timeline"]
    assert (timeline["interval_s"], len(timeline["ops_per_s"])) == (1.0, 1_000)
    short = result(phase_result(*ticks[:100], ended_s=100))["timeline"]
    assert (short["interval_s"], len(short["ops_per_s"])) == (0.2, 500)


def test_keys_of_scans_are_told(result: Result) -> None:
    found = result(phase_result(tick(2, scan=[1.0] * 4), ended_s=2, keys_read=400), workload="scan")
    assert (found["ops_per_s"], found["keys_read"], found["keys_per_s"]) == (2.0, 400, 200.0)
    assert "keys_per_s" not in result()


def _warned(found: dict[str, Any], *words: str) -> bool:
    return any(all(word in warning for word in words) for warning in found["warnings"])


@pytest.mark.parametrize(("cpu_s", "warned"), [(1.7, False), (1.9, True), (2.4, True)])
def test_a_client_that_is_the_bottleneck_is_told(result: Result, cpu_s: float, warned: bool) -> None:
    found = result(phase_result(tick(2, put=[1.0] * 10), ended_s=2, cpu_s=cpu_s))
    assert found["client"]["cpu_shares"] == [cpu_s / 2]
    assert found["client"]["cpu_us_per_operation"] == pytest.approx(cpu_s * 1e5)
    assert _warned(found, "The client is the bottleneck", "more --processes") is warned


@pytest.mark.parametrize(("waited_s", "warned"), [(None, False), (0.2, False), (1.0, True)])
def test_a_machine_that_is_the_bottleneck_is_told(result: Result, waited_s: float | None, warned: bool) -> None:
    found = result(phase_result(tick(2, put=[1.0]), ended_s=2, core_wait_s=waited_s))
    assert found["client"]["core_wait_share"] == (None if waited_s is None else waited_s / 2)
    assert _warned(found, "The machine is the bottleneck", "50%") is warned


def test_a_rate_that_was_kept_is_told_without_a_warning(result: Result) -> None:
    notes = phase_result(tick(2, put=[1.0] * 20), ended_s=2, lags=[part(*[0.05] * 20)])
    found = result(notes, rate=10.0)
    assert found["schedule"]["rate"] == 10.0
    assert found["schedule"]["reached"] == 10.0
    assert found["schedule"]["late_share"] == 0.0
    assert found["schedule"]["lag_ms"]["p99"] == pytest.approx(0.05, rel=0.001)
    assert found["warnings"] == []
    assert result()["schedule"] is None


def test_a_client_that_sends_late_is_told(result: Result) -> None:
    found = result(phase_result(tick(2, put=[9.0] * 20), ended_s=2, lags=[part(*[4.0] * 20)]), rate=10.0)
    assert _warned(found, "The client is the bottleneck", "4.0 ms (p99) after their time")


def test_a_server_that_does_not_keep_up_is_told(result: Result) -> None:
    notes = phase_result(tick(2, put=[900.0] * 20), ended_s=2, lags=[part(*[800.0] * 20)], late=15, not_sent=7)
    found = result(notes, rate=100.0)
    assert _warned(found, "The rate was not reached: 10 instead of 100")
    assert _warned(found, "75.0%", "found every caller busy", "--clients are too few")
    assert _warned(found, "7 operations were not sent")
    assert not _warned(found, "The client is the bottleneck")


def test_reads_that_found_nothing_are_told(result: Result) -> None:
    found = result(phase_result(tick(2, get=[1.0] * 9), ended_s=2, not_found=3), workload="get")
    assert found["not_found"] == 3
    assert _warned(found, "3 reads found nothing", "give --load")


def test_a_run_that_is_too_short_is_told(result: Result) -> None:
    assert _warned(result(phase_result(tick(0.5, put=[1.0]), ended_s=0.5)), "less than a second")


def test_the_options_are_kept_as_they_were(result: Result) -> None:
    kept = result(clients=7, label="mine")["options"]
    assert (kept["clients"], kept["label"], kept["workload"]) == (7, "mine", "put")


def test_every_warning_is_a_sentence(result: Result) -> None:
    notes = phase_result(
        tick(0.5, {"X": 1}, put=[9.0]),
        ended_s=0.5,
        cpu_s=0.5,
        core_wait_s=0.4,
        lags=[part(5.0)],
        not_sent=1,
        not_found=1,
        gave_up=True,
    )
    told = results.warnings(result(notes, rate=50.0))
    assert len(told) >= 7
    assert all(warning.endswith(".") and (warning[0].isupper() or warning[0].isdigit()) for warning in told)
