"""A real server with an archive in a folder: what it sends there, says of it, and does while the archive is away or too slow."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvclient import ArchiveBehind, ArchiveError, ArchiveStep, ArchiveUnavailable, Client, NoArchive, Retry
from kvserver.archive.backup import read_backup, verify_backup
from kvserver.archive.catalog import Catalog, read_catalog
from kvserver.archive.folder_store import FolderStore
from kvserver.archive.verify import verify_archive
from kvserver.base.fs import OsFileSystem
from kvserver.testing import Server
from kvserver.testing.plugin import StartServer

PATIENCE_S = 30.0
MIB = 1 << 20


def eventually(condition: Callable[[], Any]) -> Any:
    """Wait until a condition holds, and return what it returned."""
    until_s = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < until_s, "it did not come to that"
        time.sleep(0.02)
    return found


def store_of(server: Server) -> FolderStore:
    assert server.archive_dir is not None
    return FolderStore(OsFileSystem(), server.archive_dir)


def catalog_of(server: Server, kv: Client) -> Catalog:
    return read_catalog(store_of(server), kv.status().cluster_id)


def assert_whole(server: Server, kv: Client) -> None:
    """Read every byte of the archive: nothing is damaged, and nothing is missing up to what the node says is archived."""
    archived = kv.archive_now()
    report = verify_archive(store_of(server), kv.status().cluster_id)
    assert report.is_whole, report.describe()
    catalog = catalog_of(server, kv)
    assert catalog.archived is not None
    assert catalog.archived.revision == archived.archived_revision == kv.status().revision


def away(server: Server) -> Path:
    """Take the archive away, as a disk that is not mounted: in its place lies something that can be no archive."""
    assert server.archive_dir is not None
    hidden = server.archive_dir.with_name("hidden")
    if server.archive_dir.exists():
        server.archive_dir.rename(hidden)
    server.archive_dir.write_text("no folder\n")
    return hidden


def back(server: Server, hidden: Path) -> None:
    """Put the archive back."""
    assert server.archive_dir is not None
    server.archive_dir.unlink()
    if hidden.exists():
        hidden.rename(server.archive_dir)


# -- the log --------------------------------------------------------------------------------------------------------


def test_what_is_written_is_archived_and_a_kill_changes_nothing_of_that(start_kvserver: StartServer) -> None:
    server = start_kvserver(archive=True)
    with server.client(wait_for_ready=True) as kv:
        for life in range(3):
            written = kv.put_many((b"%d/%d" % (life, number), b"v" * 100) for number in range(200))
            done = kv.archive_now()
            assert (done.archived_revision, done.epoch) == (written.revision, life + 1)
            kv.put(b"last", b"%d" % life)  # sealed by nobody
            server.kill()
            server.start()
            assert kv.get(b"last").value == b"%d" % life  # type: ignore[union-attr]
        assert_whole(server, kv)
        status = kv.archive_status()
        assert (status.step, status.unarchived_segments, status.last_error) == (ArchiveStep.KEEPING_UP, 0, "")
        assert status.url == server.archive_url == kv.status().archive_url
        assert status.archived_revision == status.revision == kv.status().archived_revision
        assert 0 < status.segments_total < 20, "what was archived once is not archived again and again"
        assert status.raw_bytes_total > status.stored_bytes_total > 0
        parts = catalog_of(server, kv).epochs
        assert [part.epoch.number for part in parts] == [1, 2, 3], "nothing was sealed in the fourth yet"
        assert all(part.closing is not None for part in parts)


def test_a_node_that_is_asked_to_stop_archives_what_it_has(start_kvserver: StartServer) -> None:
    server = start_kvserver(archive=True)
    with server.client(wait_for_ready=True) as kv:
        revision = kv.put(b"k", b"v").revision
        cluster_id = kv.status().cluster_id
        server.stop()
        archived = read_catalog(store_of(server), cluster_id).archived
        assert archived is not None and archived.revision == revision
        server.start()
        eventually(lambda: kv.archive_status().unarchived_segments == 0)
        assert kv.archive_status().segments_total <= 1, "the segment without commits that the end has left"


def test_the_log_goes_only_when_it_is_archived_and_the_holds_say_so(start_kvserver: StartServer) -> None:
    server = start_kvserver(archive=True)
    with server.client(wait_for_ready=True) as kv:
        hidden = away(server)
        for number in range(3):
            kv.put(b"k%d" % number, b"v")
            kv.flush()
            server.restart()  # seals a segment that the tables cover
        assert {hold.name: hold.revision for hold in kv.status().holds}["archive"] <= 2
        assert kv.status().wal_segments > 3
        back(server, hidden)
        archived = kv.archive_now().archived_revision
        eventually(lambda: kv.status().wal_segments < 3)
        assert {hold.name: hold.revision for hold in kv.status().holds}["archive"] == archived + 1
        assert_whole(server, kv)


# -- an archive that is away, or too slow ---------------------------------------------------------------------------


def test_an_archive_that_is_away_keeps_nobody_from_starting_writing_or_stopping(
    start_kvserver: StartServer, tmp_path: Path
) -> None:
    (tmp_path / "data-archive").write_text("no folder\n")
    server = start_kvserver(data_dir=tmp_path / "data", archive=True)
    with server.client(wait_for_ready=True) as kv:
        for _ in range(2):
            kv.put(b"k", b"v")
            server.restart()
        status = eventually(lambda: (told := kv.archive_status()).last_error and told)
        assert (status.archived_revision, status.last_backup) == (0, None)
        assert status.failures_total > 0 and status.unarchived_segments > 0
        (warning,) = kv.status().warnings
        assert "The archive fails, and the log is kept until it does not" in warning
        with pytest.raises(ArchiveUnavailable):
            kv.archive_now()
        with pytest.raises(ArchiveUnavailable):
            list(kv.create_backup(timeout_s=PATIENCE_S))
        assert kv.content_hash().keys > 0, "this needs no archive"
        began_s = time.monotonic()
        server.stop()
        assert time.monotonic() - began_s < 5, "it does not wait for an archive that does not answer"
        (tmp_path / "data-archive").unlink()
        server.start()
        assert_whole(server, kv)
        assert kv.archive_status().last_error == ""


def test_an_archive_that_goes_away_while_the_node_serves_is_caught_up_with(start_kvserver: StartServer) -> None:
    server = start_kvserver(archive=True)
    with server.client(wait_for_ready=True) as kv:
        kv.put(b"k", b"1")
        kv.archive_now()
        hidden = away(server)
        kv.put(b"k", b"2")
        with pytest.raises(ArchiveUnavailable):
            kv.archive_now()
        assert kv.archive_status().archived_revision == 2
        back(server, hidden)
        assert kv.archive_now().archived_revision == 3
        assert_whole(server, kv)
        assert any("ArchiveFailing" in line or "cannot be archived" in line for line in server.log())


def test_writes_are_refused_when_the_queue_is_full_and_taken_when_it_is_not(start_kvserver: StartServer) -> None:
    server = start_kvserver("--archive-queue-mb", "64", "--segment-mb", "16", "--no-overlap", archive=True)
    with server.client(wait_for_ready=True, retry=Retry(attempts=1), timeout_s=PATIENCE_S) as kv:
        kv.put(b"before", b"v")
        kv.archive_now()
        hidden = away(server)
        value = bytes(MIB)
        with pytest.raises(ArchiveBehind) as caught:
            for number in range(200):
                kv.put(b"big/%d" % number, value)
        assert "nothing was written" in caught.value.message and "kvctl archive status" in caught.value.hint
        refused = kv.status()
        assert refused.assigned_revision == refused.visible_revision, "it got no revision"
        assert any("writes are refused" in warning for warning in refused.warnings)
        assert kv.archive_status().step is ArchiveStep.REFUSING
        assert kv.get(b"before") is not None, "reads go on"
        with pytest.raises(ArchiveBehind):
            kv.delete(b"before")
        back(server, hidden)
        eventually(lambda: _takes(kv))
        assert_whole(server, kv)


def _takes(kv: Client) -> bool:
    try:
        kv.put(b"after", b"v")
    except ArchiveBehind:
        return False
    return True


# -- backups --------------------------------------------------------------------------------------------------------


def test_a_backup_is_whole_and_the_next_one_sends_only_what_is_new(start_kvserver: StartServer) -> None:
    server = start_kvserver(archive=True)
    with server.client(wait_for_ready=True) as kv:
        assert not kv.status().warnings, "that a new node has no backup is nothing to warn of"
        kv.put_many((b"k%05d" % number, b"v" * 50) for number in range(5000))
        *_, last = kv.create_backup()
        made = last.backup
        assert made is not None
        assert (made.revision, made.epoch) == (5001, 1)
        assert (last.files_done, last.bytes_done) == (last.files, last.total_bytes) == (made.files, made.total_bytes)
        assert last.sent_bytes == made.total_bytes
        store, cluster_id = store_of(server), kv.status().cluster_id
        record = read_backup(store, cluster_id, made.id)
        assert record.position.revision == made.revision
        assert verify_backup(store, cluster_id, made.id) == []
        assert list((server.data_dir / "scratch").iterdir()) == []
        *_, again = kv.create_backup()
        assert again.sent_bytes < last.sent_bytes / 2
        assert kv.archive_status().last_backup == again.backup != made
        assert not kv.status().warnings
        server.restart()
        assert eventually(lambda: kv.archive_status().last_backup) == again.backup


def test_two_backups_at_once_come_one_after_the_other(start_kvserver: StartServer) -> None:
    server = start_kvserver(archive=True)
    with server.client() as kv:
        kv.put(b"k", b"v")
        made: list[Any] = []
        threads = [threading.Thread(target=lambda: made.append(list(kv.create_backup())[-1].backup)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert len({backup.id for backup in made}) == 3


def test_a_copy_left_by_a_crash_is_removed_at_the_next_start(start_kvserver: StartServer) -> None:
    server = start_kvserver()
    left = server.data_dir / "scratch" / "backup-1" / "tables"
    server.kill()
    left.mkdir(parents=True)
    (left / "000001.sst").write_bytes(b"left")
    server.start()
    assert not (server.data_dir / "scratch").exists()


# -- the hash -------------------------------------------------------------------------------------------------------


def test_the_hash_is_of_the_content_and_of_nothing_else(start_kvserver: StartServer) -> None:
    server = start_kvserver()
    with server.client(wait_for_ready=True) as kv:
        kv.put_many((b"k%03d" % number, b"v") for number in range(300))
        kv.create_namespace("gone")
        kv.drop_namespace("gone")
        before = kv.content_hash()
        assert (before.revision, before.epoch) == (kv.status().revision, 1)
        server.kill()
        server.start()
        after = kv.content_hash()
        assert (after.sha256, after.keys, after.revision) == (before.sha256, before.keys, before.revision)
        kv.put(b"k000", b"w")
        changed = kv.content_hash()
        assert changed.sha256 != before.sha256
        assert changed.keys == before.keys


def test_writes_go_on_while_it_is_hashed(start_kvserver: StartServer) -> None:
    server = start_kvserver()
    with server.client() as kv:
        kv.put_many((b"k%06d" % number, b"v" * 100) for number in range(50_000))
        found: list[Any] = []
        hashing = threading.Thread(target=lambda: found.append(kv.content_hash()))
        hashing.start()
        while hashing.is_alive():
            kv.put(b"meanwhile", b"v")
        assert found[0].revision < kv.status().revision
        assert kv.content_hash().sha256 != found[0].sha256


# -- without one, and with another's --------------------------------------------------------------------------------


def test_without_an_archive_it_is_said_by_name(start_kvserver: StartServer) -> None:
    server = start_kvserver()
    with server.client() as kv:
        for call in (kv.archive_status, kv.archive_now, lambda: list(kv.create_backup())):
            with pytest.raises(NoArchive):
                call()
        status = kv.status()
        assert (status.archive_url, status.archived_revision, status.warnings) == ("", 0, ())
        assert {hold.name for hold in status.holds} == {"flush"}


def test_a_copy_of_a_node_that_runs_beside_it_is_told_to_stop(start_kvserver: StartServer, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    one = start_kvserver(data_dir=tmp_path / "one", archive=archive)
    with one.client(wait_for_ready=True) as kv:
        kv.put(b"k", b"v")
        kv.archive_now()
        one.stop()
        shutil.copytree(one.data_dir, tmp_path / "other")
        one.start()
        kv.put(b"k", b"of one")
        kv.archive_now()
        other = start_kvserver(data_dir=tmp_path / "other", archive=archive)
        with other.client() as impostor:
            impostor.put(b"k", b"of the other")
            with pytest.raises(ArchiveError):
                impostor.archive_now()
            (warning,) = [text for text in impostor.status().warnings if "stop this node" in text]
            assert warning.startswith("Nothing is archived any more")
            with pytest.raises(ArchiveError):
                list(impostor.create_backup())
        kv.put(b"k", b"of one again")
        assert_whole(one, kv)


def test_a_fork_has_a_part_of_the_archive_for_itself_and_names_its_parent(start_kvserver: StartServer, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    parent = start_kvserver(data_dir=tmp_path / "parent", archive=archive)
    with parent.client() as kv:
        kv.put(b"k", b"v")
        position = kv.checkpoint(str(tmp_path / "fork"))
        fork = start_kvserver(data_dir=tmp_path / "fork", archive=archive)
        with fork.client() as forked:
            forked.put(b"k", b"of the fork")
            assert_whole(fork, forked)
            record = catalog_of(fork, forked).cluster
            assert record.parent_cluster_id == kv.status().cluster_id
            assert record.parent is not None and record.parent.revision == position.revision
        assert_whole(parent, kv)
        assert catalog_of(parent, kv).cluster.parent is None


def test_the_line_that_says_that_it_serves_names_the_archive(start_kvserver: StartServer, tmp_path: Path) -> None:
    server = start_kvserver("--hints", archive=tmp_path / "an archive")
    (line,) = [line for line in server.log() if line.startswith("ready ")]
    assert line.endswith(f" archive={server.archive_url}")
    assert "%20" in server.archive_url
    eventually(lambda: any(line.endswith(" archive status") for line in server.log()))
    with server.client() as kv:
        kv.put(b"k", b"v")
        kv.archive_now()
    assert (tmp_path / "an archive").is_dir()
