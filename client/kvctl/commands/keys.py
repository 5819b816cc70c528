"""``kvctl put`` and ``kvctl get``: one key at a time, or with get what begins with a prefix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kvctl import output
from kvctl.command import Command
from kvctl.failures import EXIT_NOT_FOUND, EXIT_REFUSED, CtlError
from kvctl.limits import MAX_VALUE_BYTES, excess_of
from kvctl.settings import Settings, key_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvclient import Client, Entry


@click.command(cls=Command)
@click.argument("key")
@click.argument("value", required=False)
@click.option("--value-file", type=click.Path(), metavar="FILE", help="Take the value from FILE, byte by byte as it is.")
@click.option("--if-absent", is_flag=True, help="Only if the key does not exist.")
@click.option("--if-revision", type=click.IntRange(min=0), metavar="N", help="Only if the key's newest version is of revision N.")
@click.option(
    "--durability",
    type=click.Choice(["policy", "memory"]),
    default="policy",
    show_default=True,
    help="What to wait for; 'memory' may be lost in a crash until it is synced.",
)
@key_options
@click.pass_obj
def put(
    settings: Settings,
    key: str,
    value: str | None,
    value_file: str | None,
    if_absent: bool,
    if_revision: int | None,
    durability: str,
) -> None:
    """Put KEY. With '-' as VALUE the value is read from standard input, byte by byte as it is.

    With --hex KEY and VALUE are hexadecimal digits; what is read from a file or from standard input is taken as it is.

    \b
    Examples:
      kvctl put greeting hello
      kvctl put photo - < photo.jpg
      kvctl put photo --value-file photo.jpg
      kvctl put lock me --if-absent
      kvctl put greeting hi --if-revision 2
      kvctl put counter -- -5
      kvctl put --hex 00ff 68656c6c6f
    """
    if if_absent and if_revision is not None:
        raise click.UsageError("--if-absent and --if-revision exclude each other")
    where = settings.form.parse_key(key)
    data = _value(settings, value, value_file)
    excess = excess_of(len(where), len(data))
    if excess is not None:
        raise CtlError(excess.code, f"{excess.message}; nothing was written", exit_code=EXIT_REFUSED)
    with settings.connect() as kv:
        from kvclient import Durability

        written = kv.put(where, data, if_absent=if_absent, if_revision=if_revision, durability=Durability(durability))
    if settings.as_json:
        fields = {"revision": written.revision, "epoch": written.epoch, "reached": written.reached.value}
        output.write_json({**settings.form.fields("key", where), **fields})
    elif settings.output == "raw":
        output.write_line(str(written.revision))
    else:
        output.write_line(f"revision {written.revision} ({written.reached.value})")


def _value(settings: Settings, value: str | None, value_file: str | None) -> bytes:
    """Return the value, from wherever it is to come."""
    if (value is None) == (value_file is None):
        raise click.UsageError("give one of VALUE ('-': standard input) and --value-file")
    if value is not None and value != "-":
        return settings.form.parse(value, "VALUE")
    from kvctl.files import read_value

    data = read_value(value_file or "-", MAX_VALUE_BYTES)
    if len(data) > MAX_VALUE_BYTES:
        message = f"the value is larger than the {MAX_VALUE_BYTES} bytes that a value may have; nothing was written"
        raise CtlError("VALUE_TOO_LARGE", message, exit_code=EXIT_REFUSED)
    return data


@click.command(cls=Command)
@click.argument("key")
@click.option("--prefix", is_flag=True, help="Print all keys that begin with KEY, each with its value.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="With --prefix: at most N keys.")
@click.option("--revision", type=click.IntRange(min=1), metavar="N", help="Read as of revision N.")
@key_options
@click.pass_obj
def get(settings: Settings, key: str, prefix: bool, limit: int | None, revision: int | None) -> None:
    """Print the value of KEY as it is; a newline is added only on a terminal. Exit code 6 if there is no such key.

    With --revision it is the value that KEY had then; how far back one can go is the oldest readable revision of kvctl
    status, and kvctl history lists the revisions of KEY. With --prefix each line is a key, a tab and its value.

    \b
    Examples:
      kvctl get greeting
      kvctl get photo > photo.jpg
      kvctl get greeting --revision 2
      kvctl get pkg/ --prefix --limit 10
      kvctl get greeting -o json
      kvctl get --hex 00ff
    """
    if limit is not None and not prefix:
        raise click.UsageError("--limit goes with --prefix")
    if prefix:
        begin = settings.form.parse(key, "KEY")
        with settings.connect() as kv:
            found = _first_checked(kv, begin, limit, revision, settings)
            output.write_entries(found, settings.output or "raw", settings.form, keys_only=False)
        return
    where = settings.form.parse_key(key)
    with settings.connect() as kv:
        entry = kv.get(where, revision=revision)
    if entry is None:
        raise _no_such_key(f"there is no key '{settings.form.shown(where)}'", revision)
    _tell(settings, entry)


def _first_checked(kv: Client, prefix: bytes, limit: int | None, revision: int | None, settings: Settings) -> Iterator[Entry]:
    """Bring what begins with a prefix; end the command if nothing does."""
    none = True
    for entry in kv.scan(prefix, limit=limit, revision=revision):
        none = False
        yield entry
    if none:
        raise _no_such_key(f"no key begins with '{settings.form.shown(prefix)}'", revision)


def _no_such_key(what: str, revision: int | None) -> CtlError:
    when = "" if revision is None else f" at revision {revision}"
    return CtlError("KEY_NOT_FOUND", f"{what}{when}", exit_code=EXIT_NOT_FOUND)


def _tell(settings: Settings, entry: Entry) -> None:
    form = settings.form
    if settings.as_json:
        output.write_json(output.entry_fields(entry, form))
    elif settings.output == "table":
        output.write_pairs(
            [
                ("key", form.shown(entry.key)),
                ("create revision", str(entry.create_revision)),
                ("mod revision", str(entry.mod_revision)),
                ("version", str(entry.version)),
                ("value", form.shown(entry.value)),
            ]
        )
    else:
        # Digits are text, and text ends with a newline; a value is bytes, and nothing may be added to those.
        newline = settings.hex or output.on_terminal()
        output.write_bytes(form.raw(entry.value) + (b"\n" if newline else b""))
