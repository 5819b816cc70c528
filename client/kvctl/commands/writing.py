"""``kvctl write``: many mutations in one atomic commit."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import click

from kvctl import output
from kvctl.command import Command
from kvctl.failures import CtlError
from kvctl.files import InputFile
from kvctl.mutations import NumberedMutation, parse_mutations
from kvctl.records import split_lines
from kvctl.settings import Settings, command_options

if TYPE_CHECKING:
    from kvclient import BatchResult, Client, Mutation


@click.command(cls=Command)
@click.argument("file", type=click.Path())
@click.option("--dry-run", is_flag=True, help="Only read and check FILE, and count what its ranges and prefixes would delete.")
@click.option(
    "--durability",
    type=click.Choice(["policy", "memory"]),
    default="policy",
    show_default=True,
    help="What to wait for; 'memory' may be lost in a crash until it is synced.",
)
@command_options
@click.pass_obj
def write(settings: Settings, file: str, dry_run: bool, durability: str) -> None:
    """Carry out the mutations in FILE ('-': standard input) in one atomic commit: all of them or, if anything fails, none.

    Each line is a JSON object with "op": "put" ("key", "value", and "if_absent" or "if_revision"), "delete" ("key",
    "if_revision"), "delete_range" ("start", "end") or "delete_prefix" ("prefix"); "namespace" may stand in each. Bytes
    that are not text stand in "key_b64", "key_hex" and so on. No key may be changed twice. Exit code 7 if a condition
    does not hold.

    \b
    Examples:
      kvctl write batch.jsonl
      kvctl write batch.jsonl --dry-run
      echo '{"op": "put", "key": "a", "value": "1", "if_absent": true}' | kvctl write -
    """
    with closing(InputFile(file)) as source:
        lines = ((first + place, line) for first, some in split_lines(source.chunks()) for place, line in enumerate(some))
        found = parse_mutations(lines)
    if not found:
        raise CtlError("BAD_INPUT", f"{source.name} holds no mutation; nothing was written")
    if dry_run:
        _tell_dry_run(settings, found)
        return
    with settings.connect() as kv:
        from kvclient import Durability

        done = kv.write([one.mutation for one in found], durability=Durability(durability))
    _tell(settings, done)


def _tell(settings: Settings, done: BatchResult) -> None:
    if settings.as_json:
        fields = {"put": done.put, "deleted": done.deleted}
        output.write_json({**fields, "revision": done.revision, "epoch": done.epoch, "reached": done.reached.value})
    elif settings.output == "raw":
        output.write_line(str(done.revision))
    else:
        told = f"put {output.counted(done.put, 'key')}, deleted {output.counted(done.deleted, 'key')}"
        output.write_line(f"{told}: revision {done.revision} ({done.reached.value})")


def _tell_dry_run(settings: Settings, found: list[NumberedMutation]) -> None:
    """Say what would be done; a node is asked only where keys have to be counted."""
    from kvclient import Delete, Put

    puts = sum(isinstance(one.mutation, Put) for one in found)
    deletes = sum(isinstance(one.mutation, Delete) for one in found)
    covered = [one.mutation for one in found if not isinstance(one.mutation, Put | Delete)]
    count = 0
    for mutation in covered:
        with settings.connect(namespace=mutation.namespace) as kv:
            count += _count(kv, mutation)
    if settings.as_json:
        output.write_json({"dry_run": True, "would_put": puts, "would_delete": count, "deletes_of_keys": deletes})
    elif settings.output == "raw":
        output.write_line(str(len(found)))
    else:
        parts = [f"put {output.counted(puts, 'key')}", f"delete {output.counted(deletes, 'key')} by name"]
        parts += [f"delete {output.counted(count, 'key')} by range or prefix"] if covered else []
        output.write_line(f"would {', '.join(parts)}; no condition was looked at, nothing was written")


def _count(kv: Client, mutation: Mutation) -> int:
    """Return how many keys the deletion of a range or prefix covers."""
    from kvclient import DeletePrefix, DeleteRange

    if isinstance(mutation, DeletePrefix):
        return kv.count(mutation.prefix)
    assert isinstance(mutation, DeleteRange)
    return kv.count(start=mutation.start, end=mutation.end)
