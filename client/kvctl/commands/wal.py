"""``kvctl wal``: looks at a log on disk. Needs no server, changes nothing, and is safe beside a running one.

What does change a log, ``kvctl wal repair``, is in ``wal_repair``.

Like ``kvctl doctor`` it uses the server's code, and so needs the ``[server]`` extra.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import click

from kvctl.bytes_form import BytesForm
from kvctl.command import Group
from kvctl.commands.wal_repair import repair
from kvctl.failures import EXIT_UNHEALTHY, CtlError
from kvctl.output import sized, write_bytes, write_json, write_line, write_pairs, write_table
from kvctl.settings import Settings, command_options, key_options
from kvserver.base.errors import Corruption
from kvserver.base.fs import OsFileSystem
from kvserver.base.paths import DataPaths, SegmentName, parse_segment
from kvserver.wal.commit_record import DELETE, Effect, iter_commits
from kvserver.wal.format import GROUP
from kvserver.wal.inspection import SegmentReport, inspect_log, kept_torn_tails, read_segment
from kvserver.wal.reader import End, SegmentReader
from kvserver.wal.recovery import list_segments

_DATA_DIR = click.argument("data_dir", envvar="KVCTL_DATA_DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))


@click.group(cls=Group)
def wal() -> None:
    """Look at a log on disk, or repair it, without a server.

    DATA_DIR is the server's --data-dir; the variable KVCTL_DATA_DIR may name it. Only repair changes anything there, of a
    stopped node; for all others a server may be running on it.

    \b
    Examples:
      kvctl wal list data/node
      kvctl wal dump data/node --from-revision 100 --limit 10
      kvctl wal verify data/node
      kvctl wal repair --data-dir data/node --from archive --archive file:///srv/archive
    """


wal.add_command(repair)


@wal.command("list")
@_DATA_DIR
@command_options
@click.pass_obj
def list_(settings: Settings, data_dir: Path) -> None:
    """List the segments, oldest first, with what each holds.

    \b
    Examples:
      kvctl wal list data/node
      kvctl wal list data/node -o json
    """
    reports = list(inspect_log(OsFileSystem(), _paths(data_dir)))
    if settings.as_json:
        write_json({"segments": [_report_fields(report) for report in reports]})
        return
    if settings.output == "raw":
        for report in reports:
            fields = ("" if value is None else str(value) for value in _report_fields(report).values())
            write_line("\t".join(fields))
        return
    head = ["SEGMENT", "STATE", "EPOCH", "FIRST", "LAST", "COMMITS", "GROUPS", "SIZE"]
    write_table(head, [_row(report) for report in reports])


@wal.command(short_help="Print the commits in the log.")
@_DATA_DIR
@click.option("--segment", metavar="NAME", help="Only this segment; a name as `kvctl wal list` shows it.")
@click.option("--from-revision", type=click.IntRange(min=1), default=1, help="Begin with this revision.")
@click.option("--limit", type=click.IntRange(min=0), default=0, help="The most commits to print; 0: all.")
@key_options
@click.pass_obj
def dump(settings: Settings, data_dir: Path, segment: str | None, from_revision: int, limit: int) -> None:
    """Print the commits in the log: what each did to which key.

    With -o json, one object a commit and line, values included; raw, a line an effect with tabs between its parts.

    \b
    Examples:
      kvctl wal dump data/node --limit 5
      kvctl wal dump data/node --from-revision 1000 -o json
    """
    paths = _paths(data_dir)
    commits = _commits(paths, _chosen(paths, segment), from_revision)
    for commit in islice(commits, limit or None):
        _tell_commit(settings, *commit)


def _tell_commit(settings: Settings, revision: int, time_ms: int, effects: list[Effect]) -> None:
    form = settings.form
    if settings.as_json:
        fields = [_effect_fields(effect, form) for effect in effects]
        write_json({"revision": revision, "time_ms": time_ms, "effects": fields})
        return
    for effect in effects:
        is_put = effect.op != DELETE
        if settings.output == "raw":
            head = f"{revision}\t{time_ms}\t{'put' if is_put else 'delete'}\t{effect.namespace}\t".encode()
            write_bytes(head + form.raw(effect.key) + (b"\t" + form.raw(effect.value) if is_put else b"") + b"\n")
        else:
            what = f"put {sized(len(effect.value))}" if is_put else "delete"
            write_line(f"{revision}  {what}  namespace {effect.namespace}  {form.shown(effect.key)}")


@wal.command(short_help="Check every byte of the log.")
@_DATA_DIR
@command_options
@click.pass_obj
def verify(settings: Settings, data_dir: Path) -> int:
    """Check every byte of the log and how its segments follow each other.

    Exit code 5 when something is damaged. A torn end is not damage: it is what a crash leaves of a write that was never
    acknowledged, or, beside a running server, a write that is under way. A log may begin at any revision: what was before
    it is in the tables, which this command does not read. That both fit together is seen by the server at every start.

    \b
    Examples:
      kvctl wal verify data/node && echo sound
      kvctl wal verify data/node -o json
    """
    reports = list(inspect_log(OsFileSystem(), _paths(data_dir)))
    damaged = [report for report in reports if report.state == "damaged"]
    last = reports[-1] if reports else None
    fields: dict[str, Any] = {
        "sound": not damaged,
        "segments": len(reports),
        "commits": sum(report.commits for report in reports),
        "bytes": sum(report.length_bytes for report in reports),
        "problems": [report.problem for report in reports if report.problem],
        "torn_files": kept_torn_tails(OsFileSystem(), _paths(data_dir)),
    }
    if reports:
        fields["first_revision"] = reports[0].name.first_revision
    if last is not None and last.end is not None:
        fields |= {"epoch": last.end.epoch.number, "revision": last.end.revision, "chain": last.end.chain.hex()}
    if settings.as_json:
        write_json(fields)
    elif settings.output == "raw":
        pairs = [(name, value) for name, value in fields.items() if name not in ("problems", "torn_files")]
        pairs += [("problem", problem) for problem in fields["problems"]]
        pairs += [("torn_file", name) for name in fields["torn_files"]]
        write_pairs([(name, str(value)) for name, value in pairs], raw=True)
    else:
        shown = {name: value for name, value in fields.items() if name not in ("problems", "torn_files")}
        shown["bytes"] = sized(fields["bytes"])
        write_pairs([(name, str(value)) for name, value in shown.items()])
        for problem in fields["problems"]:
            write_line(f"problem: {problem}")
        for name in fields["torn_files"]:
            write_line(f"kept: {name}, cut from a segment's end by an earlier recovery")
    return EXIT_UNHEALTHY if damaged else 0


def _paths(data_dir: Path) -> DataPaths:
    """Return the paths below a data folder; end with an error where it holds no log."""
    paths = DataPaths(data_dir.resolve())
    if not paths.wal.is_dir():
        raise CtlError("NOT_A_DATA_DIR", f"{data_dir} holds no log", "name the folder given to kvserver serve --data-dir")
    return paths


def _chosen(paths: DataPaths, segment: str | None) -> list[SegmentName]:
    names = list_segments(OsFileSystem(), paths)
    if segment is None:
        return names
    name = parse_segment(segment)
    if name is None or name not in names:
        raise CtlError("NO_SUCH_SEGMENT", f"there is no segment {segment!r}", f"see: kvctl wal list {paths.root}")
    return [name]


def _commits(paths: DataPaths, names: list[SegmentName], from_revision: int) -> Iterator[tuple[int, int, list[Effect]]]:
    """Yield revision, time and effects of the commits from a revision on. Ends the run with CORRUPTION where it must."""
    fs = OsFileSystem()
    later = [name.first_revision for name in names[1:]] + [None]
    for name, end in zip(names, later, strict=True):
        if end is not None and end <= from_revision:
            continue
        try:
            reader = _reader(fs, paths, name)
        except FileNotFoundError:  # it was there a moment ago: a running server removed it, its commits are in tables
            continue
        for frame in reader.frames():
            if frame.header.kind != GROUP or frame.header.last_revision < from_revision:
                continue
            for number, effects in enumerate(iter_commits(frame.payload, frame.header.commits)):
                revision = frame.header.first_revision + number
                if revision >= from_revision:
                    yield revision, frame.header.time_ms, effects
        if reader.end in (End.BAD, End.TRAILING):
            problem = f"{reader.path.name} can be read up to offset {reader.offset}, revision {reader.revision}, only"
            raise CtlError("CORRUPTION", problem, f"see: kvctl wal verify {paths.root}", EXIT_UNHEALTHY)


def _reader(fs: OsFileSystem, paths: DataPaths, name: SegmentName) -> SegmentReader:
    try:
        return read_segment(fs, paths, name)
    except Corruption as error:
        raise CtlError(error.code.name, error.message, f"see: kvctl wal verify {paths.root}", EXIT_UNHEALTHY) from error


def _row(report: SegmentReport) -> list[str]:
    first = str(report.name.first_revision)
    last = str(report.end.revision) if report.end is not None and report.commits else "-"
    size = sized(report.length_bytes)
    remark = report.problem or report.note
    return [
        *(report.file, report.state, str(report.name.epoch_number), first, last),
        *(str(report.commits), str(report.groups), size + (f"  {remark}" if remark else "")),
    ]


def _report_fields(report: SegmentReport) -> dict[str, Any]:
    return {
        "segment": report.file,
        "state": report.state,
        "epoch": report.name.epoch_number,
        "first_revision": report.name.first_revision,
        "last_revision": report.end.revision if report.end is not None else None,
        "chain": report.end.chain.hex() if report.end is not None else None,
        "commits": report.commits,
        "groups": report.groups,
        "bytes": report.length_bytes,
        "problem": report.problem,
        "note": report.note,
    }


def _effect_fields(effect: Effect, form: BytesForm) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "op": "delete" if effect.op == DELETE else "put",
        "namespace_id": effect.namespace,
        **form.fields("key", effect.key),
    }
    if effect.op != DELETE:
        fields |= form.fields("value", effect.value)
    if effect.version:
        fields |= {"create_revision": effect.create_revision, "version": effect.version}
    return fields
