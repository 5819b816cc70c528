"""``kvctl restore``: brings a store back from its archive, as of a revision or a moment, into a new folder. Needs no server."""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kvctl import output
from kvctl.command import Command
from kvctl.commands import archive_fields as fields
from kvctl.commands.archive_access import Archive, Place, archive_options, named_backup, open_archive
from kvctl.confirmation import confirm
from kvctl.failures import EXIT_INTERRUPTED, CtlError
from kvctl.progress import Stages
from kvctl.settings import Settings, command_options
from kvctl.times import parse_moment_ms, shown_moment, shown_span

if TYPE_CHECKING:
    from kvserver.archive.catalog import Catalog
    from kvserver.archive.plan import RestorePlan, RestoreTarget
    from kvserver.archive.restore import RestoreDone
    from kvserver.archive.take_over import NewNode

DEFAULT_WORKERS = 4
STAGES = {"base": "fetching the backup", "log": "replaying the log"}
"""What the stages of a restore are called for people."""


@click.command(cls=Command)
@archive_options(server=False)
@click.option("--to-revision", type=click.IntRange(min=1), metavar="N", help="Up to this revision, included.")
@click.option(
    "--to-time",
    metavar="T",
    help="Up to the last commit at or before a time: 2026-03-01T12:00:00Z, with another zone, '2026-03-01 12:00:00' (UTC), "
    "or how long ago: 5m.",
)
@click.option("--latest", is_flag=True, help="Up to the newest revision that the archive holds.")
@click.option(
    "--target-dir",
    "folder",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="The folder to restore into: new, empty, or that of a restore that was interrupted.",
)
@click.option("--dry-run", is_flag=True, help="Only say how it would be done, and what would be reached.")
@click.option(
    "--without-backup",
    "left_out",
    multiple=True,
    metavar="ID",
    help="Do not begin with this backup, a damaged one for instance. May be given several times.",
)
@click.option("--no-space-check", is_flag=True, help="Begin though the disk may be too small.")
@click.option("--take-over", is_flag=True, help="Go on as the same store, not as a fork, and fence its old node off.")
@click.option("--name", metavar="NAME", help="With --take-over: the name of the new node; this machine's unless given.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before --take-over.")
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=DEFAULT_WORKERS,
    show_default=True,
    metavar="N",
    help="Fetch so many files or segments at once.",
)
@command_options
@click.pass_obj
def restore(
    settings: Settings,
    url: str,
    cluster: str | None,
    to_revision: int | None,
    to_time: str | None,
    latest: bool,
    folder: Path | None,
    dry_run: bool,
    left_out: tuple[str, ...],
    no_space_check: bool,
    take_over: bool,
    name: str | None,
    yes: bool,
    workers: int,
) -> None:
    """Restore a store from its archive into a new folder, as of a revision or a moment.

    The plan is shown first: with which backup it begins, which part of the log follows, and which revision and time are
    reached. Every byte is checked on the way. What was interrupted is gone on with by the same command.

    The result is a fork: a store of its own, with a new cluster id, that leaves the old one and its archive as they are.
    With --take-over it is the old store itself: its next start begins the next epoch, and a node that still runs the old
    one may not write to the archive any more. That is for when the old node is gone for good.

    Exit codes: 5 something in the archive is damaged, 6 the archive does not hold what is asked for, 1 the folder cannot
    be used, 3 the archive cannot be reached.

    \b
    Examples:
      kvctl restore --archive file:///srv/archive --to-revision 1200 --dry-run
      kvctl restore --archive file:///srv/archive --to-time 5m --target-dir data/restored
      export KVCTL_ARCHIVE=s3://backups/kv
      kvctl restore --to-time '2026-03-01 12:00:00' --target-dir data/restored
      kvctl restore --latest --target-dir /srv/kv --take-over
    """
    time_ms = _time_ms(to_revision, to_time, latest)
    if folder is None and not dry_run:
        raise click.UsageError("--target-dir DIR says where to restore to; without it there is only --dry-run")
    if name is not None and not take_over:
        raise click.UsageError("--name goes with --take-over: a fork is given its name when it is served first")
    with open_archive(Place(url, cluster), "restore") as archive:
        from kvserver.archive.plan import RestoreTarget, make_plan

        catalog, unused = _catalog(archive, left_out)
        plan = make_plan(archive.store, archive.cluster_id, RestoreTarget(to_revision, time_ms), catalog=catalog)
        begun = _begun(archive, plan, folder, take_over) if folder is not None else None
        if begun is not None and begun.base is not None and begun.base.id in unused:
            raise _begun_otherwise(begun.base.id, folder)
        plan = begun or plan
        if dry_run or not settings.as_json:
            _tell_plan(settings, archive, plan, catalog, dry_run=dry_run, goes_on=begun is not None)
        if dry_run or folder is None:
            return
        if take_over:
            confirm(_question(plan), "nothing was restored", yes=yes)
        node = _node(name) if take_over else None
        done = _carry_out(archive, plan, folder, workers, node, check_space=not no_space_check)
    _tell_done(settings, archive, plan, folder, done, goes_on=take_over)


