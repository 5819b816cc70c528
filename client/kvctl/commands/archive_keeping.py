"""``kvctl archive retain`` and ``kvctl archive point``: what an archive gives up, and which revisions it keeps by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kvctl import output
from kvctl.command import Group
from kvctl.commands import archive_fields as fields
from kvctl.commands.archive_access import archive_options, locate, open_archive
from kvctl.confirmation import confirm
from kvctl.failures import EXIT_NOT_FOUND, CtlError
from kvctl.progress import ProgressBar
from kvctl.settings import Settings, command_options
from kvctl.times import parse_moment_ms, shown_moment

if TYPE_CHECKING:
    from kvserver.archive.records import PointRecord
    from kvserver.archive.retention_plan import RetentionPlan

_DAY_MS = 86_400_000


@click.command(short_help="Give up old backups and old log.")
@archive_options(server=True)
@click.option(
    "--keep-backups", type=click.IntRange(min=1), metavar="N", help="Keep the N newest backups and the log behind them."
)
@click.option(
    "--keep-days", type=click.FloatRange(min=0, min_open=True), metavar="D", help="Keep every moment of the last D days."
)
@click.option("--dry-run", is_flag=True, help="Only say what would be given up.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@command_options
@click.pass_obj
def retain(
    settings: Settings,
    url: str | None,
    cluster: str | None,
    keep_backups: int | None,
    keep_days: float | None,
    dry_run: bool,
    yes: bool,
) -> None:
    """Give up backups and log that neither bound nor a named point keeps, for good.

    With both bounds, what either of them keeps stays. Before anything is removed it is proven that everything kept can
    still be restored; where it cannot, nothing is removed. It is asked before, unless --yes is given; without a terminal
    --yes must be. Nodes do the same by themselves with --keep-backups and --keep-days.

    \b
    Examples:
      kvctl archive retain --keep-days 30 --keep-backups 4 --dry-run
      kvctl archive retain --keep-days 30 --keep-backups 4
      kvctl archive retain --archive s3://backups/kv --keep-backups 7 --yes -o json
    """
    if keep_backups is None and keep_days is None:
        raise click.UsageError("give --keep-backups, --keep-days or both: what is not kept is gone")
    with open_archive(locate(settings, url, cluster), "archive retain") as archive:
        from kvserver.archive.retention import RetentionPolicy
        from kvserver.archive.retention import retain as carry_out
        from kvserver.base.environment import Environment

        env, policy = Environment(), RetentionPolicy(keep_backups or 0, round((keep_days or 0) * _DAY_MS))
        plan = carry_out(env, archive.store, archive.cluster_id, policy, dry_run=True)
        if not dry_run and _is_anything(plan):
            confirm(f"{_loss(plan)} Go on?", "nothing was given up", yes=yes)
            with ProgressBar("removing", len(plan.files) + len(plan.segments) + len(plan.records), "object") as bar:
                removed = 0

                def show(name: str) -> None:
                    nonlocal removed
                    removed += 1
                    bar.show(removed, removed)

                plan = carry_out(env, archive.store, archive.cluster_id, policy, on_removed=show)
    _tell_retained(settings, plan, dry_run=dry_run)


def _is_anything(plan: RetentionPlan) -> bool:
    return bool(plan.backups or plan.files or plan.segments or plan.records)


def _loss(plan: RetentionPlan) -> str:
    """Return in a sentence what is lost."""
    told = plan.describe()
    backups = output.counted(len(plan.backups), "backup")
    segments = output.counted(told["segments"], "segment")
    size = output.sized(told["segment_bytes"] + told["file_bytes"])
    return f"This gives up {backups} and {segments} ({size}): nothing before revision {plan.first_revision} is promised any more."


def _tell_retained(settings: Settings, plan: RetentionPlan, *, dry_run: bool) -> None:
    told = plan.describe()
    if settings.as_json:
        output.write_json({"dry_run": True, **told} if dry_run else told)
        return
    if settings.output == "raw":
        for backup in plan.backups:
            output.write_line(f"backup\t{backup.id}")
        for kind, infos in (("file", plan.files), ("segment", plan.segments)):
            for info in infos:
                output.write_line(f"{kind}\t{fields.safe(info.name)}\t{info.length}")
        return
    for kept in plan.kept:
        output.write_line(f"kept: {fields.safe(kept.what)}, revision {kept.revision}")
    for backup in plan.backups:
        output.write_line(f"given up: backup {backup.id}, revision {backup.position.revision}")
    if plan.reason:
        output.write_line(f"no more, because {fields.safe(plan.reason)}")
    if not _is_anything(plan):
        output.write_line("nothing was given up")
        return
    verb = "would be removed" if dry_run else "removed"
    files = f"{output.counted(told['files'], 'file')} ({output.sized(told['file_bytes'])})"
    segments = f"{output.counted(told['segments'], 'segment')} ({output.sized(told['segment_bytes'])})"
    output.write_line(f"{verb}: {output.counted(len(plan.backups), 'backup')}, {files}, {segments}")
    output.write_line(f"revisions from {plan.first_revision} on are promised" + ("; nothing was removed" if dry_run else ""))


@click.group(cls=Group, short_help="Name revisions that are kept.")
def point() -> None:
    """Name revisions, so that they stay restorable whatever retention gives up.

    \b
    Examples:
      kvctl archive point set before-upgrade
      kvctl archive point list
      kvctl archive point delete before-upgrade
    """


@point.command("set", short_help="Give a revision a name.")
@click.argument("name")
@archive_options(server=True)
@click.option("--revision", type=click.IntRange(min=1), metavar="N", help="The revision; the newest archived one unless given.")
@click.option("--time", "moment", metavar="T", help="Instead: the last commit at or before a time, as kvctl restore takes it.")
@click.option("--note", default="", metavar="TEXT", help="What it is for.")
@command_options
@click.pass_obj
def set_(
    settings: Settings, name: str, url: str | None, cluster: str | None, revision: int | None, moment: str | None, note: str
) -> None:
    """Give a revision the name NAME: small letters, digits, '.', '_' and '-'.

    It must be one that can be restored. A name stands for one revision; to move it, delete it first.

    \b
    Examples:
      kvctl archive point set before-upgrade
      kvctl archive point set quarter-1 --time 2026-04-01T00:00:00Z --note 'books closed'
      kvctl archive point set release-7 --revision 1200 -o json
    """
    if revision is not None and moment is not None:
        raise click.UsageError("--revision and --time exclude each other")
    try:
        time_ms = parse_moment_ms(moment) if moment is not None else None
    except ValueError as error:
        raise click.UsageError(f"--time: {error}") from error
    with open_archive(locate(settings, url, cluster), "archive point set") as archive:
        from kvserver.archive.plan import RestoreTarget
        from kvserver.archive.points import create_point
        from kvserver.base.clock import SystemClock

        target = RestoreTarget(revision, time_ms)
        made = create_point(archive.store, archive.cluster_id, name, target, note, SystemClock())
    _tell_point(settings, made, "is")


@point.command("list")
@archive_options(server=True)
@command_options
@click.pass_obj
def list_(settings: Settings, url: str | None, cluster: str | None) -> None:
    """List the points by revision.

    \b
    Examples:
      kvctl archive point list
      kvctl archive point list --archive s3://backups/kv -o json
    """
    with open_archive(locate(settings, url, cluster), "archive point list") as archive:
        from kvserver.archive.catalog import read_catalog

        points = read_catalog(archive.store, archive.cluster_id).points
    if settings.as_json:
        for record in points:
            output.write_json(fields.point_fields(record))
    elif settings.output == "raw":
        for record in points:
            output.write_line("\t".join(map(str, (record.name, record.revision, record.time_ms, record.made_ms, record.note))))
    else:
        output.write_table(fields.POINT_HEAD, map(fields.point_row, points))


@point.command(short_help="Take a name away.")
@click.argument("name")
@archive_options(server=True)
@command_options
@click.pass_obj
def delete(settings: Settings, name: str, url: str | None, cluster: str | None) -> None:
    """Delete the point NAME. Its revision stays restorable until retention gives it up.

    \b
    Examples:
      kvctl archive point delete before-upgrade
    """
    with open_archive(locate(settings, url, cluster), "archive point delete") as archive:
        from kvserver.archive.points import delete_point
        from kvserver.base.errors import InvalidRequest

        try:
            was = delete_point(archive.store, archive.cluster_id, name)
        except InvalidRequest as error:
            hint = f"list them with: kvctl archive point list --archive {archive.url}"
            raise CtlError("NO_SUCH_POINT", error.message, hint, EXIT_NOT_FOUND) from error
    _tell_point(settings, was, "was")


def _tell_point(settings: Settings, record: PointRecord, verb: str) -> None:
    if settings.as_json:
        output.write_json(fields.point_fields(record))
    elif settings.output == "raw":
        output.write_line(str(record.revision))
    else:
        output.write_line(f"{record.name} {verb} revision {record.revision}, as of {shown_moment(record.time_ms)}")
