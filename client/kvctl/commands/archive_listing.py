"""``kvctl archive list``: what an archive holds, read from its records without a server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from kvctl import output
from kvctl.commands import archive_fields as fields
from kvctl.commands.archive_access import Place, archive_options, locate, open_store, server_code
from kvctl.settings import Settings, command_options

if TYPE_CHECKING:
    from kvserver.archive.catalog import Catalog
    from kvserver.archive.store import Store


@click.command("list", short_help="List what the archive holds.")
@archive_options(server=True)
@click.option("--segments", is_flag=True, help="Name every segment too.")
@command_options
@click.pass_obj
def list_(settings: Settings, url: str | None, cluster: str | None, segments: bool) -> None:
    """List what the archive holds: the log of each epoch, the backups and the named points.

    Where several stores share an archive, all of them are listed, unless --cluster names one. Only records are read;
    whether every byte is there is what kvctl archive verify finds out.

    \b
    Examples:
      kvctl archive list
      kvctl archive list --archive file:///srv/archive --segments
      kvctl archive list --archive s3://backups/kv --cluster 0f3a -o json
    """
    with server_code("archive list"):
        place = locate(settings, url, cluster)
        with open_store(place.url) as store:
            for number, catalog in enumerate(_catalogs(store, place, named=cluster is not None)):
                if settings.as_json:
                    output.write_json(fields.catalog_fields(store.url, catalog, segments=segments))
                elif settings.output == "raw":
                    _write_raw(catalog, segments)
                else:
                    if number:
                        output.write_line("")
                    _write_tables(store.url, catalog, segments)


def _catalogs(store: Store, place: Place, *, named: bool) -> Iterator[Catalog]:
    """Read the catalogs that are meant: of the cluster named, else of all there are."""
    from kvserver.archive.catalog import choose_cluster, list_clusters, read_catalog

    if named or place.cluster is not None:
        yield read_catalog(store, choose_cluster(store, place.cluster))
        return
    found = list_clusters(store)
    if not found:
        choose_cluster(store, None)  # says that there is nothing, and what to do
    for record in found:
        yield read_catalog(store, record.cluster_id)


def _write_tables(url: str, catalog: Catalog, segments: bool) -> None:
    """Write a catalog for people."""
    output.write_pairs(_head(url, catalog))
    parts: list[tuple[str, tuple[str, ...], list[Any]]] = [
        ("epochs", fields.EPOCH_HEAD, [fields.epoch_row(part) for part in catalog.epochs]),
        ("backups", fields.BACKUP_HEAD, [fields.backup_row(record) for record in catalog.backups]),
        ("points", fields.POINT_HEAD, [fields.point_row(record) for record in catalog.points]),
    ]
    if segments:
        rows = [fields.segment_row(entry) for part in catalog.epochs for entry in part.entries]
        parts.insert(1, ("segments", fields.SEGMENT_HEAD, rows))
    for _, head, rows in parts:
        if rows:
            output.write_line("")
            output.write_table(head, rows)
    if not catalog.backups:
        output.write_line("")
        output.write_line("no backup: make one with: kvctl backup create")
    for problem in catalog.problems:
        output.write_line(f"problem: {fields.safe(problem)}")


def _head(url: str, catalog: Catalog) -> list[tuple[str, str]]:
    from kvserver.archive.plan import possible_spans

    cluster, archived = catalog.cluster, catalog.archived
    pairs = [("archive", fields.safe(url)), ("cluster", cluster.cluster_id.hex())]
    if cluster.parent is not None:
        pairs.append(("forked from", f"{cluster.parent_cluster_id.hex()} at revision {cluster.parent.revision}"))
    pairs.append(("archived up to", f"revision {archived.revision}" if archived is not None else "nothing yet"))
    pairs.append(("can be restored", fields.shown_spans(possible_spans(catalog))))
    if catalog.floor:
        pairs.append(("given up", f"what was before revision {catalog.floor}"))
    return pairs


def _write_raw(catalog: Catalog, segments: bool) -> None:
    """Write a line for each thing: its kind, then its fields with tabs between them."""
    told = fields.catalog_fields("", catalog, segments=True)
    output.write_line(f"cluster\t{told['cluster_id']}\t{catalog.archived.revision if catalog.archived else ''}")
    for epoch in told["epochs"]:
        names = ("epoch", "epoch_nonce", "branch_revision", "last_revision", "segments", "raw_bytes", "stored_bytes", "closed_by")
        _write_row("epoch", epoch, names)
        for segment in epoch["segment_list"] if segments else ():
            _write_row("segment", segment, tuple(segment))
    for backup in told["backups"]:
        _write_row("backup", backup, ("id", "epoch", "revision", "time_ms", "files", "bytes", "made_ms", "node"))
    for point in told["points"]:
        _write_row("point", point, ("name", "revision", "time_ms", "made_ms", "note"))
    for problem in told["problems"]:
        output.write_line(f"problem\t{fields.safe(problem)}")


def _write_row(kind: str, row: dict[str, Any], names: tuple[str, ...]) -> None:
    cells = ("" if row[name] is None else fields.safe(str(row[name])) for name in names)
    output.write_line("\t".join([kind, *cells]))
