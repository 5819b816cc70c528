"""``kvctl import``: loads JSON lines through the stream, several frames under way at once."""

from __future__ import annotations

import shlex
import sys
import time
from contextlib import ExitStack
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kvctl import loading, output
from kvctl.failures import CtlError, as_ctl_error
from kvctl.progress import ProgressBar
from kvctl.records import InputFile
from kvctl.settings import Settings, command_options

if TYPE_CHECKING:
    from kvclient import Client


@click.command("import")
@click.argument("file")
@click.option("--skip", type=click.IntRange(min=0), default=0, metavar="N", help="Leave out the first N lines, to go on there.")
@click.option("--acked-log", metavar="FILE", help="Append each key, as soon as it is acknowledged, to FILE, with its revision.")
@command_options
@click.pass_obj
def import_(settings: Settings, file: str, skip: int, acked_log: str | None) -> None:
    """Load FILE ('-': standard input): JSON lines with "key" and "value", plain or compressed with zstd.

    Bytes that are not text stand in "key_b64" and "value_b64". Each record is a put of its own, in the order of the
    lines. Whatever ends an import early, it says how many records were acknowledged, which is: kept, and how to go on.

    \b
    Examples:
      kvctl import examples/packages.jsonl
      kvctl import packages.jsonl.zst --timeout 30s
      kvctl import packages.jsonl --skip 12000
      zcat old.jsonl.gz | kvctl import -
    """
    account = loading.Account(skip)
    began = time.monotonic()
    try:
        _import(settings, file, skip, acked_log, account)
    except KeyboardInterrupt:
        sys.stderr.write(f"\n{_kept(account)}\n")
        raise
    except Exception as error:
        raise _explained(error, account, file) from error
    if account.failure is not None:
        raise _explained(account.failure.error, account, file, line=account.failure.line)
    _tell(settings, account, skip, time.monotonic() - began)


def _import(settings: Settings, file: str, skip: int, acked_log: str | None, account: loading.Account) -> None:
    """Open what is needed and load."""
    with ExitStack() as stack:
        source = InputFile(file)
        stack.callback(source.close)
        if acked_log is not None:
            account.acked_log = stack.enter_context(FileIO(acked_log, "ab"))
        bar = stack.enter_context(ProgressBar(f"importing {Path(file).name}", source.size))
        kv = stack.enter_context(settings.connect())
        _load(kv, source, skip, account, bar, stall_timeout_s=settings.limit_s)


def _load(
    kv: Client, source: InputFile, skip: int, account: loading.Account, bar: ProgressBar, *, stall_timeout_s: float
) -> None:
    """Send everything and take in every answer; a refused line ends the sending."""
    from kvclient.bulk import PutStream

    with PutStream(kv, loading.frames(source, skip), stall_timeout_s=stall_timeout_s) as stream:
        for answer in stream:
            account.take(answer)
            bar.show(account.records, source.consumed)
            if answer.failures:
                stream.stop_sending()


def _kept(account: loading.Account) -> str:
    return f"{output.counted(account.records, 'record')} acknowledged, all up to line {account.through_line}"


def _explained(error: Exception, account: loading.Account, file: str, line: int | None = None) -> CtlError:
    """Return an error that also says what was kept and how to go on."""
    told = as_ctl_error(error)
    told.fields.update(acknowledged=account.records, through_line=account.through_line)
    if line is not None:
        told.fields["line"] = line
        told.message = f"line {line}: {told.message}"
    if account.records:
        told.message += f"; {_kept(account)}"
        go_on = f"go on with: kvctl import {shlex.quote(file)} --skip {account.through_line}"
        if told.code == "OUTCOME_UNKNOWN":  # puts of the same values may happen twice
            told.hint = f"what stands behind that line may be loaded again without harm; {go_on}"
        else:
            told.hint = f"{told.hint}; then {go_on}" if told.hint else go_on
    return told


def _tell(settings: Settings, account: loading.Account, skip: int, elapsed_s: float) -> None:
    if settings.as_json:
        output.write_json(
            {
                "imported": account.records,
                "skipped_lines": skip,
                "bytes": account.bytes,
                "first_revision": account.first_revision,
                "last_revision": account.last_revision,
                "seconds": round(elapsed_s, 3),
            }
        )
    elif settings.output == "raw":
        output.write_line(str(account.records))
    else:
        rate = account.records / max(elapsed_s, 0.001)
        revisions = f", revisions {account.first_revision} to {account.last_revision}" if account.records else ""
        output.write_line(
            f"imported {output.counted(account.records, 'record')} ({output.sized(account.bytes)}) "
            f"in {elapsed_s:.1f} s, {rate:,.0f}/s{revisions}"
        )
