"""The figures behind ``/metrics``: read when somebody asks, from plain integers that others keep anyway.

Runs on an HTTP thread beside the event loop; each figure is true of some moment just past.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

import kvserver
from kvserver.base.events import Event, LogRecovered
from kvserver.base.metrics import METRICS, Kind
from kvserver.engine.database import Database
from kvserver.server.archive_figures import archive_values
from kvserver.server.cluster_figures import Samples
from kvserver.server.probes import Phase, Probes
from kvserver.service.archive import Report
from kvserver.transport.rpc_metrics import BUCKETS_S, MethodStats, label_of

Sample = tuple[tuple[str, ...], float]
Histogram = tuple[tuple[str, ...], list[int], float]


class Figures(Collector):
    """Collects the table ``base.metrics.METRICS``."""

    def __init__(self, probes: Probes, free_bytes: Callable[[], int], memory_limit_bytes: int) -> None:
        self._probes = probes
        self._free_bytes = free_bytes
        self._memory_limit_bytes = memory_limit_bytes
        self._recovered: LogRecovered | None = None
        self.loop_lag_s: Callable[[], float] = lambda: 0.0
        self.rpc_stats: Callable[[], Sequence[MethodStats]] = lambda: ()
        self.archive: Callable[[], Report] | None = None
        """How the archive is doing, where there is one."""
        self.is_primary: Callable[[], bool] = lambda: self._probes.phase is Phase.SERVING
        self.cluster: Callable[[], Samples] = dict
        """The figures of a node of a cluster, as of the last second."""
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def on_event(self, event: Event) -> None:
        """Take in what the engine reports; called on any thread."""
        if isinstance(event, LogRecovered):
            self._recovered = event

    def scrape(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics in a form that the reader accepts, and the content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def describe(self) -> Iterable[Family]:
        """Name nothing ahead of time."""
        return ()

    def collect(self) -> Iterator[Family]:
        """Yield every metric of the table that has a value now."""
        values = self._process_values()
        if self._probes.database is not None:
            values |= self._engine_values(self._probes.database)
        if self.archive is not None:
            values |= archive_values(self.archive())
        samples: dict[str, list[Sample]] = {name: [((), value)] for name, value in values.items()}
        samples["kv_build_info"] = [((kvserver.__version__, platform.python_version()), 1.0)]
        samples |= self._rpc_samples()
        samples |= self.cluster()
        if self._probes.database is not None:
            samples["kv_wal_hold_revision"] = [((name,), at) for name, at in self._probes.database.holds()]
        for metric in METRICS:
            if metric.kind is Kind.HISTOGRAM:
                yield self._handling_times(metric.name, metric.help, metric.labels)
            elif metric.name in samples:
                kind: Any = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
                family = kind(metric.name, metric.help, labels=metric.labels)
                for labels, value in samples[metric.name]:
                    family.add_metric(labels, value)
                yield family

    def _process_values(self) -> dict[str, float]:
        values: dict[str, float] = {
            "kv_is_primary": float(self.is_primary()),
            "kv_memory_limit_bytes": self._memory_limit_bytes,
            "kv_event_loop_lag_seconds": self.loop_lag_s(),
        }
        recovered = self._recovered
        if recovered is not None:
            values |= {"kv_recovery_seconds": recovered.seconds, "kv_recovery_commits": recovered.commits}
        return values

    def _engine_values(self, database: Database) -> dict[str, float]:
        marks, pipeline = database.marks, database.pipeline
        log = database.log_figures()
        values: dict[str, float] = {
            "kv_epoch": database.history.current.number,
            "kv_revision": marks.visible,
            "kv_assigned_revision": marks.assigned,
            "kv_applied_revision": marks.applied,
            "kv_durable_revision": marks.durable,
            "kv_visible_revision": marks.visible,
            "kv_commits_total": pipeline.commits,
            "kv_waiting_requests": pipeline.waiting,
            "kv_writes_refused_total": pipeline.refused,
            "kv_log_failed": float(database.failure is not None),
            "kv_wal_groups_total": log.groups,
            "kv_wal_syncs_total": log.syncs,
            "kv_wal_written_bytes_total": log.bytes_written,
            "kv_wal_segments": log.segments,
            "kv_wal_bytes": log.total_bytes,
            "kv_keys": database.live_keys(),
            "kv_memory_bytes": database.memory_bytes(),
            "kv_oldest_readable_revision": database.oldest_readable,
            **self._table_values(database),
        }
        with contextlib.suppress(OSError):  # a disk that cannot be asked has no value
            values["kv_data_disk_free_bytes"] = self._free_bytes()
        return values

    def _table_values(self, database: Database) -> dict[str, float]:
        tables, reads = database.table_figures(), database.table_reads()
        return {
            "kv_flushed_revision": database.marks.flushed,
            "kv_flushes_total": database.flushes,
            "kv_flush_failing": float(bool(database.flush_error)),
            "kv_table_files": tables.files,
            "kv_table_bytes": tables.total_bytes,
            "kv_table_level0_files": tables.level0_files,
            "kv_table_pending_compaction_bytes": tables.pending_compaction_bytes,
            "kv_table_rows_read_total": reads.rows,
            "kv_table_reads_total": reads.batches,
        }

    def _rpc_samples(self) -> dict[str, list[Sample]]:
        stats = self.rpc_stats()
        handled: list[Sample] = []
        for one in stats:
            handled += [((*_labels(one), label_of(code)), count) for code, count in list(one.handled.items())]
        return {
            "grpc_server_started_total": [(_labels(one), one.started) for one in stats],
            "grpc_server_handled_total": handled,
            "grpc_server_msg_received_total": [(_labels(one), one.received) for one in stats],
            "grpc_server_msg_sent_total": [(_labels(one), one.sent) for one in stats],
        }

    def _handling_times(self, name: str, help_text: str, labels: tuple[str, ...]) -> HistogramMetricFamily:
        family = HistogramMetricFamily(name, help_text, labels=labels)
        for one in self.rpc_stats():
            total = 0
            buckets: list[Any] = []
            for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), list(one.buckets), strict=True):
                total += count
                buckets.append((bound, total))
            family.add_metric(_labels(one), buckets, one.seconds)
        return family


def _labels(stats: MethodStats) -> tuple[str, ...]:
    return (stats.kind, stats.service, stats.method)