def _time_ms(revision: int | None, time: str | None, latest: bool) -> int | None:
    """Return the moment asked for; None where it is a revision. Raises UsageError unless one thing is asked for."""
    if (revision is not None) + (time is not None) + latest != 1:
        raise click.UsageError("give one of --to-revision, --to-time and --latest")
    try:
        return parse_moment_ms(time) if time is not None else None
    except ValueError as error:
        raise click.UsageError(f"--to-time: {error}") from error


def _catalog(archive: Archive, left_out: tuple[str, ...]) -> tuple[Catalog, set[str]]:
    """Read what the archive holds, without the backups that are to be left out; return their names too. Raises CtlError."""
    from kvserver.archive.catalog import read_catalog, without

    catalog = read_catalog(archive.store, archive.cluster_id)
    backups = [named_backup(catalog.bases(), text, archive.url) for text in left_out]
    for backup in backups:
        catalog = without(catalog, backup.cluster_id, (), {backup.id})
    return catalog, {backup.id for backup in backups}


def _begun_otherwise(backup_id: str, folder: Path | None) -> CtlError:
    message = f"the restore that was begun in {folder} goes on with the backup {backup_id}, which is to be left out"
    return CtlError("TARGET_UNUSABLE", message, "name another folder, or remove that one")


def _begun(archive: Archive, plan: RestorePlan, folder: Path, take_over: bool) -> RestorePlan | None:
    """Return the plan of the same restore that was begun in a folder before, which it goes on with; None where there is none."""
    from kvserver.archive.plan_record import plan_of
    from kvserver.base.environment import Environment
    from kvserver.base.paths import DataPaths
    from kvserver.storage.restore_record import read_restore_record

    found = read_restore_record(Environment(), DataPaths(folder.absolute()))
    wanted = (archive.url, plan.cluster_id, take_over)
    if found is None or (found.archive_url, found.cluster_id, found.take_over) != wanted:
        return None
    with contextlib.suppress(ValueError, KeyError, TypeError):  # what does not check is told by who carries it out
        begun = plan_of(found.plan)
        if begun.revision == plan.revision or begun.target == plan.target:
            return begun
    return None


def _question(plan: RestorePlan) -> str:
    return (
        f"This becomes the cluster {plan.cluster_id.hex()} itself, as of revision {plan.revision}. What it committed later is "
        "given up, and a node that still runs it may not write to the archive any more. Go on?"
    )


def _node(name: str | None) -> NewNode:
    """Return the node that takes over; raise UsageError for what is no name of one."""
    import socket

    from kvserver.archive.take_over import NewNode
    from kvserver.replication.local_register import KIND, LocalRegister
    from kvserver.server.flags import NODE_NAME

    if name is None:
        host = socket.gethostname()
        name = host if NODE_NAME.fullmatch(host) else "node"
    elif not NODE_NAME.fullmatch(name):
        raise click.UsageError(f"--name: {name!r} is no name of a node")
    return NewNode(name, LocalRegister, KIND)


