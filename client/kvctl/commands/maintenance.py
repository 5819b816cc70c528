"""``kvctl flush``, ``kvctl checkpoint`` and ``kvctl compact``: what looks after tables and history."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from kvctl import output
from kvctl.bytes_form import printable
from kvctl.command import Command
from kvctl.confirmation import confirm
from kvctl.failures import EXIT_REFUSED, CtlError
from kvctl.long_call import long_call
from kvctl.settings import Settings, command_options

if TYPE_CHECKING:
    from kvclient import CheckpointResult, Status


@click.command(cls=Command)
@command_options
@click.pass_obj
def flush(settings: Settings) -> None:
    """Write what the node holds in memory into a table, and return when that is durable.

    Nodes flush by themselves. This makes the next start short, and lets old segments of the log go.
    --timeout is 5m unless given.

    \b
    Examples:
      kvctl flush
      kvctl -E db1:7400 flush --timeout 20m -o json
    """
    with long_call(settings, "flushing") as kv:
        done = kv.flush(timeout_s=settings.long_limit_s)
    if settings.as_json:
        output.write_json({"flushed_revision": done.flushed_revision, "epoch": done.epoch})
    elif settings.output == "raw":
        output.write_line(str(done.flushed_revision))
    else:
        output.write_line(f"everything up to revision {done.flushed_revision} is in tables")


@click.command(cls=Command)
@click.argument("target_dir", metavar="DIR")
@command_options
@click.pass_obj
def checkpoint(settings: Settings, target_dir: str) -> None:
    """Copy the store into DIR, a folder on the node's own disk, from which another store can be opened.

    DIR is an absolute path as the node sees it; it does not exist yet, or is empty. On the same file system tables are
    linked, not copied: the copy takes little time and space at first. --timeout is 5m unless given.

    \b
    Examples:
      kvctl checkpoint /backup/kv
      kvctl checkpoint /backup/kv -o json
    """
    if not target_dir.startswith("/"):
        raise click.UsageError(f"DIR must be an absolute path on the node's disk, not {target_dir!r}")
    with long_call(settings, "making a checkpoint") as kv:
        done = kv.checkpoint(target_dir, timeout_s=settings.long_limit_s)
    if settings.as_json:
        position = {"epoch": done.epoch, "revision": done.revision, "chain": done.chain.hex()}
        size = {"table_files": done.table_files, "table_bytes": done.table_bytes}
        output.write_json({"target_dir": done.target_dir, **position, **size})
    elif settings.output == "raw":
        output.write_line(str(done.revision))
    else:
        output.write_pairs(_made(done))


def _made(done: CheckpointResult) -> list[tuple[str, str]]:
    return [
        ("checkpoint", printable(done.target_dir.encode())),
        ("epoch", str(done.epoch)),
        ("revision", str(done.revision)),
        ("chain", done.chain.hex() or "none"),
        ("tables", f"{output.sized(done.table_bytes)} in {output.counted(done.table_files, 'file')}"),
        ("open it with", f"kvserver serve --data-dir {printable(shlex.quote(done.target_dir).encode())}"),
    ]


@click.command(cls=Command)
@click.argument("revision", required=False, type=click.IntRange(min=1))
@click.option("--keep", type=click.IntRange(min=1), metavar="N", help="Keep the N newest revisions.")
@click.option("--dry-run", is_flag=True, help="Only say which revisions would be given up.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@command_options
@click.pass_obj
def compact(settings: Settings, revision: int | None, keep: int | None, dry_run: bool, yes: bool) -> None:
    """Give up what is older than REVISION, for good: it becomes the oldest one that can be read at.

    Without REVISION and --keep only the newest one stays. No newest value of any key is lost: only what was replaced and
    deleted before. Nodes give up old revisions by themselves; this does it now, and every node does the same. The space
    returns as tables are merged. It is asked before, unless --yes is given; without a terminal --yes must be.

    \b
    Examples:
      kvctl compact 1200 --dry-run
      kvctl compact 1200
      kvctl compact --keep 10000 --yes
      kvctl compact --yes -o json
    """
    if revision is not None and keep is not None:
        raise click.UsageError("REVISION and --keep exclude each other")
    with settings.connect() as kv:
        before = kv.status()
        chosen = _chosen(before, revision, keep)
        if dry_run:
            _tell_dry_run(settings, before, chosen)
            return
        if before.oldest_readable_revision < chosen <= before.revision:
            given_up = f"revisions {before.oldest_readable_revision} to {chosen - 1}"
            confirm(f"Give up the history of {given_up}, for good?", "no history was given up", yes=yes)
        done = kv.compact(chosen)
    if settings.as_json:
        oldest = {"oldest_readable_revision": done.oldest_readable_revision}
        output.write_json({**oldest, "revision": done.revision, "epoch": done.epoch})
    elif settings.output == "raw":
        output.write_line(str(done.oldest_readable_revision))
    else:
        output.write_line(f"revisions from {done.oldest_readable_revision} on can be read")


def _tell_dry_run(settings: Settings, before: Status, chosen: int) -> None:
    """Say what would be given up; end the command where the server would refuse."""
    if chosen > before.revision:
        message = f"revision {chosen} is above the newest one, {before.revision}"
        raise CtlError("FUTURE_REVISION", message, "", EXIT_REFUSED)
    oldest = before.oldest_readable_revision
    count = max(chosen - oldest, 0)
    if settings.as_json:
        fields = {"oldest_readable_revision": oldest, "would_become": max(chosen, oldest), "would_give_up": count}
        output.write_json({"dry_run": True, **fields})
    elif settings.output == "raw":
        output.write_line(str(count))
    elif count:
        told = f"would give up {output.counted(count, 'revision')}, {oldest} to {chosen - 1}"
        output.write_line(f"{told}; revisions from {chosen} on could still be read; nothing was given up")
    else:
        output.write_line(f"would give up nothing: revisions before {oldest} are gone already")


def _chosen(before: Status, revision: int | None, keep: int | None) -> int:
    """Return the revision that is to become the oldest one: a number, so that it is the one asked about."""
    if keep is not None:
        return max(before.revision - keep + 1, 1)
    return before.revision if revision is None else revision
