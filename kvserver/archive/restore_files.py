"""The files of the backup that a restore begins with: fetched several at a time, checked, and given their names when durable."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

from kvserver.archive.backup_files import checked_pieces
from kvserver.archive.errors import damaged
from kvserver.archive.names import ArchiveNames
from kvserver.archive.ordered_pool import in_order
from kvserver.archive.records import BackupFile, BackupRecord
from kvserver.archive.store import Store
from kvserver.base.environment import Environment
from kvserver.base.fs import opened
from kvserver.base.paths import DataPaths


class BaseFiles:
    """Fetches the files of one backup into the folder of the tables."""

    def __init__(self, env: Environment, store: Store, paths: DataPaths, base: BackupRecord) -> None:
        self._fs = env.fs
        self._store = store
        self._names = ArchiveNames(base.cluster_id)
        self._paths = paths
        self._base = base
        self._numbers = itertools.count(1)
        self._failure: BaseException | None = None

    def fetch(self, workers: int, on_bytes: Callable[[int], None]) -> None:
        """Fetch what is not there yet; all of it is durable on return. ``on_bytes`` is called on any thread, one at a time.

        Raises Corruption for a file that is not whole, StoreError, OSError; then what was fetched so far is kept.
        """
        base, tables = self._base, self._paths.tables
        paths = [file.path for file in base.files]
        if len(set(paths)) != len(paths):
            raise damaged(self._names.backup(base.id), 0, "it names two files alike")
        self._fs.make_dir(tables)
        self._fs.make_dir(self._paths.restoring)
        mutex = threading.Lock()

        def note(length: int) -> None:
            with mutex:
                on_bytes(length)

        def fetch(file: BackupFile) -> None:
            try:
                self._fetch(file, note)
            except BaseException as error:
                self._failure = self._failure or error  # the others end at their next piece
                raise

        for _ in in_order(fetch, base.files, workers):
            pass
        self._fs.sync_dir(tables)

    def _fetch(self, file: BackupFile, note: Callable[[int], None]) -> None:
        place = self._paths.tables / file.path
        found = self._fs.info(place)
        if found is not None and found.length_bytes == file.length:  # an attempt before this one gave it its name, so it is whole
            note(file.length)
            return
        temporary = self._paths.being_fetched(next(self._numbers))
        offset = 0
        with opened(self._fs.create(temporary)) as part:
            for piece in checked_pieces(self._store, self._names, file):
                if self._failure is not None:
                    raise self._failure
                part.pwrite(piece, offset)
                offset += len(piece)
                note(len(piece))
            part.sync()
        self._fs.rename(temporary, place)
