"""Checks of the log and of the register: every frame, where the log begins and ends, which epochs are in it, what keeps it."""

from __future__ import annotations

from kvserver.base.errors import Corruption
from kvserver.base.register import EpochRecord
from kvserver.base.types import CREATION_REVISION, Epoch, Position
from kvserver.engine.examination.findings import Finding, counted, note, ok, problem, sized, warning
from kvserver.engine.examination.subject import LogSummary, Subject
from kvserver.wal.inspection import SegmentReport, inspect_log, read_segment
from kvserver.wal.recovery import list_segments

CLOCK_TOLERANCE_MS = 5_000
"""So far in the future a frame's time may lie: clocks of different machines, and the one that sets this one, differ."""

_COPY = "do not cut or delete anything; put the file back from a copy of the folder, or open the newest checkpoint elsewhere"
_EPOCHS_COPY = "put the folder epochs/ back as it was, from a copy taken together with wal/"
_LONG_REPLAY = 8
"""The log behind the tables is long when it is so many times what a memtable holds."""


def check_log(subject: Subject) -> list[Finding]:
    """Read every frame of the log."""
    paths, what = subject.paths, str(subject.paths.wal)
    subject.log = None
    if not subject.fs.exists(paths.wal):
        subject.log = LogSummary([], 0, 0)
        return [ok("log", what, "none yet")]
    total = sum(subject.size(paths.segment(name)) for name in list_segments(subject.fs, paths))
    reports = _inspected(subject, None, total)
    if subject.flushed is not None and any(report.state == "damaged" for report in reports):
        based = _inspected(subject, subject.flushed.position, total)  # what the tables hold may be missing here
        reports = reports if any(report.state == "damaged" for report in based) else based
    subject.log = LogSummary(reports, total, _last_time_ms(subject, reports))
    if not reports:
        return [ok("log", what, "no segment")]
    bad = next((report for report in reports if report.state == "damaged"), None)
    if bad is not None:
        advice = f"{_COPY}; with an archive: kvctl wal repair; what can still be read: kvctl wal verify {paths.root}"
        return [problem("log", bad.file, bad.problem, advice)]
    end = reports[-1].end
    held = f"revisions {subject.log.first_revision} to {end.revision}" if end else "nothing"
    found = [ok("log", what, f"{held} in {counted(len(reports), 'segment')}, {sized(total)}; every frame checks")]
    last = reports[-1]
    if last.state == "torn" and not subject.in_use:
        advice = "start the server: it cuts this end, keeps it in a file of its own and reports it"
        found.append(warning("log", last.file, last.problem, advice))
    if subject.identity is not None and reports[0].header and reports[0].header.cluster_id != subject.identity.cluster_id:
        whose = f"the log belongs to cluster {reports[0].header.cluster_id.hex()}, the folder to another"
        found.append(problem("log", what, whose, f"put wal/ and {paths.identity.name} back from one copy of the folder"))
    return found


def _inspected(subject: Subject, base: Position | None, total: int) -> list[SegmentReport]:
    """Return what is seen of each segment, telling how far it is."""
    reports: list[SegmentReport] = []
    done = 0
    for report in inspect_log(subject.fs, subject.paths, base):
        reports.append(report)
        done += subject.size(subject.paths.segment(report.name))
        subject.progress("log", sum(one.commits for one in reports), done, total)
    return reports


def _last_time_ms(subject: Subject, reports: list[SegmentReport]) -> int:
    """Return the time of the newest frame that can be read."""
    if not reports:
        return 0
    try:
        reader = read_segment(subject.fs, subject.paths, reports[-1].name)
        for _ in reader.frames():
            pass
    except (Corruption, FileNotFoundError):
        return 0
    return reader.time_ms


def check_clock(subject: Subject) -> list[Finding]:
    """Compare the machine's clock with the newest time in the folder."""
    now = subject.clock.now_ms()
    times = {
        "the newest frame of the log": subject.log.last_time_ms if subject.log is not None else 0,
        "the tables": subject.flushed.time_ms if subject.flushed is not None else 0,
        "the folder's creation": subject.identity.created_ms if subject.identity is not None else 0,
    }
    name, newest = max(times.items(), key=lambda item: item[1])
    ahead_ms = newest - now
    if ahead_ms > CLOCK_TOLERANCE_MS:
        advice = "set the clock and keep it set (chrony, systemd-timesyncd); until it has caught up, ages of history are wrong"
        return [warning("clock", "this machine's clock", f"{name} is {ahead_ms / 1000:,.0f} s in the future", advice)]
    return [ok("clock", "this machine's clock", "not behind anything in the folder")]


