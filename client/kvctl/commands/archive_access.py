"""What the commands about an archive have in common: where it is, whose log in it is meant, and how its errors are told.

The code that reads an archive is the server's. It is imported when a command runs, never for its help, and needs the
``[server]`` extra, as ``kvctl wal`` does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from kvctl.bytes_form import printable
from kvctl.failures import (
    EXIT_ERROR,
    EXIT_NOT_FOUND,
    EXIT_REFUSED,
    EXIT_UNHEALTHY,
    EXIT_UNREACHABLE,
    CtlError,
    tell,
)
from kvctl.output import counted
from kvctl.settings import Settings

if TYPE_CHECKING:
    from kvserver.archive.names import ArchiveNames
    from kvserver.archive.records import BackupRecord
    from kvserver.archive.store import Store
    from kvserver.base.errors import KvError

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

_EXIT_CODES = {
    "CORRUPTION": EXIT_UNHEALTHY,
    "NO_RESTORE_PLAN": EXIT_NOT_FOUND,
    "ARCHIVE_FENCED": EXIT_REFUSED,
    "TARGET_UNUSABLE": EXIT_ERROR,
}
"""By the code of an error of the server's own code; whatever is not named here is an error of kvctl's own run."""


class Archive(NamedTuple):
    """An archive that was opened, and the cluster in it that is meant."""

    store: Store
    url: str
    """The address as people may see it."""
    cluster_id: bytes
    names: ArchiveNames


class Place(NamedTuple):
    """Where an archive is, and which cluster in it is meant: None for the only one."""

    url: str
    cluster: str | None


def archive_options(*, server: bool) -> Callable[[CommandT], CommandT]:
    """Add ``--archive`` and ``--cluster``; ``server``: without them the node is asked, so that neither has to be given."""
    otherwise = "that of the node unless given" if server else "must be given"
    archive = click.option(
        "--archive",
        "url",
        metavar="URL",
        required=not server,
        envvar="KVCTL_ARCHIVE",
        show_envvar=True,
        help=f"Where the archive is: file:///DIR or s3://BUCKET/PREFIX; {otherwise}.",
    )
    whose = "the node's, or the only one there," if server else "the only one there"
    cluster = click.option(
        "--cluster",
        metavar="ID",
        help=f"Whose log in it: the first digits of a cluster's id; {whose} unless given.",
    )
    return lambda command: archive(cluster(command))


def locate(settings: Settings, url: str | None, cluster: str | None) -> Place:
    """Return where the archive is: as the command line says, or else as the node says, which is then told."""
    if url is not None:
        return Place(url, cluster)
    with settings.connect() as kv:
        found = kv.status()
    if not found.archive_url:
        raise CtlError(
            "NO_ARCHIVE",
            f"the node at {settings.endpoint} has no archive",
            "name one with --archive URL, or start the node with: kvserver serve --archive URL",
            EXIT_REFUSED,
        )
    if not settings.as_json:
        tell(f"the archive is {printable(found.archive_url.encode())}, as {settings.endpoint} says")
    return Place(found.archive_url, cluster or found.cluster_id.hex())


@contextlib.contextmanager
def open_archive(place: Place, command: str) -> Iterator[Archive]:
    """Open an archive for a command while the block runs; raise CtlError for all that the server's code raises in it."""
    with server_code(command), open_store(place.url) as store:
        from kvserver.archive.catalog import choose_cluster
        from kvserver.archive.names import ArchiveNames

        cluster_id = choose_cluster(store, place.cluster)
        yield Archive(store, store.url, cluster_id, ArchiveNames(cluster_id))


def named_backup(backups: Sequence[BackupRecord], text: str, url: str) -> BackupRecord:
    """Return the backup of a name, of the beginning of one, or the newest one; raise CtlError where that is not one."""
    found = backups[-1:] if text == "latest" else [record for record in backups if record.id.startswith(text)]
    if len(found) == 1:
        return found[0]
    what = f"{counted(len(found), 'backup')} begin with {text!r}" if found else f"there is no backup {text!r}"
    raise CtlError("NO_SUCH_BACKUP", what, f"see: kvctl backup list --archive {url}", EXIT_NOT_FOUND)


@contextlib.contextmanager
def open_store(url: str) -> Iterator[Store]:
    """Open the store at an address while the block runs."""
    from kvserver.archive import open_store as opening

    store = opening.open_store(url)
    try:
        yield store
    finally:
        store.close()


@contextlib.contextmanager
def server_code(command: str) -> Iterator[None]:
    """Run the server's code for a command: what it raises on purpose ends the command, with an exit code of its own."""
    try:
        yield
    except ModuleNotFoundError as error:
        message = f"kvctl {command} needs {error.name}, which is not installed"
        raise CtlError("NOT_INSTALLED", message, "pip install 'kvserver[server]'") from error
    except Exception as error:
        from kvserver.base.errors import KvError

        if not isinstance(error, KvError):
            raise
        raise told(error) from error


def told(error: KvError) -> CtlError:
    """Return the error of kvctl that an error of the server's code becomes."""
    from kvserver.archive.store import StoreRefused, StoreUnavailable

    exit_code = _EXIT_CODES.get(error.code.name, EXIT_ERROR)
    if isinstance(error, StoreUnavailable):
        exit_code = EXIT_UNREACHABLE
    elif isinstance(error, StoreRefused):
        exit_code = EXIT_REFUSED
    fields: dict[str, Any] = {"details": error.details} if error.details else {}
    return CtlError(error.code.name, error.message, error.hint, exit_code, **fields)
