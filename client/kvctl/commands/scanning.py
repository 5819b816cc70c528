"""``kvctl scan``: lists or counts keys in order, at one revision."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from kvctl import output
from kvctl.settings import Settings, command_options

if TYPE_CHECKING:
    from kvclient import Entry


@click.command()
@click.argument("prefix", required=False)
@click.option("--start", default="", metavar="KEY", help="Begin with this key.")
@click.option("--end", default="", metavar="KEY", help="End before this key.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N keys.")
@click.option("--reverse", is_flag=True, help="From the last key to the first.")
@click.option("--keys-only", is_flag=True, help="Leave the values out.")
@click.option("--count-only", is_flag=True, help="Print only how many keys there are.")
@click.option("--revision", type=click.IntRange(min=1), metavar="N", help="Read as of revision N.")
@command_options
@click.pass_obj
def scan(
    settings: Settings,
    prefix: str | None,
    start: str,
    end: str,
    limit: int | None,
    reverse: bool,
    keys_only: bool,
    count_only: bool,
    revision: int | None,
) -> None:
    """List the keys that begin with PREFIX, those of a range, or all, in order and all at one revision.

    JSON output is one object a line. Raw output is the key, a tab and the value, or with --keys-only the key.

    \b
    Examples:
      kvctl scan
      kvctl scan pkg/ --limit 10
      kvctl scan --start a --end b --keys-only
      kvctl scan pkg/ --count-only
      kvctl scan pkg/ --revision 1200
      kvctl scan pkg/ -o json
    """
    if prefix is not None and (start or end):
        raise click.UsageError("give a PREFIX, or --start and --end, not both")
    if count_only and (limit is not None or reverse or keys_only):
        raise click.UsageError("--count-only goes with neither --limit nor --reverse nor --keys-only")
    begin, bound = os.fsencode(start), os.fsencode(end)
    begins_with = None if prefix is None else os.fsencode(prefix)
    with settings.connect() as kv:
        if count_only:
            _tell_count(settings, kv.count(begins_with, start=begin, end=bound, revision=revision))
            return
        entries = kv.scan(
            begins_with,
            start=begin,
            end=bound,
            reverse=reverse,
            limit=limit,
            keys_only=keys_only,
            revision=revision,
        )
        _tell(settings, entries, keys_only)


def _tell_count(settings: Settings, count: int) -> None:
    if settings.as_json:
        output.write_json({"count": count})
    else:
        output.write_line(str(count))


def _tell(settings: Settings, entries: Iterable[Entry], keys_only: bool) -> None:
    if settings.as_json:
        for entry in entries:
            output.write_json(output.entry_fields(entry, keys_only=keys_only))
    elif settings.output == "raw":
        for entry in entries:
            output.write_bytes(entry.key + (b"\n" if keys_only else b"\t" + entry.value + b"\n"))
    elif keys_only:
        output.write_table(
            ("KEY", "REVISION", "VERSION"),
            ((output.printable(entry.key), str(entry.mod_revision), str(entry.version)) for entry in entries),
        )
    else:
        output.write_table(
            ("KEY", "REVISION", "VERSION", "VALUE"),
            (
                (
                    output.printable(entry.key),
                    str(entry.mod_revision),
                    str(entry.version),
                    output.printable(entry.value),
                )
                for entry in entries
            ),
        )
