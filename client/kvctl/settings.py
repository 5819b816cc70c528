"""What holds for every command: where the node is, how long to wait, which namespace, which form of output.

Each setting is an option before the command (and then also a variable, ``KVCTL_ENDPOINT`` and so on) and an option behind
it, which wins.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from kvclient import Client

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
DEFAULT_TIMEOUT_S = 5.0
LONG_TIMEOUT_S = 300.0
"""For commands that have the node write or copy tables."""

_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclasses.dataclass
class Settings:
    """The settings of one run."""

    endpoint: str = "127.0.0.1:7400"
    timeout_s: float | None = None
    """How long a call may take; None where the command's own default holds."""
    namespace: str = ""
    output: str | None = None
    """``table``, ``json`` or ``raw``; None where the command's own default holds."""

    @property
    def limit_s(self) -> float:
        """How long a call may take, in seconds."""
        return self.timeout_s or DEFAULT_TIMEOUT_S

    @property
    def long_limit_s(self) -> float:
        """How long a call may take that has the node write or copy tables, in seconds."""
        return self.timeout_s or LONG_TIMEOUT_S

    @property
    def as_json(self) -> bool:
        """Whether output and errors are for programs."""
        return self.output == "json"

    def connect(self) -> Client:
        """Return a client for the node; it connects when it is first used."""
        from kvclient import Client

        try:
            return Client(self.endpoint, self.namespace, self.limit_s)
        except ValueError as error:
            raise click.UsageError(str(error)) from error


def parse_duration_s(text: str) -> float:
    """Return the seconds that ``500ms``, ``5s`` or ``1m30s`` stand for; raise ValueError for anything else, and for 0."""
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is not a duration such as 500ms, 5s or 1m30s")
    seconds = sum(float(number) * _UNIT_S[unit] for number, unit in parts)
    if seconds <= 0:
        raise ValueError("a duration must be above 0")
    return seconds


def _store(name: str, convert: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, Any], None]:
    """Return a callback that keeps an option's value in the settings, if it was given."""

    def keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value is None:
            return
        try:
            setattr(context.ensure_object(Settings), name, convert(value))
        except ValueError as error:
            raise click.BadParameter(str(error), context, parameter) from error

    return keep


def _option(
    *names: str, setting: str, help: str, of_group: bool, convert: Callable[[str], Any] = str, **more: Any
) -> Callable[[CommandT], CommandT]:
    variable = "KVCTL_" + names[-1].lstrip("-").upper()
    return click.option(
        *names,
        f"global_{setting}",
        callback=_store(setting, convert),
        expose_value=False,
        help=help,
        envvar=variable if of_group else None,
        show_envvar=of_group,
        hidden=not of_group and setting != "output",
        **more,
    )


def _options(of_group: bool) -> Callable[[CommandT], CommandT]:
    decorators = [
        _option(
            *("-E", "--endpoint"),
            setting="endpoint",
            metavar="HOST:PORT",
            help="Where the node listens; 127.0.0.1:7400 unless given.",
            of_group=of_group,
        ),
        _option(
            "--timeout",
            setting="timeout_s",
            metavar="DURATION",
            convert=parse_duration_s,
            help="How long a call may take, for instance 500ms or 1m; 5s unless given (flush and checkpoint: 5m).",
            of_group=of_group,
        ),
        _option(
            *("-n", "--namespace"),
            setting="namespace",
            metavar="NAME",
            help="The namespace; the default one unless given.",
            of_group=of_group,
        ),
        _option(
            *("-o", "--output"),
            setting="output",
            type=click.Choice(["table", "json", "raw"]),
            help="The form of the output; docs/kvctl.md describes each.",
            of_group=of_group,
        ),
    ]

    def apply(command: CommandT) -> CommandT:
        for decorate in reversed(decorators):
            command = decorate(command)
        return command

    return apply


group_options = _options(of_group=True)
"""Adds the settings to the group, with their variables."""

command_options = _options(of_group=False)
"""Adds the settings to a command, so that they may also stand behind its name; only ``-o`` shows in its help."""
