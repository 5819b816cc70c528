"""``kvctl import``: loads records through the stream, several frames under way at once."""

from __future__ import annotations

import shlex
import time
from contextlib import ExitStack
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kvctl import loading, output
from kvctl.command import Command
from kvctl.failures import CtlError, as_ctl_error, tell
from kvctl.files import InputFile
from kvctl.progress import ProgressBar
from kvctl.reading import RecordSource
from kvctl.settings import Settings, command_options

if TYPE_CHECKING:
    from kvclient import Client


@click.command("import", cls=Command)
@click.argument("file", type=click.Path())
@click.option(
    "--skip", type=click.IntRange(min=0), default=0, metavar="N", help="Leave out the first N lines or records, to go on there."
)
@click.option(
    "--on-error",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="What to do about a line that is no record, or is beyond a limit: stop there, or leave it out and go on.",
)
@click.option("--dry-run", is_flag=True, help="Only read and check FILE; needs no server.")
@click.option("--acked-log", metavar="FILE", help="Append each key, as soon as it is acknowledged, to FILE, with its revision.")
@command_options
@click.pass_obj
def import_(settings: Settings, file: str, skip: int, on_error: str, dry_run: bool, acked_log: str | None) -> None:
    """Load FILE ('-': standard input), which kvctl export made: JSON lines or the binary form, also compressed with zstd.

    A line is an object with "key" and "value"; bytes that are not text stand in "key_b64" and "value_b64", or in
    "key_hex" and "value_hex". Each record is a put of its own, in the order of the file. Whatever ends an import early,
    it says how many records were acknowledged, which is: kept, and how to go on. Exit code 1 if anything was left out.

    \b
    Examples:
      kvctl import examples/packages.jsonl
      kvctl import backup.kvd --dry-run
      kvctl import packages.jsonl.zst --timeout 30s
      kvctl import packages.jsonl --skip 12000
      kvctl import packages.jsonl --on-error skip
      zcat old.jsonl.gz | kvctl import -
    """
    load = _Load(settings, file, skip, on_error)
    if dry_run:
        if acked_log is not None:
            raise click.UsageError("--acked-log does not go with --dry-run: nothing is acknowledged")
        load.check()
    else:
        load.carry_out(acked_log)
    load.tell_left_out()


