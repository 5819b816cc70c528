"""What the server writes to standard error: one line a message, for people or as JSON, and the events of the engine as lines."""

from __future__ import annotations

import dataclasses
import datetime
import json
import logging
import re
import sys
import threading
import types
from collections.abc import Mapping
from typing import Any, TextIO

from kvserver.base import archive_events, archive_upkeep_events, events
from kvserver.base.events import Event
from kvserver.server.cluster_logs import CLUSTER_SENTENCES, Sentence

LOG = logging.getLogger("kvserver.engine")
PROCESS_LOG = logging.getLogger("kvserver.server")

_SENTENCES: Mapping[type[Event], Sentence] = {
    events.StoreCreated: (logging.INFO, lambda e: f"made {e.data_dir} into a new store, cluster {e.cluster_id}"),
    events.TornTailCut: (
        logging.WARNING,
        lambda e: (
            f"cut a torn tail: {e.length_bytes} bytes of {e.segment} from offset {e.offset}, revisions "
            f"{e.first_revision} to {e.last_revision}, never acknowledged; kept as {e.kept_as}"
        ),
    ),
    events.LogRecovered: (
        logging.INFO,
        lambda e: (
            f"read back {e.commits} commits from {e.segments} segments, {e.bytes_read} bytes, in {e.seconds:.3f} s; "
            f"at revision {e.revision}"
        ),
    ),
    events.EpochBegun: (logging.INFO, lambda e: f"began epoch {e.number} (nonce {e.nonce:016x}) behind revision {e.revision}"),
    events.SegmentSealed: (
        logging.DEBUG,
        lambda e: f"sealed segment {e.segment}, {e.length_bytes} bytes, at revision {e.last_revision}",
    ),
    events.SpaceUnavailable: (
        logging.ERROR,
        lambda e: f"the log gets no more room: {e.reason}; writes are refused when what is ready is used up",
    ),
    events.SpaceAvailable: (logging.INFO, lambda e: "the log gets room again"),
    events.LogPoisoned: (logging.CRITICAL, lambda e: f"the log failed, nothing is acknowledged any more: {e.reason}"),
    archive_events.SegmentArchived: (
        logging.DEBUG,
        lambda e: f"archived {e.segment} up to revision {e.last_revision}: {e.raw_bytes} bytes as {e.stored_bytes}",
    ),
    archive_events.ArchivePressureChanged: (
        logging.WARNING,
        lambda e: f"the archive is {e.step}, after {e.before}: {e.unarchived_bytes} bytes of the log wait for it",
    ),
    archive_events.ArchiveGap: (
        logging.ERROR,
        lambda e: (
            f"the archive lacks revisions {e.first_revision} to {e.last_revision} for good ({e.reason}); "
            "make a new base backup: kvctl backup create"
        ),
    ),
    archive_events.ArchiveNeedsBackup: (
        logging.WARNING,
        lambda e: (
            f"the archive begins behind revision {e.from_revision}, and nothing in it can be restored without a base backup "
            "of that revision or a later one: kvctl backup create"
        ),
    ),
    archive_events.ArchiveFencedOff: (logging.CRITICAL, lambda e: f"nothing is archived any more, stop this node: {e.reason}"),
    archive_events.BallastGivenBack: (
        logging.WARNING,
        lambda e: f"the disk is nearly full: gave back {e.ballast_bytes} bytes of ballast; {e.free_bytes} bytes are free",
    ),
    archive_upkeep_events.BackupMade: (
        logging.INFO,
        lambda e: (
            f"made backup {e.backup} of revision {e.revision}: {e.files} files, {e.total_bytes} bytes, "
            f"{e.sent_bytes} of them new, in {e.seconds:.1f} s"
        ),
    ),
    archive_upkeep_events.ArchiveVerified: (logging.INFO, lambda e: f"checked the archive in {e.seconds:.1f} s: {e.what}"),
    archive_upkeep_events.ArchiveVerifyFailed: (logging.ERROR, lambda e: f"the check of the archive failed: {e.reason}"),
    archive_upkeep_events.DrillPassed: (
        logging.INFO,
        lambda e: f"drill: restored revision {e.revision} in {e.seconds:.1f} s, and it is equal to the node",
    ),
    archive_upkeep_events.DrillFailed: (logging.ERROR, lambda e: f"the drill failed: {e.reason}"),
    **CLUSTER_SENTENCES,
}
"""The level and the sentence of kinds of events for which people want a better one than ``_plain_sentence`` makes."""

_BAD_NEWS = ("Failed", "Failing", "Died", "Unavailable", "NotDeleted", "Lost")
"""An event whose name ends like this is a warning unless the table says otherwise; any other is information."""


def log_event(event: Event) -> None:
    """Write an event to the log; called on any thread. Any dataclass will do: its docstring says what happened."""
    kind = type(event)
    default = logging.WARNING if kind.__name__.endswith(_BAD_NEWS) else logging.INFO
    told, sentence = _SENTENCES.get(kind, (default, _plain_sentence))
    level = told if isinstance(told, int) else told(event)
    if LOG.isEnabledFor(level):
        LOG.log(level, "%s", sentence(event), extra={"event": event})


def _plain_sentence(event: Event) -> str:
    """Return the first sentence of the event's docstring with its fields behind it."""
    kind = type(event)
    first = re.split(r"[.:;]\s|\.$|\n", kind.__doc__ or "", maxsplit=1)[0].strip()
    if first.startswith(f"{kind.__name__}("):  # what a dataclass without a docstring gets
        first = ""
    what = first[:1].lower() + first[1:] or kind.__name__
    fields = ", ".join(f"{field.name}={getattr(event, field.name)}" for field in dataclasses.fields(event))
    return f"{what}: {fields}" if fields else what


class TextFormatter(logging.Formatter):
    """Time, level, where from, what: for people."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a traceback follows on lines of its own."""
        line = f"{_time(record)} {record.levelname:<8} {record.name}: {record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: for machines."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object; an event's fields stand below ``fields``."""
        entry: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        event = getattr(record, "event", None)
        if isinstance(event, Event):
            entry["event"] = type(event).__name__
            entry["fields"] = dataclasses.asdict(event)
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=_in_json)


def _in_json(value: object) -> str:
    """Return what JSON has no form for as text: bytes in hexadecimal, the rest as people read it."""
    return value.hex() if isinstance(value, bytes) else str(value)


def configure(level: str, form: str, stream: TextIO | None = None) -> None:
    """Send what is logged from now on to a stream (standard error) in the form named."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("kvserver").setLevel(level.upper())


def take_over_exceptions() -> None:
    """Have what nobody caught, and Python's own warnings, written as log messages: whoever reads JSON reads nothing else."""

    def uncaught(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
        PROCESS_LOG.critical("the process ends with an exception: %s", error, exc_info=(kind, error, trace))

    def uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
        error = args.exc_value or args.exc_type()
        name = args.thread.name if args.thread is not None else "unknown"
        PROCESS_LOG.critical("thread %s ended with an exception: %s", name, error, exc_info=error)

    sys.excepthook = uncaught
    threading.excepthook = uncaught_in_thread
    logging.captureWarnings(True)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
