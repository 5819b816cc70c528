"""A server that is killed at each step of archiving and of a backup: nothing is lost, nothing is half there, and it goes on."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from integration.test_server_archive import assert_whole, catalog_of, eventually
from kvclient import KvClientError
from kvserver.base.failpoints import ARCHIVE_NAMES
from kvserver.testing import Server, ServerFailed
from kvserver.testing.plugin import StartServer

OF_THE_ARCHIVER = [name for name in ARCHIVE_NAMES if name.startswith("archive.")]
OF_A_BACKUP = [name for name in ARCHIVE_NAMES if name.startswith("backup.") and not name.startswith("backup.delete.")]


@pytest.fixture
def lives(start_kvserver: StartServer, tmp_path: Path) -> Server:
    """A node that has archived something in an epoch before."""
    server = start_kvserver(data_dir=tmp_path / "data", archive=tmp_path / "archive")
    with server.client() as kv:
        kv.put_many((b"first/%d" % number, b"v") for number in range(100))
        kv.archive_now()
    server.kill()
    return server


def mortal(start_kvserver: StartServer, before: Server, point: str) -> Server:
    """Start the node so that it kills itself at a failpoint."""
    environment = {"KVSERVER_FAILPOINTS": f"{point}=kill"}
    return start_kvserver(data_dir=before.data_dir, archive=before.archive_dir or False, environment=environment)


@pytest.mark.parametrize("point", OF_THE_ARCHIVER)
def test_a_kill_while_something_is_archived(start_kvserver: StartServer, lives: Server, point: str) -> None:
    written = 0
    with contextlib.suppress(ServerFailed):  # what the life before has left may be archived before it is ready
        dying = mortal(start_kvserver, lives, point)
        with dying.client() as kv, contextlib.suppress(KvClientError):
            written = kv.put(b"second", b"v").revision
            kv.archive_now()
        eventually(lambda: not dying.running)
    lives.start()
    with lives.client() as kv:
        assert kv.get(b"first/99") is not None
        assert not written or kv.get(b"second") is not None
        kv.put(b"third", b"v")
        assert_whole(lives, kv)
        assert [part.closing is not None for part in catalog_of(lives, kv).epochs[:-1]].count(False) == 0


@pytest.mark.parametrize("point", OF_A_BACKUP)
def test_a_kill_while_a_backup_is_made(start_kvserver: StartServer, lives: Server, point: str) -> None:
    dying = mortal(start_kvserver, lives, point)
    with dying.client() as kv, pytest.raises(KvClientError):
        list(kv.create_backup())
    eventually(lambda: not dying.running)
    assert list((lives.data_dir / "scratch").iterdir()), "the copy that it had made"
    lives.start()
    assert not (lives.data_dir / "scratch").exists()
    with lives.client() as kv:
        there = catalog_of(lives, kv).backups
        assert len(there) == (point == "backup.after_record")
        *_, last = kv.create_backup()
        assert last.backup is not None
        assert [backup.id for backup in catalog_of(lives, kv).backups][-1] == last.backup.id
        assert_whole(lives, kv)


def test_the_steps_are_there() -> None:
    assert len(OF_THE_ARCHIVER) == 6 and len(OF_A_BACKUP) == 3
