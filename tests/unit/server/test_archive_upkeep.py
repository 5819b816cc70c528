"""What is done with the archive from time to time: when, what is told of it, and that nothing of it ends the rest."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, cast

import pytest

from kvserver.archive.outlook import Outlook
from kvserver.archive.records import BackupRecord
from kvserver.base.archive_upkeep_events import (
    ArchiveVerified,
    ArchiveVerifyFailed,
    DrillFailed,
    DrillPassed,
    RetentionApplied,
    RetentionFailed,
)
from kvserver.base.environment import Environment
from kvserver.base.errors import Code, KvError
from kvserver.base.events import Event
from kvserver.base.types import Position
from kvserver.server import archive_upkeep
from kvserver.server.archive_upkeep import ArchiveUpkeep
from kvserver.service.archive import Hashed, Stage
from support.clocks import ManualClock
from unit.server.test_archive_parts import AT, CONFIG
from unit.service.test_archive_service import BACKUP

HOUR_MS = 3_600_000
DOWN = KvError(Code.ARCHIVE_UNAVAILABLE, "the store is down")


class FakeBackups:
    """What is known of backups."""

    def __init__(self) -> None:
        self.known = False
        self.newest: BackupRecord | None = None
        self.in_archive: BackupRecord | None = None
        self.one_at_a_time = asyncio.Lock()

    async def look(self) -> None:
        self.known, self.newest = True, self.in_archive


class FakeArchive:
    """Notes what is asked of it; fails while it is down."""

    def __init__(self, clock: ManualClock) -> None:
        self.backups = FakeBackups()
        self.clock = clock
        self.down = False
        self.asked: list[str] = []

    async def heard_from(self) -> None:
        self.asked.append("heard from")
        if self.down:
            raise DOWN

    async def archive_now(self) -> Position | None:
        self.asked.append("archive now")
        if self.down:
            raise DOWN
        return AT

    async def create_backup(self) -> AsyncGenerator[Stage, None]:
        self.asked.append("backup")
        yield Stage("copying")
        if self.down:
            raise DOWN
        self.backups.newest = BACKUP._replace(made_ms=self.clock.now_ms())


class FakeCopies:
    """Hashes nothing, and notes what is removed."""

    def __init__(self) -> None:
        self.removed: list[Path] = []

    def folder(self, purpose: str) -> Path:
        return Path("/srv/scratch") / purpose

    async def remove(self, folder: Path) -> None:
        self.removed.append(folder)

    async def hash_content(self) -> Hashed:
        return Hashed(AT, bytes(32), 7)


class Scene:
    """The upkeep with everything around it faked, on a clock that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        self.clock = ManualClock()
        self.archive = FakeArchive(self.clock)
        self.copies = FakeCopies()
        self.events: list[Event] = []
        self.helped: list[str] = []
        self.outlooks = 0
        self.answers: dict[str, Any] = {
            "verify": {"ok": True, "what": "all is whole"},
            "drill": {},
            "retention": {"removed": 3, "what": "3 segments"},
            "outlook": Outlook(9, True, 0, 7)._asdict(),
        }
        self.drill_ok = True
        self.upkeep = ArchiveUpkeep(
            Environment(clock=self.clock),
            dataclasses.replace(CONFIG, **settings),
            bytes(16),
            cast(Any, self.archive),
            cast(Any, self.copies),
            self.events.append,
        )
        monkeypatch.setattr(self.upkeep, "_help", self.help)
        monkeypatch.setattr(archive_upkeep, "report_of", lambda fields: self)

    @property
    def ok(self) -> bool:
        return self.drill_ok

    @property
    def what(self) -> str:
        return "equal" if self.drill_ok else "it differs"

    async def help(self, start: Any, name: str) -> Any:
        if name == "outlook":
            self.outlooks += 1
        else:
            self.helped.append(name)
        answer = self.answers[name]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def hours(self, count: float) -> None:
        """Let time pass in steps of six minutes."""
        for _ in range(round(count * 10)):
            self.clock.advance_ms(HOUR_MS / 10)
            await self.upkeep.step()


async def test_nothing_is_done_that_nobody_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    await scene.upkeep.step()
    await scene.hours(200)
    assert (scene.helped, scene.events) == ([], [])
    assert set(scene.archive.asked) == {"heard from"}
    assert scene.archive.backups.known


async def test_each_is_done_as_often_as_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, verify_every_h=5, drill_every_h=10, backup_every_h=20)
    await scene.upkeep.step()
    await scene.hours(40)
    assert scene.helped.count("verify") == 8
    assert scene.helped.count("drill") == 4
    assert scene.archive.asked.count("backup") == 3, "at once, because there was none, and then twice"
    assert "retention" not in scene.helped


async def test_a_backup_is_due_by_when_the_newest_one_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    for age_h, within_h in ((23.0, 1.2), (30.0, 0.2), (None, 0.2)):
        scene = Scene(monkeypatch, backup_every_h=24)
        made_ms = scene.clock.now_ms() - round((age_h or 0) * HOUR_MS)
        scene.archive.backups.in_archive = BACKUP._replace(made_ms=made_ms) if age_h is not None else None
        await scene.upkeep.step()
        await scene.hours(within_h)
        assert scene.archive.asked.count("backup") == 1, age_h
        await scene.hours(23.5)
        assert scene.archive.asked.count("backup") == 1, age_h
        await scene.hours(1)
        assert scene.archive.asked.count("backup") == 2, age_h


