"""Checks of the tables: that they can be read, how far they are, whether the log goes on where they end, what they hold."""

from __future__ import annotations

from kvserver.base.errors import Corruption
from kvserver.base.paths import SegmentName
from kvserver.base.types import CREATION_REVISION, NO_EPOCH, Position
from kvserver.commit.state import CATALOGUE_SPAN, State
from kvserver.engine.examination.findings import Finding, counted, listed, note, ok, problem, sized, warning
from kvserver.engine.examination.subject import Subject
from kvserver.engine.examination.table_rows import RowCounts, read_every_row
from kvserver.storage import rows
from kvserver.storage.rows import Flushed, Statistics
from kvserver.wal import format as fmt
from kvserver.wal.inspection import read_segment
from kvserver.wal.reader import SegmentReader
from kvserver.wal.recovery import list_segments

_COPY = "do not delete anything in tables/; open the newest checkpoint elsewhere, or put the folder back from a copy"
_LOST = "do not start a server; put the missing files back from a copy of the folder, or open the newest checkpoint elsewhere"
_OTHER = "put wal/ and tables/ back from one and the same copy of the folder"
_NOTHING = Statistics(0, 0, 0)
_CHUNK = 2_000
_TABLE_FILE = ".sst"


def check_tables(subject: Subject) -> list[Finding]:
    """Open the tables for reading and read how far they are; with ``deep`` read every row of them."""
    paths, what = subject.paths, str(subject.paths.tables)
    subject.close()
    subject.flushed = None
    names = subject.names(paths.tables)
    if not names:
        return [ok("tables", what, "none yet: everything is in the log")]
    try:
        reader = subject.tables_reader()
        row = reader.get_many([rows.FLUSHED_KEY])[0]
        if row is None:
            return _without_mark(subject)
        flushed = subject.flushed = rows.decode_flushed(row)
    except Corruption as error:
        return [problem("tables", what, error.message, _COPY)]
    except ValueError as error:
        return [problem("tables", what, str(error), f"open it with the software that wrote it; {_COPY}")]
    if not _is_owned(subject, flushed):
        found = f"the tables belong to cluster {flushed.cluster_id.hex()}, or to another moment of it, and the folder does not"
        return [problem("tables", what, found, f"put tables/ and {paths.identity.name} back from one copy of the folder")]
    size = sized(sum(subject.size(paths.tables / name) for name in names))
    position = f"revision {flushed.position.revision}, epoch {flushed.position.epoch.number}"
    found_all = [ok("tables", what, f"everything up to {position} is in them ({counted(len(names), 'file')}, {size})")]
    return found_all + (_deep(subject, flushed) if subject.deep else [])


def _is_owned(subject: Subject, flushed: Flushed) -> bool:
    """Say whether the tables are this store's, or still those of the store that it is a copy of."""
    origin = subject.origin
    if origin is not None and (flushed.cluster_id, flushed.position) == (origin.cluster_id, origin.position):
        return True
    return subject.identity is not None and flushed.cluster_id == subject.identity.cluster_id


def _without_mark(subject: Subject) -> list[Finding]:
    """Judge tables that do not say how far they are: sound only where there is nothing in them."""
    what = str(subject.paths.tables)
    copied = subject.origin is not None and subject.origin.position.revision > CREATION_REVISION
    if copied or subject.tables_reader().rows(b"", b"", 1):
        return [problem("tables", what, "they do not say how far they are", _COPY)]
    files = [name for name in subject.names(subject.paths.tables) if name.endswith(_TABLE_FILE)]
    if files:
        found = f"the list of tables (MANIFEST) names none of {listed(files)}: its end is lost, or the first flush was cut short"
        return [warning("tables", what, found, f"if anything was ever flushed: {_COPY}; else nothing, the log holds it all")]
    return [ok("tables", what, "empty: nothing was flushed yet")]


