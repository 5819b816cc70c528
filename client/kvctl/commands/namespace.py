"""``kvctl namespace``: the catalogue of namespaces."""

from __future__ import annotations

import dataclasses

import click

from kvctl import output
from kvctl.settings import Settings, command_options


@click.group()
def namespace() -> None:
    """Create and list namespaces. Each has keys of its own; the default one has the empty name."""


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
    """List the namespaces by name.

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
            output.write_line(f"{row.name}\t{row.id}\t{row.create_revision}")
    else:
        output.write_table(
            ("NAME", "ID", "CREATE REVISION"),
            ((row.name or "(default)", str(row.id), str(row.create_revision)) for row in found),
        )
