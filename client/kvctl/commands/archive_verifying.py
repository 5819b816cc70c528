"""``kvctl archive verify``: reads every byte of an archive, and says what is damaged and what that prevents."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import click

from kvctl import output
from kvctl.commands import archive_fields as fields
from kvctl.commands.archive_access import Archive, archive_options, locate, open_archive
from kvctl.failures import EXIT_UNHEALTHY
from kvctl.progress import ByteBar
from kvctl.settings import Settings, command_options
from kvctl.times import shown_span

if TYPE_CHECKING:
    from kvserver.archive.verify import VerifyReport

DEFAULT_WORKERS = 2
_LEFTOVERS_SHOWN = 10


@click.command(short_help="Read every byte of the archive.")
@archive_options(server=True)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=DEFAULT_WORKERS,
    show_default=True,
    metavar="N",
    help="Read so many objects at once.",
)
@command_options
@click.pass_obj
def verify(settings: Settings, url: str | None, cluster: str | None, workers: int) -> int:
    """Read every byte of the archive: the log with its chain, the files of all backups, every record.

    Of everything damaged it says which revisions cannot be restored because of it. Exit code 5 when something is damaged
    or missing. What no record names is no damage: a crash leaves it, and the next retention removes it. Of a fork only
    what it archived itself is read; the store that it comes from is verified by its own --cluster ID.

    \b
    Examples:
      kvctl archive verify
      kvctl archive verify --archive s3://backups/kv --workers 8 && echo sound
      kvctl archive verify --archive file:///srv/archive -o json
    """
    with open_archive(locate(settings, url, cluster), "archive verify") as archive:
        from kvserver.archive.verify import verify_archive

        began = time.monotonic()
        with _Bar() as bar:
            report = verify_archive(archive.store, archive.cluster_id, workers, bar.show)
        seconds = time.monotonic() - began
        parent = _parent(archive)
    if settings.as_json:
        output.write_json({"archive": archive.url, **report.describe(), "seconds": round(seconds, 3)})
    elif settings.output == "raw":
        _write_raw(report)
    else:
        _write_for_people(archive.url, report, seconds, parent)
    return 0 if report.is_whole else EXIT_UNHEALTHY


def _parent(archive: Archive) -> str:
    """Return the id of the store that this one was forked from; empty where there is none, or where that cannot be told."""
    from kvserver.archive.catalog import read_cluster
    from kvserver.archive.store import ObjectMissing
    from kvserver.base.errors import Corruption

    with contextlib.suppress(Corruption, ObjectMissing):  # the report names it
        return read_cluster(archive.store, archive.cluster_id).parent_cluster_id.hex()
    return ""


class _Bar:
    """A bar of the bytes read; how many there are is known when the records have been read."""

    def __init__(self) -> None:
        self._bar: ByteBar | None = None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)

    def show(self, done: int, total: int, name: str) -> None:
        """Show how far it is."""
        if self._bar is None:
            self._bar = ByteBar("reading", total or None)
            self._bar.__enter__()
        self._bar.show_bytes(done)


def _write_for_people(url: str, report: VerifyReport, seconds: float, parent: str) -> None:
    read_bytes = report.stored_bytes + report.file_bytes
    rate = f", {read_bytes / seconds / 1e6:,.1f} MB/s" if seconds else ""
    segments = f"{output.counted(report.segments, 'segment')}, {output.sized(report.stored_bytes)}"
    files = f"{output.counted(report.files, 'file')} of {output.counted(report.backups, 'backup')}"
    output.write_pairs(
        [
            ("archive", fields.safe(url)),
            ("cluster", report.cluster_id.hex()),
            ("log", f"{segments}, decompressed {output.sized(report.raw_bytes)}"),
            ("backups", f"{files}, {output.sized(report.file_bytes)}"),
            ("read", f"{output.sized(read_bytes)} in {shown_span(seconds * 1000)}{rate}"),
            ("can be restored", fields.shown_spans(report.restorable)),
            *(("gap", f"revisions {gap.first_revision} to {gap.last_revision}") for gap in report.gaps),
            *([("not read", f"the log and backups of the store that it was forked from: --cluster {parent}")] if parent else []),
        ]
    )
    for one in report.damaged:
        output.write_line(f"damaged: {fields.safe(one.name)}: {fields.safe(one.what)}")
        output.write_line(f"  because of it: {fields.safe(one.prevents)}")
    for problem in report.problems:
        output.write_line(f"problem: {fields.safe(problem)}")
    for first, last in report.lost:
        output.write_line(f"lost: revisions {first} to {last} cannot be restored")
    for info in report.leftovers[:_LEFTOVERS_SHOWN]:
        output.write_line(f"left over: {fields.safe(info.name)}, {output.sized(info.length)}; no record names it")
    if len(report.leftovers) > _LEFTOVERS_SHOWN:
        output.write_line(f"left over: {len(report.leftovers) - _LEFTOVERS_SHOWN:,} more objects that no record names")
    output.write_line(_verdict(report))


def _verdict(report: VerifyReport) -> str:
    """Return the last line: whether all is well."""
    if report.is_whole:
        return "everything is there, and every byte checks"
    damaged = output.counted(len(report.damaged), "damaged object")
    return f"{damaged}, {output.counted(len(report.problems), 'problem')} with the records"


def _write_raw(report: VerifyReport) -> None:
    told = report.describe()
    lists = {name: told.pop(name) for name in ("damaged", "problems", "gaps", "leftovers", "lost", "restorable")}
    output.write_pairs([(name, str(value)) for name, value in told.items()], raw=True)
    for one in lists["damaged"]:
        output.write_line("\t".join(["damaged", *(fields.safe(str(value)) for value in one.values())]))
    for problem in lists["problems"]:
        output.write_line(f"problem\t{fields.safe(problem)}")
    for kind, name in (("gap", "gaps"), ("lost", "lost"), ("restorable", "restorable")):
        for one in lists[name]:
            output.write_line(f"{kind}\t{one['first_revision']}\t{one['last_revision']}")
    for one in lists["leftovers"]:
        output.write_line(f"leftover\t{fields.safe(one['name'])}\t{one['length']}")
