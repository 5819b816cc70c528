"""What the log of the server looks like: every kind of event, exceptions, for people and for machines."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import sys
import threading
import typing
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from kvserver.base import (
    archive_events,
    archive_upkeep_events,
    cluster_events,
    events,
    replication_events,
    shipping_events,
)
from kvserver.base.events import Event
from kvserver.server import logs
from kvserver.server.cluster_logs import CLUSTER_SENTENCES

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

MODULES_OF_A_CLUSTER = (cluster_events, replication_events, shipping_events)

SAMPLES = {int: 7, float: 0.5, str: "a text", bool: True, bytes: b"\x00\xff"}


@dataclasses.dataclass(frozen=True, slots=True)
class CastleMoved(Event):
    """A castle was moved somewhere else. Nobody mapped this event."""

    to: str
    seal: bytes
    around: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class MoatFailed(Event):
    """The moat could not be kept."""


@dataclasses.dataclass(frozen=True, slots=True)
class Bare(Event):
    depth: int


Bare.__doc__ = "Bare(depth: int)"  # what a dataclass makes of no docstring where nothing is inherited


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root, ours = logging.getLogger(), logging.getLogger("kvserver")
    before = (list(root.handlers), root.level, ours.level)
    hooks = (sys.excepthook, threading.excepthook)
    yield io.StringIO()
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])
    sys.excepthook, threading.excepthook = hooks
    logging.captureWarnings(False)


def kinds() -> list[type[Event]]:
    """Return every kind of event that there is."""
    return sorted(
        {
            kind
            for module in (events, archive_events, archive_upkeep_events, cluster_events, replication_events, shipping_events)
            for kind in vars(module).values()
            if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event
        },
        key=lambda kind: kind.__name__,
    )


def sample(kind: type[Event]) -> Event:
    """Return an event with a value in every field."""
    hints = typing.get_type_hints(kind)
    return kind(**{field.name: SAMPLES.get(hints[field.name], "something") for field in dataclasses.fields(kind)})


def logged(stream: io.StringIO, form: str, *happened: Event) -> list[str]:
    logs.configure("debug", form, stream)
    for event in happened:
        logs.log_event(event)
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_every_kind_of_event_is_a_sentence_and_an_object(stream: io.StringIO, kind: type[Event]) -> None:
    event = sample(kind)
    (line,) = logged(stream, "text", event)
    assert kind.__name__ not in line, "it has no sentence of its own, and no docstring"
    (line,) = logged(stream, "json", event)[1:]
    entry = json.loads(line)
    assert (entry["event"], entry["logger"]) == (kind.__name__, "kvserver.engine")
    assert set(entry["fields"]) == {field.name for field in dataclasses.fields(kind)}
    assert entry["level"] in ("debug", "info", "warning", "error", "critical")
    assert entry["message"] and entry["time"].endswith("Z")


def test_sentences_say_what_matters(stream: io.StringIO) -> None:
    lines = logged(stream, "text", *EVENTS)
    assert len(lines) == len(EVENTS)
    assert "revisions 7 to 9" in lines[1]
    assert "nonce 0000000000000abc" in lines[3]
    assert "CRITICAL" in lines[-1] and "input/output error" in lines[-1]


def test_everything_between_nodes_has_a_sentence_of_its_own() -> None:
    kinds_of_a_cluster = {
        kind
        for module in MODULES_OF_A_CLUSTER
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event
    }
    assert kinds_of_a_cluster == set(CLUSTER_SENTENCES)


def test_a_follower_says_in_one_line_where_it_went_and_why(stream: io.StringIO) -> None:
    changed = replication_events.StateChanged
    lines = logged(
        stream,
        "text",
        changed("CONNECTING", "STREAMING", "it has all"),
        changed("CONNECTING", "CONNECTING", "a:1 cannot be reached"),
        changed("CONNECTING", "DIVERGED", "two histories"),
        changed("RESTORING", "FAILED", "of no use"),
    )
    assert lines[0].endswith(": follower: CONNECTING -> STREAMING: it has all")
    assert lines[1].endswith(": follower: CONNECTING: a:1 cannot be reached")
    assert [line.split()[1] for line in lines] == ["INFO", "INFO", "WARNING", "ERROR"]


def test_alarms_are_errors(stream: io.StringIO) -> None:
    lines = logged(
        stream,
        "text",
        cluster_events.ContentDiffers(7, "aa", "bb", 2),
        cluster_events.AcknowledgementSuspect("b", "lowered"),
        cluster_events.QuorumLost("2 of 3"),
        shipping_events.TwoPrimariesMet("b", 3, 1, 2),
        shipping_events.FollowerForked("b", "other bytes"),
        shipping_events.FollowerWentBack("b", "id", 9, 7),
        replication_events.SuffixLost(8, 9, 1, "/lost/8-9", ("a",), 8),
    )
    assert all(line.split()[1] == "ERROR" for line in lines)
    assert "revisions 8 to 9 of this node" in lines[-1] and "/lost/8-9" in lines[-1] and "kvctl wal dump" in lines[-1]


def test_an_event_that_nobody_mapped_is_told_by_its_docstring(stream: io.StringIO) -> None:
    moved, failed, bare, event = logged(stream, "text", CastleMoved("the hill", b"\x01", (1, 2)), MoatFailed(), Bare(3), Event())
    assert moved.endswith("kvserver.engine: a castle was moved somewhere else: to=the hill, seal=b'\\x01', around=(1, 2)")
    assert " INFO " in moved
    assert " WARNING " in failed and failed.endswith(": the moat could not be kept")
    assert bare.endswith(": Bare: depth=3")
    assert event.endswith(": something that happened")


def test_the_fields_of_an_event_that_nobody_mapped_are_json(stream: io.StringIO) -> None:
    (line,) = logged(stream, "json", CastleMoved("a\nb", b"\x00\xff", (1, 2)))
    entry = json.loads(line)
    assert (entry["event"], entry["level"]) == ("CastleMoved", "info")
    assert entry["fields"] == {"to": "a\nb", "seal": "00ff", "around": [1, 2]}


def test_levels_are_kept(stream: io.StringIO) -> None:
    logs.configure("warning", "text", stream)
    for event in EVENTS:
        logs.log_event(event)
    assert len(stream.getvalue().splitlines()) == 3


def test_an_exception_is_one_line_of_json(stream: io.StringIO) -> None:
    logs.configure("info", "json", stream)
    try:
        raise ValueError("inner\nline")
    except ValueError:
        logging.getLogger("kvserver.test").exception("broke\nhere")
    (line,) = stream.getvalue().splitlines()
    entry = json.loads(line)
    assert (entry["level"], entry["message"]) == ("error", "broke\nhere")
    assert "ValueError: inner" in entry["traceback"] and "test_logs.py" in entry["traceback"]


def test_what_nobody_caught_is_one_line_of_json_too(stream: io.StringIO) -> None:
    logs.configure("info", "json", stream)
    logs.take_over_exceptions()

    def fail() -> None:
        raise ValueError("in a\nthread")

    thread = threading.Thread(target=fail, name="worker")
    thread.start()
    thread.join()
    try:
        fail()
    except ValueError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)  # pytest puts its own in the way of the first
        warnings.warn("old\nways", DeprecationWarning, stacklevel=1)
    entries: list[dict[str, Any]] = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [entry["level"] for entry in entries] == ["critical", "critical", "warning"]
    assert entries[0]["message"] == "thread worker ended with an exception: in a\nthread"
    assert all("ValueError: in a" in entry["traceback"] for entry in entries[:2])
    assert "old\nways" in entries[2]["message"]
