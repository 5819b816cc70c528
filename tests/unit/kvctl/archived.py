"""What the tests of commands about an archive share: an archive in a folder, and the scene that is in it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from kvserver.archive.folder_store import FolderStore
from kvserver.base.fs import OsFileSystem
from support.archives import ArchiveScene
from support.fake_server import CLUSTER_ID


class Archived(NamedTuple):
    """An archive in a folder, of the cluster that the fake server is a node of."""

    scene: ArchiveScene
    store: FolderStore
    folder: Path

    @property
    def url(self) -> str:
        return f"file://{self.folder}"

    def object_path(self, name: str) -> Path:
        """Return where an object lies."""
        return self.folder / name

    def flip(self, name: str, offset: int) -> None:
        """Change one bit of an object."""
        path = self.object_path(name)
        data = bytearray(path.read_bytes())
        data[offset] ^= 1
        path.write_bytes(data)


def archive_in(folder: Path) -> Archived:
    """Return an archive whose cluster has been created, and nothing else."""
    store = FolderStore(OsFileSystem(), folder)
    return Archived(ArchiveScene(store, CLUSTER_ID), store, folder)


def two_epochs(archived: Archived) -> None:
    """Archive two epochs of a few segments, two backups and a named point: revisions 2 to 9."""
    scene = archived.scene
    scene.begin()
    scene.segment(2, 1)
    scene.backup()
    scene.segment(1, 1)
    scene.begin()
    scene.segment()
    scene.segment(3)
    scene.backup()
    scene.point("before-upgrade", 4)


def log_only(archived: Archived) -> None:
    """Archive a log without any backup, which a restore replays from its beginning: revisions 2 to 9."""
    scene = archived.scene
    scene.begin()
    scene.segment(2, 1)
    scene.segment(1, 1)
    scene.segment(3)
