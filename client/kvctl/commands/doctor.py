"""``kvctl doctor``: examines a data folder and says what is wrong and what to do. Needs no server, and changes nothing.

Like ``kvctl wal`` it uses the server's code, and so needs the ``[server]`` extra.
"""

from __future__ import annotations

import dataclasses
import os
import stat
import tempfile
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import click

from kvctl.bytes_form import printable
from kvctl.command import Command
from kvctl.failures import EXIT_UNHEALTHY
from kvctl.output import counted, write_json, write_line
from kvctl.progress import ProgressBar
from kvctl.settings import Settings, command_options
from kvserver.base.clock import SystemClock
from kvserver.base.errors import Corruption
from kvserver.base.fs import OsFileSystem
from kvserver.base.limits import MIB
from kvserver.base.paths import DataPaths
from kvserver.engine.examination.examine import examine
from kvserver.engine.examination.findings import Finding, Level, worst
from kvserver.engine.examination.subject import FileFacts, Subject
from kvserver.replication.local_register import KIND, LocalRegister
from kvserver.storage.rocks import open_reader
from kvserver.storage.tables import TableReader

_CACHE_BYTES = 32 * MIB
_OPEN_ATTEMPTS = 3
_BINDING_FILE = "rocksdict-config.json"
_TITLES = {Level.PROBLEM: "problems", Level.WARNING: "warnings", Level.NOTE: "notes", Level.OK: "ok"}


@click.command(cls=Command)
@click.option(
    "--data-dir",
    required=True,
    metavar="DIR",
    envvar="KVCTL_DATA_DIR",
    show_envvar=True,
    type=click.Path(path_type=Path),
    help="The folder given to kvserver serve --data-dir.",
)
@click.option("--deep", is_flag=True, help="Also read every block of every table; takes as long as reading the disk does.")
@click.option(
    "--probe-disk",
    is_flag=True,
    help="Also measure how long a sync takes: writes 200 KiB into the folder, in a file that loses its name at once. "
    "The only check that writes. Beside a running server it takes a share of its disk for a moment.",
)
@click.option("-v", "--verbose", is_flag=True, help="Show what is in order too.")
@command_options
@click.pass_obj
def doctor(settings: Settings, data_dir: Path, deep: bool, probe_disk: bool, verbose: bool) -> int:
    """Examine a data folder, and say of everything found what to do.

    Looks at the lock, the identity, leftovers, owners, every frame of the log, the tables, how they fit together, the
    disk, the limits of the system and the clock. Offline it sees a store that stands still. Beside a running server,
    which the lock tells, it sees a moving one: what looks wrong is looked at again, and live figures come from
    kvctl status. Nothing is changed either way, unless --probe-disk is given.

    Exit code 5 when there is a problem; 0 for warnings and notes.

    \b
    Examples:
      kvctl doctor --data-dir data/node
      kvctl doctor --data-dir data/node --deep --probe-disk -v
      kvctl doctor --data-dir data/node -o json
    """
    root = Path(os.path.realpath(data_dir))
    fs = OsFileSystem()
    with _Progress() as progress, _Tables() as tables:
        subject = Subject(
            fs,
            DataPaths(root),
            SystemClock(),
            _OsMachine(),
            {KIND: LocalRegister},
            tables.open,
            deep=deep,
            probe_disk=probe_disk,
            progress=progress.show,
        )
        findings = [tables.named(finding) for finding in examine(subject)]
    if settings.as_json:
        write_json(_document(root, subject.in_use, findings))
    elif settings.output == "raw":
        for finding in findings:
            texts = (finding.looked_at, finding.found, finding.advice)
            write_line("\t".join([finding.level.label, finding.check, *map(_safe, texts)]))
    else:
        _write_list(root, findings, verbose)
    return EXIT_UNHEALTHY if worst(findings) is Level.PROBLEM else 0


