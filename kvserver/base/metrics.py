"""Every metric that the server exposes: name, kind, labels and meaning, stated once.

The names are a contract with whoever draws graphs and writes alerts: units are base units, counters end in ``_total``, and
what go-grpc-middleware calls by a name is called by the same name here, so that stock dashboards for gRPC work unchanged.
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class Kind(enum.Enum):
    """How a metric behaves."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Metric(NamedTuple):
    """One metric."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


_RPC = ("grpc_type", "grpc_service", "grpc_method")

CLUSTER_METRICS = (
    # of a follower
    Metric("kv_follower_state", Kind.GAUGE, "1 for the state that the follower is in, 0 for the others.", ("state",)),
    Metric("kv_state_transitions_total", Kind.COUNTER, "How often a follower went from one state to another.", ("from", "to")),
    Metric("kv_replication_lag_seconds", Kind.GAUGE, "How far the follower is behind its primary in time, at least."),
    Metric("kv_replication_lag_revisions", Kind.GAUGE, "Revisions that the primary was heard to have and that are not applied."),
    Metric(
        "kv_replication_lag_bytes", Kind.GAUGE, "Bytes of the log that the source had and had not sent when it was heard last."
    ),
    # of whoever is followed
    Metric("kv_followers", Kind.GAUGE, "Followers that are streaming, catching up, away, or lost the log they need.", ("state",)),
    Metric("kv_slot_connected", Kind.GAUGE, "1 while the follower is shipped the log, else 0.", ("follower",)),
    Metric("kv_slot_durable_revision", Kind.GAUGE, "Newest revision that the follower has acknowledged.", ("follower",)),
    Metric("kv_slot_lag_revisions", Kind.GAUGE, "Revisions that are durable here and not acknowledged by it.", ("follower",)),
    Metric("kv_slot_lag_bytes", Kind.GAUGE, "Bytes of the log that it has not made durable.", ("follower",)),
    Metric("kv_slot_held_bytes", Kind.GAUGE, "Bytes of the log that are held for it.", ("follower",)),
    Metric(
        "kv_rewind_base_revision", Kind.GAUGE, "Revision of the newest checkpoint that the node can go back to; 0: there is none."
    ),
    # of a primary
    Metric("kv_quorum_met", Kind.GAUGE, "0 while writes wait for members that do not acknowledge, else 1."),
    Metric("kv_quorum_degraded", Kind.GAUGE, "1 while the policy's quorum is given up, else 0."),
    Metric(
        "kv_replicated_revision", Kind.GAUGE, "Newest revision that the policy's quorum has; absent where none is waited for."
    ),
    # of each
    Metric("kv_register_reachable", Kind.GAUGE, "1 while the register can be read; without it no node becomes primary."),
)
"""Those of a node of a cluster; a node that is alone has none of them."""

METRICS = (
    # what the node is and how far it is
    Metric("kv_build_info", Kind.GAUGE, "Always 1; the labels say which software runs.", ("version", "python")),
    Metric("kv_is_primary", Kind.GAUGE, "1 while the node takes writes, else 0."),
    Metric("kv_epoch", Kind.GAUGE, "Number of the primacy under which the node serves."),
    Metric("kv_revision", Kind.GAUGE, "Newest revision that readers are shown; the same as kv_visible_revision."),
    Metric("kv_assigned_revision", Kind.GAUGE, "Newest revision given to a commit."),
    Metric("kv_applied_revision", Kind.GAUGE, "Newest revision applied in memory."),
    Metric("kv_durable_revision", Kind.GAUGE, "Newest revision synced to disk."),
    Metric("kv_visible_revision", Kind.GAUGE, "Newest revision that readers are shown."),
    # writes
    Metric("kv_commits_total", Kind.COUNTER, "Commits made since the start."),
    Metric("kv_waiting_requests", Kind.GAUGE, "Requests that wait in line for admission."),
    Metric("kv_writes_refused_total", Kind.COUNTER, "Writes refused because too many waited or the disk had no room."),
    Metric("kv_log_failed", Kind.GAUGE, "1 once the log has failed and the process is ending, else 0."),
    # the log
    Metric("kv_wal_groups_total", Kind.COUNTER, "Groups that came back from the log, each answered by one call."),
    Metric("kv_wal_syncs_total", Kind.COUNTER, "Syncs of the log's open segment."),
    Metric("kv_wal_written_bytes_total", Kind.COUNTER, "Bytes of frames written to the log."),
    Metric("kv_wal_segments", Kind.GAUGE, "Segments of the log on disk."),
    Metric("kv_wal_bytes", Kind.GAUGE, "Bytes of the log on disk."),
    Metric("kv_recovery_seconds", Kind.GAUGE, "How long the log's recovery took at the last start."),
    Metric("kv_recovery_commits", Kind.GAUGE, "Commits read back from the log at the last start."),
    # what is held
    Metric("kv_keys", Kind.GAUGE, "Keys in all namespaces: exact as of kv_flushed_revision, keys put since count as new."),
    Metric("kv_memory_bytes", Kind.GAUGE, "Bytes of keys, values and their bookkeeping that are in no table yet."),
    Metric("kv_memory_limit_bytes", Kind.GAUGE, "Above this many kv_memory_bytes writes wait in line; 0: no limit."),
    Metric("kv_oldest_readable_revision", Kind.GAUGE, "Oldest revision that can be read at."),
    # tables
    Metric("kv_flushed_revision", Kind.GAUGE, "Newest revision up to which tables hold everything."),
    Metric("kv_flushes_total", Kind.COUNTER, "Memtables written into tables since the start."),
    Metric("kv_flush_failing", Kind.GAUGE, "1 while the last flush failed, else 0."),
    Metric("kv_table_files", Kind.GAUGE, "Tables on disk."),
    Metric("kv_table_bytes", Kind.GAUGE, "Bytes of the tables on disk."),
    Metric("kv_table_level0_files", Kind.GAUGE, "Tables that are not merged with others yet."),
    Metric("kv_table_pending_compaction_bytes", Kind.GAUGE, "Bytes that wait to be merged."),
    Metric("kv_table_rows_read_total", Kind.COUNTER, "Rows looked up in the tables by key."),
    Metric("kv_table_reads_total", Kind.COUNTER, "Multi-gets that looked them up."),
    Metric("kv_wal_hold_revision", Kind.GAUGE, "First revision of the log that a named hold needs.", ("hold",)),
    # the archive; absent where there is none
    Metric(
        "kv_archived_revision", Kind.GAUGE, "Newest revision up to which the archive holds everything; 0 until it was heard from."
    ),
    Metric("kv_archive_unarchived_segments", Kind.GAUGE, "Sealed segments that are not archived yet."),
    Metric("kv_archive_unarchived_bytes", Kind.GAUGE, "Bytes of the sealed segments that are not archived yet."),
    Metric(
        "kv_archive_oldest_unarchived_seconds",
        Kind.GAUGE,
        "How long the oldest commit in them has been waiting; 0: there is none.",
    ),
    Metric("kv_archive_queue_bytes", Kind.GAUGE, "Unarchived bytes at which writes are refused, or segments given up."),
    Metric(
        "kv_archive_step", Kind.GAUGE, "0 keeping up, 1 hurrying, 2 slowing commits, 3 refusing writes, 4 giving segments up."
    ),
    Metric("kv_archive_pace_seconds", Kind.GAUGE, "How long each group of commits is held up for the archive."),
    Metric("kv_archive_failing", Kind.GAUGE, "1 while the last attempt to archive failed, else 0."),
    Metric("kv_archive_segments_total", Kind.COUNTER, "Segments archived since the start."),
    Metric("kv_archive_raw_bytes_total", Kind.COUNTER, "Bytes of those segments in the log."),
    Metric("kv_archive_stored_bytes_total", Kind.COUNTER, "Bytes of those segments in the archive."),
    Metric("kv_archive_failures_total", Kind.COUNTER, "Attempts to archive that failed since the start."),
    Metric("kv_archive_last_backup_revision", Kind.GAUGE, "Revision of the newest base backup in the archive."),
    Metric("kv_archive_last_backup_timestamp_seconds", Kind.GAUGE, "When the newest base backup was made, in Unix time."),
    Metric("kv_archive_last_verify_ok", Kind.GAUGE, "1 if the last check of every byte of the archive found nothing, else 0."),
    Metric("kv_archive_last_verify_timestamp_seconds", Kind.GAUGE, "When that check ended, in Unix time."),
    Metric("kv_archive_last_drill_ok", Kind.GAUGE, "1 if the last trial restore was equal to the node, else 0."),
    Metric("kv_archive_last_drill_timestamp_seconds", Kind.GAUGE, "When that trial ended, in Unix time."),
    Metric("kv_archive_last_drill_duration_seconds", Kind.GAUGE, "How long that trial took."),
    *CLUSTER_METRICS,
    # the process
    Metric("kv_data_disk_free_bytes", Kind.GAUGE, "Bytes that can still be written to the data folder's disk."),
    Metric("kv_event_loop_lag_seconds", Kind.GAUGE, "Latest that a timer of the event loop fired in the last 15 seconds."),
    # calls
    Metric("grpc_server_started_total", Kind.COUNTER, "Calls begun.", _RPC),
    Metric("grpc_server_handled_total", Kind.COUNTER, "Calls ended, by their status.", (*_RPC, "grpc_code")),
    Metric("grpc_server_msg_received_total", Kind.COUNTER, "Messages received.", _RPC),
    Metric("grpc_server_msg_sent_total", Kind.COUNTER, "Messages sent.", _RPC),
    Metric("grpc_server_handling_seconds", Kind.HISTOGRAM, "How long calls took, until their status was known.", _RPC),
)
"""All of them, but for ``process_*``, which prometheus_client brings."""