async def test_while_the_archive_is_down_it_is_asked_again_and_then_all_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, backup_every_h=24)
    scene.archive.down = True
    await scene.upkeep.step()
    await scene.hours(2)
    assert not scene.archive.backups.known
    assert scene.archive.asked.count("heard from") > 10
    scene.archive.down = False
    await scene.hours(1)
    assert scene.archive.backups.newest is not None


async def test_what_checks_is_told_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    assert await scene.upkeep.verify()
    assert scene.upkeep.last_verify == (scene.clock.now_ms(), True, "all is whole", 0.0)
    assert scene.events == [ArchiveVerified("all is whole", 0.0)]


@pytest.mark.parametrize("answer", [{"ok": False, "what": "one is damaged"}, KvError(Code.ARCHIVE_UNAVAILABLE, "one is damaged")])
async def test_what_does_not_check_is_told_and_looked_at_again_soon(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    scene = Scene(monkeypatch, verify_every_h=100)
    scene.answers["verify"] = answer
    await scene.hours(3.5)
    assert scene.helped == ["verify"] * 3
    assert isinstance(scene.events[0], ArchiveVerifyFailed) and scene.events[0].reason == "one is damaged"
    check = scene.upkeep.last_verify
    assert check is not None and not check.ok and check.what == "one is damaged"
    scene.answers["verify"] = {"ok": True, "what": "all is whole"}
    await scene.hours(90)
    assert scene.helped == ["verify"] * 4


async def test_a_drill_is_of_what_the_node_held_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    assert await scene.upkeep.drill()
    assert scene.archive.asked == ["archive now"], "behind the hash, so that the archive holds what was hashed"
    assert scene.copies.removed == [Path("/srv/scratch/drill")]
    assert scene.events == [DrillPassed(9, 0.0)]
    scene.drill_ok = False
    assert not await scene.upkeep.drill()
    assert scene.events[-1] == DrillFailed("it differs", 0.0)
    assert scene.upkeep.last_drill is not None and not scene.upkeep.last_drill.ok
    scene.answers["drill"] = KvError(Code.NO_RESTORE_PLAN, "there is a gap")
    assert not await scene.upkeep.drill()
    assert scene.upkeep.last_drill.what == "there is a gap"
    assert len(scene.copies.removed) == 3
    scene.archive.down = True
    assert not await scene.upkeep.drill()
    assert scene.upkeep.last_drill.what == DOWN.message


async def test_retention_is_applied_after_each_backup_and_a_few_times_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, backup_every_h=24, keep_backups=3)
    await scene.upkeep.step()
    assert scene.helped == ["retention"], "there was none, so one was made at once"
    assert [event for event in scene.events if isinstance(event, RetentionApplied)] == [RetentionApplied("3 segments", 0.0)]
    await scene.hours(18.5)
    assert scene.helped == ["retention"] * 4
    scene.answers["retention"] = {"removed": 0, "what": "nothing"}
    scene.events.clear()
    await scene.hours(6)
    assert scene.events == [], "nothing happened"
    scene.answers["retention"] = KvError(Code.NO_RESTORE_PLAN, "it is not proven")
    await scene.hours(7)
    assert RetentionFailed("it is not proven") in scene.events


async def test_retention_waits_for_a_backup_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, keep_days=1)
    async with scene.archive.backups.one_at_a_time:
        task = asyncio.ensure_future(scene.upkeep.retain())
        for _ in range(5):
            await asyncio.sleep(0)
        assert scene.helped == []
    assert await task
    assert scene.helped == ["retention"]


async def test_a_fault_ends_nothing_and_is_no_more_urgent_than_a_failure(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene(monkeypatch, verify_every_h=100, drill_every_h=1)
    scene.answers["verify"] = ZeroDivisionError()
    scene.upkeep.start()
    await scene.upkeep.step()
    await scene.hours(3.5)
    assert scene.helped.count("verify") == 3, "not with every look"
    assert scene.helped.count("drill") == 3, "what comes behind it has its turn"
    assert caplog.text.count("a fault in what is done with the archive") == 3
    await scene.upkeep.stop()


async def test_what_a_restore_would_take_is_looked_at_every_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    await scene.upkeep.step()
    assert scene.upkeep.outlook is None and scene.outlooks == 0, "a node that has just begun has other things to do"
    await scene.hours(0.1)
    assert scene.upkeep.outlook == Outlook(9, True, 0, 7)
    await scene.hours(3)
    assert scene.outlooks == 4
    scene.archive.backups.newest = BACKUP
    assert scene.upkeep.outlook is None, "a backup was made since"
    await scene.hours(1)
    assert scene.upkeep.outlook is not None
    assert scene.archive.backups.newest is None, "people have removed it"


async def test_retention_removes_nothing_from_an_archive_that_is_another_primarys(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, keep_days=1)
    scene.archive.down = True
    assert not await scene.upkeep.retain()
    assert scene.helped == []
    assert scene.events == [RetentionFailed(DOWN.message)]
