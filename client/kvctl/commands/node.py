"""``kvctl status`` and ``kvctl sync``: what a node is, and waiting for it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from kvctl import output
from kvctl.bytes_form import printable
from kvctl.command import Command
from kvctl.failures import CtlError, as_ctl_error
from kvctl.progress import Spinner
from kvctl.settings import Settings, command_options
from kvctl.watching import keep_looking, watch_options

if TYPE_CHECKING:
    from kvclient import Status

_FIELDS = (
    *("role", "node", "cluster_id", "epoch", "epoch_nonce", "revision"),
    *("assigned_revision", "applied_revision", "durable_revision", "visible_revision", "oldest_readable_revision"),
    *("chain", "keys", "memory_bytes", "wal_segments", "wal_bytes", "flushed_revision", "archived_revision", "archive_url"),
    *("table_files", "table_bytes", "level0_files", "pending_compaction_bytes", "flushes"),
    *("holds", "uptime_ms", "server_version", "format_version", "warnings"),
)


class _Found(NamedTuple):
    """What asking one node brought: its status, or why there is none."""

    endpoint: str
    status: Status | None
    error: CtlError | None


@click.command(cls=Command)
@watch_options
@command_options
@click.pass_obj
def status(settings: Settings, watch: bool, interval: float) -> int:
    """Show what a node is, how far it is, and what needs somebody's attention.

    Of several endpoints each is asked, and a table has a row for each. A node that does not answer does not keep the
    others from being shown; the exit code is then that of the first one.

    \b
    Examples:
      kvctl status
      kvctl -E db1:7400 status -o json
      kvctl -E db1:7400,db2:7400 status
      kvctl status --watch --interval 500ms
    """
    if watch:
        keep_looking(lambda: functools.partial(_show, settings, _ask_all(settings), watching=True), interval)
    return _show(settings, _ask_all(settings))


def _ask_all(settings: Settings) -> list[_Found]:
    found = []
    for endpoint in settings.endpoints:
        try:
            with settings.connect(endpoint=endpoint) as kv:
                found.append(_Found(endpoint, kv.status(), None))
        except click.UsageError:
            raise
        except Exception as error:
            found.append(_Found(endpoint, None, as_ctl_error(error)))
    return found


def _show(settings: Settings, found: list[_Found], *, watching: bool = False) -> int:
    """Show what was found, and return the exit code; raise where there was one node to ask and it did not answer."""
    first_error = next((one.error for one in found if one.error is not None), None)
    if first_error is not None and len(found) == 1 and not watching:
        raise first_error
    if settings.as_json:
        for one in found:
            output.write_json(_document(one))
    elif settings.output == "raw":
        for one in found:
            output.write_pairs(_raw_pairs(one), raw=True)
    elif len(found) > 1:
        _write_rows(found)
    else:
        output.write_pairs(_for_people(found[0]))
    return first_error.exit_code if first_error is not None else 0


def _document(found: _Found) -> dict[str, Any]:
    """Return what ``-o json`` prints of one node."""
    if found.status is not None:
        return {"endpoint": found.endpoint, **status_fields(found.status)}
    return {"endpoint": found.endpoint, "error": found.error.document() if found.error is not None else None}


def status_fields(found: Status) -> dict[str, Any]:
    """Return a status as JSON fields; what is bytes, or too large for a double, as hexadecimal digits."""
    fields: dict[str, Any] = {name: getattr(found, name) for name in _FIELDS}
    fields["cluster_id"] = found.cluster_id.hex()
    fields["chain"] = found.chain.hex()
    fields["epoch_nonce"] = f"{found.epoch_nonce:016x}"
    fields["holds"] = [{"name": hold.name, "revision": hold.revision} for hold in found.holds]
    fields["warnings"] = list(found.warnings)
    return fields


def _raw_pairs(found: _Found) -> list[tuple[str, str]]:
    fields = _document(found)
    if found.error is not None:
        return [("endpoint", found.endpoint), ("error", f"{_safe(found.error.message)} [{found.error.code}]")]
    warnings = fields.pop("warnings")
    holds = fields.pop("holds")
    pairs = [(name, str(value)) for name, value in fields.items()]
    pairs += [("hold", f"{hold['name']} {hold['revision']}") for hold in holds]
    return [*pairs, *(("warning", warning) for warning in warnings)]


def _write_rows(found: list[_Found]) -> None:
    """Write a row for each node, and below them what needs attention."""
    head = ("ENDPOINT", "NODE", "ROLE", "EPOCH", "REVISION", "DURABLE", "FLUSHED", "KEYS", "UP", "VERSION")
    output.write_table(head, [_row(one) for one in found])
    for one in found:
        if one.error is not None:
            output.write_line(f"{one.endpoint}: {_safe(one.error.message)} [{one.error.code}]")
        for warning in one.status.warnings if one.status is not None else ():
            output.write_line(f"{one.endpoint}: warning: {_safe(warning)}")


def _row(found: _Found) -> tuple[str, ...]:
    one = found.status
    if one is None:
        return (found.endpoint, *(["-"] * 9))
    figures = (one.epoch, one.revision, one.durable_revision, one.flushed_revision)
    return (
        *(found.endpoint, _safe(one.node), _safe(one.role), *map(str, figures)),
        *(f"{one.keys:,}", _duration(one.uptime_ms), _safe(one.server_version)),
    )


def _for_people(answer: _Found) -> list[tuple[str, str]]:
    found = answer.status
    if found is None:
        assert answer.error is not None
        return [("node", answer.endpoint), ("error", f"{_safe(answer.error.message)} [{answer.error.code}]")]
    chain = found.chain.hex() or "none"
    return [
        ("node", f"{_safe(found.node)} ({_safe(found.role)})"),
        ("cluster", found.cluster_id.hex()),
        ("epoch", str(found.epoch)),
        ("revision", str(found.revision)),
        ("durable revision", str(found.durable_revision)),
        ("flushed revision", str(found.flushed_revision)),
        ("assigned revision", str(found.assigned_revision)),
        ("oldest readable revision", str(found.oldest_readable_revision)),
        ("chain", chain),
        ("keys", f"{found.keys:,}"),
        ("memory", output.sized(found.memory_bytes)),
        ("tables", _tables(found)),
        ("log", f"{output.sized(found.wal_bytes)} in {output.counted(found.wal_segments, 'segment')}"),
        *([("archive", _archive(found))] if found.archive_url else []),
        *(("log is kept", f"from revision {hold.revision} on for {_safe(hold.name)}") for hold in found.holds),
        ("up", _duration(found.uptime_ms)),
        ("version", f"{_safe(found.server_version)} (format {found.format_version})"),
        *(("warning", _safe(warning)) for warning in found.warnings),
    ]


def _tables(found: Status) -> str:
    """Return what the tables are, and how much of them waits to be merged."""
    waiting = f"{found.level0_files} not merged yet, {output.sized(found.pending_compaction_bytes)} to merge"
    flushes = f"{found.flushes:,} flush" + ("" if found.flushes == 1 else "es")
    return f"{output.sized(found.table_bytes)} in {output.counted(found.table_files, 'file')} ({waiting}; {flushes})"


def _archive(found: Status) -> str:
    behind = max(found.revision - found.archived_revision, 0)
    told = f"{_safe(found.archive_url)}, up to revision {found.archived_revision}"
    return f"{told} ({output.counted(behind, 'revision')} behind)"


def _safe(text: str) -> str:
    return printable(text.encode())


def _duration(milliseconds: int) -> str:
    """Return a time span for people, in its two largest units."""
    seconds = milliseconds // 1000
    spans = [("d", seconds // 86400), ("h", seconds // 3600 % 24), ("m", seconds // 60 % 60), ("s", seconds % 60)]
    while len(spans) > 1 and spans[0][1] == 0:
        spans.pop(0)
    return " ".join(f"{number}{unit}" for unit, number in spans[:2])


@click.command(cls=Command)
@click.argument("revision", required=False, type=click.IntRange(min=1))
@click.option(
    "--level",
    type=click.Choice(["policy", "local"]),
    default="policy",
    show_default=True,
    help="'policy': kept as the cluster's policy says; 'local': synced to the primary's disk.",
)
@command_options
@click.pass_obj
def sync(settings: Settings, revision: int | None, level: str) -> None:
    """Wait until REVISION, or all that was written so far, is durable.

    \b
    Examples:
      kvctl sync
      kvctl sync 1200 --timeout 30s
      kvctl sync --level local -o json
    """
    with settings.connect() as kv, Spinner("waiting until it is durable"):
        from kvclient import Durability

        done = kv.sync(revision, Durability(level))
    if settings.as_json:
        output.write_json({"revision": done.revision, "epoch": done.epoch, "reached": done.reached.value})
    elif settings.output == "raw":
        output.write_line(str(done.revision))
    else:
        output.write_line(f"revision {done.revision} ({done.reached.value})")
