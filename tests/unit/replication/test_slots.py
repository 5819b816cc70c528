"""The slots of followers: what is held, when it is let go, and what of it survives a crash at any moment."""

from __future__ import annotations

import pytest

from kvserver.base.errors import Code, Corruption, InvalidRequest, ReplicationError
from kvserver.base.events import Event
from kvserver.base.fs import FileSystem, read_file, write_new_file
from kvserver.base.record_file import decode_record, encode_record
from kvserver.base.shipping_events import FollowerWentBack, SlotDropped, SlotLost
from kvserver.base.types import LogEnd, Position
from kvserver.engine.obsolete_files import HoldRefused, Holds
from kvserver.replication.messages import Ack
from kvserver.replication.slots import MAX_SLOTS, Slots
from support.clocks import ManualClock
from support.crashes import all_states, record_crash_points
from support.logs import EPOCH, PATHS
from support.memdisk import LOST
from support.memfs import MemoryFileSystem
from support.shipping import identity


class Log:
    """A log of ten revisions a segment, 1000 bytes each; segments are called by their first revision."""

    def __init__(self, first: int = 1, end: int = 95) -> None:
        self.first = first
        self.end = end
        self.holds = Holds(1, first)

    def hold(self, name: str, revision: int) -> None:
        self.holds.set(name, revision)

    def release_hold(self, name: str) -> None:
        self.holds.release(name)

    def begin_for(self, revision: int) -> tuple[int, int] | None:
        return None if revision < self.first else ((revision - 1) // 10 * 10 + 1, 0)

    def pending_bytes(self, segment_id: int, offset: int) -> int:
        return ((self.end - 1) // 10 - (segment_id - 1) // 10 + 1) * 1000

    def held(self, name: str = "slot:b") -> int | None:
        return self.holds.list().get(name)

    def delete(self) -> None:
        """Delete what nothing holds."""
        self.holds.set("flush", self.end)
        self.first = self.holds.give_up()


class Scene:
    def __init__(self, fs: FileSystem | None = None, log: Log | None = None, max_bytes: int = 100_000) -> None:
        if fs is None:
            fs = MemoryFileSystem()
            fs.make_dir(PATHS.root)
        self.fs = fs
        self.log = log or Log()
        self.events: list[Event] = []
        self.clock = ManualClock()
        self.slots = Slots(fs, PATHS, self.clock, self.log, max_bytes, self.events.append)
        self.slots.load(self.log.first)

    def connect(self, revision: int, name: str = "b", node_id: str = "", only_log: bool = False) -> tuple[object, object]:
        call = object()
        end = LogEnd(Position(EPOCH, revision, bytes(16)), 1, 5000)
        return self.slots.connect(identity(name, node_id), end, self.log.first, call, only_log), call

    def write(self) -> None:
        self.slots.write(self.slots.record())


def ack(durable: int) -> Ack:
    return Ack(EPOCH, durable, durable, durable, 0)


def test_a_slot_holds_from_where_the_follower_is() -> None:
    scene = Scene()
    slot, call = scene.connect(25)
    assert scene.log.held() == 25
    scene.slots.on_ack(slot, ack(52))  # type: ignore[arg-type]
    scene.slots.follow(scene.log)
    assert scene.log.held() == 52
    (info,) = scene.slots.list()
    assert (info.state, info.held_bytes, info.max_bytes, info.durable_revision) == ("catching-up", 5000, 100_000, 52)
    scene.slots.disconnect(slot, call)  # type: ignore[arg-type]
    scene.slots.follow(scene.log)
    assert scene.log.held() == 52
    assert scene.slots.list()[0].state == "away"


def test_the_segment_of_the_last_commit_is_held_for_its_seal() -> None:
    scene = Scene()
    slot, _ = scene.connect(5)
    scene.slots.on_ack(slot, ack(10))  # type: ignore[arg-type]
    scene.slots.follow(scene.log)
    assert scene.log.held() == 10  # the last revision of its segment, not the first of the next


def test_what_was_received_and_is_not_durable_moves_no_hold() -> None:
    scene = Scene()
    slot, _ = scene.connect(25)
    assert scene.slots.on_ack(slot, Ack(EPOCH, 60, 45, 45, 0))  # type: ignore[arg-type]
    scene.slots.follow(scene.log)
    assert scene.log.held() == 45
    assert scene.slots.on_ack(slot, ack(50)), (
        "a crash of the follower took what it had received, and nothing that it acknowledged"
    )
    assert scene.events == []


def test_beyond_its_bytes_a_slot_is_lost_once() -> None:
    scene = Scene(max_bytes=5000)
    slot, call = scene.connect(40)
    scene.slots.disconnect(slot, call)  # type: ignore[arg-type]
    for _ in range(3):
        scene.slots.follow(scene.log)
    assert scene.log.held() is None
    assert scene.events == [SlotLost("b", 40, 7000, 5000)]
    assert scene.slots.list()[0].state == "lost"


def test_a_lost_slot_is_held_again_when_its_follower_has_caught_up() -> None:
    scene = Scene(max_bytes=5000)
    slot, _ = scene.connect(40)
    scene.slots.follow(scene.log)
    assert scene.log.held() is None
    scene.slots.on_ack(slot, ack(70))  # type: ignore[arg-type]
    scene.slots.follow(scene.log)
    assert scene.log.held() == 70


def test_who_finds_the_log_gone_has_held_what_the_archive_lacks() -> None:
    scene = Scene(log=Log(first=41))
    slot, call = scene.connect(5)
    scene.slots.gone(slot, 60)  # type: ignore[arg-type]
    scene.slots.disconnect(slot, call)  # type: ignore[arg-type]
    assert scene.log.held() == 61
    scene.slots.gone(slot, 0)  # type: ignore[arg-type]
    assert scene.log.held() is None


def test_who_was_sent_back_may_have_less_without_an_alarm() -> None:
    scene = Scene()
    slot, call = scene.connect(50)
    scene.slots.on_ack(slot, ack(50))  # type: ignore[arg-type]
    scene.slots.parted(slot, 30)  # type: ignore[arg-type]
    scene.slots.follow(scene.log)
    assert scene.log.held() == 30
    scene.slots.disconnect(slot, call)  # type: ignore[arg-type]
    scene.connect(28)
    assert scene.events == []


def test_who_comes_back_with_less_than_it_acknowledged_is_an_alarm() -> None:
    scene = Scene()
    slot, call = scene.connect(50)
    assert scene.slots.on_ack(slot, ack(60))  # type: ignore[arg-type]
    scene.slots.disconnect(slot, call)  # type: ignore[arg-type]
    slot, _ = scene.connect(55)
    assert scene.events == [FollowerWentBack("b", "id-b", 60, 55)]
    assert not scene.slots.on_ack(slot, ack(59))  # type: ignore[arg-type]
    assert scene.slots.on_ack(slot, ack(60))  # type: ignore[arg-type]
    assert len(scene.events) == 1


def test_who_came_back_with_less_keeps_the_log_that_it_needs_again() -> None:
    scene = Scene()
    slot, call = scene.connect(50)
    scene.slots.on_ack(slot, ack(75))  # type: ignore[arg-type]
    scene.slots.disconnect(slot, call)  # type: ignore[arg-type]
    slot, _ = scene.connect(55)
    scene.slots.on_ack(slot, ack(60))  # type: ignore[arg-type]
    scene.slots.follow(scene.log)
    scene.log.delete()
    assert scene.log.held() == 55 and scene.log.first == 55
    scene.slots.on_ack(slot, ack(76))  # type: ignore[arg-type]
    scene.slots.follow(scene.log)
    assert scene.log.held() == 76


def test_another_node_of_the_name_begins_anew() -> None:
    scene = Scene()
    slot, call = scene.connect(50)
    scene.slots.on_ack(slot, ack(60))  # type: ignore[arg-type]
    with pytest.raises(ReplicationError, match="follows already"):
        scene.connect(5, node_id="other")
    scene.slots.disconnect(slot, call)  # type: ignore[arg-type]
    scene.connect(5, node_id="other")
    assert scene.events == []
    assert [info.node_id for info in scene.slots.list()] == ["other"]


def test_an_old_call_does_not_end_what_took_over() -> None:
    scene = Scene()
    slot, old = scene.connect(50)
    again, _ = scene.connect(50)
    assert again is slot
    scene.slots.disconnect(slot, old)  # type: ignore[arg-type]
    assert scene.slots.list()[0].connected


def test_a_copy_that_is_to_be_sent_is_held_for() -> None:
    scene = Scene(log=Log(first=21))
    scene.slots.reserve(identity("b"), 70)
    assert scene.log.held() == 71
    assert scene.slots.list()[0].state == "away"
    scene.slots.reserve(identity("b"), 20)
    assert scene.log.held() == 21, "a log that begins right behind the copy is enough"
    with pytest.raises(HoldRefused):
        scene.slots.reserve(identity("c"), 5)
    assert [info.name for info in scene.slots.list()] == ["b"]


def test_there_are_only_so_many_slots() -> None:
    scene = Scene()
    for number in range(MAX_SLOTS):
        scene.connect(50, name=f"n{number}")
    with pytest.raises(ReplicationError) as caught:
        scene.connect(50)
    assert caught.value.code is Code.WRONG_PEER


def test_a_dropped_slot_is_gone_from_file_and_log() -> None:
    scene = Scene()
    scene.connect(50)
    scene.write()
    scene.slots.drop("b")
    scene.write()
    assert scene.events == [SlotDropped("b")]
    assert scene.log.held() is None
    assert Scene(scene.fs).slots.list() == []
    with pytest.raises(InvalidRequest):
        scene.slots.drop("b")


# -- the file ----------------------------------------------------------------------------------------------------------


def test_it_is_written_when_the_segment_changes_and_not_before() -> None:
    scene = Scene()
    slot, _ = scene.connect(21)
    scene.slots.follow(scene.log)
    assert scene.slots.is_unwritten
    scene.write()
    for durable in range(22, 31):
        scene.slots.on_ack(slot, ack(durable))  # type: ignore[arg-type]
        scene.slots.follow(scene.log)
        assert not scene.slots.is_unwritten
    scene.slots.on_ack(slot, ack(31))  # type: ignore[arg-type]
    scene.slots.follow(scene.log)
    assert scene.slots.is_unwritten


def test_a_restart_holds_the_same_and_a_candidate_is_forgotten() -> None:
    scene = Scene()
    scene.connect(25)
    scene.connect(35, name="c", only_log=True)
    scene.write()
    again = Scene(scene.fs)
    assert again.log.holds.list() == {"flush": 1, "slot:b": 25}
    (info,) = again.slots.list()
    assert (info.name, info.node_id, info.address, info.hold_revision) == ("b", "id-b", "b:7400", 25)


def test_a_restart_with_an_old_file_holds_all_that_is_left() -> None:
    """The hold had moved on and what was before it was deleted; then the process died before the file said so."""
    scene = Scene()
    slot, _ = scene.connect(25)
    scene.write()
    scene.slots.on_ack(slot, ack(60))  # type: ignore[arg-type]
    scene.slots.follow(scene.log)
    scene.log.delete()
    again = Scene(scene.fs, Log(first=scene.log.first))
    assert again.log.held() == scene.log.first <= 60
    assert again.events == []


def test_a_lost_slot_is_still_lost_after_a_restart() -> None:
    scene = Scene(max_bytes=1000)
    scene.connect(25)
    scene.slots.follow(scene.log)
    scene.write()
    again = Scene(scene.fs)
    assert again.log.held() is None
    assert again.slots.list()[0].state == "lost"


def test_a_crash_at_any_moment_of_writing_leaves_the_old_file_or_the_new_one() -> None:
    scene = Scene()
    slot, _ = scene.connect(25)
    scene.write()
    scene.slots.on_ack(slot, ack(60))  # type: ignore[arg-type]
    scene.slots.follow(scene.log)
    data = scene.slots.record()
    assert isinstance(scene.fs, MemoryFileSystem)

    def program(fs: FileSystem) -> None:
        Slots(fs, PATHS, ManualClock(), Log(), 1 << 30, lambda event: None).write(data)

    seen = set()
    for point in record_crash_points(scene.fs, program):
        for state in all_states(point.disk):
            seen.add(Scene(state.disk).log.held())
    assert seen == {25, 60}


def test_what_was_written_survives_a_power_loss() -> None:
    scene = Scene()
    scene.connect(25)
    scene.write()
    assert isinstance(scene.fs, MemoryFileSystem)
    scene.fs.kill()
    assert Scene(scene.fs.power_loss(lambda _: LOST)).log.held() == 25


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"slots": 1},
        {"slots": [1]},
        {"slots": [{"name": "b"}]},
        {"slots": [{"name": "b", "node_id": "", "address": "", "hold_revision": -1}]},
    ],
)
def test_a_file_that_is_none_is_corruption(fields: dict[str, object]) -> None:
    fs = MemoryFileSystem()
    fs.make_dir(PATHS.root)
    write_new_file(fs, PATHS.slots, encode_record(fields))
    with pytest.raises(Corruption):
        Scene(fs)


def test_the_file_can_be_read_by_people() -> None:
    scene = Scene()
    scene.connect(25)
    scene.write()
    fields = decode_record(PATHS.slots, read_file(scene.fs, PATHS.slots))
    assert fields == {"slots": [{"name": "b", "node_id": "id-b", "address": "b:7400", "hold_revision": 25}]}
