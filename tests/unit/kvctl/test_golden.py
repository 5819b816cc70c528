"""The JSON of every command is what the golden files hold; one file a command, and no file for none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kvctl.main import COMMANDS
from support.fake_server import FakeServer
from unit.kvctl.golden import EVERY, FOLDER, SCENARIO, differs, normalised, prepare


def test_the_scenario_prints_what_the_golden_files_hold(
    kvctl: Any, fake: FakeServer, absent_endpoint: str, tmp_path: Path
) -> None:
    prepare(tmp_path)
    found = []
    for step in SCENARIO:
        words = step.arguments.format(folder=tmp_path, nobody=absent_endpoint, endpoint=fake.endpoint).split()
        told = kvctl(*words, "-o", "json")
        assert told.exit_code == step.exit_code, (step, told.err)
        if step.name:
            found.append(differs(step, told.exit_code, told.out, told.err))
    assert not any(found), "\n".join(found)


def test_every_file_belongs_to_a_step_and_every_command_has_one() -> None:
    names = {step.name for step in EVERY if step.name}
    assert {path.stem for path in FOLDER.iterdir()} == names
    commands = {word for step in EVERY for word in step.arguments.split()}
    assert set(COMMANDS) - commands == {"completion"}, "it prints a script"


def test_a_change_of_shape_is_seen() -> None:
    before = {"endpoint": "a:1", "revision": 3, "holds": [{"name": "flush", "revision": 2}]}
    same = {"endpoint": "b:2", "revision": 3, "holds": [{"name": "other", "revision": 9}, {"name": "flush", "revision": 2}]}
    assert normalised(before) == normalised(same)
    changes: list[dict[str, Any]] = [
        {"revision": 4},
        {"revision": "3"},
        {"endpoint": 1},
        {"endpoint": None},
        {"holds": [{"name": "flush"}]},
        {"holds": [{"name": "flush", "revision": "2"}]},
        {"more": 1},
    ]
    for change in changes:
        assert json.dumps(normalised({**before, **change})) != json.dumps(normalised(before)), change
    assert list(normalised(before)) == ["endpoint", "revision", "holds"]


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.stem)
def test_golden_files_hold_nothing_of_one_run(path: Path) -> None:
    text = path.read_text()
    assert "127.0.0.1" not in text
    assert "/tmp" not in text
