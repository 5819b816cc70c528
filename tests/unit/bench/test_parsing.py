"""What the tools print is read as they print it, and anything else is refused with the text."""

from __future__ import annotations

import json

import pytest

from suite import parsing
from suite.figures import Load

H2LOAD = """starting benchmark...
spawning thread #0: 4 total client(s). Timing-based test with 0.3s of warm-up time and 3s of main duration for measurements.
progress: 100% of clients started
Application protocol: h2c

finished in 3.31s, 25299.85 req/s, 1.57MB/s
requests: 75900 total, 75900 started, 75900 done, 75900 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 75900 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 3.71MB (3890200) total, 117.38KB (120192) headers (space savings 94.73%), 1.89MB (1980000) data
                     min         max         mean         sd        +/- sd
time for request:      400us     58.92ms      9.81ms      4.98ms    84.04%
"""
H2LOAD_LOG = ["1795274022434610\t200\t3546\n", "1795274022435569\t200\t7522\n", "1795274022435564\t200\t1000\n"]

REDIS = (
    '"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"\n'
    '"SET","63613.23","0.937","0.368","0.887","1.183","1.887","11.991"\n'
)

DB_BENCH = """Compression sampling rate: 0
WARNING: Assertions are enabled; benchmarks unnecessarily slow
------------------------------------------------
DB path: [DIR/0-rocksdb]
fillrandom   :    1899.428 micros/op 32606 ops/sec 3.926 seconds 128000 operations;    8.5 MB/s
Microseconds per write:
Count: 128000 Average: 1951.1278  StdDev: 4123.28
Min: 147  Median: 1630.0314  Max: 217611
Percentiles: P50: 1630.03 P75: 2242.34 P99: 8291.49 P99.9: 27280.00 P99.99: 217611.00
"""

METRICS = """# HELP etcd_mvcc_put_total Total number of puts seen by this member.
# TYPE etcd_mvcc_put_total counter
etcd_mvcc_put_total 465667
etcd_mvcc_put_total_other 1
"""


def kvbench_report(**changes: object) -> str:
    return json.dumps(
        {
            "ops_per_s": 1234.5,
            "latency_ms": {"p50": 0.5, "p90": 0.7, "p99": 1.5, "p999": 2.5},
            "errors": {},
            **changes,
        }
    )


def test_h2load_gives_its_rate_and_the_percentiles_of_its_log() -> None:
    assert parsing.h2load(H2LOAD, H2LOAD_LOG) == Load(25299.85, 3.546, 7.522, 7.522)
    assert parsing.h2load_answers(H2LOAD) == 75900


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("75900 succeeded, 0 failed", "75899 succeeded, 1 failed"),
        ("75900 2xx, 0 3xx, 0 4xx", "75899 2xx, 0 3xx, 1 4xx"),
        ("75900 done, 75900 succeeded", "0 done, 0 succeeded"),
        ("status codes: 75900", "codes: 75900"),
        ("finished in 3.31s, 25299.85 req/s", "finished"),
    ],
)
def test_h2load_is_refused_unless_every_request_was_answered_with_200(old: str, new: str) -> None:
    with pytest.raises(parsing.Unreadable, match="h2load printed no"):
        parsing.h2load(H2LOAD.replace(old, new), H2LOAD_LOG)


def test_h2load_that_was_not_answered_at_all_has_no_rate() -> None:
    with pytest.raises(parsing.Unreadable, match="answers with status 200 alone"):
        parsing.h2load(H2LOAD.replace("75900", "0"), H2LOAD_LOG)


def test_h2load_without_a_log_has_no_latencies_to_give() -> None:
    with pytest.raises(parsing.Unreadable, match="latencies in its log"):
        parsing.h2load(H2LOAD, [])


def test_redis_benchmark_gives_the_row_of_its_test() -> None:
    assert parsing.redis_benchmark(REDIS) == Load(63613.23, 0.887, 1.887)
    assert parsing.redis_benchmark(REDIS).p999_ms is None


