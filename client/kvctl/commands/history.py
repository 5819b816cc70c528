"""``kvctl history``: what was done to one key, newest first."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from kvctl import output
from kvctl.bytes_form import BytesForm
from kvctl.command import Command
from kvctl.failures import EXIT_NOT_FOUND, CtlError
from kvctl.settings import Settings, key_options

if TYPE_CHECKING:
    from kvclient import HistoryEntry


@click.command(cls=Command)
@click.argument("key")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N changes.")
@click.option("--before", type=click.IntRange(min=1), metavar="N", help="Only what was done before revision N.")
@click.option("--no-values", is_flag=True, help="Leave the values out.")
@key_options
@click.pass_obj
def history(settings: Settings, key: str, limit: int | None, before: int | None, no_values: bool) -> None:
    """Show what was done to KEY, newest first, as far back as history is kept. Exit code 6 if nothing is known of it.

    The last line may be older than the oldest readable revision: it is what was there at that revision.

    \b
    Examples:
      kvctl history greeting
      kvctl history greeting --limit 5 -o json
      kvctl history greeting --before 1200 --no-values
      kvctl get greeting --revision 1100
    """
    where = settings.form.parse_key(key)
    with settings.connect() as kv:
        changes = kv.history(where, limit=limit, before_revision=before)
        first = next(changes, None)
        if first is None:
            raise _nothing_known(settings.form.shown(where), before)
        _tell(settings, where, chain([first], changes), no_values)


def _nothing_known(name: str, before: int | None) -> CtlError:
    when = "" if before is None else f" before revision {before}"
    hint = "history is kept for a time; see the oldest readable revision with: kvctl status"
    return CtlError("KEY_NOT_FOUND", f"nothing is known of the key '{name}'{when}", hint, EXIT_NOT_FOUND)


def _tell(settings: Settings, key: bytes, changes: Iterable[HistoryEntry], no_values: bool) -> None:
    form = settings.form
    if settings.as_json:
        for change in changes:
            output.write_json(_fields(key, change, no_values, form))
    elif settings.output == "raw":
        for change in changes:
            output.write_bytes(_raw_line(change, no_values, form))
    else:
        head = ("REVISION", "CHANGE", "VERSION", "VALUE")
        rows = (_row(change, form) for change in changes)
        if no_values:
            output.write_table(head[:-1], (row[:-1] for row in rows))
        else:
            output.write_table(head, rows)


def _operation(change: HistoryEntry) -> str:
    return "delete" if change.entry is None else "put"


def _fields(key: bytes, change: HistoryEntry, no_values: bool, form: BytesForm) -> dict[str, Any]:
    fields: dict[str, Any] = {"revision": change.revision, "op": _operation(change)}
    if change.entry is None:
        return {**fields, **form.fields("key", key)}
    told = output.entry_fields(change.entry, form, keys_only=no_values)
    del told["mod_revision"]  # the revision again
    return {**fields, **told}


def _raw_line(change: HistoryEntry, no_values: bool, form: BytesForm) -> bytes:
    line = f"{change.revision}\t{_operation(change)}".encode()
    if not no_values:
        line += b"\t" + (b"" if change.entry is None else form.raw(change.entry.value))
    return line + b"\n"


def _row(change: HistoryEntry, form: BytesForm) -> tuple[str, str, str, str]:
    entry = change.entry
    if entry is None:
        return str(change.revision), "delete", "", ""
    return str(change.revision), "put", str(entry.version), form.shown(entry.value)
