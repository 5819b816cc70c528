"""A follower whose disk is full says so by name, the others go on, and it catches up when there is room again.

Needs root, for a file system of a few MiB; elsewhere it is skipped, and says so.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.chaos import assert_same_content, cluster_of, state_of, until, wait_for_line, wait_for_state

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 96 MiB for the data of n2."""
    if os.geteuid() != 0:
        pytest.skip("not root: what a full disk does to a follower is NOT shown here")
    folder = tmp_path / "n2"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(folder)], capture_output=True, text=True)
    if mount.returncode != 0:
        pytest.skip(f"no file system can be mounted here ({mount.stderr.strip()}): a full disk is NOT shown")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Take all the space of a disk; return the file that has it."""
    filler = disk / "filler"
    fd = os.open(filler, os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(fd, bytes(4096))
    except OSError as error:
        assert error.errno == errno.ENOSPC
    finally:
        os.close(fd)
    return filler


def test_a_follower_with_a_full_disk_says_so_and_catches_up_when_there_is_room(tmp_path: Path, disk: Path) -> None:
    with cluster_of(tmp_path, write_quorum=2, flags=("--segment-mb", "16", "--memtable-mb", "8")) as cluster:
        with cluster.client("n1") as kv:
            kv.put(b"before", b"x")
            cluster.wait_until_caught_up()
            filler = fill(disk)
            for number in range(24):  # more than what is ready in a segment
                kv.put(b"big/%d" % number, os.urandom(MIB), timeout_s=20.0)
            wait_for_line(cluster, "n2", "disk is full")
            _, state, why = state_of(cluster, "n2")
            assert state != "FAILED", why
            kv.put(b"others", b"go on", timeout_s=10.0)
            assert cluster["n2"].running
            with cluster.client("n2") as follower:
                assert follower.get(b"before", read_from="any") is not None, "what it has it serves"
            filler.unlink()
            wait_for_state(cluster, "n2", "STREAMING")
            until(lambda: kv.put(b"room", b"again"), "a put")
        assert_same_content(cluster)
