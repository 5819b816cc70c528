"""The entry point of kvbench: three commands, and the one place that ends a run. What measures is imported when it is used."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from kvbench.commands import compare, report, run
from kvbench.commands.shared import Settings
from kvctl import failures
from kvctl.failures import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, CtlError, as_ctl_error
from kvctl.variables import silence_grpc


def _print_version(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        import importlib.metadata

        try:
            version = importlib.metadata.version("kvserver")
        except importlib.metadata.PackageNotFoundError:
            version = "unknown (not installed)"
        click.echo(f"kvbench {version}")
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version.")
def cli() -> None:
    """Measure a kvserver node through its client.

    \b
    Examples:
      kvbench run --workload put --clients 64 --total 100000 --keys 100000 --value-size 256
      kvbench run --workload ycsb-a --clients 64 --duration 30s --keys 100000 --out-json a.json
      kvbench compare before.json after.json
      kvbench report before.json after.json --out-html page.html

    Exit codes: 0 ok, 1 error, 2 usage, 3 no connection or no answer in time, 4 refused by the server or failed there,
    130 interrupted.
    """


cli.add_command(run.command)
cli.add_command(compare.command)
cli.add_command(report.command)


def execute(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command line and return its exit code."""
    settings = Settings()
    try:
        result: Any = cli.main(
            args=None if arguments is None else list(arguments), prog_name="kvbench", standalone_mode=False, obj=settings
        )
        sys.stdout.flush()
        return result if isinstance(result, int) else EXIT_OK
    except (click.Abort, KeyboardInterrupt):
        return failures.report(CtlError("INTERRUPTED", "interrupted", exit_code=EXIT_INTERRUPTED), as_json=settings.as_json)
    except click.ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # nothing was asked for: older versions of click show help too
            sys.stderr.write(error.format_message() + "\n")
            return EXIT_USAGE
        return failures.report(_usage(error), as_json=settings.as_json)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("numpy", "rich"):
            raise
        told = CtlError("NOT_INSTALLED", f"kvbench needs {error.name}, which is not installed", "pip install 'kvserver[bench]'")
        return failures.report(told, as_json=settings.as_json)
    except BrokenPipeError:  # whoever read the output has gone, as in `kvbench report x.json | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    except Exception as error:
        return failures.report(as_ctl_error(error), as_json=settings.as_json)


def main() -> None:
    """Run kvbench and end the process with its exit code."""
    silence_grpc()
    sys.exit(execute())


def _usage(error: click.ClickException) -> CtlError:
    """Turn a wrong command line into an error that names the help to read."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "kvbench"
    return CtlError("USAGE", error.format_message(), f"see: {path} --help", EXIT_USAGE)
