"""kvctl wal repair: what is put back, what is not, and that nothing else is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from kvserver.archive.folder_store import FolderStore
from kvserver.base.fs import OsFileSystem
from kvserver.base.paths import DataPaths
from kvserver.commit.requests import Put
from support.archived_store import ArchivedStore


class Node(NamedTuple):
    """The folder of a stopped node whose log is archived."""

    folder: Path
    archive: Path

    @property
    def command(self) -> tuple[str, ...]:
        return ("wal", "repair", "--data-dir", str(self.folder), "--from", "archive", "--archive", f"file://{self.archive}")

    @property
    def segments(self) -> list[Path]:
        return sorted((self.folder / "wal").glob("*.wal"))

    def content(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """Four segments of two epochs, all archived; what is written last is not."""
    node = Node(tmp_path / "node", tmp_path / "archive")
    store = FolderStore(OsFileSystem(), node.archive)
    kept = ArchivedStore(store=store)
    for number in range(3):
        kept.group(Put(1, b"%d" % number, bytes(100)))
        kept.seal()
        if number == 1:
            kept.restart()
    kept.archive()
    kept.database.close()
    for path, data in kept.fs.contents().items():
        target = node.folder / path.relative_to(kept.paths.root)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    store.close()
    return node


def flip(path: Path, offset: int) -> bytes:
    """Change one bit of a file; return what it was."""
    whole = path.read_bytes()
    data = bytearray(whole)
    data[offset] ^= 1
    path.write_bytes(data)
    return whole


def test_nothing_to_do(offline: Any, node: Node) -> None:
    before = node.content()
    told = offline(*node.command, "-o", "json")
    assert (told.exit_code, told.json["repaired"], told.json["unrepaired"]) == (0, [], [])
    assert told.json["segments"] == len(node.segments)
    assert offline(*node.command).out.decode() == f"{len(node.segments)} segments read; nothing is damaged\n"
    assert node.content() == before


def test_a_dry_run_says_what_would_be_put_back(offline: Any, node: Node) -> None:
    damaged = node.segments[0]
    flip(damaged, 4200)
    before = node.content()
    told = offline(*node.command, "--dry-run", "-o", "json").json
    assert told["dry_run"] is True
    assert [(one["segment"], one["kept_as"]) for one in told["repaired"]] == [(damaged.name, "")]
    shown = offline(*node.command, "--dry-run").out.decode().splitlines()
    assert shown[1] == "  would be put back from the archive"
    assert shown[-1].endswith("1 would be put back")
    assert node.content() == before


def test_what_is_damaged_is_put_back_and_kept_aside(offline: Any, node: Node) -> None:
    damaged = node.segments[0]
    whole = flip(damaged, 4200)
    spoilt = damaged.read_bytes()
    shown = offline(*node.command)
    kept = damaged.with_name(f"{damaged.name}.1.damaged")
    assert shown.exit_code == 0
    assert shown.out.decode().splitlines()[1] == f"  put back from the archive; what was there is kept as {kept.name}"
    assert (damaged.read_bytes(), kept.read_bytes()) == (whole, spoilt)
    assert offline("wal", "verify", str(node.folder)).exit_code == 0
    flip(damaged, 4300)
    raw = offline(*node.command, "-o", "raw").out.decode().splitlines()
    assert [line.split("\t")[:3] for line in raw] == [["repaired", damaged.name, f"{damaged.name}.2.damaged"]]


def test_what_the_archive_does_not_hold_stays_damaged(offline: Any, node: Node) -> None:
    damaged = node.segments[0]
    flip(damaged, 4200)
    for path in node.archive.glob("*/manifest/*/*.json"):
        path.unlink()
    before = node.content()
    left = offline(*node.command, "-o", "json")
    assert (left.exit_code, [one["segment"] for one in left.json["unrepaired"]]) == (5, [damaged.name])
    shown = offline(*node.command)
    assert shown.exit_code == 5
    assert "  not put back: the archive does not hold it" in shown.out.decode().splitlines()
    assert offline(*node.command, "-o", "raw").out.decode().startswith(f"unrepaired\t{damaged.name}\t")
    assert node.content() == before


def test_one_that_is_missing_is_put_back_by_name(offline: Any, node: Node) -> None:
    missing = node.segments[0]
    whole = missing.read_bytes()
    missing.unlink()
    told = offline(*node.command, "--segment", missing.name, "-o", "json")
    assert (told.exit_code, missing.read_bytes()) == (0, whole)
    assert told.json["repaired"][0]["kept_as"] == ""
    for name in ("../../etc/passwd", "nonsense"):
        wrong = offline(*node.command, "--segment", name, "-o", "json")
        assert (wrong.exit_code, wrong.error["code"]) == (1, "NO_SUCH_SEGMENT")


def test_a_folder_that_is_in_use_or_none(offline: Any, node: Node, tmp_path: Path) -> None:
    lock = OsFileSystem().lock(DataPaths(node.folder).lock)
    in_use = offline(*node.command, "-o", "json")
    lock.release()
    assert (in_use.exit_code, "in use" in in_use.error["message"]) == (1, True)
    nothing = offline(*(word.replace(str(node.folder), str(tmp_path)) for word in node.command), "-o", "json")
    assert (nothing.exit_code, nothing.error["code"]) == (1, "TARGET_UNUSABLE")
    (node.archive / "x").mkdir()
    flip(node.segments[0], 4200)
    elsewhere = offline(*(word.replace(str(node.archive), str(node.archive / "x")) for word in node.command), "-o", "json")
    assert (elsewhere.exit_code, elsewhere.error["code"]) == (6, "NO_RESTORE_PLAN")