def check_epochs(subject: Subject) -> list[Finding]:
    """Compare the register of epochs with the log, as a start does."""
    what = str(subject.paths.epochs)
    kind = subject.identity.register if subject.identity is not None else ""
    if kind not in subject.registers:
        return [ok("epochs", what, "not looked into: no register that this tool knows")]
    try:
        records = subject.registers[kind](subject.fs, subject.paths).records()
    except Corruption as error:
        return [problem("epochs", what, error.message, _EPOCHS_COPY)]
    reports = subject.log.reports if subject.log is not None else []
    found = [*_unclaimed(what, records, reports), *_differing(what, records, reports)]
    if subject.log is not None and subject.log.sound and not subject.in_use:
        found += _lost_end(subject, records)
    if found:
        return found
    newest = f"{len(records)} claimed, the newest is {records[-1].epoch.number}" if records else "none claimed yet"
    return [ok("epochs", what, f"{newest}; log and register agree")]


def _unclaimed(what: str, records: list[EpochRecord], reports: list[SegmentReport]) -> list[Finding]:
    """Find epochs of the log that the register does not know, or knows as somebody else's."""
    claimed = {record.epoch.number: record.epoch for record in records}
    found = []
    for epoch in dict.fromkeys(report.header.epoch for report in reports if report.header is not None):
        if epoch.number not in claimed:
            found.append(problem("epochs", what, f"epoch {epoch.number} is in the log, but its claim is lost", _EPOCHS_COPY))
        elif claimed[epoch.number] != epoch:
            text = f"epoch {epoch.number} has another nonce in the log than in the register"
            found.append(problem("epochs", what, text, _EPOCHS_COPY))
    return found


def _differing(what: str, records: list[EpochRecord], reports: list[SegmentReport]) -> list[Finding]:
    """Find epochs that begin elsewhere in the log than the register says."""
    branches: dict[Epoch, Position] = {one.header.epoch: one.header.branch for one in reports if one.header is not None}
    return [
        problem(
            "epochs",
            what,
            f"epoch {record.epoch.number} begins behind revision {branches[record.epoch].revision} in the log, "
            f"behind {record.branch.revision} in the register, or on another history",
            _EPOCHS_COPY,
        )
        for record in records
        if record.branch is not None and branches.get(record.epoch, record.branch) != record.branch
    ]


def _lost_end(subject: Subject, records: list[EpochRecord]) -> list[Finding]:
    """Find that the log does not reach what the register knows to have been durable."""
    reports = subject.log.reports if subject.log is not None else []
    end = max((one.end.revision for one in reports if one.end is not None), default=CREATION_REVISION)
    branches = [record.branch for record in records if record.branch is not None]
    begun = [record.epoch for record in records if record.begun]
    what = str(subject.paths.wal)
    lost = "put the missing segments back from a copy of the folder; do not start a server before"
    if branches and branches[-1].revision > end:
        text = f"the log ends at revision {end}, but revision {branches[-1].revision} was durable; segments are missing"
        return [problem("epochs", what, text, lost)]
    if begun and all(one.name.epoch_number != begun[-1].number for one in reports):
        text = f"the first segment of epoch {begun[-1].number} was durable, and is missing"
        return [problem("epochs", what, text, lost)]
    return []


def check_holds(subject: Subject) -> list[Finding]:
    """Say what keeps the oldest segments, and how much of the log the next start reads."""
    what = "segments of the log"
    if subject.log is None or not subject.log.reports:
        return [ok("holds", what, "there are none")]
    flushed = subject.flushed.position.revision if subject.flushed is not None else CREATION_REVISION
    names = [report.name for report in subject.log.reports]
    ends = [name.first_revision - 1 for name in names[1:]]
    sizes = {name: subject.size(subject.paths.segment(name)) for name in names}
    free = [name for name, end in zip(names, ends, strict=False) if end <= flushed and subject.flushed is not None]
    kept = [name for name in names if name not in free]
    kept_bytes = sum(sizes[name] for name in kept)
    reports = subject.log.reports
    end = max((report.end.revision for report in reports if report.end is not None), default=flushed)
    if subject.flushed is None:
        why = "there are no tables"
    elif end > flushed:
        why = f"revisions {flushed + 1} to {end} are in no table"
    else:
        why = "the newest one always is"
    text = f"kept: {counted(len(kept), 'segment')} ({sized(kept_bytes)}), because {why}"
    if free:
        how = "the server removes" if subject.in_use else "after the next start the server removes"
        size = sized(sum(sizes[name] for name in free))
        text += f"; {how} {counted(len(free), 'segment')} ({size}) that the tables cover"
    limit = _LONG_REPLAY * subject.options.tables.memtable_bytes
    if kept_bytes <= limit:
        return [ok("holds", what, text)]
    advice = (
        "see with kvctl status why nothing is flushed, or ask for it with kvctl flush"
        if subject.in_use
        else "give the next start time: it reads all of this, and then writes it into tables"
    )
    return [(warning if subject.in_use else note)("holds", what, text, advice)]
