"""``kvctl export``: saves keys and values, all at one revision, as JSON lines or in the binary form."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kvctl import output
from kvctl.bytes_form import TEXT
from kvctl.command import Command
from kvctl.files import OutputFile
from kvctl.progress import ProgressBar, shows_progress
from kvctl.settings import Settings, key_options

if TYPE_CHECKING:
    from kvclient import Client, Status
    from kvctl.binary import BinaryWriter
    from kvctl.records import LineWriter

_BINARY_SUFFIX = ".kvd"
_COUNT_LIMIT_S = 1.0


@click.command(cls=Command)
@click.argument("file", default="-", type=click.Path())
@click.option("--prefix", metavar="P", help="Only the keys that begin with P.")
@click.option("--revision", type=click.IntRange(min=1), metavar="N", help="Save what was there at revision N.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["lines", "binary"]),
    envvar="KVCTL_FORMAT",
    show_envvar=True,
    help=f"JSON lines, or the binary form; 'binary' if FILE ends in '{_BINARY_SUFFIX}', else 'lines', unless given.",
)
@click.option("--with-revisions", is_flag=True, help="Save revisions and versions too, for those who read the file.")
@key_options
@click.pass_obj
def export(
    settings: Settings, file: str, prefix: str | None, revision: int | None, form: str | None, with_revisions: bool
) -> None:
    """Save all keys and values to FILE ('-': standard output).

    They are those of one revision. FILE appears, or is replaced, only when it is whole and on disk. JSON lines are
    compressed if FILE ends in '.zst'; bytes that are not text stand in "key_b64" and "value_b64". The binary form is
    smaller and faster, and says where it is damaged. 'kvctl import' reads both.

    \b
    Examples:
      kvctl export backup.jsonl.zst
      kvctl export backup.kvd
      kvctl export --prefix pkg/ | wc -l
      kvctl export then.jsonl --revision 1200 --with-revisions
      kvctl export - --format binary | ssh other kvctl import -
    """
    begins_with = None if prefix is None else settings.form.parse(prefix, "--prefix")
    chosen = form or ("binary" if file.endswith((_BINARY_SUFFIX, f"{_BINARY_SUFFIX}.zst")) else "lines")
    if chosen == "binary" and file == "-" and output.on_terminal():
        raise click.UsageError("the binary form is nothing for a terminal: name a FILE, or pass it on with '|'")
    began = time.monotonic()
    count = 0
    with settings.connect() as kv, OutputFile(file) as sink:
        node = kv.status()
        at = revision or node.revision
        writer = _writer(settings, chosen, sink, with_revisions, _about(settings, node, at, begins_with))
        entries = kv.scan(begins_with, revision=at)
        with ProgressBar(f"exporting to {Path(file).name}", _expected(kv, settings, begins_with)) as bar:
            for entry in entries:
                writer.add(entry)
                count += 1
                bar.show(count, count)
        writer.finish()
    if file == "-":
        return
    elapsed_s = time.monotonic() - began
    if settings.as_json:
        fields = {"exported": count, "bytes": sink.written, "file": file, "seconds": round(elapsed_s, 3)}
        output.write_json({**fields, "format": chosen, "revision": at})
    elif settings.output == "raw":
        output.write_line(str(count))
    else:
        told = f"exported {output.counted(count, 'record')} ({output.sized(sink.written)}) of revision {at} to {file}"
        output.write_line(f"{told} in {elapsed_s:.1f} s")


def _writer(
    settings: Settings, form: str, sink: OutputFile, with_revisions: bool, about: dict[str, Any]
) -> BinaryWriter | LineWriter:
    if form == "binary":
        from kvctl.binary import BinaryWriter

        return BinaryWriter(sink.write, about, with_revisions=with_revisions)
    from kvctl.records import LineWriter

    return LineWriter(sink.write, settings.form, with_revisions=with_revisions)


def _about(settings: Settings, node: Status, revision: int, prefix: bytes | None) -> dict[str, Any]:
    """Return what a binary export says of itself."""
    about: dict[str, Any] = {
        "cluster_id": node.cluster_id.hex(),
        "epoch": node.epoch,
        "revision": revision,
        "namespace": settings.namespace,
    }
    return about if prefix is None else {**about, **TEXT.fields("prefix", prefix)}


def _expected(kv: Client, settings: Settings, prefix: bytes | None) -> int | None:
    """Return about how many records will come, where somebody wants to know and it costs little; else None."""
    if not shows_progress():
        return None
    from kvclient import KvClientError

    try:
        if prefix is not None:
            return kv.count(prefix, timeout_s=_COUNT_LIMIT_S)
        return next((row.keys for row in kv.list_namespaces() if row.name == settings.namespace), None)
    except KvClientError:  # it is only for the bar; what is wrong will show in the export itself
        return None
