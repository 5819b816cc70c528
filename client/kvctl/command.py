"""What every command of kvctl has in common: before it does anything, it says which variables it does not know."""

from __future__ import annotations

from typing import Any

import click

from kvctl.failures import warn
from kvctl.settings import Settings
from kvctl.variables import nearest, unknown_variables


class Command(click.Command):
    """A command that does something, as opposed to a group of them."""

    def invoke(self, ctx: click.Context) -> Any:
        """Carry the command out."""
        settings = ctx.ensure_object(Settings)
        for name in unknown_variables():
            # A warning, no error: a variable may be meant for a newer kvctl, or stand there because a cluster puts the
            # address of a service of this name in everybody's environment.
            meant = nearest(name)
            warn("UNKNOWN_VARIABLE", f"{name} is set, and kvctl has no such variable", meant, as_json=settings.as_json)
        return super().invoke(ctx)


class Group(click.Group):
    """A group of such commands."""

    command_class = Command
