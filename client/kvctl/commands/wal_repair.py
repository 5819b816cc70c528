"""``kvctl wal repair``: puts sound segments from the archive in the place of damaged ones, in the folder of a stopped node."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kvctl import output
from kvctl.commands.archive_access import open_store, server_code
from kvctl.commands.archive_fields import safe
from kvctl.failures import EXIT_UNHEALTHY, CtlError
from kvctl.progress import ByteBar
from kvctl.settings import Settings, command_options

if TYPE_CHECKING:
    from kvserver.archive.repair import RepairReport


@click.command(short_help="Replace damaged segments by those of the archive.")
@click.option(
    "--data-dir",
    "data_dir",
    required=True,
    metavar="DIR",
    envvar="KVCTL_DATA_DIR",
    show_envvar=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The folder given to kvserver serve --data-dir; the node must be stopped.",
)
@click.option("--from", "source", required=True, type=click.Choice(["archive"]), help="Where sound segments are.")
@click.option(
    "--archive",
    "url",
    required=True,
    metavar="URL",
    envvar="KVCTL_ARCHIVE",
    show_envvar=True,
    help="Where the archive is: file:///DIR or s3://BUCKET/PREFIX.",
)
@click.option("--segment", metavar="NAME", help="Only this segment, also if it is missing; a name as `kvctl wal list` shows it.")
@click.option("--dry-run", is_flag=True, help="Only say what is damaged, and whether the archive has it.")
@command_options
@click.pass_obj
def repair(settings: Settings, data_dir: Path, source: str, url: str, segment: str | None, dry_run: bool) -> int:
    """Replace every damaged segment of a stopped node's log by the same segment from the archive.

    Each is checked byte by byte before it takes its place, and must be the one that the segments beside it name. The
    damaged file is kept beside it under another name. What is sound is not touched. Exit code 5 when something damaged
    is left, because the archive does not hold it.

    \b
    Examples:
      export KVCTL_ARCHIVE=file:///srv/archive
      kvctl wal repair --data-dir data/node --from archive --dry-run
      kvctl wal repair --data-dir data/node --from archive
    """
    with server_code("wal repair"), open_store(url) as store:
        from kvserver.archive.repair import repair_segments
        from kvserver.base.environment import Environment
        from kvserver.base.paths import parse_segment
        from kvserver.replication.local_register import LocalRegister

        name = parse_segment(segment) if segment is not None else None
        if segment is not None and name is None:
            raise CtlError("NO_SUCH_SEGMENT", f"{segment!r} is no name of a segment", f"see: kvctl wal list {data_dir}")
        root = data_dir.resolve()
        with ByteBar("reading the log", _length(root)) as bar:
            done = 0

            def show(name: str, length: int) -> None:
                nonlocal done
                done += length
                bar.show_bytes(done)

            report = repair_segments(Environment(), store, root, name, show, dry_run=dry_run, register=LocalRegister)
    _tell(settings, report, dry_run=dry_run)
    return EXIT_UNHEALTHY if report.unrepaired else 0


def _length(root: Path) -> int | None:
    """Return the bytes of the log, for the bar; None where that cannot be told."""
    from kvserver.base.paths import DataPaths

    try:
        return sum(path.stat().st_size for path in DataPaths(root).wal.iterdir()) or None
    except OSError:
        return None


def _tell(settings: Settings, report: RepairReport, *, dry_run: bool) -> None:
    if settings.as_json:
        told = {
            "segments": report.segments,
            "repaired": [one._asdict() for one in report.repaired],
            "unrepaired": [one._asdict() for one in report.unrepaired],
        }
        output.write_json({"dry_run": True, **told} if dry_run else told)
        return
    if settings.output == "raw":
        for done in report.repaired:
            output.write_line(f"repaired\t{done.segment}\t{done.kept_as}\t{safe(done.what)}")
        for left in report.unrepaired:
            output.write_line(f"unrepaired\t{left.segment}\t{safe(left.what)}\t{safe(left.why)}")
        return
    for done in report.repaired:
        output.write_line(f"{done.segment}: {safe(done.what)}")
        kept = f"; what was there is kept as {done.kept_as}" if done.kept_as else ""
        output.write_line("  would be put back from the archive" if dry_run else f"  put back from the archive{kept}")
    for left in report.unrepaired:
        output.write_line(f"{left.segment}: {safe(left.what)}")
        output.write_line(f"  not put back: {safe(left.why)}")
    output.write_line(_verdict(report, dry_run=dry_run))


def _verdict(report: RepairReport, *, dry_run: bool) -> str:
    """Return the last line."""
    read = output.counted(report.segments, "segment")
    if not report.repaired and not report.unrepaired:
        return f"{read} read; nothing is damaged"
    verb = "would be put back" if dry_run else "put back"
    left = f", {len(report.unrepaired)} still damaged" if report.unrepaired else ""
    return f"{read} read; {len(report.repaired)} {verb}{left}"
