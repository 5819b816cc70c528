"""A whole server with an archive, in the test's own event loop, whose parts a test may look into and replace."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from kvserver.archive.folder_store import FolderStore
from kvserver.base.events import Event
from kvserver.base.fs import OsFileSystem
from kvserver.server import config
from kvserver.server.app import App
from kvserver.server.archive_part import ArchivePart


class Node:
    """A whole server in the test's event loop, with an archive in a folder."""

    def __init__(self, app: App, folder: Path) -> None:
        self.app = app
        self.folder = folder
        self.events: list[Event] = []
        self.store = FolderStore(OsFileSystem(), folder / "archive")

    @property
    def part(self) -> ArchivePart:
        assert self.app._node.life is not None and self.app._node.life.archive is not None
        return self.app._node.life.archive

    @property
    def scratch(self) -> list[Path]:
        folder = self.folder / "data" / "scratch"
        return list(folder.iterdir()) if folder.exists() else []

    def files(self, parse: Any) -> list[Path]:
        return [self.folder / "archive" / info.name for info in self.store.list("") if parse(info.name) is not None]


@contextlib.asynccontextmanager
async def node_on(folder: Path, *flags: str) -> AsyncIterator[Node]:
    told = config.parse(
        [
            *("serve", "--data-dir", str(folder / "data"), "--listen", "127.0.0.1:0", "--http", "off"),
            *("--ballast-mb", "0", "--archive", (folder / "archive").as_uri(), *flags),
        ],
        {},
    )
    app = App(told)
    node = Node(app, folder)
    listen = app._on_event
    app._on_event = lambda event: (node.events.append(event), listen(event))[1]  # type: ignore[method-assign]
    await app.start()
    try:
        yield node
    finally:
        await app.stop()


def happened(node: Node, kind: type[Event]) -> list[Any]:
    return [event for event in node.events if type(event) is kind]
