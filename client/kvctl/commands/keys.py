"""``kvctl put`` and ``kvctl get``: one key at a time."""

from __future__ import annotations

import os
import sys

import click

from kvctl import output
from kvctl.failures import EXIT_NOT_FOUND, CtlError
from kvctl.settings import Settings, command_options


@click.command()
@click.argument("key")
@click.argument("value")
@click.option("--if-absent", is_flag=True, help="Only if the key does not exist.")
@click.option("--if-revision", type=click.IntRange(min=0), metavar="N", help="Only if the key's newest version is of revision N.")
@click.option(
    "--durability",
    type=click.Choice(["policy", "memory"]),
    default="policy",
    show_default=True,
    help="What to wait for; 'memory' may be lost in a crash until it is synced.",
)
@command_options
@click.pass_obj
def put(settings: Settings, key: str, value: str, if_absent: bool, if_revision: int | None, durability: str) -> None:
    """Put KEY. With '-' as VALUE the value is read from standard input, byte by byte as it is.

    \b
    Examples:
      kvctl put greeting hello
      kvctl put photo - < photo.jpg
      kvctl put lock me --if-absent
      kvctl put greeting hi --if-revision 2
      kvctl put counter -- -5
    """
    if if_absent and if_revision is not None:
        raise click.UsageError("--if-absent and --if-revision exclude each other")
    data = sys.stdin.buffer.read() if value == "-" else os.fsencode(value)
    with settings.connect() as kv:
        from kvclient import Durability

        written = kv.put(os.fsencode(key), data, if_absent=if_absent, if_revision=if_revision, durability=Durability(durability))
    if settings.as_json:
        fields = {"revision": written.revision, "epoch": written.epoch, "reached": written.reached.value}
        output.write_json({**output.bytes_field("key", os.fsencode(key)), **fields})
    elif settings.output == "raw":
        output.write_line(str(written.revision))
    else:
        output.write_line(f"revision {written.revision} ({written.reached.value})")


@click.command()
@click.argument("key")
@click.option("--revision", type=click.IntRange(min=1), metavar="N", help="Read as of revision N.")
@command_options
@click.pass_obj
def get(settings: Settings, key: str, revision: int | None) -> None:
    """Print the value of KEY as it is; a newline is added only on a terminal. Exit code 6 if there is no such key.

    With --revision it is the value that KEY had then; how far back one can go is the oldest readable revision of kvctl
    status, and kvctl history lists the revisions of KEY.

    \b
    Examples:
      kvctl get greeting
      kvctl get photo > photo.jpg
      kvctl get greeting --revision 2
      kvctl get greeting -o json
    """
    with settings.connect() as kv:
        entry = kv.get(os.fsencode(key), revision=revision)
    if entry is None:
        when = "" if revision is None else f" at revision {revision}"
        name = output.printable(os.fsencode(key))
        raise CtlError("KEY_NOT_FOUND", f"there is no key '{name}'{when}", exit_code=EXIT_NOT_FOUND)
    if settings.as_json:
        output.write_json(output.entry_fields(entry))
    elif settings.output == "table":
        output.write_pairs(
            [
                ("key", output.printable(entry.key)),
                ("create revision", str(entry.create_revision)),
                ("mod revision", str(entry.mod_revision)),
                ("version", str(entry.version)),
                ("value", output.printable(entry.value)),
            ]
        )
    else:
        output.write_bytes(entry.value + (b"\n" if sys.stdout.isatty() else b""))