def _deep(subject: Subject, flushed: Flushed) -> list[Finding]:
    """Read every row: every block that a read can meet is then checked against its checksum."""
    what = str(subject.paths.tables)
    try:
        counts = read_every_row(subject.tables_reader(), flushed, lambda count, size: subject.progress("tables", count, size, 0))
    except Corruption as error:
        return [problem("tables", what, error.message, _COPY)]
    findings = [problem("tables", what, f"{counted(number, 'row')}: {text}", _COPY) for text, number in counts.offences.items()]
    findings += _miscounted(subject, counts)
    return findings or [ok("tables", what, f"all {counts.rows:,} rows were read, every block checks")]


def _miscounted(subject: Subject, counts: RowCounts) -> list[Finding]:
    """Compare the statistics with the rows that were counted."""
    wrong = []
    for namespace, told in _statistics(subject).items():
        counted = counts.namespaces.get(namespace, _NOTHING)
        if told not in (counted, _NOTHING):  # a dropped namespace says nothing before its rows go
            wrong.append(
                f"namespace {namespace} should hold {told.keys:,} keys in {_bytes(told)}, "
                f"and holds {counted.keys:,} in {_bytes(counted)}"
            )
    if not wrong:
        return []
    advice = "compare with an export (kvctl export): if keys are missing there, open the newest checkpoint elsewhere"
    return [warning("tables", "statistics of the namespaces", listed(wrong), advice)]


def check_marks(subject: Subject) -> list[Finding]:
    """Look whether the log goes on exactly where the tables end. Reads both anew, because beside a server both move."""
    paths, what = subject.paths, "where tables end and the log goes on"
    position = _flushed_position(subject)
    if position is None:
        return [ok("marks", what, "not compared: neither identity nor tables say where history begins")]
    names = list_segments(subject.fs, paths) if subject.fs.exists(paths.wal) else []
    if not names:
        if position.revision == CREATION_REVISION or subject.fs.exists(paths.origin):
            return [ok("marks", what, "the log holds nothing behind the tables")]
        return [problem("marks", what, f"the log is gone; the tables end at revision {position.revision}", _LOST)]
    first = names[0].first_revision
    if position.revision + 1 < first:
        gap = f"revisions {position.revision + 1} to {first - 1} are neither in tables nor in the log, which begins at {first}"
        return [problem("marks", what, gap, _LOST)]
    try:
        places, end = _places(subject, names, position.revision)
    except Corruption as error:
        return [problem("marks", what, f"they cannot be compared: {error.message}", _COPY)]
    if position.revision > end:
        ahead = f"the tables end at revision {position.revision}, the log already at {end}: its end is missing"
        return [problem("marks", what, ahead, _LOST)]
    if not places:
        return [problem("marks", what, f"the tables end at revision {position.revision}, inside a group of the log", _OTHER)]
    if position not in places:
        other = f"at revision {position.revision} the tables are of another history than the log"
        return [problem("marks", what, other, _OTHER)]
    return [ok("marks", what, f"the tables end at revision {position.revision}, the log goes on there to {end}")]


def _flushed_position(subject: Subject) -> Position | None:
    """Return how far the tables are now; the creation of the store where there are none; None where that is not known."""
    if subject.flushed is not None:
        row = subject.tables_reader().get_many([rows.FLUSHED_KEY])[0]
        return rows.decode_flushed(row).position if row is not None else subject.flushed.position
    if subject.identity is None:
        return None
    return Position(NO_EPOCH, CREATION_REVISION, fmt.creation_chain(subject.identity.cluster_id))


def _places(subject: Subject, names: list[SegmentName], revision: int) -> tuple[set[Position], int]:
    """Return every position that the log has at a revision (an epoch without commits shares it), and the log's end."""
    places: set[Position] = set()
    reader: SegmentReader | None = None
    for index, name in enumerate(names):
        is_last = index == len(names) - 1
        starts_by = name.first_revision - 1 <= revision
        reaches = is_last or names[index + 1].first_revision - 1 >= revision
        if not is_last and not (starts_by and reaches):
            continue
        reader = read_segment(subject.fs, subject.paths, name)
        if reader.header.previous.revision == revision:
            places.add(reader.header.previous)
        if reader.revision == revision:
            places.add(reader.position)
        for _ in reader.frames():
            if reader.revision == revision:
                places.add(reader.position)
    return places, reader.revision if reader is not None else CREATION_REVISION


