"""``kvctl archive dictionary``: what small segments of a store have in common, learnt from its own log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import click

from kvctl import output
from kvctl.command import Group
from kvctl.commands.archive_access import Archive, archive_options, locate, open_archive
from kvctl.failures import CtlError
from kvctl.progress import Spinner
from kvctl.settings import Settings, command_options

if TYPE_CHECKING:
    from kvserver.archive.dictionary import Dictionary

_PIECE_BYTES = 4 * 1024
"""What is learnt from: about a commit or two."""
_MEASURED_BYTES = 32 * 1024
"""What it is measured on: about a small segment."""
_READ_BYTES = 16 * 1024 * 1024
"""So much of the newest log is read."""
_HEADER_BYTES = 4 * 1024
_LEAST_PIECES = 64
_LEARNT_FROM = 10
"""A dictionary is at most this part of what it is made of."""
_LEAST_GAIN = 1.05
"""Less is not worth an object that every later restore needs."""


class _Trained(NamedTuple):
    """A dictionary, and what it brings for pieces of the log that it was not made of."""

    dictionary: Dictionary
    samples: int
    ratio_without: float
    ratio_with: float

    @property
    def wins(self) -> bool:
        """Whether it is worth keeping."""
        return self.ratio_with >= self.ratio_without * _LEAST_GAIN


@click.group(cls=Group)
def dictionary() -> None:
    """Make a dictionary for small segments.

    \b
    Examples:
      kvctl archive dictionary train --dry-run
      kvctl archive dictionary train
    """


@dictionary.command(short_help="Learn from the newest log.")
@archive_options(server=True)
@click.option(
    "--size-kib",
    type=click.IntRange(1, 1024),
    default=64,
    show_default=True,
    metavar="N",
    help="KiB that it may have; less where there is little to learn from.",
)
@click.option("--dry-run", is_flag=True, help="Only say what it would bring.")
@command_options
@click.pass_obj
def train(settings: Settings, url: str | None, cluster: str | None, size_kib: int, dry_run: bool) -> None:
    """Make a dictionary of the newest log in the archive, and keep it there if it is worth it.

    Segments of up to 256 KiB, as a node with little to do writes, then take less room; larger ones do without. It is
    measured on a part of the log that it was not made of, and kept only if that becomes 5 % smaller. Nodes look for a
    newer one every ten minutes. Segments that were compressed with it need it for ever: it is never deleted or changed.

    \b
    Examples:
      kvctl archive dictionary train --dry-run
      kvctl archive dictionary train --archive s3://backups/kv --size-kib 128
    """
    with open_archive(locate(settings, url, cluster), "archive dictionary train") as archive:
        from kvserver.archive.dictionary import store_dictionary

        with Spinner("reading the log"):
            log = _newest_log(archive)
        with Spinner("training"):
            trained = _train(archive, log, size_kib * 1024)
        kept = trained.wins and not dry_run
        if kept:
            store_dictionary(archive.store, archive.names, trained.dictionary)
    _tell(settings, trained, kept=kept, dry_run=dry_run)


def _newest_log(archive: Archive) -> bytes:
    """Return bytes of the newest segments with commits, the older ones first."""
    from kvserver.archive.catalog import read_catalog
    from kvserver.archive.dictionary import Dictionaries
    from kvserver.archive.segment_reading import open_segment

    catalog = read_catalog(archive.store, archive.cluster_id)
    known = Dictionaries(archive.store, archive.names)
    entries = [entry for part in catalog.epochs for entry in part.entries if entry.id.last_revision >= entry.id.first_revision]
    found: list[bytes] = []
    missing = _READ_BYTES
    for entry in reversed(entries):
        raw = bytearray()
        for block in open_segment(archive.store, archive.names, entry, known).raw_blocks():
            raw += block
            if len(raw) >= missing + _HEADER_BYTES:
                break
        found.append(bytes(raw[_HEADER_BYTES : missing + _HEADER_BYTES]))
        missing -= len(found[-1])
        if missing <= 0:
            break
    return b"".join(reversed(found))


def _train(archive: Archive, log: bytes, size_bytes: int) -> _Trained:
    """Learn from the older half of what was read, and measure on the newer half."""
    from kvserver.archive.compression import Compressor
    from kvserver.archive.dictionary import dictionary_ids, next_id, train

    half = len(log) // 2
    pieces = _cut(log[:half], _PIECE_BYTES)
    measured = _cut(log[half:], _MEASURED_BYTES)
    hint = "archive more of the log first, and try again"
    if len(pieces) < _LEAST_PIECES:
        message = f"the archive holds {output.sized(len(log))} of log, which is too little to learn from"
        raise CtlError("NO_DICTIONARY", message, hint)
    try:
        number = next_id(dictionary_ids(archive.store, archive.names))
        made = train(pieces, number, min(size_bytes, half // _LEARNT_FROM))
    except ValueError as error:
        raise CtlError("NO_DICTIONARY", f"no dictionary can be made: {error}", hint) from error
    plain, with_it = Compressor(1), Compressor(1, made)
    length = sum(map(len, measured))
    ratios = [length / max(sum(len(one.compress(piece)) for piece in measured), 1) for one in (plain, with_it)]
    return _Trained(made, len(pieces), *ratios)


def _cut(data: bytes, piece_bytes: int) -> list[bytes]:
    return [data[at : at + piece_bytes] for at in range(0, len(data), piece_bytes)]


def _tell(settings: Settings, trained: _Trained, *, kept: bool, dry_run: bool) -> None:
    told: dict[str, Any] = {
        "dictionary_id": trained.dictionary.id,
        "bytes": len(trained.dictionary.data),
        "samples": trained.samples,
        "ratio_without": round(trained.ratio_without, 3),
        "ratio_with": round(trained.ratio_with, 3),
        "worth_it": trained.wins,
        "kept": kept,
    }
    if settings.as_json:
        output.write_json({"dry_run": True, **told} if dry_run else told)
    elif settings.output == "raw":
        output.write_line(str(trained.dictionary.id) if kept else "")
    else:
        ratios = f"{trained.ratio_without:.2f} without, {trained.ratio_with:.2f} with"
        output.write_pairs(
            [
                ("dictionary", f"{trained.dictionary.id:08x}, {output.sized(len(trained.dictionary.data))}"),
                ("made of", output.counted(trained.samples, "sample")),
                ("ratio", ratios),
                ("kept", "yes" if kept else "no; it is worth it" if trained.wins else "no; it is not worth it"),
            ]
        )
