"""The entry point of kvctl: the tree of commands, each imported only when it is used, and the one place that ends a run."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import click

from kvctl.failures import (
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
    STANDARD_OUTPUT,
    CtlError,
    as_ctl_error,
    name_file,
    report,
)
from kvctl.settings import Settings, group_options
from kvctl.variables import silence_grpc

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


_GARBAGE_THRESHOLD = 50_000
"""Objects made between two searches for circles of garbage; with Python's own figure imports are held up by dozens of them."""


class LazyCommand(NamedTuple):
    """Where a command is, and what the group's help says of it without importing it."""

    module: str
    attribute: str
    summary: str


COMMANDS = {
    "put": LazyCommand("kvctl.commands.keys", "put", "Put a key."),
    "get": LazyCommand("kvctl.commands.keys", "get", "Print a key's value."),
    "del": LazyCommand("kvctl.commands.deleting", "delete", "Delete a key, a prefix or a range."),
    "write": LazyCommand("kvctl.commands.writing", "write", "Carry out many mutations, all of them or none."),
    "scan": LazyCommand("kvctl.commands.scanning", "scan", "List or count keys in order."),
    "history": LazyCommand("kvctl.commands.history", "history", "Show what was done to a key."),
    "import": LazyCommand("kvctl.commands.importing", "import_", "Load what was saved, fast."),
    "export": LazyCommand("kvctl.commands.exporting", "export", "Save keys and values."),
    "status": LazyCommand("kvctl.commands.node", "status", "Show what a node is and how far it is."),
    "sync": LazyCommand("kvctl.commands.node", "sync", "Wait until a revision is durable."),
    "cluster": LazyCommand("kvctl.commands.cluster", "cluster", "See the nodes of a cluster, and set its policy."),
    "promote": LazyCommand("kvctl.commands.promote", "promote", "Make a follower the primary."),
    "repl": LazyCommand("kvctl.commands.repl", "repl", "See who is shipped the log."),
    "reinit": LazyCommand("kvctl.commands.reinit", "reinit", "Have a follower fetch a new copy."),
    "register": LazyCommand("kvctl.commands.register", "register", "Move the place where epochs are claimed."),
    "namespace": LazyCommand("kvctl.commands.namespace", "namespace", "Create, list and drop namespaces."),
    "flush": LazyCommand("kvctl.commands.maintenance", "flush", "Write what memory holds into a table."),
    "checkpoint": LazyCommand("kvctl.commands.maintenance", "checkpoint", "Copy the store into a folder of the node."),
    "compact": LazyCommand("kvctl.commands.maintenance", "compact", "Give up old revisions."),
    "archive": LazyCommand("kvctl.commands.archive", "archive", "See, check and keep the archive of the log."),
    "backup": LazyCommand("kvctl.commands.backup", "backup", "Make and look after base backups in the archive."),
    "restore": LazyCommand("kvctl.commands.restore", "restore", "Bring a store back to a revision or a moment."),
    "drill": LazyCommand("kvctl.commands.drill", "drill", "Prove that the archive can be restored."),
    "check": LazyCommand("kvctl.commands.check", "check", "Compare what stores hold."),
    "wal": LazyCommand("kvctl.commands.wal", "wal", "Look at a log on disk, or repair it, without a server."),
    "doctor": LazyCommand("kvctl.commands.doctor", "doctor", "Examine a data folder, without a server."),
    "completion": LazyCommand("kvctl.commands.completion", "completion", "Print the script that completes command lines."),
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
            if ctx.resilient_parsing:  # a shell asks for completions: it has no use for an error
                return None
            raise CtlError(
                "NOT_INSTALLED",
                f"kvctl {cmd_name} needs {error.name}, which is not installed",
                "pip install 'kvserver[server]'",
            ) from error
        assert isinstance(command, click.Command)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is called; for a name that is not known say which one is near."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            import difflib

            near = difflib.get_close_matches(name, COMMANDS, n=1)
            raise click.UsageError(f"No such command {name!r}." + (f" Did you mean {near[0]!r}?" if near else ""), ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands that begin with what was typed, without importing them, and what click adds."""
        from click.shell_completion import CompletionItem

        found = [CompletionItem(name, help=place.summary) for name, place in COMMANDS.items() if name.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

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
      kvctl export backup.kvd

    Options may also stand behind the command's name. A name or value that begins with '-' goes behind '--'.

    Exit codes: 0 ok, 1 error, 2 usage, 3 no connection or no answer in time, 4 refused by the server or failed there,
    5 a check found something, 6 not found, 7 condition failed, 130 interrupted.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command line and return its exit code."""
    settings = Settings()
    try:
        result = cli.main(
            args=None if arguments is None else list(arguments), prog_name="kvctl", standalone_mode=False, obj=settings
        )
        _flush()
        return result if isinstance(result, int) else EXIT_OK
    except (click.Abort, KeyboardInterrupt):
        return report(CtlError("INTERRUPTED", "interrupted", exit_code=EXIT_INTERRUPTED), as_json=settings.as_json)
    except click.ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # nothing was asked for: older versions of click show help too
            click.echo(error.format_message(), err=True)
            return EXIT_USAGE
        words = sys.argv[1:] if arguments is None else list(arguments)
        return report(_usage(error), as_json=settings.as_json or _asks_for_json(words))
    except BrokenPipeError:  # whoever read the output has gone, as in `kvctl scan | head`
        return _flushed(EXIT_ERROR)
    except Exception as error:
        return _flushed(report(as_ctl_error(error), as_json=settings.as_json))


def main() -> None:
    """Run kvctl and end the process with its exit code."""
    gc.set_threshold(_GARBAGE_THRESHOLD)
    silence_grpc()
    os._exit(run())  # taking the interpreter and gRPC apart takes a sixth of a short run; nothing is left to be done


def _usage(error: click.ClickException) -> CtlError:
    """Turn a wrong command line into an error that names the help to read."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "kvctl"
    return CtlError("USAGE", error.format_message(), f"see: {path} --help", EXIT_USAGE)


def _asks_for_json(words: list[str]) -> bool:
    """Return whether a command line asks for JSON: one that is wrong may not have been read so far."""
    joined = f" {' '.join(words)} "
    return any(f" {form} " in joined for form in ("-o json", "-ojson", "--output json", "--output=json"))


def _flush() -> None:
    """Let what was printed go out. Raises OSError that names standard output."""
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except OSError as error:
            raise name_file(error, STANDARD_OUTPUT) from None


def _flushed(exit_code: int) -> int:
    """Return an exit code after what was printed before the error has gone out, if anybody still takes it."""
    try:
        _flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return exit_code
