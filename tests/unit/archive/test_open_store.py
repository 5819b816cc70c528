"""From an address to a store: the two forms, and what is said of everything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvserver.archive.folder_store import FolderStore
from kvserver.archive.open_store import FORMS, open_store
from kvserver.archive.s3_store import S3Store
from kvserver.archive.store import StoreRefused
from kvserver.base.errors import Code
from support.memfs import MemoryFileSystem


@pytest.mark.parametrize(
    ("url", "folder"),
    [
        ("file:///srv/archive", "/srv/archive"),
        ("file:///srv/archive/", "/srv/archive"),
        ("file://localhost/srv/archive", "/srv/archive"),
        ("FILE:///srv/archive", "/srv/archive"),
        ("file:///srv//kv/./archive", "/srv/kv/archive"),
        ("file:///srv/my%20archive", "/srv/my archive"),
        ("file:///srv/archiv-f\u00fcr-alle", "/srv/archiv-f\u00fcr-alle"),
    ],
)
def test_a_folder_is_opened_and_nothing_is_made_yet(url: str, folder: str) -> None:
    fs = MemoryFileSystem()
    store = open_store(url, fs)
    assert isinstance(store, FolderStore) and store.url == f"file://{folder}"
    assert fs.contents() == {} and fs.list_dir(Path("/")) == []
    store.create("a", [b"x"])
    assert fs.contents()[Path(folder) / "a"] == b"x"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("s3://bucket/a/b/c/", "s3://bucket/a/b/c"),
        ("s3://my-bucket.2026", "s3://my-bucket.2026"),
        ("s3://my-bucket.2026/", "s3://my-bucket.2026"),
        ("s3://bucket/it's_(a)-prefix!*", "s3://bucket/it's_(a)-prefix!*"),
    ],
)
def test_a_bucket_is_opened_without_asking_it(url: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    store = open_store(url)
    assert isinstance(store, S3Store) and store.url == shown


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "an address without a scheme is not known here"),
        ("/srv/archive", "an address without a scheme is not known here"),
        ("archive", "an address without a scheme is not known here"),
        ("http://host/archive", "http is not known here"),
        ("gs://bucket/prefix", "gs is not known here"),
        ("file:archive", "it names no absolute path"),
        ("file:", "it names no absolute path"),
        ("file://", "it names no absolute path"),
        ("file://archive/sub", "'archive' is another machine, or a path that is not absolute"),
        ("file://./archive", "another machine, or a path that is not absolute"),
        ("file:///", "an archive lies in a folder of its own"),
        ("file:////", "an archive lies in a folder of its own"),
        ("file:///srv/a%0ab", "characters that can be shown"),
        ("file:///srv/%1b[31m", "characters that can be shown"),
        ("file:///srv/../etc", "named without '..'"),
        ("file:///srv/%2e%2e/etc", "named without '..'"),
        ("file:///srv/a%00b", "it names no absolute path"),
        ("file:///srv/%ff", "it is no address"),
        ("file:///srv/archive?x=1", "nothing may follow its path"),
        ("file:///srv/archive#x", "nothing may follow its path"),
        ("file:///srv/archive?", "nothing may follow its path"),
        ("file://[::1/archive", "it is no address"),
        ("s3://", "'' is no name of a bucket"),
        ("s3:///prefix", "'' is no name of a bucket"),
        ("s3:bucket", "'' is no name of a bucket"),
        ("s3://Bucket/prefix", "'Bucket' is no name of a bucket"),
        ("s3://b/prefix", "'b' is no name of a bucket"),
        ("s3://bucket:9000/prefix", "'bucket:9000' is no name of a bucket"),
        ("s3://buck_et/prefix", "'buck_et' is no name of a bucket"),
        ("s3://bucket/a//b", "'a//b' is no prefix"),
        ("s3://bucket/../b", "'../b' is no prefix"),
        ("s3://bucket/a/./b", "'a/./b' is no prefix"),
        ("s3://bucket/a b", "'a b' is no prefix"),
        ("s3://bucket/%2e%2e", "'%2e%2e' is no prefix"),
        ("s3://bucket/prefix?region=x", "nothing may follow its path"),
        ("file:///srv/a\nb", "all of them printable"),
        ("file:///srv/a\0b", "all of them printable"),
        ("s3://bucket/\u202e", "all of them printable"),
        ("file:///srv/\ud800", "all of them printable"),
        ("file:///" + "x" * 5000, "at most 1,024 characters"),
    ],
)
def test_every_other_address_is_refused_with_the_forms_that_are_known(url: str, reason: str) -> None:
    with pytest.raises(StoreRefused) as caught:
        open_store(url)
    assert caught.value.code is Code.ARCHIVE_UNAVAILABLE
    assert reason in caught.value.message
    assert caught.value.hint == FORMS
    assert caught.value.message.isprintable() and len(caught.value.message) < 500


@pytest.mark.parametrize(
    "url",
    [
        "s3://KEY:hunter2@bucket/prefix",
        "s3://:hunter2@bucket",
        "https://user:hunter2@host/archive",
        "s3://KEY:hunter2/with+slash@bucket/prefix",
    ],
)
def test_credentials_in_an_address_are_refused_and_not_shown(url: str) -> None:
    with pytest.raises(StoreRefused, match="credentials do not belong in an address") as caught:
        open_store(url)
    assert "hunter2" not in caught.value.message + caught.value.hint
    assert "AWS_SECRET_ACCESS_KEY" in caught.value.hint


def test_credentials_in_what_is_no_address_are_not_shown_either() -> None:
    with pytest.raises(StoreRefused, match="it is no address") as caught:
        open_store("s3://KEY:hunter2@[bucket/prefix")
    assert "hunter2" not in caught.value.message
