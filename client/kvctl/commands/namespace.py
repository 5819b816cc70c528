"""``kvctl namespace``: the catalogue of namespaces."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from kvctl import output
from kvctl.confirmation import confirm_by_typing
from kvctl.settings import Settings, command_options

if TYPE_CHECKING:
    from kvclient import Client, Namespace


@click.group()
def namespace() -> None:
    """Create, list and drop namespaces. Each has keys of its own; the default one has the empty name."""


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
        output.write_json(dataclasses.asdict(made))
    elif settings.output == "raw":
        output.write_line(str(made.id))
    else:
        output.write_line(f"namespace {made.name} has the id {made.id} (revision {made.create_revision})")


@namespace.command("list")
@command_options
@click.pass_obj
def list_(settings: Settings) -> None:
    """List the namespaces by name, with the keys and bytes that each holds.

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
            output.write_json(dataclasses.asdict(row))
    elif settings.output == "raw":
        for row in found:
            output.write_line(f"{row.name}\t{row.id}\t{row.create_revision}\t{row.keys}\t{row.size_bytes}")
    else:
        output.write_table(("NAME", "ID", "CREATE REVISION", "KEYS", "SIZE"), map(_row, found))


def _row(row: Namespace) -> tuple[str, ...]:
    name = row.name or "(default)"
    return name, str(row.id), str(row.create_revision), f"{row.keys:,}", output.sized(row.size_bytes)


@namespace.command()
@click.argument("name")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@command_options
@click.pass_obj
def drop(settings: Settings, name: str, yes: bool) -> None:
    """Drop the namespace NAME with all its keys and their history, for good.

    Its name must be typed once more, unless --yes is given; without a terminal --yes must be. A namespace created later
    under the same name is another one and empty.

    \b
    Examples:
      kvctl namespace drop team/a
      kvctl namespace drop team/a --yes -o json
    """
    with settings.connect() as kv:
        if not yes:
            _ask(kv, name)
        done = kv.drop_namespace(name)
    was = done.namespace
    if settings.as_json:
        output.write_json({**dataclasses.asdict(was), "revision": done.revision, "epoch": done.epoch})
    elif settings.output == "raw":
        output.write_line(str(done.revision))
    else:
        output.write_line(f"dropped the namespace {was.name} with {_content(was)} (revision {done.revision})")


def _ask(kv: Client, name: str) -> None:
    """Return if the user types the name. The default namespace is the server's to refuse."""
    from kvclient import UnknownNamespace

    if not name:
        return
    found = next((row for row in kv.list_namespaces() if row.name == name), None)
    if found is None:
        raise UnknownNamespace("UNKNOWN_NAMESPACE", f"there is no namespace {name!r}", "list them with: kvctl namespace list")
    question = f"This deletes {_content(found)} and their history, for good. Type the name of the namespace to drop it"
    confirm_by_typing(question, name, "nothing was dropped", yes=False)


def _content(row: Namespace) -> str:
    return f"{output.counted(row.keys, 'key')} ({output.sized(row.size_bytes)})"
