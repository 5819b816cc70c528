"""``kvctl archive``: how the archive is doing, what it holds, whether every byte of it is sound, and what it keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kvctl import output
from kvctl.command import Group
from kvctl.commands import archive_fields as fields
from kvctl.commands.archive_access import Place, open_archive
from kvctl.commands.archive_keeping import point, retain
from kvctl.commands.archive_listing import list_
from kvctl.commands.archive_training import dictionary
from kvctl.commands.archive_verifying import verify
from kvctl.long_call import long_call
from kvctl.settings import Settings, command_options
from kvctl.times import shown_moment, shown_span

if TYPE_CHECKING:
    from kvclient import ArchiveCheck, ArchiveStatus, Backup
    from kvserver.archive.catalog import Catalog

_FIGURES = (
    *("revision", "archived_revision", "archived_epoch", "archived_time_ms"),
    *("unarchived_segments", "unarchived_bytes", "oldest_unarchived_age_ms"),
    *("pace_ms", "last_error", "workers", "level", "queue_bytes", "rate_bytes_per_s", "when_full"),
    *("segments_total", "raw_bytes_total", "stored_bytes_total", "failures_total"),
)
_STILL_AT_IT = "the node goes on by itself; see how far the archive is with: kvctl archive status"


@click.group(cls=Group)
def archive() -> None:
    """See, check and keep the archive: the log in a place of its own, from which any moment can be restored.

    Without --archive the node says where its archive is. What only reads and looks after the archive needs no server
    otherwise; give --archive URL, or set KVCTL_ARCHIVE, where there is none.

    \b
    Examples:
      kvctl archive status
      kvctl archive list --segments
      kvctl archive verify --archive file:///srv/archive
      kvctl archive point set before-upgrade
    """


for command in (list_, verify, retain, point, dictionary):
    archive.add_command(command)


@archive.command(short_help="Show how far the archive is.")
@click.option("--archive", "url", metavar="URL", help="Ask no node: read what the archive at this address says of itself.")
@click.option("--cluster", metavar="ID", help="With --archive: whose log in it, by the first digits of a cluster's id.")
@command_options
@click.pass_obj
def status(settings: Settings, url: str | None, cluster: str | None) -> None:
    """Show how far the archive is, what waits, and what needs somebody's attention.

    What would be lost with the machine is what is not archived yet: see 'not archived' and its age.

    \b
    Examples:
      kvctl archive status
      kvctl -E db1:7400 archive status -o json
      kvctl archive status --archive s3://backups/kv
    """
    if url is not None:
        from kvserver.archive.catalog import read_catalog

        with open_archive(Place(url, cluster), "archive status") as opened:
            _tell_catalog(settings, opened.url, read_catalog(opened.store, opened.cluster_id))
        return
    if cluster is not None:
        raise click.UsageError("--cluster goes with --archive")
    with settings.connect() as kv:
        found = kv.archive_status()
    if settings.as_json:
        output.write_json(_status_fields(found))
    elif settings.output == "raw":
        output.write_pairs(_raw_pairs(_status_fields(found)), raw=True)
    else:
        output.write_pairs(_for_people(found))


@archive.command(short_help="Archive all that is visible now.")
@command_options
@click.pass_obj
def now(settings: Settings) -> None:
    """Archive all that is visible at this moment, and return when the archive holds it.

    The open segment of the log is sealed, whatever its age. Nodes do this by themselves once a segment is full or old
    enough. --timeout is 5m unless given.

    \b
    Examples:
      kvctl archive now
      kvctl archive now --timeout 20m -o json
    """
    with long_call(settings, "archiving", _STILL_AT_IT) as kv:
        done = kv.archive_now(timeout_s=settings.long_limit_s)
    if settings.as_json:
        output.write_json({"archived_revision": done.archived_revision, "archived_epoch": done.archived_epoch})
    elif settings.output == "raw":
        output.write_line(str(done.archived_revision))
    else:
        output.write_line(f"everything up to revision {done.archived_revision} is in the archive")


def made_fields(made: Backup) -> dict[str, Any]:
    """Return a backup that a node speaks of as JSON fields, the same that are printed of one in the archive."""
    return {
        "id": made.id,
        "epoch": made.epoch,
        "revision": made.revision,
        "chain": made.chain.hex(),
        "time_ms": made.time_ms,
        "files": made.files,
        "bytes": made.total_bytes,
        "made_ms": made.made_ms,
    }


def _status_fields(found: ArchiveStatus) -> dict[str, Any]:
    checks = {name: getattr(found, name) for name in ("last_verify", "last_drill")}
    return {
        "archive": found.url,
        "cluster_id": found.cluster_id.hex(),
        "step": found.step.value.replace(" ", "_"),
        **{name: getattr(found, name) for name in _FIGURES},
        "last_backup": made_fields(found.last_backup) if found.last_backup is not None else None,
        **{name: None if check is None else _check_fields(check) for name, check in checks.items()},
        "warnings": list(found.warnings),
    }


def _check_fields(check: ArchiveCheck) -> dict[str, Any]:
    return {"time_ms": check.time_ms, "ok": check.ok, "what": check.what, "seconds": round(check.seconds, 3)}


def _raw_pairs(told: dict[str, Any]) -> list[tuple[str, str]]:
    """Return a line for each field: of a backup its name, of a check whether all was well, and one for each warning."""
    warnings = told.pop("warnings")
    for name, part in {"last_backup": "id", "last_verify": "ok", "last_drill": "ok"}.items():
        told[name] = told[name][part] if told[name] is not None else ""
    pairs = [(name, fields.safe(str(value))) for name, value in told.items()]
    return [*pairs, *(("warning", fields.safe(warning)) for warning in warnings)]


def _for_people(found: ArchiveStatus) -> list[tuple[str, str]]:
    held_up = f"; each group of commits is held up by {found.pace_ms} ms" if found.pace_ms else ""
    rate = f", at most {output.sized(found.rate_bytes_per_s)}/s" if found.rate_bytes_per_s else ""
    full = "the oldest segments are given up" if found.when_full == "gap" else "writes are refused"
    segments = output.counted(found.segments_total, "segment")
    sizes = f"{output.sized(found.raw_bytes_total)} as {output.sized(found.stored_bytes_total)}"
    pairs = [
        ("archive", fields.safe(found.url)),
        ("cluster", found.cluster_id.hex()),
        ("archived up to", _reached(found)),
        ("not archived", _waiting(found)),
        ("state", f"{found.step.value}{held_up}"),
        ("queue", f"{output.sized(found.queue_bytes)}; when it is full, {full}"),
        ("archiving", f"{output.counted(found.workers, 'worker')}, level {found.level}{rate}"),
        ("since it serves", f"{segments}, {sizes}; {output.counted(found.failures_total, 'failed attempt')}"),
        ("last backup", _backup_line(found.last_backup)),
        ("last verify", _check_line(found.last_verify)),
        ("last drill", _check_line(found.last_drill)),
    ]
    if found.last_error:
        pairs.append(("last error", fields.safe(found.last_error)))
    return [*pairs, *(("warning", fields.safe(warning)) for warning in found.warnings)]


def _reached(found: ArchiveStatus) -> str:
    behind = max(found.revision - found.archived_revision, 0)
    return f"revision {found.archived_revision} of epoch {found.archived_epoch}; {output.counted(behind, 'revision')} behind"


def _waiting(found: ArchiveStatus) -> str:
    if not found.unarchived_segments:
        behind = found.revision - found.archived_revision
        return f"{output.counted(behind, 'revision')}, in the open segment" if behind > 0 else "nothing"
    waiting = f"{output.counted(found.unarchived_segments, 'sealed segment')}, {output.sized(found.unarchived_bytes)}"
    return f"{waiting}, the oldest for {shown_span(found.oldest_unarchived_age_ms)}"


def _backup_line(made: Backup | None) -> str:
    if made is None:
        return "none; make one with: kvctl backup create"
    return f"{made.id}: revision {made.revision}, {output.sized(made.total_bytes)}, made {shown_moment(made.made_ms)}"


def _check_line(check: ArchiveCheck | None) -> str:
    if check is None:
        return "none since the node began to serve"
    verdict = "well" if check.ok else "FAILED"
    return f"{verdict}, {shown_moment(check.time_ms)}, in {shown_span(check.seconds * 1000)}: {fields.safe(check.what)}"


def _tell_catalog(settings: Settings, url: str, catalog: Catalog) -> None:
    """Say in a few figures what an archive holds."""
    told = fields.catalog_fields(url, catalog, segments=False)
    archived, backups = catalog.archived, catalog.backups
    entries = [entry for part in catalog.epochs for entry in part.entries]
    summary: dict[str, Any] = {
        "archive": url,
        "cluster_id": told["cluster_id"],
        "archived_revision": archived.revision if archived is not None else 0,
        "archived_epoch": archived.epoch.number if archived is not None else 0,
        "archived_time_ms": told["archived_time_ms"],
        "segments": len(entries),
        "raw_bytes": sum(entry.raw_length for entry in entries),
        "stored_bytes": sum(entry.stored_length for entry in entries),
        "backups": len(backups),
        "last_backup": fields.backup_fields(backups[-1]) if backups else None,
        "points": len(catalog.points),
        "problems": told["problems"],
    }
    if settings.as_json:
        output.write_json(summary)
        return
    if settings.output == "raw":
        problems = summary.pop("problems")
        summary["last_backup"] = backups[-1].id if backups else ""
        pairs = [(name, fields.safe(str(value))) for name, value in summary.items()]
        output.write_pairs([*pairs, *(("problem", fields.safe(problem)) for problem in problems)], raw=True)
        return
    sizes = f"{output.sized(summary['raw_bytes'])} as {output.sized(summary['stored_bytes'])}"
    pairs = [
        ("archive", fields.safe(url)),
        ("cluster", summary["cluster_id"]),
        ("archived up to", f"revision {summary['archived_revision']}, {shown_moment(summary['archived_time_ms'])}"),
        ("log", f"{output.counted(len(entries), 'segment')} in {output.counted(len(catalog.epochs), 'epoch')}, {sizes}"),
        ("backups", f"{len(backups):,}" + (f", the newest {backups[-1].id}" if backups else "")),
        ("points", f"{len(catalog.points):,}"),
    ]
    output.write_pairs([*pairs, *(("problem", fields.safe(problem)) for problem in catalog.problems)])
