"""Checks, drills and backups of a whole server in this process: with real helpers, a damaged archive, and one that hangs."""

from __future__ import annotations

import asyncio
import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest

from integration.archiving_node import Node, happened, node_on
from integration.serving import until
from kvclient import ArchiveUnavailable, AsyncClient, NotWritten, Unavailable
from kvserver.archive.folder_store import FolderStore
from kvserver.archive.helper import WATCH
from kvserver.archive.names import parse_backup, parse_segment
from kvserver.base.archive_events import BallastRestored
from kvserver.base.archive_upkeep_events import (
    ArchiveVerifyFailed,
    BackupFailed,
    BackupMade,
    DrillFailed,
    DrillPassed,
    RetentionApplied,
    RetentionFailed,
)
from kvserver.base.errors import KvError
from kvserver.base.fs import OsFileSystem
from kvserver.base.limits import MIB


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with node_on(tmp_path) as started:
        yield started


@pytest.fixture
async def kv(node: Node) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(str(node.app.listen)) as client:
        await client.put_many((b"k%04d" % number, b"v" * 50) for number in range(2000))
        yield client


async def test_a_drill_restores_what_the_node_holds(node: Node, kv: AsyncClient) -> None:
    assert await node.part._upkeep.drill()
    async for _ in kv.create_backup():
        pass
    await kv.put(b"k0001", b"behind the backup")
    assert await node.part._upkeep.drill()
    revision = (await kv.status()).revision
    assert [event.revision for event in happened(node, DrillPassed)] == [revision - 1, revision]
    drill = (await kv.archive_status()).last_drill
    assert drill is not None and drill.ok and f"revision {revision}" in drill.what
    assert node.scratch == []


async def test_a_store_without_a_commit_is_no_reason_for_an_alarm(node: Node) -> None:
    assert await node.part._upkeep.drill()
    assert await node.part._upkeep.verify()
    assert not happened(node, DrillFailed)
    assert (await node.part.archive_now()) is not None


async def test_a_check_reads_everything_and_finds_one_wrong_bit(node: Node, kv: AsyncClient) -> None:
    async for _ in kv.create_backup():
        pass
    await kv.archive_now()
    assert await node.part._upkeep.verify()
    told = (await kv.archive_status()).last_verify
    assert told is not None and told.ok and "1 backups are whole" in told.what
    damaged = max(node.files(parse_segment), key=lambda path: path.stat().st_size)
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 4
    damaged.write_bytes(data)
    assert not await node.part._upkeep.verify()
    told = (await kv.archive_status()).last_verify
    assert told is not None and not told.ok and damaged.name in told.what
    assert len(happened(node, ArchiveVerifyFailed)) == 1
    assert any("The last check of the archive failed" in text for text in (await kv.status()).warnings)


async def test_a_drill_that_cannot_restore_says_why(node: Node, kv: AsyncClient) -> None:
    await kv.archive_now()
    for segment in node.files(parse_segment):
        segment.unlink()
    assert not await node.part._upkeep.drill()
    (failed,) = happened(node, DrillFailed)
    assert failed.reason
    assert any("The last drill of the archive failed" in text for text in (await kv.status()).warnings)
    assert node.scratch == []


async def test_old_backups_go_with_what_only_they_need(tmp_path: Path) -> None:
    async with node_on(tmp_path, "--keep-backups", "1") as node, AsyncClient(str(node.app.listen)) as kv:
        assert await node.part._upkeep.retain(), "there is nothing yet to be kept"
        for life in range(3):
            await kv.put_many((b"k%04d" % number, b"%d" % life) for number in range(500))
            await kv.archive_now()
            async for _ in kv.create_backup():
                pass
        segments = len(node.files(parse_segment))
        assert await node.part._upkeep.retain()
        assert len(node.files(parse_backup)) == 1
        assert len(node.files(parse_segment)) < segments
        (applied,) = happened(node, RetentionApplied)
        assert "2 backups" in applied.what
        assert await node.part._upkeep.verify() and await node.part._upkeep.drill()
        assert await node.part._upkeep.retain()
        assert len(happened(node, RetentionApplied)) == 1, "nothing was left to give up"
        assert not happened(node, RetentionFailed)


class StuckStore(FolderStore):
    """Holds what is sent into it until it is let go."""

    def __init__(self, root: Path, sending: threading.Event, go: threading.Event) -> None:
        super().__init__(OsFileSystem(), root)
        self.sending, self.go = sending, go

    def create(self, name: str, parts: Iterable[bytes]) -> int:
        def held() -> Iterable[bytes]:
            for part in parts:
                self.sending.set()
                self.go.wait(30)
                yield part

        return super().create(name, held())


