"""What a restore of the newest archived revision would take: whether it is possible at all, and how much log it would replay."""

from __future__ import annotations

from typing import NamedTuple

from kvserver.archive.catalog import Catalog
from kvserver.archive.plan import way_to
from kvserver.base.types import CREATION_REVISION


class Outlook(NamedTuple):
    """What lies before whoever has to restore."""

    revision: int
    """The newest in the archive; 0 where it holds no commit."""
    is_possible: bool
    """Whether a base backup, or the store's creation, leads to it through a log without a hole."""
    base_revision: int
    """The backup with which the restore would begin; 0: it begins with the store's creation."""
    replay_bytes: int
    """Of raw log, behind that."""


def outlook_of(catalog: Catalog) -> Outlook:
    """Return the outlook of an archive, by its records alone."""
    archived = catalog.archived
    if archived is None or archived.revision <= CREATION_REVISION:
        return Outlook(0, True, 0, 0)
    way = way_to(catalog, archived.revision)
    if way is None:
        return Outlook(archived.revision, False, 0, 0)
    base, legs = way
    replay_bytes = sum(entry.raw_length for leg in legs for entry in leg.entries)
    return Outlook(archived.revision, True, base.position.revision if base is not None else 0, replay_bytes)
