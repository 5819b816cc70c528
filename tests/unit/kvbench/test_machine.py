"""What is told of machine and disk: the mount that a folder lies on, and a sync that was timed."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvbench import machine

MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:26 / {top} rw - tmpfs tmpfs rw
31 30 8:1 / {top}/my\\040disk rw shared:2 - xfs /dev/my\\040sda rw
32 22 0:27 / {top}/twice rw - tmpfs first rw
33 22 0:28 / {top}/twice rw - btrfs second rw
"""


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("/", ("ext4", "/dev/root")),
        ("{top}", ("tmpfs", "tmpfs")),
        ("{top}/data", ("tmpfs", "tmpfs")),
        ("{top}/my disk/data", ("xfs", "/dev/my sda")),
        ("{top}/my diskette", ("tmpfs", "tmpfs")),
        ("{top}/twice", ("btrfs", "second")),
    ],
)
def test_the_innermost_mount_is_found(tmp_path: Path, folder: str, expected: tuple[str, str]) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS.replace("{top}", str(tmp_path)))
    assert machine.file_system(Path(folder.replace("{top}", str(tmp_path))), mounts) == expected


def test_a_system_that_does_not_say_is_no_trouble(tmp_path: Path) -> None:
    assert machine.file_system(tmp_path, tmp_path / "none") == ("unknown", "unknown")


def test_syncs_are_timed_and_leave_nothing_behind(tmp_path: Path) -> None:
    found = machine.disk(str(tmp_path))
    times = found["fdatasync_ms"]
    assert 0 < times["min"] <= times["p50"] <= times["p99"] <= times["max"]
    assert found["fdatasyncs"] >= 1
    assert found["fdatasync_bytes"] == 4096
    assert list(tmp_path.iterdir()) == []


def test_a_slow_disk_ends_the_timing_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_SYNC_LIMIT_S", 0.0)
    assert machine.disk(str(tmp_path))["fdatasyncs"] == 1


def test_machine_and_versions_are_named() -> None:
    facts = machine.facts()
    assert facts["cores"] >= facts["usable_cores"] >= 1
    assert facts["memory_bytes"] > 2**20
    assert facts["kernel"]
    assert facts["processor"]
    versions = machine.versions("9.9")
    assert versions["kvserver_server"] == "9.9"
    assert all(versions[name] not in ("", "not installed") for name in ("kvserver_client", "grpcio", "protobuf", "numpy"))
    assert machine._version("no-such-thing") == "not installed"
