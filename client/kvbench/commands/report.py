"""``kvbench report``: results that were kept, as tables or as a page with plots."""

from __future__ import annotations

import click

from kvbench.commands.shared import output_option, usage_of
from kvbench.files import read_result, refuse_unusable_output, write_file


@click.command("report")
@click.argument("results", metavar="RESULT.json...", nargs=-1, required=True)
@click.option("--out-html", metavar="FILE", help="Write a page with plots; several results are laid over each other.")
@output_option
@click.pass_context
def command(context: click.Context, /, results: tuple[str, ...], out_html: str | None, output: str) -> None:
    """Show results that 'kvbench run --out-json' has kept, and make a page of them.

    The page is one file that needs nothing else. Results have the name given by --label, or that of their file.

    \b
    Examples:
      kvbench report result.json
      kvbench report result.json --out-html page.html
      kvbench report before.json after.json --out-html page.html
    """
    from kvbench import page, text
    from kvctl.output import write_json, write_line

    if out_html is not None:
        with usage_of(context):
            refuse_unusable_output("--out-html", out_html)
    found = [read_result(name) for name in results]
    if out_html is not None:
        names = page.names(found, list(results))
        write_file(out_html, page.render(found, names))
    for number, result in enumerate(found):
        if output == "json":
            write_json(result)
        else:
            if number:
                write_line("\n")
            text.write_result(result)
