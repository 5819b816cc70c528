"""``kvctl scan``: lists or counts keys in order, at one revision."""

from __future__ import annotations

import click

from kvctl import output
from kvctl.command import Command
from kvctl.settings import Settings, key_options


@click.command(cls=Command)
@click.argument("prefix", required=False)
@click.option("--start", default="", metavar="KEY", help="Begin with this key.")
@click.option("--end", default="", metavar="KEY", help="End before this key.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N keys.")
@click.option("--reverse", is_flag=True, help="From the last key to the first.")
@click.option("--keys-only", is_flag=True, help="Leave the values out.")
@click.option("--count-only", is_flag=True, help="Print only how many keys there are.")
@click.option("--revision", type=click.IntRange(min=1), metavar="N", help="Read as of revision N.")
@key_options
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
      kvctl scan --hex 00ff --keys-only
    """
    if prefix is not None and (start or end):
        raise click.UsageError("give a PREFIX, or --start and --end, not both")
    if count_only and (limit is not None or reverse or keys_only):
        raise click.UsageError("--count-only goes with neither --limit nor --reverse nor --keys-only")
    form = settings.form
    begin, bound = form.parse_range(start, end, ("--start", "--end"))
    begins_with = None if prefix is None else form.parse(prefix, "PREFIX")
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
        output.write_entries(entries, settings.output or "table", form, keys_only=keys_only)


def _tell_count(settings: Settings, count: int) -> None:
    if settings.as_json:
        output.write_json({"count": count})
    else:
        output.write_line(str(count))