class _Load:
    """One import, and what it says at its end."""

    def __init__(self, settings: Settings, file: str, skip: int, on_error: str) -> None:
        self._settings = settings
        self._file = file
        self._skip = skip
        self._left_out = loading.LeftOut() if on_error == "skip" else None
        self._account = loading.Account(skip, self._left_out)
        self._began = time.monotonic()
        self._source: RecordSource | None = None

    @property
    def _unit(self) -> str:
        return self._source.unit if self._source is not None else "line"

    def _open(self, stack: ExitStack, title: str) -> tuple[RecordSource, ProgressBar]:
        """Open the file, and show a bar for it."""
        file = InputFile(self._file)
        stack.callback(file.close)
        self._source = RecordSource(file)
        return self._source, stack.enter_context(ProgressBar(f"{title} {Path(self._file).name}", file.size))

    def check(self) -> None:
        """Read everything, send nothing, and say what there is."""
        count = size = 0
        with ExitStack() as stack:
            source, bar = self._open(stack, "checking")
            for frame in loading.frames(source, self._skip, self._left_out):
                count += len(frame.keys)
                size += sum(map(len, frame.keys)) + sum(map(len, frame.values))
                bar.show(count, source.file.consumed)
        if self._settings.as_json:
            fields = {"dry_run": True, "would_import": count, "skipped_lines": self._skip, "bytes": size}
            output.write_json({**fields, **self._left_out_fields(), "format": source.format, "source": source.about})
        elif self._settings.output == "raw":
            output.write_line(str(count))
        else:
            output.write_line(f"would import {output.counted(count, 'record')} ({output.sized(size)}); nothing was sent")

    def carry_out(self, acked_log: str | None) -> None:
        """Load everything; raise CtlError that also says what was kept and how to go on."""
        account = self._account
        try:
            self._load(acked_log)
        except KeyboardInterrupt:
            tell(f"\n{self._kept()}")
            raise
        except Exception as error:
            raise self._explained(error) from error
        if account.failure is not None:
            raise self._explained(account.failure.error, line=account.failure.line)
        self._tell(time.monotonic() - self._began)

    def _load(self, acked_log: str | None) -> None:
        """Open what is needed, send everything and take in every answer; a refused line ends the sending."""
        from kvclient.bulk import PutStream

        account = self._account
        with ExitStack() as stack:
            source, bar = self._open(stack, "importing")
            if acked_log is not None:
                account.acked_log = stack.enter_context(FileIO(acked_log, "ab"))
            kv: Client = stack.enter_context(self._settings.connect())
            made = loading.frames(source, self._skip, self._left_out)
            stream = stack.enter_context(PutStream(kv, made, stall_timeout_s=self._settings.limit_s))
            for answer in stream:
                account.take(answer)
                bar.show(account.records, source.file.consumed)
                if account.failure is not None:
                    stream.stop_sending()

    def _kept(self) -> str:
        told = output.counted(self._account.records, "record")
        return f"{told} acknowledged, all up to {self._unit} {self._account.through_line}"

    def _explained(self, error: Exception, line: int | None = None) -> CtlError:
        """Return an error that also says what was kept and how to go on."""
        account, unit = self._account, self._unit
        told = as_ctl_error(error)
        told.fields.update(acknowledged=account.records)
        told.fields[f"through_{unit}"] = account.through_line
        if line is not None:
            told.fields[unit] = line
            told.message = f"{unit} {line}: {told.message}"
        if account.records:
            told.message += f"; {self._kept()}"
            go_on = f"go on with: {self._command(account.through_line)}"
            if told.code == "OUTCOME_UNKNOWN":  # puts of the same values may happen twice
                told.hint = f"what stands behind that {unit} may be loaded again without harm; {go_on}"
            else:
                told.hint = f"{told.hint}; then {go_on}" if told.hint else go_on
        elif told.code == "BAD_INPUT" or line is not None:
            told.message += "; nothing was written"
        if self._left_out is not None and self._left_out.records:  # the next run will not meet them again
            told.message += f"; {self._left_out_text(self._left_out)}"
            told.fields.update(self._left_out_fields())
        return told

    def _command(self, skip: int) -> str:
        """Return the line that goes on where this import ended."""
        words = [*self._settings.words, "import", self._file, "--skip", str(skip)]
        return shlex.join([*words, "--on-error", "skip"] if self._left_out is not None else words)

    def _tell(self, elapsed_s: float) -> None:
        account = self._account
        if self._settings.as_json:
            output.write_json(
                {
                    "imported": account.records,
                    "skipped_lines": self._skip,
                    "bytes": account.bytes,
                    "first_revision": account.first_revision,
                    "last_revision": account.last_revision,
                    "seconds": round(elapsed_s, 3),
                    **self._left_out_fields(),
                    "format": self._source.format if self._source is not None else "lines",
                }
            )
        elif self._settings.output == "raw":
            output.write_line(str(account.records))
        else:
            rate = account.records / max(elapsed_s, 0.001)
            revisions = f", revisions {account.first_revision} to {account.last_revision}" if account.records else ""
            output.write_line(
                f"imported {output.counted(account.records, 'record')} ({output.sized(account.bytes)}) "
                f"in {elapsed_s:.1f} s, {rate:,.0f}/s{revisions}"
            )

    def tell_left_out(self) -> None:
        """End the command with an error if anything was left out: whoever asked for that must not overlook it."""
        if self._left_out is None or not self._left_out.records:
            return
        hint = f"mend them, and load them on their own; the other {self._unit}s need not be loaded again"
        raise CtlError("LEFT_OUT", self._left_out_text(self._left_out), hint, **self._left_out_fields())

    def _left_out_text(self, found: loading.LeftOut) -> str:
        places = [fault.told(self._unit) for fault in found.named]
        more = "" if sum(fault.records for fault in found.named) == found.records else "; and more"
        return f"{output.counted(found.records, 'record')} left out: {'; '.join(places)}{more}"

    def _left_out_fields(self) -> dict[str, Any]:
        """Return the JSON fields that tell what was left out."""
        found = self._left_out or loading.LeftOut()
        told = [
            {self._unit: fault.number, "records": fault.records, "code": fault.code, "message": fault.message}
            for fault in found.named
        ]
        return {"left_out": found.records, "faults": told}
