"""``kvctl backup``: base backups in the archive: made through the node, looked at and deleted where they lie."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click

from kvctl import output
from kvctl.command import Group
from kvctl.commands import archive_fields as fields
from kvctl.commands.archive import made_fields
from kvctl.commands.archive_access import Archive, archive_options, locate, named_backup, open_archive
from kvctl.confirmation import confirm
from kvctl.failures import EXIT_UNHEALTHY, as_ctl_error
from kvctl.progress import ByteBar, Stages
from kvctl.settings import Settings, command_options
from kvctl.times import shown_moment

if TYPE_CHECKING:
    from kvclient import BackupProgress
    from kvserver.archive.records import BackupRecord

_MAY_BE_MADE = "the backup may have been made; see: kvctl backup list"
_STAGES = {"waiting": "waiting for another backup", "copying": "copying within the node", "sending": "sending"}


@click.group(cls=Group)
def backup() -> None:
    """Make, list, check and delete base backups: the tables at one revision, to begin a restore with.

    With a backup and the log behind it every later revision can be restored. A file that the archive holds already is
    not sent again. Without --archive the node says where its archive is.

    \b
    Examples:
      kvctl backup create
      kvctl backup list
      kvctl backup verify --archive file:///srv/archive
      kvctl backup delete 00000000000004d2-0000019a8d1c2b00 --dry-run
    """


@backup.command(short_help="Have the node make a backup.")
@command_options
@click.pass_obj
def create(settings: Settings) -> None:
    """Have the node make a base backup in its archive, and return when it is there.

    The node makes a checkpoint, hashes each of its tables and sends those that the archive does not hold. Writes go on
    meanwhile. Ctrl-C ends it; files sent by then are used by the next backup. --timeout bounds the wait for a sign of
    life, not the whole.

    \b
    Examples:
      kvctl backup create
      kvctl -E db1:7400 backup create -o json
    """
    last = _create(settings)
    made = last.backup
    assert made is not None  # the client raises where the stream ends without one
    if settings.as_json:
        output.write_json({**made_fields(made), "sent_bytes": last.sent_bytes})
    elif settings.output == "raw":
        output.write_line(made.id)
    else:
        size = f"{output.sized(made.total_bytes)} in {output.counted(made.files, 'file')}"
        output.write_pairs(
            [
                ("backup", made.id),
                ("revision", f"{made.revision} of epoch {made.epoch}"),
                ("time of it", shown_moment(made.time_ms)),
                ("tables", f"{size}, {output.sized(last.sent_bytes)} of it sent"),
            ]
        )


def _create(settings: Settings) -> BackupProgress:
    """Have a backup made, show how far it is, and return what was said last."""
    import kvclient

    last: BackupProgress | None = None
    with settings.connect() as kv:
        try:
            with Stages() as bar, contextlib.closing(kv.create_backup(timeout_s=settings.timeout_s)) as progress:
                for last in progress:
                    bar.show(_STAGES.get(last.stage, last.stage), last.bytes_done, last.total_bytes)
        except (kvclient.Timeout, kvclient.Unavailable) as error:
            told = as_ctl_error(error)
            if not error.from_server and last is not None:
                told.hint = _MAY_BE_MADE
            raise told from error
    assert last is not None
    return last


@backup.command("list")
@archive_options(server=True)
@command_options
@click.pass_obj
def list_(settings: Settings, url: str | None, cluster: str | None) -> None:
    """List the backups, oldest first.

    \b
    Examples:
      kvctl backup list
      kvctl backup list --archive s3://backups/kv -o json
    """
    with open_archive(locate(settings, url, cluster), "backup list") as archive:
        from kvserver.archive.catalog import read_catalog

        catalog = read_catalog(archive.store, archive.cluster_id)
    if settings.as_json:
        for record in catalog.backups:
            output.write_json(fields.backup_fields(record))
    elif settings.output == "raw":
        for record in catalog.backups:
            figures = (record.position.revision, record.time_ms, len(record.files), record.length, record.made_ms)
            output.write_line("\t".join([record.id, *map(str, figures)]))
    else:
        output.write_table(fields.BACKUP_HEAD, map(fields.backup_row, catalog.backups))


@backup.command(short_help="Show one backup with its files.")
@click.argument("backup_id", metavar="ID")
@archive_options(server=True)
@command_options
@click.pass_obj
def info(settings: Settings, backup_id: str, url: str | None, cluster: str | None) -> None:
    """Show one backup with its files. ID is its name, or the beginning of it; 'latest' is the newest one.

    \b
    Examples:
      kvctl backup info latest
      kvctl backup info 00000000000004d2 -o json
    """
    with open_archive(locate(settings, url, cluster), "backup info") as archive:
        record = find_backup(archive, backup_id)
    if settings.as_json:
        files = [{"file": file.path, "bytes": file.length, "sha256": file.sha256.hex()} for file in record.files]
        output.write_json({**fields.backup_fields(record), "file_list": files})
        return
    if settings.output == "raw":
        for file in record.files:
            output.write_line(f"{file.path}\t{file.length}\t{file.sha256.hex()}")
        return
    position = record.position
    output.write_pairs(
        [
            ("backup", record.id),
            ("cluster", record.cluster_id.hex()),
            ("revision", f"{position.revision} of epoch {position.epoch.number}"),
            ("chain", position.chain.hex()),
            ("time of it", shown_moment(record.time_ms)),
            ("can be read from", f"revision {record.oldest_readable_revision} on"),
            ("made", f"{shown_moment(record.made_ms)} by {fields.safe(record.node_name)}"),
            ("tables", f"{output.sized(record.length)} in {output.counted(len(record.files), 'file')}"),
        ]
    )
    output.write_line("")
    rows = [(file.path, output.sized(file.length), file.sha256.hex()) for file in record.files]
    output.write_table(("FILE", "SIZE", "SHA-256"), rows)


@backup.command(short_help="Read every byte of one backup.")
@click.argument("backup_id", metavar="ID")
@archive_options(server=True)
@command_options
@click.pass_obj
def verify(settings: Settings, backup_id: str, url: str | None, cluster: str | None) -> int:
    """Read every byte of one backup. ID is its name, or the beginning of it; 'latest' is the newest one.

    Exit code 5 when a file is damaged or missing. The log behind it, and everything else, is what kvctl archive verify
    reads.

    \b
    Examples:
      kvctl backup verify latest && echo sound
      kvctl backup verify 00000000000004d2 --archive s3://backups/kv -o json
    """
    with open_archive(locate(settings, url, cluster), "backup verify") as archive:
        from kvserver.archive.backup import verify_backup

        record = find_backup(archive, backup_id)
        with ByteBar("reading", record.length) as bar:
            problems = verify_backup(
                archive.store, archive.cluster_id, record.id, lambda progress: bar.show_bytes(progress.bytes_done)
            )
    if settings.as_json:
        told = {"id": record.id, "whole": not problems, "files": len(record.files), "bytes": record.length}
        output.write_json({**told, "problems": problems})
    elif settings.output == "raw":
        for problem in problems:
            output.write_line(fields.safe(problem))
    else:
        for problem in problems:
            output.write_line(f"problem: {fields.safe(problem)}")
        size = f"{output.counted(len(record.files), 'file')}, {output.sized(record.length)}"
        output.write_line(f"backup {record.id}: {size}: {'DAMAGED' if problems else 'every byte checks'}")
    return EXIT_UNHEALTHY if problems else 0


@backup.command(short_help="Delete a backup, and what only it needs.")
@click.argument("backup_id", metavar="ID")
@archive_options(server=True)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--force", is_flag=True, help="Also where a point, or everything, could not be restored any more.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@command_options
@click.pass_obj
def delete(
    settings: Settings, backup_id: str, url: str | None, cluster: str | None, dry_run: bool, force: bool, yes: bool
) -> None:
    """Delete the backup ID and the files that no other one names. It is asked before, unless --yes is given.

    What lies between it and the next backup can be restored afterwards only with an older one. Where something that was
    promised could not be restored any more, it is refused. kvctl archive retain deletes what is old, by a rule.

    \b
    Examples:
      kvctl backup delete 00000000000004d2-0000019a8d1c2b00 --dry-run
      kvctl backup delete 00000000000004d2-0000019a8d1c2b00
    """
    with open_archive(locate(settings, url, cluster), "backup delete") as archive:
        from kvserver.archive.backup import delete_backup
        from kvserver.archive.file_sweep import unnamed_files
        from kvserver.archive.retention_plan import what_needs
        from kvserver.base.environment import Environment

        record = find_backup(archive, backup_id)
        needed_by = what_needs(archive.store, archive.cluster_id, record.id)
        swept = unnamed_files(archive.store, archive.names, frozenset({record.id}))
        if not dry_run:
            size = f"{output.counted(len(swept.files), 'file')}, {output.sized(swept.length)}"
            confirm(f"Delete the backup {record.id} ({size}), for good?", "nothing was deleted", yes=yes)
            swept = delete_backup(Environment(), archive.store, archive.cluster_id, record.id, force)
    told = {"id": record.id, "revision": record.position.revision, "files": len(swept.files), "bytes": swept.length}
    if settings.as_json:
        told_more = {"postponed": swept.postponed, "needed_by": needed_by}
        output.write_json({"dry_run": True, **told, **told_more} if dry_run else {**told, **told_more})
    elif settings.output == "raw":
        output.write_line(record.id)
    else:
        for what in needed_by:
            output.write_line(f"cannot be restored without it: {fields.safe(what)}")
        files = f"{output.counted(len(swept.files), 'file')} ({output.sized(swept.length)})"
        verb = "would delete" if dry_run else "deleted"
        output.write_line(f"{verb} the backup {record.id} and {files}")
        if swept.postponed:
            output.write_line(f"its files stay for now: {fields.safe(swept.postponed)}")


def find_backup(archive: Archive, text: str) -> BackupRecord:
    """Return the backup of a name, of the beginning of one, or the newest one; raise CtlError where that is not one."""
    from kvserver.archive.catalog import read_catalog

    return named_backup(read_catalog(archive.store, archive.cluster_id).backups, text, archive.url)
