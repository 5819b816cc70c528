"""The entry point of kvctl: the tree of commands, each imported only when it is used, and the one place that ends a run."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

import click

from kvctl.failures import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, CtlError, as_ctl_error, report
from kvctl.settings import Settings, group_options


class LazyCommand(NamedTuple):
    """Where a command is, and what the group's help says of it without importing it."""

    module: str
    attribute: str
    summary: str


COMMANDS = {
    "put": LazyCommand("kvctl.commands.keys", "put", "Put a key."),
    "get": LazyCommand("kvctl.commands.keys", "get", "Print a key's value."),
    "del": LazyCommand("kvctl.commands.deleting", "delete", "Delete a key, a prefix or a range."),
    "scan": LazyCommand("kvctl.commands.scanning", "scan", "List or count keys in order."),
    "history": LazyCommand("kvctl.commands.history", "history", "Show what was done to a key."),
    "import": LazyCommand("kvctl.commands.importing", "import_", "Load JSON lines, fast."),
    "export": LazyCommand("kvctl.commands.exporting", "export", "Save keys and values as JSON lines."),
    "status": LazyCommand("kvctl.commands.node", "status", "Show what a node is and how far it is."),
    "sync": LazyCommand("kvctl.commands.node", "sync", "Wait until a revision is durable."),
    "namespace": LazyCommand("kvctl.commands.namespace", "namespace", "Create, list and drop namespaces."),
    "flush": LazyCommand("kvctl.commands.maintenance", "flush", "Write what memory holds into a table."),
    "checkpoint": LazyCommand("kvctl.commands.maintenance", "checkpoint", "Copy the store into a folder of the node."),
    "compact": LazyCommand("kvctl.commands.maintenance", "compact", "Give up old revisions."),
    "wal": LazyCommand("kvctl.commands.wal", "wal", "Look at a log on disk, without a server."),
    "doctor": LazyCommand("kvctl.commands.doctor", "doctor", "Examine a data folder, without a server."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported one by one, when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which they are explained."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None for a name that is not known."""
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        try:
            command = getattr(importlib.import_module(place.module), place.attribute)
        except ModuleNotFoundError as error:
            raise CtlError(
                "NOT_INSTALLED",
                f"kvctl {cmd_name} needs {error.name}, which is not installed",
                "pip install 'kvserver[server]'",
            ) from error
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.summary) for name, place in COMMANDS.items()])


def _print_version(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        import importlib.metadata

        try:
            version = importlib.metadata.version("kvserver")
        except importlib.metadata.PackageNotFoundError:
            version = "unknown (not installed)"
        click.echo(f"kvctl {version}")
        context.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version.")
@group_options
def cli() -> None:
    """Speak to a kvserver node, or look at its log.

    \b
    Examples:
      kvctl put greeting hello
      kvctl get greeting
      kvctl scan pkg/ --limit 10 -o json
      kvctl -E db1:7400 status
      kvctl import packages.jsonl.zst

    Options may also stand behind the command's name. A name or value that begins with '-' goes behind '--'.

    Exit codes: 0 ok, 1 error, 2 usage, 3 no connection or no answer in time, 4 refused by the server or failed there,
    5 a check found something, 6 key not found, 7 condition failed, 130 interrupted.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command line and return its exit code."""
    settings = Settings()
    try:
        result = cli.main(
            args=None if arguments is None else list(arguments), prog_name="kvctl", standalone_mode=False, obj=settings
        )
        sys.stdout.flush()
        return result if isinstance(result, int) else EXIT_OK
    except (click.Abort, KeyboardInterrupt):
        return report(CtlError("INTERRUPTED", "interrupted", exit_code=EXIT_INTERRUPTED), as_json=settings.as_json)
    except click.ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # nothing was asked for: older versions of click show help too
            sys.stderr.write(error.format_message() + "\n")
            return EXIT_USAGE
        return report(_usage(error), as_json=settings.as_json)
    except BrokenPipeError:  # whoever read the output has gone, as in `kvctl scan | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    except Exception as error:
        return _flushed(report(as_ctl_error(error), as_json=settings.as_json))


def main() -> None:
    """Run kvctl and end the process with its exit code."""
    sys.exit(run())


def _usage(error: click.ClickException) -> CtlError:
    """Turn a wrong command line into an error that names the help to read."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "kvctl"
    return CtlError("USAGE", error.format_message(), f"see: {path} --help", EXIT_USAGE)


def _flushed(exit_code: int) -> int:
    """Return an exit code after what was printed before the error has gone out."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return exit_code
