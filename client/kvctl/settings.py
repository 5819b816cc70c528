"""What holds for every command: where the node is, how long to wait, which namespace, which form of output.

Each setting is an option before the command (and then also a variable, ``KVCTL_ENDPOINT`` and so on) and an option behind
it, which wins.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kvctl.bytes_form import HEX, TEXT, BytesForm
from kvctl.variables import PREFIX

if TYPE_CHECKING:
    from kvclient import Client, ReadFrom

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
DEFAULT_ENDPOINT = "127.0.0.1:7400"
DEFAULT_TIMEOUT_S = 5.0
LONG_TIMEOUT_S = 300.0
"""For commands that have the node write, copy or archive what it holds."""

_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Settings:
    """The settings of one run."""

    def __init__(self) -> None:
        self.endpoint = DEFAULT_ENDPOINT
        """Where the node listens; several nodes have commas between them."""
        self.timeout_s: float | None = None
        """How long a call may take; None where the command's own default holds."""
        self.namespace = ""
        self.output: str | None = None
        """``table``, ``json`` or ``raw``; None where the command's own default holds."""
        self.read_from: ReadFrom = "primary"
        """Which nodes may serve reads."""
        self.hex = False
        """Whether keys and values are taken and printed as hexadecimal digits."""

    @property
    def limit_s(self) -> float:
        """How long a call may take, in seconds."""
        return self.timeout_s or DEFAULT_TIMEOUT_S

    @property
    def long_limit_s(self) -> float:
        """How long a call may take that has the node write, copy or archive what it holds, in seconds."""
        return self.timeout_s or LONG_TIMEOUT_S

    @property
    def as_json(self) -> bool:
        """Whether output and errors are for programs."""
        return self.output == "json"

    @property
    def form(self) -> BytesForm:
        """How keys and values are written."""
        return HEX if self.hex else TEXT

    @property
    def endpoints(self) -> list[str]:
        """The nodes one by one."""
        return [name.strip() for name in self.endpoint.split(",")]

    @property
    def words(self) -> list[str]:
        """The beginning of a command line that reaches the same keys again, for hints."""
        words = ["kvctl"]
        if self.endpoint != DEFAULT_ENDPOINT:
            words += ["-E", self.endpoint]
        if self.namespace:
            words += ["-n", self.namespace]
        return words

    def connect(self, *, endpoint: str | None = None, namespace: str | None = None) -> Client:
        """Return a client, for the node and the namespace of the settings unless told otherwise.

        It connects when it is first used.
        """
        from kvclient import Client

        try:
            return Client(
                self.endpoint if endpoint is None else endpoint,
                self.namespace if namespace is None else namespace,
                self.limit_s,
                read_from=self.read_from,
            )
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


def duration(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """Return the seconds of a duration on the command line: the callback of an option that takes one."""
    try:
        return None if value is None else parse_duration_s(value)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from error


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Keep an option's value in the settings, if it was given."""
    if value is not None and parameter.name is not None:
        setattr(context.ensure_object(Settings), parameter.name.removeprefix("global_"), value)


def _keep_duration(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    _keep(context, parameter, duration(context, parameter, value))


def _option(
    *names: str, setting: str, help: str, of_group: bool, shown: bool = False, callback: Any = _keep, **more: Any
) -> Callable[[CommandT], CommandT]:
    """Return what adds an option that is kept in the settings; before the command it has a variable and always shows."""
    variable = PREFIX + names[-1].partition("/")[0].lstrip("-").replace("-", "_").upper()
    return click.option(
        *names,
        f"global_{setting}",
        callback=callback,
        expose_value=False,
        help=help,
        envvar=variable if of_group else None,
        show_envvar=of_group,
        hidden=not of_group and not shown,
        **more,
    )


def _options(*, of_group: bool, with_hex: bool = False) -> Callable[[CommandT], CommandT]:
    decorators = [
        _option(
            *("-E", "--endpoint"),
            setting="endpoint",
            metavar="HOST:PORT",
            help=f"Where the node listens; {DEFAULT_ENDPOINT} unless given. Several have commas between them.",
            of_group=of_group,
        ),
        _option(
            "--timeout",
            setting="timeout_s",
            metavar="DURATION",
            callback=_keep_duration,
            help="How long a call may take, for instance 500ms or 1m; 5s unless given (5m for what is long).",
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
            shown=True,
        ),
        _option(
            "--read-from",
            setting="read_from",
            type=click.Choice(["primary", "followers", "any"]),
            help="Which nodes may serve reads: 'primary' unless given; 'any': the first endpoint that answers.",
            of_group=of_group,
        ),
        _option(
            "--hex/--no-hex",
            setting="hex",
            default=None,
            help="Keys and values are hexadecimal digits, on the command line and in the output.",
            of_group=of_group,
            shown=with_hex,
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

key_options = _options(of_group=False, with_hex=True)
"""The same for a command that takes or prints keys: ``--hex`` shows too."""
