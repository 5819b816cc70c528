"""Reads what the tools print: h2load, redis-benchmark, db_bench, etcd's metrics, kvbench's JSON, and /proc.

Every parser raises ``Unreadable``, with the text, where what it looks for is not there: a figure is never made up.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from suite.figures import Load


class Unreadable(Exception):
    """A tool printed something else than expected."""

    def __init__(self, tool: str, what: str, text: str) -> None:
        super().__init__(f"{tool} printed no {what}:\n{text[-2000:]}")


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value that a share of an ascending sequence does not exceed. Raises IndexError where it is empty."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _found(pattern: str, text: str, tool: str, what: str) -> re.Match[str]:
    match = re.search(pattern, text)
    if match is None:
        raise Unreadable(tool, what, text)
    return match


def h2load_answers(printed: str) -> int:
    """Return how many requests were answered with 200. Raises Unreadable where any was not answered so."""
    done = _found(r"requests: (\d+) total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed", printed, "h2load", "count")
    answered = _found(r"status codes: (\d+) 2xx", printed, "h2load", "status codes")
    if not int(done[2]) == int(done[3]) == int(answered[1]) or int(done[4]) or not int(done[2]):
        raise Unreadable("h2load", "answers with status 200 alone", printed)
    return int(answered[1])


def h2load(printed: str, log_lines: Iterable[str]) -> Load:
    """Return the rate that h2load prints and percentiles of its log of requests (start, status, microseconds)."""
    h2load_answers(printed)
    rate = _found(r"finished in [^,]+, ([0-9.]+) req/s", printed, "h2load", "rate")
    latencies = sorted(int(line.rpartition("\t")[2]) / 1000 for line in log_lines)
    if not latencies:
        raise Unreadable("h2load", "latencies in its log", printed)
    p50, p99, p999 = (percentile(latencies, share) for share in (0.5, 0.99, 0.999))
    return Load(float(rate[1]), p50, p99, p999)


def redis_benchmark(printed: str) -> Load:
    """Return what ``redis-benchmark --csv`` says of its one test; it tells no 99.9th percentile."""
    rows = [row for row in csv.DictReader(io.StringIO(printed)) if row.get("rps")]
    if len(rows) != 1:
        raise Unreadable("redis-benchmark", "single row of figures", printed)
    try:
        return Load(float(rows[0]["rps"]), float(rows[0]["p50_latency_ms"]), float(rows[0]["p99_latency_ms"]))
    except (KeyError, ValueError) as error:
        raise Unreadable("redis-benchmark", "rate and latencies", printed) from error


def redis_info(printed: str, name: str) -> str:
    """Return one line's value of ``redis-cli info``."""
    return _found(rf"(?m)^{re.escape(name)}:(.*?)\r?$", printed, "redis-cli", name)[1]


def redis_set_calls(printed: str) -> int:
    """Return how many SETs ``redis-cli info commandstats`` counts; 0 where there was none."""
    match = re.search(r"cmdstat_set:calls=(\d+)", printed)
    return int(match[1]) if match else 0


def db_bench(printed: str, benchmark: str) -> Load:
    """Return a benchmark's operations a second and, from its histogram, percentiles of its writes."""
    rate = _found(rf"(?m)^{benchmark}\s*:\s*[0-9.]+ micros/op (\d+) ops/sec", printed, "db_bench", "rate")
    histogram = _found(r"P50: ([0-9.]+) P75: [0-9.]+ P99: ([0-9.]+) P99.9: ([0-9.]+)", printed, "db_bench", "histogram")
    p50, p99, p999 = (float(histogram[number]) / 1000 for number in (1, 2, 3))
    return Load(float(rate[1]), p50, p99, p999)


def db_bench_warning(printed: str) -> str:
    """Return what db_bench says against its own build; empty where it is content."""
    match = re.search(r"(?m)^WARNING: (.+)$", printed)
    return match[1].strip() if match else ""


def metric(text: str, name: str) -> float:
    """Return one value without labels from metrics in Prometheus' text format."""
    return float(_found(rf"(?m)^{re.escape(name)} (\S+)$", text, "the server's /metrics", name)[1])


def kvbench(text: str) -> tuple[Load, dict[str, Any]]:
    """Return what kvbench's JSON says, and all of it. Raises Unreadable where an operation ended with an error."""
    try:
        values: dict[str, Any] = json.loads(text)
        latency = values["latency_ms"]
        load = Load(float(values["ops_per_s"]), float(latency["p50"]), float(latency["p99"]), float(latency["p999"]))
    except (ValueError, KeyError, TypeError) as error:
        raise Unreadable("kvbench", "rate and latencies", text) from error
    if error_count(values.get("errors", 0)):
        raise Unreadable("kvbench", "run without errors", text)
    return load, values


def error_count(errors: object) -> int:
    """Return how many errors there were, given as a number or as a table from code to number."""
    if isinstance(errors, dict):
        return sum(int(count) for count in errors.values())
    return int(errors) if isinstance(errors, int | float) else 0


def thread_ticks(stat: str) -> tuple[str, int]:
    """Return the name and the clock ticks, user and system, in a ``stat`` of a process or thread."""
    head, _, tail = stat.rpartition(")")
    fields = tail.split()
    try:
        return head.partition("(")[2], int(fields[11]) + int(fields[12])
    except (IndexError, ValueError) as error:
        raise Unreadable("/proc", "processor times", stat) from error


def status_kib(status: str, name: str) -> int:
    """Return a line in KiB of a process's ``status``, such as VmHWM."""
    return int(_found(rf"(?m)^{name}:\s+(\d+) kB$", status, "/proc", name)[1])
