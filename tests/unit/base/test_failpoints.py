"""Failpoints: a closed table of names, silent until armed."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import kvserver
from kvserver.base import failpoints


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.disarm_all()


def test_an_armed_place_does_what_it_is_told_and_no_other_does() -> None:
    hits: list[str] = []
    failpoints.arm("wal.after_write", lambda: hits.append("after_write"))
    failpoints.hit("wal.before_write")
    assert hits == []
    failpoints.hit("wal.after_write")
    failpoints.hit("wal.after_write")
    assert hits == ["after_write"] * 2
    failpoints.disarm_all()
    failpoints.hit("wal.after_write")
    assert len(hits) == 2


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(KeyError, match=r"wal\.after_wirte"):
        failpoints.arm("wal.after_wirte", lambda: None)
    with pytest.raises(KeyError):
        failpoints.arm_from_text("wal.after_wirte=kill")


@pytest.mark.parametrize("text", ["wal.after_write", "wal.after_write=", "wal.after_write=panic", "wal.after_write=kill@x"])
def test_text_of_another_form_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="NAME=kill"):
        failpoints.arm_from_text(text)


def test_text_arms_a_kill_at_the_nth_passage(monkeypatch: pytest.MonkeyPatch) -> None:
    kills: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: kills.append((pid, number)))
    failpoints.arm_from_text("wal.after_write=kill@3;wal.after_sync=kill;")
    failpoints.hit("wal.after_write")
    failpoints.hit("wal.after_write")
    assert kills == []
    failpoints.hit("wal.after_write")
    assert kills == [(os.getpid(), signal.SIGKILL)]
    failpoints.hit("wal.after_sync")
    assert len(kills) == 2


def test_every_name_of_the_table_is_a_place_in_the_code_and_the_other_way_round() -> None:
    source = Path(kvserver.__file__).parent
    found = {name for path in source.rglob("*.py") for name in re.findall(r'failpoints\.hit\("([\w.]+)"\)', path.read_text())}
    assert found == {*failpoints.NAMES, *failpoints.ARCHIVE_NAMES, *failpoints.REPLICATION_NAMES}
