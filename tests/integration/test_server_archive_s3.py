"""A real server whose archive is an object storage: it archives, backs up, and names what it is refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kvclient import ArchiveUnavailable
from kvserver.archive.open_store import open_store
from kvserver.archive.verify import verify_archive
from kvserver.testing.plugin import StartServer
from support.s3_server import S3Server, s3_server

URL = "s3://archive/of-kvserver"


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


def test_a_bucket_takes_log_and_backups_and_a_kill_changes_nothing(
    start_kvserver: StartServer, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.make_bucket("archive")
    server = start_kvserver("--archive", URL, environment=s3.environment())
    with server.client(wait_for_ready=True) as kv:
        kv.put_many((b"k%04d" % number, b"v" * 100) for number in range(1000))
        assert kv.archive_now().archived_revision == 1001
        *_, last = kv.create_backup()
        assert last.backup is not None and last.backup.revision == 1001
        server.kill()
        server.start()
        kv.put(b"k", b"behind the kill")
        archived = kv.archive_now().archived_revision
        status = kv.archive_status()
        assert (status.url, status.last_error, status.unarchived_segments) == (URL, "", 0)
        cluster_id = kv.status().cluster_id
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    report = verify_archive(open_store(URL), cluster_id)
    assert report.is_whole, report.describe()
    assert max(span.last_revision for span in report.restorable) == archived
    assert report.backups == 1


def test_wrong_credentials_keep_no_node_from_serving_and_are_named(start_kvserver: StartServer, s3: S3Server) -> None:
    s3.make_bucket("guarded")
    with s3.checking_credentials():
        server = start_kvserver("--archive", "s3://guarded/kv", environment=s3.environment())
        with server.client() as kv:
            kv.put(b"k", b"v")
            with pytest.raises(ArchiveUnavailable) as caught:
                kv.archive_now()
            assert "somebody" not in str(caught.value) and "something" not in str(caught.value)
            assert any("The archive fails" in warning for warning in kv.status().warnings)
    with server.client() as kv:
        assert kv.archive_now().archived_revision == kv.status().revision
