"""``kvctl export``: saves keys and values as JSON lines, all at one revision."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from kvctl import output, records
from kvctl.progress import ProgressBar
from kvctl.settings import Settings, command_options


@click.command()
@click.argument("file", default="-")
@click.option("--prefix", metavar="P", help="Only the keys that begin with P.")
@click.option("--revision", type=click.IntRange(min=1), metavar="N", help="Save what was there at revision N.")
@command_options
@click.pass_obj
def export(settings: Settings, file: str, prefix: str | None, revision: int | None) -> None:
    """Save all keys and values to FILE ('-': standard output) as JSON lines, compressed if it ends in '.zst'.

    The records are those of one revision. FILE appears, or is replaced, only when it is whole and on disk. Bytes that
    are not text stand in "key_b64" and "value_b64"; 'kvctl import' reads them.

    \b
    Examples:
      kvctl export backup.jsonl.zst
      kvctl export --prefix pkg/ | wc -l
      kvctl export then.jsonl --revision 1200
    """
    began = time.monotonic()
    count = 0
    with (
        settings.connect() as kv,
        ProgressBar(f"exporting {Path(file).name}", None) as bar,
        records.OutputFile(file) as sink,
    ):
        for entry in kv.scan(None if prefix is None else os.fsencode(prefix), revision=revision):
            sink.write(records.encode(entry.key, entry.value))
            count += 1
            bar.show(count, sink.written)
    if file == "-":
        return
    elapsed_s = time.monotonic() - began
    if settings.as_json:
        fields = {"exported": count, "bytes": sink.written, "file": file, "seconds": round(elapsed_s, 3)}
        output.write_json(fields)
    elif settings.output == "raw":
        output.write_line(str(count))
    else:
        output.write_line(f"exported {output.counted(count, 'record')} ({output.sized(sink.written)}) to {file}")
