"""What RocksDB says when something goes wrong, as errors of this program. Pure: it reads texts, because there is nothing else.

The binding raises a bare ``Exception`` with RocksDB's text: ``<kind>: <what it was doing>: <path>: <reason of the system>``.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path

from kvserver.base.errors import Corruption
from kvserver.base.fs import FileSystem, opened
from kvserver.storage.tables import TablesClosed

_HINT = (
    "nothing of the log was touched; see which files are damaged with: kvctl doctor --data-dir DATA_DIR; "
    "then open a checkpoint, or restore the named file from a copy"
)
_FILE = re.compile(r"/[^:]*?/(?:[0-9]+\.(?:sst|log|ldb)|MANIFEST-[0-9]+|CURRENT|OPTIONS-[0-9]+|IDENTITY)")
_SST = re.compile(r"\b([0-9]{6,}\.sst)\b")
_OFFSET = re.compile(r"\boffset:? ([0-9]+)")
_FAILURE = re.compile(r"(?:Compaction|flush|Flush) error: (.*)")
_LOG_TAIL_BYTES = 64 * 1024
_NUMBERS = {
    os.strerror(number): number
    for number in (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EIO,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.EFBIG,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.EXDEV,
        errno.ENODEV,
        errno.ESTALE,
    )
}


def error_of(text: str, folder: Path) -> Exception:
    """Return the error for a text of RocksDB's about the tables in a folder.

    ``Corruption`` for what does not check and for files that are gone, ``BlockingIOError`` where another process has the tables
    open for writing, ``TablesClosed`` for what was asked too late, ``OSError`` with the disk's number for all else (EIO where
    none is named).
    """
    text = " ".join(text.split())
    while text.startswith("Corruption: Corruption: "):
        text = text.removeprefix("Corruption: ")
    found = _FILE.search(text)
    path = Path(found[0]) if found else folder
    kind = text.partition(":")[0]
    if "/LOCK: " in text and ("lock hold by" in text or "temporarily unavailable" in text):
        return BlockingIOError(errno.EAGAIN, "the tables are open in another process", str(folder))
    if kind == "Shutdown in progress" or "already closed" in text:
        return TablesClosed(f"the tables in {folder} are closed")
    if kind == "Corruption" or kind == "NotFound":
        return _corruption(text, path, folder)
    if "No such file or directory" in text:
        return Corruption(path, 0, f"a file of the tables is missing: {text}", _HINT)
    if kind == "IO error" and "file is too short" in text:
        return _corruption(text, path, folder)
    for reason, number in _NUMBERS.items():
        if reason in text:
            return OSError(number, f"{reason} ({text})", str(path))
    return OSError(errno.EIO, text, str(path))


def opening_error_of(text: str, folder: Path) -> Exception:
    """Return the error for a text about opening: what RocksDB calls an invalid argument then is a folder that is not ours."""
    if text.startswith(("Invalid argument", "Not implemented", "Not supported")):
        return Corruption(folder, 0, f"these are not tables of this program, or of a newer one: {text}", _HINT)
    return error_of(text, folder)


def damaged_files(text: str) -> list[str]:
    """Return the names of the table files that a text speaks of."""
    return sorted(set(_SST.findall(text)))


def last_failure(fs: FileSystem, folder: Path) -> str:
    """Return why a background job failed last, as RocksDB's own account of itself says; it tells it nowhere else."""
    log = folder / "LOG"
    try:
        with opened(fs.open(log)) as file:
            text = file.pread(_LOG_TAIL_BYTES, max(0, file.size() - _LOG_TAIL_BYTES)).decode(errors="replace")
    except OSError:
        text = ""
    found = _FAILURE.findall(text)
    return found[-1].strip() if found else f"a background job failed; see {log}"


class FailureWatch:
    """Says whether merging fails now. RocksDB counts failures and never says that they are over. Safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures = 0
        self._level0_files = 0
        self._failing = False

    def succeeded(self, failures: int) -> None:
        """Take note that something succeeded after so many failures."""
        with self._lock:
            self._failures, self._failing = failures, False

    def failing(self, failures: int, at_rest: bool, level0_files: int) -> bool:
        """Judge by what is to be seen now: it is over once a merge has succeeded, or when none is due."""
        with self._lock:
            if failures > self._failures:
                self._failing = True
            elif at_rest or level0_files < self._level0_files:
                self._failing = False
            self._failures, self._level0_files = failures, level0_files
            return self._failing


def missing_current(folder: Path, names: Sequence[str]) -> Corruption:
    """Return the error for a folder with these names in it, and without the one that says which list of tables counts."""
    beside = any(name.endswith(".sst") for name in names)
    what = "it is missing, though there are tables beside it" if beside else "it is missing: there are no tables here"
    return Corruption(folder / "CURRENT", 0, what, _HINT)


def _corruption(text: str, path: Path, folder: Path) -> Corruption:
    named = damaged_files(text)
    if path == folder and named:
        path = folder / named[0]
    elif path == folder and "CURRENT file" in text:
        path = folder / "CURRENT"
    offset = _OFFSET.search(text)
    return Corruption(path, int(offset[1]) if offset else 0, text, _HINT)
