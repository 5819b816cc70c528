"""Nodes of a cluster and their archive: what a follower takes from it, and how it goes on across a change of the primary."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvserver.archive.catalog import Catalog, cluster_ids, read_catalog
from kvserver.archive.open_store import open_store
from kvserver.archive.verify import verify_archive
from kvserver.base.environment import Environment
from kvserver.testing.cluster import ClusterProcesses
from support.chaos import LONG, assert_same_content, cluster_of, promoted, until, wait_for_line, wait_for_state

pytestmark = [LONG, pytest.mark.timeout(240)]

MIB = 1 << 20
SLOT_MIB = 64


def catalog_of(cluster: ClusterProcesses) -> Catalog:
    """Return what the archive holds; it must be whole."""
    store = open_store(cluster.archive_url, Environment().fs)
    (cluster_id,) = cluster_ids(store)
    report = verify_archive(store, cluster_id, workers=1)
    assert report.is_whole, (report.damaged, report.problems)
    return read_catalog(store, cluster_id)


def write(cluster: ClusterProcesses, name: str, label: str, mib: int) -> None:
    """Put values of 64 KiB."""
    with cluster.client(name, timeout_s=30.0) as kv:
        for number in range(16 * mib):
            kv.put(b"%s/%06d" % (label.encode(), number), number.to_bytes(4, "big") * (16 * 1024))


def archive_now(cluster: ClusterProcesses, name: str) -> int:
    with cluster.client(name) as kv:
        return kv.archive_now().archived_revision


def test_what_the_slot_could_not_keep_comes_from_the_archive(tmp_path: Path) -> None:
    flags = ("--segment-mb", "16", "--slot-max-mb", str(SLOT_MIB), "--memtable-mb", "16", "--rewind-base-mb", "0")
    with cluster_of(tmp_path, flags=flags) as cluster:
        write(cluster, "n1", "both", 1)
        cluster.wait_until_caught_up()
        cluster.kill("n3")
        begin = len(cluster["n3"].log())
        write(cluster, "n1", "alone", SLOT_MIB + 48)
        archived = archive_now(cluster, "n1")
        wal = cluster["n1"].data_dir / "wal"
        until(lambda: sum(file.stat().st_size for file in wal.glob("*.wal")) < SLOT_MIB * MIB, "the log is let go")
        cluster.restart("n3")
        wait_for_line(cluster, "n3", "CATCHUP_ARCHIVE", begin)
        wait_for_state(cluster, "n3", "STREAMING")
        assert assert_same_content(cluster) >= archived
        assert not any("RESTORING" in line for line in cluster["n3"].log()[begin:]), "nothing was copied"


def test_an_empty_node_takes_its_store_from_the_archive_while_the_primary_is_down(tmp_path: Path) -> None:
    with cluster_of(tmp_path, ("n1", "n2"), starts=False) as cluster:
        cluster["n1"].start()
        write(cluster, "n1", "archived", 2)
        archived = archive_now(cluster, "n1")
        write(cluster, "n1", "behind", 1)
        cluster.kill("n1")
        cluster["n2"].begin()
        wait_for_line(cluster, "n2", f"is at revision {archived}")
        cluster["n1"].start()
        wait_for_state(cluster, "n2", "STREAMING")
        assert assert_same_content(cluster) > archived


@pytest.mark.parametrize("more", [False, True])
def test_the_new_primary_goes_on_with_the_archive_of_the_old_one(more: bool, tmp_path: Path) -> None:
    """``more``: the old one has archived commits that the new one never had."""
    with cluster_of(tmp_path, ("n1", "n2")) as cluster:
        write(cluster, "n1", "both", 1)
        cluster.wait_until_caught_up()
        archive_now(cluster, "n1")
        if more:
            cluster["n2"].pause()
        write(cluster, "n1", "n1", 1)
        if more:
            lost = archive_now(cluster, "n1")
        cluster.kill("n1")
        cluster["n2"].resume()
        promoted(cluster, "n2", accept_loss=True)
        write(cluster, "n2", "n2", 1)
        archived = archive_now(cluster, "n2")
        catalog = catalog_of(cluster)
        assert catalog.archived is not None
        assert catalog.archived.revision == archived
        first, second = catalog.epochs
        assert first.closing is not None
        assert first.closing.by == second.epoch
        if more:
            assert first.entries[-1].end.revision == lost > second.branch.revision
        cluster.restart("n1")
        wait_for_state(cluster, "n1", "STREAMING")
        assert_same_content(cluster)
        promoted(cluster, "n1")
        write(cluster, "n1", "again", 1)
        archived = archive_now(cluster, "n1")
        catalog = catalog_of(cluster)
        assert catalog.archived is not None
        assert catalog.archived.revision == archived
        assert [part.epoch.number for part in catalog.epochs] == [1, 2, 3]
        assert len(catalog.runs) == 1