@pytest.fixture
def stuck(node: Node, monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Backups hang while they send, until the second event is set."""
    sending, go = threading.Event(), threading.Event()
    monkeypatch.setattr(node.part.backups, "_open_store", lambda: StuckStore(node.folder / "archive", sending, go))
    return sending, go


async def test_who_hangs_up_ends_the_backup_and_leaves_nothing_that_counts(
    node: Node, kv: AsyncClient, stuck: tuple[threading.Event, threading.Event]
) -> None:
    sending, go = stuck
    backup = kv.create_backup()
    async for far in backup:
        if far.stage == "sending":
            break
    await asyncio.to_thread(sending.wait, 10)
    assert len(node.scratch) == 1
    await backup.aclose()
    await until(lambda: all(job.abandoned for job in node.part.backups._jobs))
    go.set()
    await until(lambda: node.scratch == [])
    assert node.files(parse_backup) == []
    assert not happened(node, BackupMade)
    assert not happened(node, BackupFailed), "nobody wanted it"
    go.set()
    stages = [far async for far in kv.create_backup()]
    assert stages[-1].backup is not None, "the next one finds its way free"


async def test_the_caller_is_told_how_far_it_is_even_while_nothing_moves(
    node: Node, kv: AsyncClient, stuck: tuple[threading.Event, threading.Event]
) -> None:
    stages = []
    async for far in kv.create_backup(timeout_s=10):
        stages.append(far.stage)
        if len(stages) == 5:
            stuck[1].set()
    assert stages[0] == "waiting" and stages[-1] == "sending" and len(stages) >= 6


async def test_the_end_of_the_server_does_not_wait_for_a_store_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sending, go = threading.Event(), threading.Event()
    async with node_on(tmp_path) as node, AsyncClient(str(node.app.listen)) as kv:
        await kv.put(b"k", b"v")
        monkeypatch.setattr(node.part.backups, "_open_store", lambda: StuckStore(tmp_path / "archive", sending, go))
        backup = asyncio.ensure_future(anext(aiter(kv.create_backup())))
        await backup
        task = asyncio.ensure_future(_rest(kv))
        await asyncio.to_thread(sending.wait, 10)
        node.app.ask_to_stop()
        async with asyncio.timeout(20):
            await node.app.stop()
        with pytest.raises(Unavailable):
            await task
    go.set()
    assert node.files(parse_backup) == []


async def _rest(kv: AsyncClient) -> None:
    async for _ in kv.create_backup(timeout_s=30):
        pass


async def test_a_store_that_fails_is_told_and_logged(node: Node, kv: AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_store() -> FolderStore:
        (node.folder / "file").write_text("no folder")
        return FolderStore(OsFileSystem(), node.folder / "file")

    monkeypatch.setattr(node.part.backups, "_open_store", no_store)
    with pytest.raises(ArchiveUnavailable):
        async for _ in kv.create_backup():
            pass
    (failed,) = happened(node, BackupFailed)
    assert failed.reason
    assert node.scratch == []


async def test_a_hash_whose_caller_hangs_up_is_ended(node: Node, kv: AsyncClient) -> None:
    assert node.app._node.life is not None
    hashing = asyncio.ensure_future(kv.content_hash())
    await until(lambda: node.app._node.life.copies._helpers and node.scratch)
    hashing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hashing
    await until(lambda: node.scratch == [])
    await until(lambda: not node.app._node.life.copies._helpers)


def test_a_helper_whose_starter_lives_ends_by_itself_when_it_is_done(tmp_path: Path) -> None:
    """A thread that waits in the buffer of standard input would abort the interpreter at its end."""
    command = [sys.executable, "-m", "kvserver.archive.hash_main", WATCH, str(tmp_path / "nothing")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as helper:
        assert helper.stdout is not None and helper.stderr is not None
        assert json.loads(helper.stdout.readline())["error"]
        assert helper.wait(30) == 1
        assert helper.stderr.read() == b""


def test_a_helper_ends_when_its_starter_does(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys\n"
        f"helper = subprocess.Popen([sys.executable, '-c', {_ENDLESS!r}, '{WATCH}'], stdin=subprocess.PIPE)\n"
        "print(helper.pid, flush=True)\nsys.stdin.readline()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        ended = os.pidfd_open(pid)
        starter.kill()
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    assert poll.poll(30_000), "it outlived who started it"
    os.close(ended)


_ENDLESS = "import threading; from kvserver.archive.helper import run_helper; run_helper(lambda *_: threading.Event().wait())"


async def test_scheduled_things_happen_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kvserver.server import archive_upkeep

    monkeypatch.setattr(archive_upkeep, "HOUR_S", 0.5)
    async with node_on(tmp_path, "--backup-h", "1", "--archive-verify-h", "1", "--archive-drill-h", "1") as node:
        async with AsyncClient(str(node.app.listen)) as kv:
            await kv.put(b"k", b"v")
            await until(lambda: happened(node, BackupMade) and happened(node, DrillPassed), timeout_s=60)
            status = await kv.archive_status()
            assert status.last_backup is not None and status.last_verify is not None and status.last_drill is not None
            assert status.last_verify.ok and status.last_drill.ok


async def test_with_hardly_any_room_left_the_ballast_goes_and_writes_wait_for_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kvserver.server import archive_part

    monkeypatch.setattr(archive_part, "BALLAST_S", 0.02)
    async with node_on(tmp_path, "--ballast-mb", "1") as node, AsyncClient(str(node.app.listen)) as kv:
        await until(lambda: happened(node, BallastRestored))
        ballast = tmp_path / "data" / "BALLAST"
        assert ballast.stat().st_size == MIB
        await kv.put(b"before", b"v")
        monkeypatch.setattr(node.app._env.fs, "free_bytes", lambda path: 1 * MIB)
        await until(lambda: not ballast.exists())
        with pytest.raises(NotWritten) as caught:
            for _ in range(1000):
                await kv.put(b"meanwhile", b"v")
        assert caught.value.code == "DISK_FULL"
        assert (await kv.get(b"before")) is not None
        assert (await kv.archive_now()).archived_revision == (await kv.status()).revision, "what frees space goes on"
        monkeypatch.undo()
        await until(lambda: len(happened(node, BallastRestored)) == 2)
        await kv.put(b"after", b"v")


async def test_nothing_is_asked_of_a_node_that_is_another_primarys(node: Node, kv: AsyncClient) -> None:
    node.part._archiver._fence(_fenced())
    with pytest.raises(KvError, match="another one"):
        await node.part.archive_now()
    with pytest.raises(KvError, match="another one"):
        async for _ in node.part.create_backup():
            pass
    assert node.files(parse_backup) == []


def _fenced() -> Any:
    from kvserver.archive.errors import ArchiveFenced

    return ArchiveFenced("another one owns it")