@pytest.mark.parametrize("text", ["", REDIS.splitlines()[0], REDIS + REDIS.splitlines()[1], REDIS.replace("63613.23", "many")])
def test_redis_benchmark_is_refused_without_exactly_one_row(text: str) -> None:
    with pytest.raises(parsing.Unreadable, match="redis-benchmark printed no"):
        parsing.redis_benchmark(text)


def test_what_redis_says_of_itself_is_found_by_name() -> None:
    info = "# Persistence\r\naof_enabled:1\r\naof_last_write_status:ok\r\n"
    assert parsing.redis_info(info, "aof_last_write_status") == "ok"
    with pytest.raises(parsing.Unreadable, match="no aof_last"):
        parsing.redis_info(info, "aof_last")
    assert parsing.redis_set_calls("# Commandstats\r\ncmdstat_set:calls=12000,usec=5\r\n") == 12000
    assert parsing.redis_set_calls("# Commandstats\r\n") == 0


def test_db_bench_gives_its_rate_its_histogram_and_its_warning() -> None:
    load = parsing.db_bench(DB_BENCH, "fillrandom")
    assert load.per_s == 32606
    assert (load.p50_ms, load.p99_ms, load.p999_ms) == pytest.approx((1.63003, 8.29149, 27.28))
    assert parsing.db_bench_warning(DB_BENCH) == "Assertions are enabled; benchmarks unnecessarily slow"
    assert parsing.db_bench_warning(DB_BENCH.replace("WARNING: ", "")) == ""


@pytest.mark.parametrize(("old", "new"), [("fillrandom ", "fillseq "), ("P50: 1630.03", "")])
def test_db_bench_is_refused_without_rate_or_histogram(old: str, new: str) -> None:
    with pytest.raises(parsing.Unreadable, match="db_bench printed no"):
        parsing.db_bench(DB_BENCH.replace(old, new), "fillrandom")


def test_a_metric_is_found_by_its_whole_name() -> None:
    assert parsing.metric(METRICS, "etcd_mvcc_put_total") == 465667
    with pytest.raises(parsing.Unreadable):
        parsing.metric(METRICS, "etcd_mvcc_put")


def test_kvbench_gives_rate_and_latencies() -> None:
    load, values = parsing.kvbench(kvbench_report(operations=7))
    assert load == Load(1234.5, 0.5, 1.5, 2.5)
    assert values["operations"] == 7


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        kvbench_report(latency_ms={"p50": None, "p99": None, "p999": None}),
        kvbench_report(errors={"UNAVAILABLE": 1}),
        kvbench_report(errors=3),
    ],
)
def test_kvbench_is_refused_where_figures_lack_or_operations_failed(text: str) -> None:
    with pytest.raises(parsing.Unreadable, match="kvbench printed no"):
        parsing.kvbench(text)


def test_ticks_are_read_behind_a_name_with_brackets_and_spaces() -> None:
    stat = "22414 (Thread-1 (_poll)) S 22310 22310 9506 0 -1 4194368 5 0 0 0 17 4 0 0 20 0 18 0 2353 1 2 3"
    assert parsing.thread_ticks(stat) == ("Thread-1 (_poll)", 21)
    with pytest.raises(parsing.Unreadable, match="/proc"):
        parsing.thread_ticks("1 (x) S 1 2")


def test_memory_is_read_in_kib() -> None:
    status = "Name:\tpython\nVmHWM:\t  123456 kB\nVmRSS:\t  100 kB\n"
    assert parsing.status_kib(status, "VmHWM") == 123456
    with pytest.raises(parsing.Unreadable):
        parsing.status_kib(status, "VmSwap")


def test_a_percentile_is_a_value_of_the_sequence() -> None:
    values = [float(number) for number in range(1, 101)]
    assert [parsing.percentile(values, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1.0, 51.0, 100.0, 100.0]
    assert parsing.percentile([7.0], 0.999) == 7.0
