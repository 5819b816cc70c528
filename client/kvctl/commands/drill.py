"""``kvctl drill``: proves that the archive can be restored, by restoring it and comparing what comes of it with the node."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kvctl import output
from kvctl.command import Command
from kvctl.commands import archive_fields as fields
from kvctl.commands.archive_access import Place, archive_options, locate, open_archive
from kvctl.commands.restore import DEFAULT_WORKERS, STAGES
from kvctl.failures import EXIT_UNHEALTHY
from kvctl.long_call import long_call
from kvctl.progress import Stages
from kvctl.settings import Settings, command_options
from kvctl.times import shown_span

if TYPE_CHECKING:
    from kvclient import ContentHash
    from kvserver.archive.drill import DrillReport

_ENDED = "nothing of it goes on at the node; allow more time, for instance with: kvctl --timeout 30m drill"


@click.command(cls=Command)
@archive_options(server=True)
@click.option(
    "--scratch-dir",
    "scratch",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Restore into a new folder below DIR, which is removed at the end; the system's folder for such unless given.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=DEFAULT_WORKERS,
    show_default=True,
    metavar="N",
    help="Fetch so many files or segments at once.",
)
@command_options
@click.pass_obj
def drill(settings: Settings, url: str | None, cluster: str | None, scratch: Path | None, workers: int) -> int:
    """Restore the archive for practice, compare the result with the live node, and say how long it took.

    The node hashes what it holds and archives it; then that revision is restored here, into a scratch folder, and hashed
    too. Nothing is registered anywhere, and the folder is removed. It needs as much room as the store. Exit code 5 when
    what was restored is not what the node held. --timeout, for each of the node's two parts, is 5m unless given.

    \b
    Examples:
      kvctl drill
      kvctl drill --scratch-dir /mnt/large -o json
      kvctl -E db1:7400 drill --archive file:///mnt/archive
    """
    place = locate(settings, url, cluster)
    with long_call(settings, "hashing what the node holds", _ENDED) as kv:
        live = kv.content_hash(timeout_s=settings.long_limit_s)
    with long_call(settings, "archiving", _ENDED) as kv:
        began = time.monotonic()
        kv.archive_now(timeout_s=settings.long_limit_s)
        archive_s = time.monotonic() - began
        if place.cluster is None:
            place = Place(place.url, kv.status().cluster_id.hex())
    report = _carry_out(place, live, scratch, workers)
    _tell(settings, live, archive_s, report)
    return 0 if report.ok else EXIT_UNHEALTHY


def _carry_out(place: Place, live: ContentHash, scratch: Path | None, workers: int) -> DrillReport:
    """Restore and compare, in a folder that is gone afterwards."""
    import tempfile

    with open_archive(place, "drill") as archive, tempfile.TemporaryDirectory(prefix="kvctl-drill-", dir=scratch) as folder:
        from kvserver.archive.drill import drill as carry_out
        from kvserver.archive.restore import RestoreOptions, RestoreProgress
        from kvserver.base.environment import Environment
        from kvserver.base.types import Epoch, Position
        from kvserver.storage.content_hash import ContentHash as Expected

        expected = Expected(Position(Epoch(live.epoch, 0), live.revision, live.chain), live.sha256, live.keys)
        with Stages() as bar:

            def show(progress: RestoreProgress) -> None:
                if progress.stage in STAGES:
                    bar.show(STAGES[progress.stage], progress.bytes_done, progress.total_bytes)

            options = RestoreOptions(workers=workers, own_process=True)
            target = Path(folder).resolve() / "restored"
            return carry_out(Environment(), archive.store, archive.cluster_id, expected, target, options, show)


def _tell(settings: Settings, live: ContentHash, archive_s: float, report: DrillReport) -> None:
    told: dict[str, Any] = {
        "ok": report.ok,
        "what": report.what,
        "revision": report.revision,
        "keys": report.found.keys,
        "sha256": report.found.sha256.hex(),
        "expected_keys": report.expected.keys,
        "expected_sha256": report.expected.sha256.hex(),
        "base": report.base_id or None,
        "base_bytes": report.base_bytes,
        "raw_bytes": report.raw_bytes,
        "node_hash_seconds": live.took_ms / 1000,
        "archive_seconds": round(archive_s, 3),
        **{name: round(getattr(report, name), 3) for name in ("plan_seconds", "base_seconds", "log_seconds", "hash_seconds")},
        "seconds": round(report.seconds, 3),
    }
    if settings.as_json:
        output.write_json(told)
        return
    if settings.output == "raw":
        output.write_pairs([(name, "" if value is None else str(value)) for name, value in told.items()], raw=True)
        return
    base = f"backup {report.base_id}, {output.sized(report.base_bytes)}" if report.base_id else "no backup"
    output.write_pairs(
        [
            ("node", f"revision {report.revision}, {report.expected.keys:,} keys, hashed in {shown_span(live.took_ms)}"),
            ("archived in", shown_span(archive_s * 1000)),
            ("planned in", shown_span(report.plan_seconds * 1000)),
            ("base", f"{base}, in {shown_span(report.base_seconds * 1000)}"),
            ("log", f"{output.sized(report.raw_bytes)}, in {shown_span(report.log_seconds * 1000)}{_rate(report)}"),
            ("hashed in", shown_span(report.hash_seconds * 1000)),
            ("restored in", shown_span(report.seconds * 1000)),
            ("hash", report.found.sha256.hex()),
        ]
    )
    output.write_line(f"{'well' if report.ok else 'FAILED'}: {fields.safe(report.what)}")


def _rate(report: DrillReport) -> str:
    return f", {report.raw_bytes / report.log_seconds / 1e6:,.1f} MB/s" if report.raw_bytes and report.log_seconds else ""
