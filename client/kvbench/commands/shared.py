"""What the commands have in common: the form of the output, and durations."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import click

from kvctl.settings import parse_duration_s


class Settings:
    """What has to be known where a run ends: whether errors are for programs."""

    as_json = False


def _keep(context: click.Context, parameter: click.Parameter, value: str) -> str:
    context.ensure_object(Settings).as_json = value == "json"
    return value


output_option = click.option(
    *("-o", "--output"),
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    envvar="KVBENCH_OUTPUT",
    callback=_keep,
    is_eager=True,  # so that an error in another option is told in this form
    help="The form of the output; docs/kvbench.md describes both.",
)
"""Adds ``-o`` to a command."""


def seconds(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """Return the seconds that an option such as ``1m30s`` stands for; raise click.BadParameter for what is no duration."""
    if value is None:
        return None
    try:
        return parse_duration_s(value)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from error


@contextlib.contextmanager
def usage_of(context: click.Context) -> Iterator[None]:
    """Let an error in how a command was used name that command's help."""
    try:
        yield
    except click.UsageError as error:
        error.ctx = error.ctx or context
        raise