class _Tables:
    """Opens tables for reading without writing into their folder.

    The binding of RocksDB writes a file of its own into every folder that it opens, also for reading. So it is handed a
    folder of links to the files. Beside a server files go and come between the links and the opening; then it is done again.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._views: list[tuple[str, str]] = []

    def __enter__(self) -> _Tables:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def open(self, path: Path) -> TableReader:
        """Open the tables in a folder. Raises Corruption, OSError."""
        for _ in range(_OPEN_ATTEMPTS - 1):
            with suppress(Corruption):
                return open_reader(self._linked(path), _CACHE_BYTES)
        return open_reader(self._linked(path), _CACHE_BYTES)

    def named(self, finding: Finding) -> Finding:
        """Return a finding in which the files are called by their own names."""
        for view, path in self._views:
            found, looked_at = finding.found.replace(view, path), finding.looked_at.replace(view, path)
            finding = dataclasses.replace(finding, found=found, looked_at=looked_at)
        return finding

    def _linked(self, path: Path) -> Path:
        """Return a new folder of links to the files of a folder."""
        view = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="kvctl-doctor-")))
        self._views.append((str(view), str(path)))
        for file in path.iterdir():
            if file.name != _BINDING_FILE:
                (view / file.name).symlink_to(file)
        return view


def _document(root: Path, in_use: bool, findings: list[Finding]) -> dict[str, Any]:
    """Return what ``-o json`` prints; docs/kvctl.md is the contract."""
    levels = Counter(finding.level for finding in findings)
    return {
        "data_dir": _text(str(root)),
        "in_use": in_use,
        "verdict": worst(findings).label,
        "counts": {level.label: levels[level] for level in Level},
        "findings": [
            {
                "check": finding.check,
                "level": finding.level.label,
                "looked_at": _text(finding.looked_at),
                "found": _text(finding.found),
                "advice": _text(finding.advice),
            }
            for finding in findings
        ],
    }


def _write_list(root: Path, findings: list[Finding], verbose: bool) -> None:
    """Write the findings for people, the worst first, and the verdict as the last line."""
    width = max((len(finding.check) for finding in findings), default=0)
    for level, title in _TITLES.items():
        chosen = [finding for finding in findings if finding.level is level]
        if not chosen:
            continue
        if level is Level.OK and not verbose:
            write_line(f"{title}: {', '.join(dict.fromkeys(finding.check for finding in chosen))} (-v shows them)")
            continue
        write_line(f"{title}:")
        for finding in chosen:
            write_line(f"  {finding.check:<{width}}  {_safe(finding.looked_at)}: {_safe(finding.found)}")
            if finding.advice:
                write_line(f"  {'':<{width}}  do: {_safe(finding.advice)}")
    write_line(_verdict(root, findings))


def _verdict(root: Path, findings: list[Finding]) -> str:
    """Return the last line: one word for the worst, and how many there are of each."""
    levels = Counter(finding.level for finding in findings)
    told = [counted(levels[level], level.label) for level in (Level.PROBLEM, Level.WARNING, Level.NOTE) if levels[level]]
    return f"{worst(findings).label}: {_safe(str(root))}: {', '.join(told) or 'nothing to do'}"


def _safe(text: str) -> str:
    """Return text without what could speak to a terminal: names of files may hold anything."""
    return printable(text.encode(errors="surrogateescape"))


def _text(text: str) -> str:
    """Return text that can be written as UTF-8: names of files may hold any bytes."""
    return text.encode(errors="surrogateescape").decode(errors="replace")


class _Progress:
    """One bar after another, for the checks that take long; off a terminal nothing is shown."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._what = ""
        self._bar: ProgressBar | None = None

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def show(self, what: str, records: int, position: int, total: int) -> None:
        """Show how far a check is. A total of 0 is not known."""
        if what != self._what or self._bar is None:
            self._stack.close()
            self._what = what
            self._bar = self._stack.enter_context(ProgressBar(f"reading the {what}", total or None))
        self._bar.show(records, position)


class _OsMachine:
    """What the operating system says of files and users."""

    def user(self) -> int:
        """Return the number of this process's user."""
        return os.geteuid()

    def facts(self, path: Path) -> FileFacts:
        """Return owner, permissions and place of a file."""
        found = path.lstat()
        device = (os.major(found.st_dev), os.minor(found.st_dev))
        return FileFacts(found.st_uid, stat.S_IMODE(found.st_mode), device, found.st_ino)

    def inodes(self, path: Path) -> tuple[int, int]:
        """Return the inodes that an unprivileged user can still use, and all there are."""
        found = os.statvfs(path)
        return found.f_favail, found.f_files
