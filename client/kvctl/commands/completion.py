"""``kvctl completion``: the script that lets a shell complete command lines of kvctl."""

from __future__ import annotations

import click

from kvctl import output
from kvctl.command import Command

COMPLETE_VARIABLE = "_KVCTL_COMPLETE"
"""How the script asks kvctl for completions; the name that click expects of a program called kvctl."""


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), metavar="bash|zsh|fish")
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes commands, options and files of kvctl, for bash, zsh or fish.

    It asks kvctl itself each time, so that it need not be made again for a newer one. bash must be 4.4 or newer.

    \b
    Examples:
      kvctl completion bash > /etc/bash_completion.d/kvctl
      source <(kvctl completion zsh)
      kvctl completion fish > ~/.config/fish/completions/kvctl.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None  # click knows the three shells
    output.write_line(kind(context.find_root().command, {}, "kvctl", COMPLETE_VARIABLE).source())