def _carry_out(
    archive: Archive, plan: RestorePlan, folder: Path, workers: int, node: NewNode | None, *, check_space: bool
) -> RestoreDone:
    """Restore, and show how far it is."""
    from kvserver.archive.restore import RestoreOptions, RestoreProgress
    from kvserver.archive.restore import restore as carry_out
    from kvserver.base.environment import Environment

    options = RestoreOptions(workers=workers, take_over=node is not None, node=node, check_space=check_space, own_process=True)
    with Stages() as bar:

        def show(progress: RestoreProgress) -> None:
            if progress.stage in STAGES:
                bar.show(STAGES[progress.stage], progress.bytes_done, progress.total_bytes)

        try:
            return carry_out(Environment(), archive.store, plan, folder.absolute(), options, show)
        except KeyboardInterrupt:
            raise _interrupted(archive, plan, folder, node) from None


def _interrupted(archive: Archive, plan: RestorePlan, folder: Path, node: NewNode | None) -> CtlError:
    words = ["kvctl", "restore", "--archive", archive.url, "--cluster", plan.cluster_id.hex()]
    words += ["--to-revision", str(plan.revision), "--target-dir", str(folder)]
    if node is not None:
        words += ["--take-over", "--name", node.name]
    message = "interrupted; what was restored so far is kept"
    return CtlError("INTERRUPTED", message, f"go on with: {shlex.join(words)}", EXIT_INTERRUPTED)


def _tell_plan(
    settings: Settings, archive: Archive, plan: RestorePlan, catalog: Catalog, *, dry_run: bool, goes_on: bool
) -> None:
    from kvserver.archive.plan import possible_spans
    from kvserver.archive.restore import AHEAD_BYTES
    from kvserver.archive.restore_target import room_bytes

    if settings.as_json:
        output.write_json({"dry_run": True, "archive": archive.url, **plan.describe()})
        return
    if settings.output == "raw":
        if dry_run:
            output.write_line(str(plan.revision))
        return
    output.write_pairs(
        [
            ("archive", fields.safe(archive.url)),
            ("cluster", plan.cluster_id.hex()),
            ("asked for", _asked_for(plan.target)),
            ("reaches", f"revision {plan.revision}, as of {shown_moment(plan.time_ms)}"),
            ("begins with", _base(plan)),
            ("then", _log(plan)),
            ("room", f"up to {output.sized(room_bytes(plan.base_bytes, plan.raw_bytes, AHEAD_BYTES))} while it runs"),
            ("possible", fields.shown_spans(possible_spans(catalog))),
            *([("goes on", "with what was begun in the folder before")] if goes_on else []),
            *(("note", fields.safe(note)) for note in plan.notes),
        ]
    )
    if dry_run:
        output.write_line("nothing was restored")


def _asked_for(target: RestoreTarget) -> str:
    if target.time_ms is not None:
        return f"the last commit at or before {shown_moment(target.time_ms)}"
    return target.text()


def _base(plan: RestorePlan) -> str:
    base = plan.base
    if base is None:
        return "an empty store: no backup is needed, or there is none"
    files = f"{output.counted(len(base.files), 'file')}, {output.sized(plan.base_bytes)}"
    return f"backup {base.id}, revision {base.position.revision} ({files})"


def _log(plan: RestorePlan) -> str:
    if not plan.segments:
        return "nothing: the backup is what is asked for"
    sizes = f"{output.sized(plan.stored_bytes)}, decompressed {output.sized(plan.raw_bytes)}"
    return f"{output.counted(plan.segments, 'segment')} of the log ({sizes})"


def _tell_done(
    settings: Settings, archive: Archive, plan: RestorePlan, folder: Path, done: RestoreDone, *, goes_on: bool
) -> None:
    serve = shlex.join(["kvserver", "serve", "--data-dir", str(folder), *(["--archive", archive.url] if goes_on else [])])
    revision = done.position.revision
    if settings.as_json:
        position = fields.position_fields(done.position) or {}
        restored = {"seconds": round(done.seconds, 3), "target_dir": str(folder), "serve": serve}
        output.write_json({"archive": archive.url, **plan.describe(), **position, **restored})
        return
    if settings.output == "raw":
        output.write_line(str(revision))
        return
    rate = f", {done.raw_bytes / done.log_seconds / 1e6:,.1f} MB/s of log" if done.raw_bytes and done.log_seconds else ""
    output.write_line("")
    output.write_pairs(
        [
            ("restored", f"revision {revision} in {shown_span(done.seconds * 1000)}{rate}"),
            ("serve it with", fields.safe(serve)),
        ]
    )
