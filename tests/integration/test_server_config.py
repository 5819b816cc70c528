"""What the server can be told, by flags and by the environment, and what its log lines look like."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvserver.base import events
from kvserver.base.events import Event
from kvserver.base.limits import MIB
from kvserver.server import config, logs
from kvserver.server.config import Address, ServeConfig


def parse(*flags: str, **environment: str) -> ServeConfig:
    return config.parse(["serve", *flags], environment)


def test_the_defaults(tmp_path: Path) -> None:
    told = parse("--data-dir", str(tmp_path))
    assert (told.data_dir, told.listen, told.http) == (tmp_path, Address("127.0.0.1", 7400), Address("127.0.0.1", 7480))
    assert (told.log_level, told.log_format, told.hints) == ("info", "text", False)
    assert told.engine.wal.segment_bytes == 64 * MIB
    assert told.engine.wal.grouping and told.engine.pipeline.overlap
    assert told.engine.node_name


def test_flags_reach_the_engine() -> None:
    told = parse(
        *("--data-dir", "relative", "--name", "kv-1", "--segment-mb", "16", "--seal-age-s", "5"),
        *("--memory-limit-mb", "0", "--no-grouping", "--no-overlap"),
    )
    assert told.data_dir == Path("relative").absolute()
    assert (told.engine.node_name, told.name) == ("kv-1", "kv-1")
    assert (told.engine.wal.segment_bytes, told.engine.wal.seal_age_ms) == (16 * MIB, 5000)
    assert told.engine.pipeline.memory_limit_bytes == 0
    assert not told.engine.wal.grouping
    assert not told.engine.pipeline.overlap


def test_every_flag_has_its_variable_and_wins_over_it() -> None:
    told = parse(
        KVSERVER_DATA_DIR="/srv/kv",
        KVSERVER_LISTEN="[::1]:1",
        KVSERVER_HTTP="off",
        KVSERVER_NAME="from-environment",
        KVSERVER_SEGMENT_MB="32",
        KVSERVER_SEAL_AGE_S="7",
        KVSERVER_MEMORY_LIMIT_MB="11",
        KVSERVER_GROUP_WINDOW_MS="9",
        KVSERVER_LOOP="asyncio",
        KVSERVER_NO_GROUPING="yes",
        KVSERVER_NO_OVERLAP="0",
        KVSERVER_LOG_LEVEL="debug",
        KVSERVER_LOG_FORMAT="json",
        KVSERVER_HINTS="1",
        KVSERVER_FAILPOINTS="wal.after_sync=kill",
    )
    assert (str(told.data_dir), str(told.listen), told.http, told.name) == ("/srv/kv", "[::1]:1", None, "from-environment")
    assert (told.engine.wal.segment_bytes, told.engine.wal.seal_age_ms) == (32 * MIB, 7000)
    assert told.engine.pipeline.memory_limit_bytes == 11 * MIB
    assert (told.engine.wal.grouping, told.engine.pipeline.overlap) == (False, True)
    assert (told.log_level, told.log_format, told.hints) == ("debug", "json", True)
    assert told.failpoints == "wal.after_sync=kill"
    assert parse("--listen", "h:2", KVSERVER_DATA_DIR="d", KVSERVER_LISTEN="h:1").listen.port == 2


@pytest.mark.parametrize(
    ("flags", "environment", "said"),
    [
        ((), {}, "--data-dir"),
        (("--data-dir", ""), {}, "not the path"),
        (("--data-dir", "d", "--listen", "7400"), {}, "HOST:PORT"),
        (("--data-dir", "d", "--listen", "h:70000"), {}, "HOST:PORT"),
        (("--data-dir", "d", "--listen", "a:b:1"), {}, "HOST:PORT"),
        (("--data-dir", "d", "--http", "x"), {}, "HOST:PORT"),
        (("--data-dir", "d", "--name", "two words"), {}, "not a name"),
        (("--data-dir", "d", "--segment-mb", "4"), {}, "from 16 to 4095"),
        (("--data-dir", "d", "--memory-limit-mb", "-1"), {}, "whole number"),
        (("--data-dir", "d", "--log-level", "loud"), {}, "invalid choice"),
        (("--data-dir", "d", "--nonsense"), {}, "--nonsense"),
        (("--data-dir", "d"), {"KVSERVER_SEGMENT_MB": "many"}, "KVSERVER_SEGMENT_MB"),
        (("--data-dir", "d"), {"KVSERVER_NO_GROUPING": "maybe"}, "KVSERVER_NO_GROUPING"),
        (("--data-dir", "d"), {"KVSERVER_LOG_FORMAT": "xml"}, "KVSERVER_LOG_FORMAT"),
    ],
)
def test_wrong_usage_is_named_and_ends_with_2(
    flags: tuple[str, ...], environment: dict[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(*flags, **environment)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_help_shows_every_flag_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "kvserver serve --data-dir data/node" in shown
    assert "KVSERVER_DATA_DIR" in shown
    for flag in ("--listen", "--http", "--name", "--segment-mb", "--seal-age-s", "--memory-limit-mb", "--log-format"):
        assert flag in shown


def test_a_bare_command_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        config.parse([], {})
    assert caught.value.code == 2
    assert "serve" in capsys.readouterr().out


# -- logs -----------------------------------------------------------------------------------------------------------

EVENTS: list[Event] = [
    events.StoreCreated("/srv/kv", "00ff"),
    events.TornTailCut("a segment", 4096, 100, 7, 9, "aside"),
    events.LogRecovered(1, 2, 3, 4, 0.5),
    events.EpochBegun(3, 0xABC, 17),
    events.SegmentSealed("a segment", 9, 4096),
    events.SpaceUnavailable("no space left on device"),
    events.SpaceAvailable(),
    events.LogPoisoned("input/output error"),
]


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root, ours = logging.getLogger(), logging.getLogger("kvserver")
    before = (list(root.handlers), root.level, ours.level)
    yield io.StringIO()
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


def test_every_kind_of_event_has_a_sentence(stream: io.StringIO) -> None:
    kinds = {kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event)} - {Event}
    assert {type(event) for event in EVENTS} == kinds
    logs.configure("debug", "text", stream)
    for event in EVENTS:
        logs.log_event(event)
    lines = stream.getvalue().splitlines()
    assert len(lines) == len(EVENTS)
    for event, line in zip(EVENTS, lines, strict=True):
        assert type(event).__name__ not in line, "it has no sentence of its own"
    assert "revisions 7 to 9" in lines[1]
    assert "CRITICAL" in lines[-1] and "input/output error" in lines[-1]


def test_an_unknown_kind_of_event_is_logged_all_the_same(stream: io.StringIO) -> None:
    logs.configure("info", "text", stream)
    logs.log_event(Event())
    assert "Event()" in stream.getvalue()


def test_json_lines_carry_fields_and_tracebacks(stream: io.StringIO) -> None:
    logs.configure("info", "json", stream)
    logs.log_event(EVENTS[3])
    try:
        raise ValueError("inner\nline")
    except ValueError:
        logging.getLogger("kvserver.test").exception("broke")
    begun, broke = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (begun["event"], begun["fields"]) == ("EpochBegun", {"number": 3, "nonce": 0xABC, "revision": 17})
    assert begun["time"].endswith("Z")
    assert (broke["level"], broke["message"]) == ("error", "broke")
    assert "ValueError: inner" in broke["traceback"]


def test_levels_are_kept(stream: io.StringIO) -> None:
    logs.configure("warning", "text", stream)
    for event in EVENTS:
        logs.log_event(event)
    assert len(stream.getvalue().splitlines()) == 3