def check_window(subject: Subject) -> list[Finding]:
    """Read from when on the past can be read."""
    what = "readable history"
    if subject.flushed is None:
        return [ok("window", what, "no tables: everything in the log can be read")]
    flushed = subject.flushed.position.revision
    try:
        oldest = _system_state(subject).newest_compaction[1]
    except ValueError as error:
        return [problem("window", what, f"a row of the system's own does not parse: {error}", _COPY)]
    if oldest > flushed:
        found = f"the oldest readable revision is {oldest}, but the tables end at {flushed}"
        return [problem("window", what, found, _OTHER)]
    gone = oldest // subject.flushed.bucket_revisions
    forgotten = subject.tables_reader().rows(rows.bucket_prefix(0), rows.bucket_prefix(gone), 1) if gone else []
    text = f"from revision {oldest} on{_since(subject, oldest)}"
    if forgotten:
        advice = "nothing: it goes with the next flush; at once with kvctl compact"
        return [note("window", what, f"{text}; older history is still in the tables", advice)]
    return [ok("window", what, text)]


def _since(subject: Subject, oldest: int) -> str:
    """Return how old that is, as far as the rows of times tell."""
    found = subject.tables_reader().rows(rows.time_key(oldest), rows.time_key(2**64 - 1), 1)
    if not found or subject.flushed is None:
        return ""
    _, time_ms = rows.decode_time(*found[0])
    return f", about {max(0, subject.clock.now_ms() - time_ms) / 3_600_000:,.1f} hours back"


def check_namespaces(subject: Subject) -> list[Finding]:
    """Compare the catalogue of namespaces with what the tables hold of each."""
    what = "namespaces"
    if subject.flushed is None:
        return [ok("namespaces", what, "no tables: their figures are known to a running server only")]
    try:
        state = _system_state(subject)
    except ValueError as error:
        return [problem("namespaces", what, f"a row of the system's own does not parse: {error}", _COPY)]
    statistics = _statistics(subject)
    told = [
        f"{entry.name or 'the default one'}: {statistics[entry.id].keys:,} keys, {_bytes(statistics[entry.id])}"
        for entry in state.namespaces.values()
        if entry.id in statistics
    ]
    findings = [ok("namespaces", what, f"{len(state.namespaces)}; {listed(told, 5) or 'no figures yet'}")]
    dropped = [
        f"{state.dropped[number].name!r}"
        for number in sorted(state.dropped)
        if subject.tables_reader().rows(*rows.data_span(number, b"", b""), 1)
    ]
    if dropped:
        found = f"the tables hold keys of namespaces that were dropped: {listed(dropped)}"
        findings.append(note("namespaces", what, found, "nothing: they go with the next flush; their space with kvctl compact"))
    return findings


def _bytes(statistics: Statistics) -> str:
    return sized(statistics.key_bytes + statistics.value_bytes)


def _system_state(subject: Subject) -> State:
    """Return the catalogue and the oldest readable revision as the tables have them. Raises ValueError for a bad row."""
    state = State()
    start, end = CATALOGUE_SPAN
    while chunk := subject.tables_reader().rows(start, end, _CHUNK):
        state.load(chunk)
        start = chunk[-1][0] + b"\0"
    return state


def _statistics(subject: Subject) -> dict[int, Statistics]:
    """Return the statistics of every namespace that has some."""
    start, end = rows.STATISTICS, bytes([rows.STATISTICS[0] + 1])
    found: dict[int, Statistics] = {}
    while chunk := subject.tables_reader().rows(start, end, _CHUNK):
        found |= {int.from_bytes(key[1:5], "big"): rows.decode_statistics(row) for key, row in chunk}
        start = chunk[-1][0] + b"\0"
    return found
