"""The parts that the server puts together for its archive: what the archiver is told, whose archive it is, what writes hear."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from kvserver.archive.pressure import Step
from kvserver.base.environment import Environment
from kvserver.base.errors import Code, KvError, Refused
from kvserver.base.limits import MIB
from kvserver.base.metrics import METRICS
from kvserver.base.types import Epoch, Identity, Position
from kvserver.commit.refusals import archive_behind
from kvserver.commit.requests import Put
from kvserver.server.archive_figures import archive_values
from kvserver.server.archive_part import archiver_options, cluster_record
from kvserver.server.config import ArchiveConfig
from kvserver.server.log_source import NodeLog
from kvserver.service.archive import Check
from kvserver.storage.origin import Origin
from support.memfs import MemoryFileSystem
from support.stores import do, open_store
from unit.service.test_archive_service import BACKUP, WELL

CONFIG = ArchiveConfig(
    url="file:///srv/archive",
    workers=2,
    level=3,
    queue_bytes=100 * MIB,
    rate_bytes_per_s=7,
    when_full="gap",
    ballast_bytes=0,
    verify_every_h=0,
    drill_every_h=0,
    backup_every_h=0,
    keep_backups=0,
    keep_days=0,
)
IDENTITY = Identity(bytes(16), "id", "kv-1", 2, 1_000, "local")
AT = Position(Epoch(3, 77), 9, bytes(16))


def test_the_settings_reach_the_archiver() -> None:
    options = archiver_options(CONFIG)
    assert (options.workers, options.level, options.queue_bytes, options.rate_bytes_per_s) == (2, 3, 100 * MIB, 7)
    assert (options.on_full, options.hurry_workers) == ("gap", 4)
    many = archiver_options(dataclasses.replace(CONFIG, workers=9, when_full="refuse"))
    assert (many.workers, many.hurry_workers, many.on_full) == (9, 9, "refuse")


def test_the_record_of_the_cluster_is_the_same_at_each_start() -> None:
    record = cluster_record(IDENTITY, None)
    assert record == cluster_record(IDENTITY, None)
    assert (record.cluster_id, record.created_ms, record.parent, record.parent_cluster_id) == (bytes(16), 1_000, None, b"")


def test_a_fork_names_its_parent_and_who_took_over_does_not() -> None:
    forked = cluster_record(IDENTITY, Origin(b"p" * 16, "parent", AT, [], 5))
    assert (forked.parent_cluster_id, forked.parent) == (b"p" * 16, AT)
    taken = cluster_record(IDENTITY, Origin(bytes(16), "before", AT, [], 5))
    assert (taken.parent_cluster_id, taken.parent) == (b"", None)


class FakeDatabase:
    """Notes what the log's owner is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def on_archived(self, position: Position) -> None:
        self.told.append(("archived", position))

    def on_archive_gave_up(self, position: Position) -> None:
        self.told.append(("given up", position))

    def set_pressure(self, refusing: KvError | None, pace_ms: int) -> None:
        self.told.append((refusing, pace_ms))


def node_log() -> tuple[NodeLog, FakeDatabase, list[Callable[[], None]]]:
    database, posted = FakeDatabase(), list[Callable[[], None]]()
    return NodeLog(Environment(), Path("/"), cast(Any, database), posted.append), database, posted


def test_nothing_is_changed_but_on_the_event_loop() -> None:
    log, database, posted = node_log()
    log.on_archived(AT)
    log.on_given_up(AT)
    log.on_pressure(Step.SLOWING, 40)
    log.on_nearly_full(True)
    assert database.told == []
    for callback in posted:
        callback()
    assert database.told[:3] == [("archived", AT), ("given up", AT), (None, 40)]
    assert log.free_bytes() > 0


def test_writes_are_refused_by_the_reason_that_there_is() -> None:
    log, database, posted = node_log()

    def last() -> tuple[Code | None, int]:
        posted.pop()()
        refusing, pace_ms = database.told[-1]
        assert refusing is None or (isinstance(refusing, Refused) and refusing.hint and "nothing was written" in refusing.message)
        return (refusing.code if refusing else None), pace_ms

    log.on_pressure(Step.REFUSING, 100)
    assert last() == (Code.ARCHIVE_BEHIND, 100)
    log.on_nearly_full(True)
    assert last() == (Code.DISK_FULL, 100), "the archive may not even be what is wrong"
    log.on_pressure(Step.DROPPING, 100)
    assert last() == (Code.DISK_FULL, 100)
    log.on_nearly_full(False)
    assert last() == (None, 100), "whoever gives segments up refuses nothing"
    log.on_pressure(Step.KEEPING_UP, 0)
    assert last() == (None, 0)


def test_the_refusal_stays_the_same_object_while_it_lasts() -> None:
    log, database, posted = node_log()
    for pace_ms in (100, 99):
        log.on_pressure(Step.REFUSING, pace_ms)
        posted.pop()()
    assert database.told[0][0] is database.told[1][0], "or everybody in line would be looked at again for nothing"


def test_each_refused_write_gets_an_error_of_its_own() -> None:
    """One error raised by all of them would keep each of their frames, with the values that were to be written."""
    database = open_store(MemoryFileSystem())
    database.set_pressure(archive_behind("its queue is full"), 100)
    errors = []
    for _ in range(2):
        with pytest.raises(Refused) as caught:
            do(database, Put(1, b"k", b"v"))
        errors.append(caught.value)
    assert errors[0] is not errors[1]
    assert (errors[0].code, errors[0].message, errors[0].hint) == (errors[1].code, errors[1].message, errors[1].hint)


def test_every_metric_of_the_archive_has_a_value_and_no_other() -> None:
    report = dataclasses.replace(
        WELL, last_verify=Check(5_000, True, "", 1.0), last_drill=Check(7_000, False, "", 2.5), pace_ms=40
    )
    values = archive_values(report)
    ours = {metric.name for metric in METRICS if metric.name.startswith(("kv_archive_", "kv_archived_"))}
    assert values.keys() == ours
    assert values["kv_archived_revision"] == 18
    assert values["kv_archive_pace_seconds"] == 0.04
    assert values["kv_archive_last_backup_timestamp_seconds"] == BACKUP.made_ms / 1000
    assert (values["kv_archive_last_verify_ok"], values["kv_archive_last_drill_ok"]) == (1.0, 0.0)
    assert values["kv_archive_last_drill_duration_seconds"] == 2.5
    assert values["kv_archive_failing"] == 0.0
    assert archive_values(dataclasses.replace(report, last_error="down"))["kv_archive_failing"] == 1.0


def test_what_is_not_known_has_no_value() -> None:
    values = archive_values(dataclasses.replace(WELL, archived=None, last_backup=None))
    assert values["kv_archived_revision"] == 0
    assert not [name for name in values if "_last_" in name]
