"""``kvctl status`` and ``kvctl sync``: what a node is, and waiting for it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from kvctl import output
from kvctl.settings import Settings, command_options

if TYPE_CHECKING:
    from kvclient import Status


@click.command()
@command_options
@click.pass_obj
def status(settings: Settings) -> None:
    """Show what a node is, how far it is, and what needs somebody's attention.

    \b
    Examples:
      kvctl status
      kvctl -E db1:7400 status -o json
    """
    with settings.connect() as kv:
        found = kv.status()
    if settings.as_json:
        output.write_json(status_fields(found))
    elif settings.output == "raw":
        fields = status_fields(found)
        warnings = fields.pop("warnings")
        holds = fields.pop("holds")
        pairs = [(name, str(value)) for name, value in fields.items()]
        pairs += [("hold", f"{hold['name']} {hold['revision']}") for hold in holds]
        output.write_pairs([*pairs, *(("warning", warning) for warning in warnings)], raw=True)
    else:
        output.write_pairs(_for_people(found))


def status_fields(found: Status) -> dict[str, Any]:
    """Return a status as JSON fields; what is bytes, or too large for a double, as hexadecimal digits."""
    fields = dataclasses.asdict(found)
    fields["cluster_id"] = found.cluster_id.hex()
    fields["chain"] = found.chain.hex()
    fields["epoch_nonce"] = f"{found.epoch_nonce:016x}"
    fields["holds"] = [hold._asdict() for hold in found.holds]
    fields["warnings"] = list(found.warnings)
    return fields


def _for_people(found: Status) -> list[tuple[str, str]]:
    chain = found.chain.hex() or "none"
    return [
        ("node", f"{found.node} ({found.role})"),
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
        *(("log is kept", f"from revision {hold.revision} on for {_safe(hold.name)}") for hold in found.holds),
        ("up", _duration(found.uptime_ms)),
        ("version", f"{found.server_version} (format {found.format_version})"),
        *(("warning", _safe(warning)) for warning in found.warnings),
    ]


def _tables(found: Status) -> str:
    """Return what the tables are, and how much of them waits to be merged."""
    waiting = f"{found.level0_files} not merged yet, {output.sized(found.pending_compaction_bytes)} to merge"
    flushes = f"{found.flushes:,} flush" + ("" if found.flushes == 1 else "es")
    return f"{output.sized(found.table_bytes)} in {output.counted(found.table_files, 'file')} ({waiting}; {flushes})"


def _safe(text: str) -> str:
    return output.printable(text.encode())


def _duration(milliseconds: int) -> str:
    """Return a time span for people, in its two largest units."""
    seconds = milliseconds // 1000
    spans = [("d", seconds // 86400), ("h", seconds // 3600 % 24), ("m", seconds // 60 % 60), ("s", seconds % 60)]
    while len(spans) > 1 and spans[0][1] == 0:
        spans.pop(0)
    return " ".join(f"{number}{unit}" for unit, number in spans[:2])


@click.command()
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
    """
    with settings.connect() as kv:
        from kvclient import Durability

        done = kv.sync(revision, Durability(level))
    if settings.as_json:
        output.write_json({"revision": done.revision, "epoch": done.epoch, "reached": done.reached.value})
    elif settings.output == "raw":
        output.write_line(str(done.revision))
    else:
        output.write_line(f"revision {done.revision} ({done.reached.value})")
