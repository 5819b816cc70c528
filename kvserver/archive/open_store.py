"""From the address of an archive to the store that lies there."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from kvserver.archive.folder_store import FolderStore
from kvserver.archive.store import Store, StoreRefused
from kvserver.base.fs import FileSystem, OsFileSystem

FORMS = "write file:///FOLDER, with an absolute path, or s3://BUCKET/PREFIX"
"""What addresses look like, for whoever has to be told."""

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_KEY_PART = re.compile(r"[A-Za-z0-9!_'()*-][A-Za-z0-9!_.'()*-]{0,127}")
_MAX_ADDRESS_LENGTH = 1024


def open_store(url: str, fs: FileSystem | None = None) -> Store:
    """Return the store at an address; nothing is asked of it yet.

    ``fs``: where folders lie, the operating system's file system unless said otherwise. Raises StoreRefused for an address that
    cannot be one, and where what an address needs is not installed.
    """
    shown = url if len(url) <= 200 else f"{url[:200]}..."
    if len(url) > _MAX_ADDRESS_LENGTH or not url.isprintable():
        raise StoreRefused(repr(shown), "an address has at most 1,024 characters, all of them printable", FORMS)
    try:
        parts = urlsplit(url)
        path = unquote(parts.path, errors="strict")
    except ValueError:
        raise StoreRefused("..." if "@" in url else shown, "it is no address", FORMS) from None
    if parts.username is not None or (parts.scheme == "s3" and "@" in url):  # behind a slash in the secret it is no user name
        hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead; an address is shown to people"
        raise StoreRefused(f"{parts.scheme}://...", "credentials do not belong in an address", hint)
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise StoreRefused(shown, "nothing may follow its path", FORMS)
    if parts.scheme == "file":
        return FolderStore(fs or OsFileSystem(), _folder(shown, parts.netloc, path))
    if parts.scheme == "s3":
        return _s3_store(shown, *_bucket_and_prefix(shown, parts.netloc, parts.path))
    raise StoreRefused(shown, f"{parts.scheme or 'an address without a scheme'} is not known here", FORMS)


def _s3_store(url: str, bucket: str, prefix: str) -> Store:
    try:
        from kvserver.archive.s3_store import S3Store
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "obstore":
            raise
        hint = "install it with: pip install 'kvserver[s3]'"
        raise StoreRefused(url, "the library for object storage is not installed", hint) from None
    return S3Store(bucket, prefix)


def _folder(url: str, host: str, path: str) -> Path:
    if host not in ("", "localhost"):
        raise StoreRefused(url, f"{host!r} is another machine, or a path that is not absolute", FORMS)
    if not path.startswith("/") or not path.isprintable():
        raise StoreRefused(url, "it names no absolute path of characters that can be shown", FORMS)
    folder = Path(path)
    if ".." in folder.parts or not folder.name:
        raise StoreRefused(url, "an archive lies in a folder of its own, named without '..'", FORMS)
    return folder


def _bucket_and_prefix(url: str, bucket: str, path: str) -> tuple[str, str]:
    if not _BUCKET.fullmatch(bucket):
        raise StoreRefused(url, f"{bucket!r} is no name of a bucket", FORMS)
    prefix = path.strip("/")
    if prefix and not all(_KEY_PART.fullmatch(part) for part in prefix.split("/")):
        raise StoreRefused(url, f"{prefix!r} is no prefix: letters, digits and ! - _ . ' ( ) *, in parts of at most 128", FORMS)
    return bucket, prefix
