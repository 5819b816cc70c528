"""Commands that show something again and again: their options, and the screen that is cleared in between."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import click

from kvctl import output
from kvctl.settings import duration

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

_CLEAR_SCREEN = b"\x1b[H\x1b[2J"


def watch_options(command: CommandT) -> CommandT:
    """Give a command ``--watch`` and ``--interval``, as ``watch`` and ``interval`` (seconds)."""
    interval = click.option(
        "--interval",
        callback=duration,
        default="2s",
        show_default=True,
        envvar="KVCTL_INTERVAL",
        show_envvar=True,
        metavar="DURATION",
        help="With --watch: how long to wait in between.",
    )
    watch = click.option("-w", "--watch", is_flag=True, help="Ask again and again, until it is interrupted.")
    return watch(interval(command))


def keep_looking(look: Callable[[], Callable[[], object]], interval_s: float) -> NoReturn:
    """Look again and again; ``look`` asks, and returns what shows the answer, to be called once the screen is clear."""
    while True:
        show = look()
        if output.on_terminal():
            output.write_bytes(_CLEAR_SCREEN)
        show()
        sys.stdout.flush()
        time.sleep(interval_s)
