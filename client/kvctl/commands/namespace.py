"""``kvctl namespace``: the catalogue of namespaces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kvctl import output
from kvctl.command import Group
from kvctl.confirmation import confirm_by_typing
from kvctl.settings import Settings, command_options

if TYPE_CHECKING:
    from kvclient import Client, Namespace


@click.group(cls=Group)
def namespace() -> None:
    """Create, list and drop namespaces. Each has keys of its own; the default one has the empty name.

    \b
    Examples:
      kvctl namespace create team/a
      kvctl namespace list
      kvctl namespace drop team/a --dry-run
    """


@namespace.command()
@click.argument("name")
@command_options
@click.pass_obj
def create(settings: Settings, name: str) -> None:
    """Create the namespace NAME: letters, digits, '.', '_', '-' and '/'.

    \b
    Examples:
      kvctl namespace create team/a
      kvctl -n team/a put greeting hello
    """
    with settings.connect() as kv:
        made = kv.create_namespace(name)
    if settings.as_json:
        output.write_json(_fields(made))
    elif settings.output == "raw":
        output.write_line(str(made.id))
    else:
        output.write_line(f"namespace {made.name} has the id {made.id} (revision {made.create_revision})")


@namespace.command("list")
@command_options
@click.pass_obj
def list_(settings: Settings) -> None:
    """List the namespaces by name, with what each holds.

    The figures are exact as of the last flush; keys put since count as new.

    \b
    Examples:
      kvctl namespace list
      kvctl namespace list -o json
    """
    with settings.connect() as kv:
        found = kv.list_namespaces()
    if settings.as_json:
        for row in found:
            output.write_json(_fields(row))
    elif settings.output == "raw":
        for row in found:
            output.write_line(f"{row.name}\t{row.id}\t{row.create_revision}\t{row.keys}\t{row.size_bytes}")
    else:
        output.write_table(("NAME", "ID", "CREATE REVISION", "KEYS", "SIZE"), map(_row, found))


def _fields(row: Namespace) -> dict[str, Any]:
    return {
        "name": row.name,
        "id": row.id,
        "create_revision": row.create_revision,
        "keys": row.keys,
        "size_bytes": row.size_bytes,
    }


def _row(row: Namespace) -> tuple[str, ...]:
    name = row.name or "(default)"
    return name, str(row.id), str(row.create_revision), f"{row.keys:,}", output.sized(row.size_bytes)


@namespace.command(short_help="Drop a namespace with all its keys, for good.")
@click.argument("name")
@click.option("--dry-run", is_flag=True, help="Only say how many keys would go.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@command_options
@click.pass_obj
def drop(settings: Settings, name: str, dry_run: bool, yes: bool) -> None:
    """Drop the namespace NAME with all its keys and their history, for good.

    Its name must be typed once more, unless --yes is given; without a terminal --yes must be. A namespace created later
    under the same name is another one and empty.

    \b
    Examples:
      kvctl namespace drop team/a --dry-run
      kvctl namespace drop team/a
      kvctl namespace drop team/a --yes -o json
    """
    if not name:
        raise click.UsageError("NAME is empty: that is the default namespace, which cannot be dropped")
    with settings.connect() as kv:
        if dry_run:
            _tell_dry_run(settings, _found(kv, name))
            return
        if not yes:
            _ask(kv, name)
        done = kv.drop_namespace(name)
    was = done.namespace
    if settings.as_json:
        output.write_json({**_fields(was), "revision": done.revision, "epoch": done.epoch})
    elif settings.output == "raw":
        output.write_line(str(done.revision))
    else:
        output.write_line(f"dropped the namespace {was.name} with {_content(was)} (revision {done.revision})")


def _tell_dry_run(settings: Settings, row: Namespace) -> None:
    """Say what would go: the keys are counted, because the catalogue's own figure is that of the last flush."""
    with settings.connect(namespace=row.name) as kv:
        keys = kv.count()
    if settings.as_json:
        output.write_json({"dry_run": True, **_fields(row), "would_delete": keys})
    elif settings.output == "raw":
        output.write_line(str(keys))
    else:
        output.write_line(f"would drop the namespace {row.name} with {output.counted(keys, 'key')}; nothing was dropped")


def _ask(kv: Client, name: str) -> None:
    """Return if the user types the name."""
    found = _found(kv, name)
    question = f"This deletes {_content(found)} and their history, for good. Type the name of the namespace to drop it"
    confirm_by_typing(question, name, "nothing was dropped", yes=False)


def _found(kv: Client, name: str) -> Namespace:
    """Return the row of the catalogue; raise where there is none."""
    from kvclient import UnknownNamespace

    found = next((row for row in kv.list_namespaces() if row.name == name), None)
    if found is None:
        raise UnknownNamespace("UNKNOWN_NAMESPACE", f"there is no namespace {name!r}", "list them with: kvctl namespace list")
    return found


def _content(row: Namespace) -> str:
    return f"{output.counted(row.keys, 'key')} ({output.sized(row.size_bytes)})"
