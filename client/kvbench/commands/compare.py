"""``kvbench compare``: two results side by side."""

from __future__ import annotations

import click

from kvbench.commands.shared import output_option
from kvbench.files import read_result


@click.command("compare")
@click.argument("first", metavar="A.json")
@click.argument("second", metavar="B.json")
@output_option
def command(first: str, second: str, output: str) -> None:
    """Show the figures of two results, and B's as multiples of A's.

    It also tells which options, versions and parts of the machine were not the same.

    \b
    Examples:
      kvbench compare before.json after.json
      kvbench compare before.json after.json -o json
    """
    from kvbench import comparison
    from kvctl.output import write_json

    results = read_result(first), read_result(second)
    if output == "json":
        write_json(comparison.document(*results))
    else:
        comparison.write(*results, (first, second))
