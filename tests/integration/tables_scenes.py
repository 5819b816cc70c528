"""Stores whose data lies in tables, made once by a real server and then copied, damaged and started again."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
from pathlib import Path

from integration.processes import Process, refusal
from kvclient import Client, Corruption, Put

FLAGS = ("--memtable-mb", "64", "--seal-age-s", "0")
"""Nothing is flushed and no segment sealed but when the scene says so."""

KEYS = 1500
VALUE_BYTES = 300
COMMIT_KEYS = 40


@dataclasses.dataclass(frozen=True)
class Held:
    """What a key must hold: it was acknowledged."""

    value: bytes
    mod_revision: int


@dataclasses.dataclass
class Scene:
    """A stopped store: three flushes, each over keys of the ones before it, and commits behind them that only the log has."""

    folder: Path
    model: dict[bytes, Held] = dataclasses.field(default_factory=dict)
    flushed: list[int] = dataclasses.field(default_factory=list)
    """The flushed revision after each flush."""
    manifest_bytes: int = 0
    """How long the newest MANIFEST was before the last flush."""

    def copy(self, target: Path) -> Path:
        """Copy the data folder, to be damaged, and return the copy."""
        shutil.copytree(self.folder, target)
        return target

    @property
    def older_tables(self) -> Path:
        """A copy of tables/ as they were after the first flush."""
        return self.folder.with_name(f"{self.folder.name}-older-tables")


def client(server: Process, namespace: str = "") -> Client:
    """Return a client of a server that is ready or becomes so."""
    return Client(server.ready().address, namespace, timeout_s=20.0)


def write(kv: Client, model: dict[bytes, Held], rng: random.Random, commits: int) -> None:
    """Write commits of values that cannot be compressed, and note what was acknowledged. Every store writes the same keys."""
    for _ in range(commits):
        keys = random.Random(kv.session.revision)
        puts = {b"k%05d" % keys.randrange(KEYS): rng.randbytes(VALUE_BYTES) for _ in range(COMMIT_KEYS)}
        revision = kv.write([Put(key, value) for key, value in puts.items()]).revision
        model.update({key: Held(value, revision) for key, value in puts.items()})


def make_scene(folder: Path, is_log_trimmed: bool, seed: int = 1) -> Scene:
    """Make a store. Of a trimmed log the segments before the last start are gone: tables are the only copy of what they held."""
    rng, scene = random.Random(seed), Scene(folder)
    for life in range(3 if is_log_trimmed else 1):
        with Process("--data-dir", str(folder), *FLAGS) as server, client(server) as kv:
            for _ in range(1 if is_log_trimmed else 3):
                write(kv, scene.model, rng, commits=25)
                scene.manifest_bytes = manifest(folder).stat().st_size
                scene.flushed.append(kv.flush().flushed_revision)
                if len(scene.flushed) == 1:
                    shutil.copytree(folder / "tables", scene.older_tables)
            write(kv, scene.model, rng, commits=3)
            assert server.stop() == 0
        assert len(segments(folder)) == 1 if is_log_trimmed and life == 2 else True
    return scene


def segments(folder: Path) -> list[Path]:
    """Return the segments of the log, oldest first."""
    return sorted((folder / "wal").glob("*.wal"))


def manifest(folder: Path) -> Path:
    """Return RocksDB's list of tables."""
    (found,) = (folder / "tables").glob("MANIFEST-*")
    return found


def tables(folder: Path) -> list[Path]:
    """Return the table files, oldest first."""
    return sorted((folder / "tables").glob("*.sst"))


def cut(path: Path, length: int) -> None:
    """Cut a file to a length; a negative one counts from its end."""
    os.truncate(path, length if length >= 0 else path.stat().st_size + length)


def flip(path: Path, at: int) -> None:
    """Flip one bit; a negative place counts from the file's end."""
    data = bytearray(path.read_bytes())
    data[at] ^= 0x40
    path.write_bytes(data)


def names_in(folder: Path) -> dict[str, bytes]:
    """Return every file of a data folder that holds data, with its content; RocksDB's account of itself is none."""
    kept = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(("LOG", "LOCK"))]
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept}


def refused_to_start(folder: Path) -> tuple[str, str]:
    """Start a server that must refuse, with exit code 1; return its error and its hint, each as one line."""
    code, lines = refusal("--data-dir", str(folder), *FLAGS)
    assert code == 1, lines
    at = next(number for number, line in enumerate(lines) if line.startswith("hint: "))
    assert lines[0].startswith("error: ")
    return " ".join(lines[:at]), " ".join(lines[at:])


def unreadable(kv: Client, model: dict[bytes, Held]) -> list[Corruption]:
    """Read every key of the model: what can be read is as acknowledged. Return the errors of those that cannot."""
    errors: list[Corruption] = []
    for key, held in model.items():
        try:
            entry = kv.get(key)
        except Corruption as error:
            errors.append(error)
            continue
        assert entry is not None, f"{key!r} is gone"
        assert (entry.value, entry.mod_revision) == (held.value, held.mod_revision), key
    return errors


def assert_all_there(kv: Client, model: dict[bytes, Held], prefix: bytes | None = None) -> None:
    """Check by one scan that the store, or what of it has a prefix, holds exactly what was acknowledged."""
    found = {entry.key: Held(entry.value or b"", entry.mod_revision) for entry in kv.scan(prefix)}
    assert found.keys() == model.keys()
    wrong = [key for key, held in model.items() if found[key] != held]
    assert not wrong, f"{len(wrong)} keys are not as they were acknowledged, {wrong[0]!r} for one"
